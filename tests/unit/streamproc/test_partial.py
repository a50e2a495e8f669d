"""Values across keys: the partial of a shard, its commit, and the snapshots that are merged from all of them."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from streamproc.deadletter import Kind
from streamproc.deadletters.memory import MemoryDeadLetters
from streamproc.errors import StateTooLarge, TransientServiceError
from streamproc.namespace import Namespace
from streamproc.ports import Ports
from streamproc.processor import Changed, KeyedProcessor, SharedFold, Snapshot
from streamproc.record import Batch, Position, Record, shard_id_of
from streamproc.settings import WorkerSettings
from streamproc.shardmap import ALL_HASH_KEYS
from streamproc.snapshot import SnapshotCycle
from streamproc.snapshots.memory import MemorySnapshots
from streamproc.state import StoredState
from streamproc.states.memory import MemoryStates
from streamproc.telemetry import SnapshotAdded, SnapshotRefused, Telemetry
from streamproc.worker import ShardWorker, WorkerAborted

NAMESPACE = Namespace("app", "stream", 1)
SHARD = shard_id_of(0)


class Everything(SharedFold[str, list[str]]):
    """Keeps all ids in order, so that one too many, too few or misplaced shows."""

    def new_partial(self) -> list[str]:
        return []

    def fold(self, partial: list[str], event: str) -> list[str]:
        partial.append(event)  # changed before it fails: the library must not keep that
        if event.endswith("shared-poison"):
            raise ValueError("shared poison")
        return partial

    def encode(self, partial: list[str]) -> bytes:
        return json.dumps(partial).encode()

    def decode(self, data: bytes) -> list[str]:
        found: list[str] = json.loads(data)
        return found

    def merge(self, partials: Sequence[list[str]]) -> bytes:
        return json.dumps(sorted(event for partial in partials for event in partial)).encode()


class Letters(KeyedProcessor[str, list[str], str]):
    """An event is "key/id"; a state is the ids of its key."""

    def __init__(self) -> None:
        self.snapshots: list[int] = []

    def shared(self) -> Everything:
        return Everything()

    def use_snapshot(self, snapshot: Snapshot) -> None:
        self.snapshots.append(snapshot.number)

    def decode(self, data: bytes) -> str:
        return data.decode()

    def key(self, event: str) -> str:
        return event.split("/")[0]

    def event_id(self, event: str) -> bytes:
        return event.encode()

    def event_time(self, event: str) -> float:
        return float(event.count("/") - 1)

    def new_state(self) -> list[str]:
        return []

    def fold(self, state: list[str], event: str) -> list[str]:
        if event.endswith("/poison"):
            raise ValueError("poison")
        return [*state, event]

    def emit(self, changed: Sequence[Changed[list[str]]]) -> Sequence[str | None]:
        return [None for _ in changed]

    def encode(self, output: str) -> bytes:
        return output.encode()

    def encode_state(self, state: list[str]) -> bytes:
        return json.dumps(state).encode()

    def decode_state(self, data: bytes) -> list[str]:
        state: list[str] = json.loads(data)
        return state


class Died(BaseException):
    """The process dies here."""


class FlakyStates(MemoryStates):
    """Dies before or after a write, or loses its reply, when the dice say so."""

    dice: Callable[[], str] = staticmethod(lambda: "")

    def store(self, states: Sequence[StoredState]) -> set[str]:
        what = self.dice()
        if what == "die before":
            raise Died
        superseded = super().store(states)
        if what == "die after":
            raise Died
        if what == "lose the reply":
            raise TransientServiceError("lost")
        return superseded


class Shard:
    """The stores of one shard, and its workers."""

    def __init__(self, clock: Any) -> None:
        self.clock = clock
        self.states = FlakyStates(NAMESPACE)
        self.partials = FlakyStates(NAMESPACE)
        self.deadletters = MemoryDeadLetters(NAMESPACE)
        self.processor = Letters()

    def worker(
        self,
        checkpoint: Position | None = None,
        *,
        shard_id: str = SHARD,
        processor: KeyedProcessor[Any, Any, Any] | None = None,
        bytes_max: int = 64 * 1024,
        cycle: SnapshotCycle | None = None,
        telemetry: Telemetry | None = None,
    ) -> ShardWorker:
        worker = ShardWorker(
            shard_id=shard_id,
            hash_range=ALL_HASH_KEYS,
            processor=processor or self.processor,
            ports=Ports(states=self.states, deadletters=self.deadletters, partials=self.partials, snapshots=cycle),
            settings=WorkerSettings(state_bytes_max=bytes_max, states_in_memory_max=2, dirty_keys_max=2),
            clock=self.clock,
            telemetry=telemetry or Telemetry(),
            abort=threading.Event(),
        )
        worker.start(checkpoint)
        return worker

    def partial(self) -> list[str]:
        stored = self.partials.load([SHARD]).get(SHARD)
        found: list[str] = json.loads(stored.state) if stored and stored.state else []
        return found


def log_of(events: Iterable[str]) -> list[Record]:
    return [
        Record(event.encode(), event.split("/")[0], Position(0, number), 1_000.0) for number, event in enumerate(events)
    ]


@pytest.fixture
def shard(manual_clock: Any) -> Shard:
    return Shard(manual_clock())


def test_a_partial_has_the_events_of_all_keys_in_the_order_of_the_log(shard: Shard) -> None:
    worker = shard.worker()
    worker.process(Batch(SHARD, log_of(["b/1", "a/1", "b/2", "a/1", "c/poison", "a/2"])))
    assert shard.partial() == []
    worker.make_durable()
    assert shard.partial() == ["b/1", "a/1", "b/2", "a/2"], "the second a/1 is a producer's duplicate"


def test_an_event_on_which_the_shared_fold_fails_is_put_aside_and_stays_in_its_keys_state(shard: Shard) -> None:
    worker = shard.worker()
    worker.process(Batch(SHARD, log_of(["a/1", "a/shared-poison", "b/1"])))
    worker.make_durable()
    assert shard.partial() == ["a/1", "b/1"]
    assert json.loads(shard.states.load(["a"])["a"].state) == ["a/1", "a/shared-poison"]
    (letter,) = shard.deadletters.scan()
    assert (letter.kind, letter.position) == (Kind.SHARED, Position(0, 1))
    again = shard.worker()
    again.process(Batch(SHARD, log_of(["a/1", "a/shared-poison", "b/1", "b/2"])))
    again.make_durable()
    assert shard.partial() == ["a/1", "b/1", "b/2"]


def test_a_partial_beyond_its_bound_stops_the_worker_with_what_to_do(shard: Shard) -> None:
    worker = shard.worker(bytes_max=1024)
    with pytest.raises(
        StateTooLarge, match=r"the partial of shardId-000000000000 would have .* Everything must keep less"
    ):
        worker.process(Batch(SHARD, log_of([f"{'x' * 200}{number}/1" for number in range(6)])))


def test_a_worker_that_meets_a_state_of_another_one_takes_that_ones_partial_too(shard: Shard) -> None:
    """More events than a duplicate window holds lie between the two, so only the other's partial can tell them."""
    log = log_of(["b/1", "a/0", "a/0"] + [f"a/{number}" for number in range(1, 100)])
    slow = shard.worker()
    slow.process(Batch(SHARD, log[:1]))
    zombie = shard.worker()
    zombie.process(Batch(SHARD, log))
    zombie.make_durable()
    slow.process(Batch(SHARD, log))
    slow.make_durable()
    assert shard.partial() == ["b/1"] + [f"a/{number}" for number in range(100)]


CHILD = shard_id_of(1)


def on_the_child(event: str) -> Record:
    return Record(event.encode(), event.split("/")[0], Position(1, 0), 1_000.0)


def test_a_zombie_of_a_parent_whose_keys_moved_on_does_not_take_their_events_out_of_its_partial(shard: Shard) -> None:
    log = log_of(["b/1", "a/1", "b/2"])
    zombie = shard.worker()
    zombie.process(Batch(SHARD, log[:1]))  # it has read the rest, and is paused
    heir = shard.worker()
    heir.process(Batch(SHARD, log))
    heir.make_durable()
    child = shard.worker(shard_id=CHILD)
    child.process(Batch(CHILD, [on_the_child("a/2")]))
    child.make_durable()
    zombie.process(Batch(SHARD, log[1:]))
    zombie.make_durable()
    assert shard.partial() == ["b/1", "a/1", "b/2"]


class Marked(Everything):
    """A later version, which writes and reads another form."""

    version = 2

    def encode(self, partial: list[str]) -> bytes:
        return b"2" + super().encode(partial)

    def decode(self, data: bytes) -> list[str]:
        if data[:1] != b"2":
            raise ValueError("not version 2")
        return super().decode(data[1:])

    def migrate(self, data: bytes, version: int) -> list[str]:
        assert version == 1
        return super().decode(data)


class MarkedLetters(Letters):
    def shared(self) -> Marked:
        return Marked()


def test_a_migrated_partial_is_written_as_what_it_is_now_although_nothing_was_folded(shard: Shard) -> None:
    log = log_of(["a/1", "a/1", "b/1"])
    first = shard.worker()
    first.process(Batch(SHARD, log[:1]))
    first.make_durable()
    second = shard.worker(Position(0, 0), processor=MarkedLetters())
    second.process(Batch(SHARD, log[1:2]))  # a producer's duplicate
    second.make_durable()
    third = shard.worker(Position(0, 1), processor=MarkedLetters())
    third.process(Batch(SHARD, log[2:]))
    third.make_durable()
    assert shard.partials.load([SHARD])[SHARD].state == b'2["a/1", "b/1"]'


def test_a_shard_of_bad_records_alone_is_nothing_in_the_snapshot(shard: Shard) -> None:
    for shard_id, record in ((SHARD, log_of(["a/1"])[0]), (CHILD, on_the_child("c/poison"))):
        worker = shard.worker(shard_id=shard_id)
        worker.process(Batch(shard_id, [record]))
        worker.make_durable()
    cycle = cycle_of(shard, MemorySnapshots(NAMESPACE), [])
    cycle.once()
    assert cycle.current is not None
    assert json.loads(cycle.current.data) == ["a/1"]


def test_a_snapshot_that_the_application_cannot_use_is_reported_and_the_stream_goes_on(shard: Shard) -> None:
    class Picky(Letters):
        def use_snapshot(self, snapshot: Snapshot) -> None:
            raise ValueError(f"number {snapshot.number} is odd")

    cycle = cycle_of(shard, MemorySnapshots(NAMESPACE), [])
    worker = shard.worker()
    worker.process(Batch(SHARD, log_of(["a/1"])))
    worker.make_durable()
    cycle.once()
    found: list[Any] = []
    picky = shard.worker(Position(0, 0), processor=Picky(), cycle=cycle, telemetry=Telemetry(found.append))
    picky.process(Batch(SHARD, log_of(["a/1", "a/2"])))
    picky.make_durable()
    assert shard.partial() == ["a/1", "a/2"]
    assert [event.reason for event in found if isinstance(event, SnapshotRefused)] == ["ValueError: number 1 is odd"]


def test_an_older_fold_is_given_no_snapshot_of_a_newer_one_and_a_newer_one_makes_its_own(shard: Shard) -> None:
    store = MemorySnapshots(NAMESPACE)
    worker = shard.worker()
    worker.process(Batch(SHARD, log_of(["a/1"])))
    worker.make_durable()
    old, new = cycle_of(shard, store, []), cycle_of(shard, store, [], shared=Marked())
    old.once()
    new.once()
    assert (old.current, new.current) == (store.get(1), store.get(2))
    old.once()
    assert old.current == store.get(1)


def expected(events: Sequence[str], upto: int) -> list[str]:
    seen: list[str] = []
    for event in events[: upto + 1]:
        if event not in seen and not event.endswith("poison"):
            seen.append(event)
    return seen


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200, deadline=None)
@given(seed=st.integers(0, 1_000_000))
def test_a_partial_is_one_fold_of_its_shards_log_whoever_dies_between_its_write_and_the_states(
    seed: int, make_shard: Callable[[], Shard]
) -> None:
    rng = random.Random(seed)
    shard = make_shard()
    shard.states.dice = shard.partials.dice = lambda: rng.choice(
        ["", "", "", "die before", "die after", "lose the reply"]
    )
    events = [f"{rng.choice('abc')}/{rng.choice([*range(number - 4, number + 1), 'poison'])}" for number in range(60)]
    log = log_of(events)
    lease: Position | None = None
    lives: list[tuple[ShardWorker, int]] = []
    while lease is None or lease.sequence_number < len(log) - 1:
        if not lives or (len(lives) < 2 and rng.random() < 0.1):
            lives.append((shard.worker(lease), lease.sequence_number + 1 if lease else 0))
        index = rng.randrange(len(lives))
        worker, at = lives.pop(index)
        upto = min(len(log), at + rng.randint(1, 20))
        try:
            worker.process(Batch(SHARD, log[at:upto]))
            if rng.random() < 0.5 or upto == len(log):
                durable = worker.make_durable()
                if durable and (lease is None or durable[0] > lease):
                    lease = durable[0]
        except (Died, WorkerAborted):
            continue
        finally:
            stored = shard.partials.load([SHARD]).get(SHARD)
            if stored:
                assert json.loads(stored.state or b"[]") == expected(events, stored.position.sequence_number)
                ahead = [state.key for state in shard.states.scan() if state.position > stored.position]
                assert ahead == [], "no state is ever beyond the partial of its shard"
        lives.append((worker, upto))
    assert shard.partial() == expected(events, len(log))


@pytest.fixture
def make_shard(manual_clock: Any) -> Callable[[], Shard]:
    return lambda: Shard(manual_clock())


def cycle_of(
    shard: Shard, store: MemorySnapshots, found: list[Any], *, shared: Everything | None = None
) -> SnapshotCycle:
    return SnapshotCycle(
        shared or Everything(),
        shard.partials,
        store,
        shard_ids=lambda: [SHARD, "shardId-000000000001"],
        seconds=60,
        clock=shard.clock,
        telemetry=Telemetry(found.append),
    )


def test_a_snapshot_merges_the_partials_of_all_shards_and_counts_on_where_they_moved(shard: Shard) -> None:
    store, found = MemorySnapshots(NAMESPACE), list[Any]()
    cycle = cycle_of(shard, store, found)
    cycle.once()
    assert store.latest() is None, "there is nothing to merge yet"
    worker = shard.worker()
    worker.process(Batch(SHARD, log_of(["a/1", "b/1"])))
    worker.make_durable()
    shard.partials.store([StoredState("shardId-000000000001", Position(1, 7), 1, 0, b"", 1, b'["z/1"]')])
    cycle.once()
    cycle.once()
    assert cycle.current is not None
    assert (cycle.current.number, json.loads(cycle.current.data)) == (1, ["a/1", "b/1", "z/1"])
    worker.process(Batch(SHARD, log_of(["a/1", "b/1", "c/1"])))
    worker.make_durable()
    cycle.once()
    assert store.latest() == cycle.current == store.get(2)
    assert [event.number for event in found if isinstance(event, SnapshotAdded)] == [1, 2]


class LooksOnceTooEarly(MemorySnapshots):
    """The first look sees nothing: another process adds a snapshot right after it."""

    is_early = True

    def latest(self, after: int = 0) -> Snapshot | None:
        was_early, self.is_early = self.is_early, False
        return None if was_early else super().latest(after)


def test_of_two_processes_that_make_the_next_snapshot_one_wins_and_the_other_takes_it(shard: Shard) -> None:
    store = LooksOnceTooEarly(NAMESPACE)
    worker = shard.worker()
    worker.process(Batch(SHARD, log_of(["a/1"])))
    worker.make_durable()
    winner = Snapshot(1, 1, b"the winner's", {}, 0.0)
    assert store.add(winner)
    cycle = cycle_of(shard, store, [])
    cycle.once()
    cycle.once()
    assert cycle.current is not None
    assert (store.get(1), cycle.current.number) == (winner, 2)


def test_a_worker_takes_the_latest_snapshot_between_batches_and_once(shard: Shard) -> None:
    cycle = cycle_of(shard, MemorySnapshots(NAMESPACE), [])
    worker = shard.worker(cycle=cycle)
    worker.process(Batch(SHARD, log_of(["a/1"])))
    worker.make_durable()
    cycle.once()
    assert shard.processor.snapshots == []
    worker.process(Batch(SHARD, []))
    worker.process(Batch(SHARD, []))
    assert shard.processor.snapshots == [1]


def test_a_store_that_is_away_leaves_the_workers_the_snapshot_that_they_have(shard: Shard) -> None:
    found: list[Any] = []
    cycle = cycle_of(shard, MemorySnapshots(NAMESPACE), found)
    worker = shard.worker()
    worker.process(Batch(SHARD, log_of(["a/1"])))
    worker.make_durable()
    cycle.once()
    kept = cycle.current

    def away(keys: Sequence[str]) -> dict[str, StoredState]:
        raise TransientServiceError(f"away: {keys}")

    shard.partials.load = away  # type: ignore[method-assign]
    stop = threading.Event()
    stop.set()
    cycle.run(stop)
    assert cycle.current is kept
    assert [event.what for event in found if hasattr(event, "what")] == ["making a snapshot"]
