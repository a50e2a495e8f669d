"""One schedule: who does what when, with which faults, until the log is read to its end."""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Iterator

import msgspec

from streamproc.checkpoint import Durable
from streamproc.lease import SHARD_END, Lease
from streamproc.leases.memory import MemoryLeases
from streamproc.record import Batch, Position
from streamproc.telemetry import Telemetry
from streamproc.testing.clock import ManualClock
from streamproc.testing.simulation.application import LETTERS, Played
from streamproc.testing.simulation.faults import Crash, Dice
from streamproc.testing.simulation.log import Shard, make_log
from streamproc.testing.simulation.mishaps import MishapProcessor, Mishaps
from streamproc.testing.simulation.oracle import Oracle, Violation
from streamproc.testing.simulation.ports import (
    SimulatedDeadLetters,
    SimulatedPartials,
    SimulatedProjection,
    SimulatedSink,
    SimulatedStates,
    Wire,
)
from streamproc.worker import Ports, ShardWorker, WorkerAborted

#: No schedule comes near it: a worker that makes no progress is a violation, not a hang.
STEPS_MAX = 2_000


class Outcome(msgspec.Struct, frozen=True):
    """What came of one schedule."""

    seed: int
    #: How many faults struck, by kind; see :data:`streamproc.testing.simulation.faults.KINDS`.
    faults: dict[str, int]
    violations: list[Violation]
    dead_letters_unexpected: int


class Life:
    """One worker from its start to its end, with its lease as it knows it and the place where it reads."""

    def __init__(self, shard: Shard, worker: ShardWorker, lease: Lease, abort: threading.Event) -> None:
        self.shard = shard
        self.abort = abort
        self.worker = worker
        self.lease = lease
        self.is_busy = False
        #: Keys that this worker must bring to the projection, each up to this position.
        self.owed: dict[str, Position] = {}
        #: What was projected when the projection was lost: an output that waited may come after both.
        self.lost: dict[str, Position] = {}
        self.at = 0
        if lease.checkpoint.isdigit():  # the iterator opens at the checkpoint's record, as the product's reader does
            read = int(lease.checkpoint)
            self.at = sum(entry.record.position.sequence_number < read for entry in shard.entries)

    @property
    def is_at_end(self) -> bool:
        """Whether everything was read."""
        return self.at >= len(self.shard.entries)


class Schedule:
    """Plays one seed. A *life* is a worker's; the *holder* of a shard is the life that took its lease last."""

    def __init__(self, seed: int, played: Played) -> None:
        self._rng = rng = random.Random(seed)
        self.dice = Dice(rng)
        self._played = played
        # A program is mended by a new deployment, which a zombie's process would not have.
        mendable = not self.dice.is_enabled("zombie")
        self._log = make_log(rng, self.dice, played, mendable=mendable)
        self.oracle = Oracle(seed, self._log, played.processor(), played.settings)
        self._clock = ManualClock(1_000.0)
        self._wire = wire = Wire(rng, self.dice, self._meanwhile)
        self._mishaps = Mishaps(self.oracle.failed_emissions, self.oracle.emitted)
        self._projection = SimulatedProjection(wire, self.oracle)
        self._states = SimulatedStates(wire, self.oracle, self._projection)
        self._ports = Ports(
            states=self._states,
            deadletters=SimulatedDeadLetters(wire, self.oracle),
            sink=SimulatedSink(rng, wire, self.oracle, self._mishaps),
            projection=self._projection,
            partials=SimulatedPartials(wire, self.oracle),
        )
        self._leases = MemoryLeases()
        self._lives: list[Life] = []
        self._holders: dict[int, Life] = {}
        self._started = 0
        self._after_death: set[int] = set()
        self._batch_records_max = rng.choice((3, 8, 40))
        # A worker on a long log seldom checkpoints, so that it replays more than a duplicate window holds.
        self._checkpoint_probability = 0.02 if self._log.is_long else rng.choice((0.05, 0.2, 0.5))
        self._states_per_write = rng.choice((1, 2, 100))
        in_memory = 100 if self._log.is_long else rng.choice((2, 100))
        # Bounds that a short log reaches; the others are the application's.
        self._settings = msgspec.structs.replace(
            played.settings,
            checkpoint_seconds=60.0 if self._log.is_long else rng.choice((2.0, 10.0, 10.0, 60.0)),
            dirty_keys_max=in_memory,
            states_in_memory_max=in_memory,
            emit_at_most_every_seconds=rng.choice((0.0, 0.0, 5.0)),
        )
        for shard in self._log.shards:
            self._leases.create(Lease(shard_id=shard.shard_id))

    def play(self) -> None:
        """Everything: the schedule with its faults, then the rest without."""
        try:
            steps = 0
            while not self._is_played():
                steps += 1
                if steps > STEPS_MAX:
                    self.oracle.violated("the workers make no progress")
                    return
                self._act()
            self.dice.active = False
            self._drain()
        finally:
            for life in [*self._lives]:
                self._end(life)

    def _is_played(self) -> bool:
        return all(self._row(shard).ended or (not shard.closed and self._is_read(shard)) for shard in self._log.shards)

    def _is_read(self, shard: Shard) -> bool:
        holder = self._holders.get(shard.number)
        return holder is not None and holder.is_at_end

    def _row(self, shard: Shard) -> Lease:
        return next(lease for lease in self._leases.list() if lease.shard_id == shard.shard_id)

    def _open_shards(self) -> list[Shard]:
        """Those that may be read: not at their end, their parents are."""
        ended = {shard.number for shard in self._log.shards if self._row(shard).ended}
        return [shard for shard in self._log.shards if shard.number not in ended and ended.issuperset(shard.parents)]

    def _act(self) -> None:
        rng = self._rng
        self._clock.now += rng.random() * 2
        self._disturb_projection()
        shard = rng.choice(self._open_shards())
        holder = self._holders.get(shard.number)
        zombies = [life for life in self._lives if life is not self._holders.get(life.shard.number)]
        if zombies and rng.random() < 0.4:
            self._step(rng.choice(zombies))
        elif holder is None or (not zombies and self.dice.strikes("zombie", 0.08)):
            self._start(shard)
        else:
            self._step(holder)

    def _meanwhile(self) -> None:
        """Before a call of one worker takes effect, another one acts."""
        if self._rng.random() < 0.1:
            idle = [life for life in self._lives if not life.is_busy]
            if idle:
                self._step(self._rng.choice(idle))

    def _start(self, shard: Shard) -> None:
        """A new worker takes the shard's lease. The one that held it, if it lives, does not know yet."""
        self._started += 1
        lease = self._leases.take(self._row(shard), f"worker-{self._started}")
        if lease is None:  # nobody else writes between the read and the write
            raise AssertionError(shard.shard_id)
        before = self._holders.get(shard.number)
        if before is not None and self._rng.random() < 0.3:
            before.abort.set()  # its runner saw that the lease is taken: it ends when it next waits
        abort = threading.Event()
        worker = ShardWorker(
            shard_id=shard.shard_id,
            hash_range=shard.hash_range,
            processor=MishapProcessor(self._played.processor(), self._mishaps),
            ports=self._ports,
            settings=self._settings,
            clock=self._clock,
            telemetry=Telemetry(),
            abort=abort,
            states_per_write=self._states_per_write,
        )
        life = Life(shard, worker, lease, abort)
        self._lives.append(life)
        self._holders[shard.number] = life
        with self._alive(life):
            worker.start(_position(shard, lease), after_death=shard.number in self._after_death)

    @contextlib.contextmanager
    def _alive(self, life: Life) -> Iterator[None]:
        """While this life is at work. It ends where it crashes or is aborted."""
        outer, self._wire.acknowledged = self._wire.acknowledged, {}
        life.is_busy = True
        try:
            yield
            life.owed |= {
                key: position
                for key, position in self._wire.acknowledged.items()
                if key not in life.lost or position > life.lost[key]
            }
        except Crash:
            self._end(life)
            self._mishaps.mended = True
            if self._rng.random() < 0.5:
                self._after_death.add(life.shard.number)
        except WorkerAborted:
            self._end(life)
        finally:
            life.is_busy = False
            self._wire.acknowledged = outer

    def _end(self, life: Life) -> None:
        life.worker.close()
        if life in self._lives:
            self._lives.remove(life)
        if self._holders.get(life.shard.number) is life:
            del self._holders[life.shard.number]

    def _step(self, life: Life) -> None:
        """Read, process, and checkpoint when due or when chosen."""
        rng = self._rng
        if life.at and self.dice.strikes("reread", 0.08):
            life.at -= rng.randint(1, min(life.at, 8))
        upto = min(len(life.shard.entries), life.at + rng.randint(0, self._batch_records_max))
        with self._alive(life):
            self._process(life, upto)
            if life.is_at_end or rng.random() < self._checkpoint_probability:
                self._checkpoint(life)
            else:
                self._move(life, life.worker.advance_checkpoint(until=0.0))

    def _process(self, life: Life, upto: int) -> None:
        records = [entry.record for entry in life.shard.entries[life.at : upto]]
        life.worker.process(Batch(life.shard.shard_id, records))
        life.at = upto

    def _checkpoint(self, life: Life) -> None:
        """Everything at once, as a runner does before a worker ends; the states first, then the lease."""
        self._move(life, life.worker.make_durable(), ended=life.shard.closed and life.is_at_end)

    def _move(self, life: Life, durable: Durable | None, *, ended: bool = False) -> None:
        """Move the lease to what is durable, or to the shard's end; a life whose lease was taken ends there."""
        if durable is None and not ended:
            return
        if self.dice.strikes("crash", 0.08):  # between the two, where the most is read again
            raise Crash
        if not self._wire.crashing(lambda: self._move_lease(life, None if ended or not durable else durable.position)):
            self._end(life)

    def _move_lease(self, life: Life, position: Position | None) -> bool:
        """Whether the lease was ours. ``position`` None: the shard's end."""
        checkpoint = str(position.sequence_number) if position else SHARD_END
        lease = self._leases.checkpoint(life.lease, checkpoint, position.sub_sequence_number if position else 0)
        if lease is None:
            return False
        life.lease = lease
        self.oracle.lease_moved(life.shard.number, position)
        if position is None:
            self._end(life)
        return True

    def _disturb_projection(self) -> None:
        rng, projection = self._rng, self._projection
        if projection.is_away:
            projection.is_away = rng.random() >= 0.2
        elif rng.random() < 0.2:
            projection.copy()
        elif self.dice.strikes("redis_loss", 0.06):
            loss = rng.choice(("empty", "roll back", "away"))
            if loss == "away":
                projection.is_away = True
                return
            for life in self._lives:  # what was projected is lost; what still waits is not
                projected = projection.read(self._keys())
                life.lost |= {key: stored.position for key, stored in projected.items()}
                life.owed = {
                    key: position
                    for key, position in life.owed.items()
                    if key not in projected or projected[key].position < position
                }
            if loss == "empty":
                projection.empty()
            else:
                projection.roll_back()

    def _drain(self) -> None:
        """Everybody reads to the end, the projection catches up, and everything is made durable."""
        self._projection.is_away = False
        self._wire.deliver_late()
        while shards := [shard for shard in self._open_shards() if shard.number not in self._holders]:
            self._start(shards[0])
            self._finish(self._holders[shards[0].number])
        for life in [*self._lives]:
            self._finish(life)
        owed: dict[str, Position] = {}
        for life in self._lives:
            for key, position in life.owed.items():
                owed[key] = max(position, owed.get(key, position))
        self.oracle.finished(self._states.at_rest(self._keys()), self._projection.read(self._keys()), owed)

    def _keys(self) -> list[str]:
        return [*{entry.record.partition_key for shard in self._log.shards for entry in shard.entries}]

    def _finish(self, life: Life) -> None:
        with self._alive(life):
            self._process(life, len(life.shard.entries))
            for _ in range(2):  # longer than the longest wait of a projection that was away
                self._clock.now += 6.0
                life.worker.process(Batch(life.shard.shard_id, []))
            self._checkpoint(life)


def _position(shard: Shard, lease: Lease) -> Position | None:
    if not lease.checkpoint.isdigit():
        return None
    return Position(shard.number, int(lease.checkpoint), lease.checkpoint_sub_sequence_number)


def run(seed: int, played: Played = LETTERS) -> Outcome:
    """Play the schedule of this seed. The same seed gives the same outcome."""
    before = random.getstate()
    random.seed(seed)  # the product's backoff draws its jitter from the module's generator
    try:
        schedule = Schedule(seed, played)
        try:
            schedule.play()
        except Exception as error:  # noqa: BLE001  # whatever ends a worker is a finding, with its seed
            schedule.oracle.violated(f"a worker ended with {type(error).__name__}: {error}")
    finally:
        random.setstate(before)
    oracle = schedule.oracle
    return Outcome(seed, dict(schedule.dice.counts), oracle.violations, oracle.dead_letters_unexpected)
