"""Step 6 of the commit protocol, in parts: a shard's states become durable beside the batches that follow.

A checkpoint writes the states as they were when it began, and the shard's partial of that same moment before them. A
state that changes meanwhile stays dirty, for the next one. Only when the last part is durable may the lease move, to
the position where the checkpoint began.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from streamproc.clock import Clock
from streamproc.keyed import Keyed
from streamproc.lease import SHARD_END
from streamproc.record import Position, shard_number_of
from streamproc.retry import Retries
from streamproc.settings import WorkerSettings
from streamproc.state import StateStore, StoredState
from streamproc.telemetry import Checkpointed, StateSuperseded, Telemetry

#: A transaction of DynamoDB's: what was written stays written, so a throttled table is asked for the rest alone.
STATES_PER_WRITE = 100
#: A smaller write costs more a state, and holds the shard for less: how long, and the smallest part of the largest.
_WRITE_SECONDS, _SMALLEST = 0.05, 0.25
#: Its multiples, without their whole parts, spread any number of shards over an interval.
_GOLDEN_RATIO = 0.618033988749895


class Durable(NamedTuple):
    """A checkpoint that is written."""

    #: Where the lease may be moved to.
    position: Position
    states_written: int
    #: How long its parts held the shard.
    seconds: float
    #: How long ago the oldest event was read that is processed and not durable; 0 where there is none.
    age_seconds: float


class Checkpoints:
    """The checkpoints of one shard, one at a time. Not thread-safe."""

    def __init__(
        self,
        shard_id: str,
        durable: Position,
        *,
        keyed: Keyed | None,
        store: StateStore,
        settings: WorkerSettings,
        clock: Clock,
        telemetry: Telemetry,
        retries: Retries,
        states_per_write: int,
    ) -> None:
        #: Where the last one was.
        self.durable = durable
        self._shard_id = shard_id
        self._keyed = keyed
        self._store = store
        self._settings = settings
        self._clock = clock
        self._telemetry = telemetry
        self._retries = retries
        self._states_per_write = states_per_write
        # The shards of a fleet that start together would all ask the store at the same moment, again and again.
        early = shard_number_of(shard_id) * _GOLDEN_RATIO % 1
        self._begun_at = clock.monotonic() - early * settings.checkpoint_seconds
        #: Where the one that is under way began, None without one, and what is left of it.
        self._position: Position | None = None
        self._left: list[StoredState] = []
        #: How long the last write took, a state.
        self._seconds_a_state = 0.0
        self._written = 0
        self._seconds = 0.0

    def begins(self, done: Position) -> bool:
        """Whether none is under way and one is due, where everything up to ``done`` is processed."""
        return self._position is None and done > self.durable and self._is_time()

    def begin(self, done: Position) -> None:
        """Begin one at ``done``, and write the partial. What one under way has left is dirty, and in this one."""
        started = self._clock.monotonic()
        left: list[StoredState] = []
        if self._keyed is not None:
            if self._keyed.partial is not None:
                self._keyed.partial.make_durable()
            left = self._keyed.states.dirty()
        self._position, self._begun_at, self._left = done, started, left
        self._seconds += self._clock.monotonic() - started

    def advance(self, done: Position, until: float) -> Durable | None:
        """Write parts of the one that is under way until that moment of the clock, one at least.

        Returns what is durable once all of it is. One that takes longer than the time to the next, or that too many
        dirty states wait for, is written to its end at once.
        """
        if self._position is None:
            return None
        while self._left:
            self._write_next(self._room(until - self._clock.monotonic()))
            if self._left and self._clock.monotonic() >= until and not self._is_time():
                return None
        return self._end(done)

    def complete(self, done: Position) -> Durable | None:
        """Write everything up to ``done``. None where all of it is durable already."""
        if done <= self.durable:
            return None
        self.begin(done)
        while self._left:
            self._write_next(self._states_per_write)
        return self._end(done)

    def _is_time(self) -> bool:
        dirty = self._keyed.states.dirty_keys if self._keyed else 0
        waited = self._clock.monotonic() - self._begun_at
        return dirty >= self._settings.dirty_keys_max or waited >= self._settings.checkpoint_seconds

    def _room(self, seconds: float) -> int:
        """How many states are written in this time, by how long the last ones took, within bounds."""
        if self._is_time():
            return self._states_per_write
        most = self._states_per_write
        fitting = int(min(seconds, _WRITE_SECONDS) / self._seconds_a_state) if self._seconds_a_state else most
        return max(int(most * _SMALLEST), 1, min(fitting, most))

    def _write_next(self, states: int) -> None:
        self._retries.raise_if_aborted("writing states")
        started, part = self._clock.monotonic(), self._left[:states]
        self._write(part)
        del self._left[:states]
        seconds = self._clock.monotonic() - started
        self._seconds += seconds
        self._seconds_a_state = seconds / len(part)

    def _write(self, part: Sequence[StoredState]) -> None:
        superseded = self._retries.call("writing states", lambda: self._store.store(part))
        self._written += len(part) - len(superseded)
        if self._keyed is not None:
            self._keyed.states.stored(part, superseded)
        if superseded:
            # Another worker was on this shard and is ahead; it folded the same log.
            self._telemetry.emit(StateSuperseded(shard_id=self._shard_id, keys=len(superseded)))

    def _end(self, done: Position) -> Durable:
        assert self._position is not None  # noqa: S101  # narrows for mypy: one was begun
        self.durable = self._position
        if self._keyed is not None:
            self._keyed.states.evict()
        age_seconds = self._clock.monotonic() - self._begun_at if done > self.durable else 0.0
        ended = Durable(self.durable, self._written, self._seconds, age_seconds)
        self._position, self._written, self._seconds = None, 0, 0.0
        return ended


def checkpointed(shard_id: str, target: Position | None, durable: Durable | None, lease_seconds: float) -> Checkpointed:
    """What a runner tells once the lease moved to ``target``, which took so long; None is the shard's end."""
    return Checkpointed(
        shard_id=shard_id,
        position=str(target or SHARD_END),
        states_written=durable.states_written if durable else 0,
        seconds=lease_seconds + (durable.seconds if durable else 0.0),
        age_seconds=durable.age_seconds if durable else 0.0,
    )
