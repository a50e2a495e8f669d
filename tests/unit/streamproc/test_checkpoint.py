"""A checkpoint beside the batches: when it begins, what it writes, and where the lease may go."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest

from streamproc.record import Batch, Position, Record
from streamproc.settings import WorkerSettings
from streamproc.state import StoredState
from streamproc.telemetry import StateSuperseded
from streamproc.worker import WorkerAborted

MakeRecord = Callable[..., Record]
MakeBatch = Callable[[Iterable[Record]], Batch]

TEN_SECONDS = WorkerSettings(checkpoint_seconds=10)


def test_a_checkpoint_begins_after_its_time_or_with_enough_dirty_keys_and_never_without_progress(
    bench: Any, make_record: MakeRecord, make_batch: MakeBatch
) -> None:
    worker = bench.worker(settings=WorkerSettings(checkpoint_seconds=10, dirty_keys_max=2))
    bench.clock.now += 60
    assert worker.advance_checkpoint(until=0) is None
    worker = bench.worker(settings=WorkerSettings(checkpoint_seconds=10, dirty_keys_max=2))
    worker.process(make_batch([make_record(1, "a", 1)]))
    assert worker.advance_checkpoint(until=0) is None
    bench.clock.now += 10
    assert worker.advance_checkpoint(until=0)[:2] == (Position(0, 1), 1)
    worker.process(make_batch([make_record(2, "a", 1), make_record(3, "b", 1)]))
    assert worker.advance_checkpoint(until=0)[:2] == (Position(0, 3), 2)


def test_a_part_is_written_after_each_batch_and_the_lease_may_go_where_the_checkpoint_began(
    bench: Any, make_record: MakeRecord, make_batch: MakeBatch
) -> None:
    worker = bench.worker(settings=TEN_SECONDS, states_per_write=1)
    worker.process(make_batch(make_record(n, f"k{n}", n) for n in range(3)))
    bench.clock.now += 10
    assert worker.advance_checkpoint(until=0) is None
    for n in (3, 4):
        assert sum(bool(bench.values(f"k{k}")) for k in range(5)) == n - 2
        worker.process(make_batch([make_record(n, f"k{n}", n)]))
        durable = worker.advance_checkpoint(until=0)
    assert durable[:2] == (Position(0, 2), 3)
    assert [bench.values(f"k{n}") for n in range(5)] == [[0], [1], [2], [], []]
    assert worker.make_durable()[:2] == (Position(0, 4), 2)


def test_parts_are_written_for_as_long_as_there_is_time(
    bench: Any, make_record: MakeRecord, make_batch: MakeBatch
) -> None:
    worker = bench.worker(settings=TEN_SECONDS, states_per_write=1)
    store, seconds_a_write = bench.states.store, 0.04

    def slow(states: Sequence[StoredState]) -> set[str]:
        bench.clock.now += seconds_a_write
        written: set[str] = store(states)
        return written

    bench.states.store = slow
    worker.process(make_batch(make_record(n, f"k{n}", n) for n in range(5)))
    bench.clock.now += 10
    assert worker.advance_checkpoint(until=bench.clock.now + 0.1) is None
    assert sum(bool(bench.values(f"k{n}")) for n in range(5)) == 3
    durable = worker.advance_checkpoint(until=bench.clock.now + 0.1)
    assert durable.states_written == 5
    assert abs(durable.seconds - 5 * seconds_a_write) < 1e-6


def test_a_key_that_changes_while_a_checkpoint_is_under_way_is_written_as_it_was_and_again_with_the_next_one(
    bench: Any, make_record: MakeRecord, make_batch: MakeBatch
) -> None:
    worker = bench.worker(settings=TEN_SECONDS, states_per_write=1)
    worker.process(make_batch([make_record(0, "a", 0), make_record(1, "b", 1)]))
    bench.clock.now += 10
    worker.advance_checkpoint(until=0)
    worker.process(make_batch([make_record(2, "a", 2), make_record(3, "b", 3)]))
    assert worker.advance_checkpoint(until=0)[:2] == (Position(0, 1), 2)
    assert (bench.values("a"), bench.values("b")) == ([0], [1])
    assert worker.make_durable()[:2] == (Position(0, 3), 2)
    assert (bench.values("a"), bench.values("b")) == ([0, 2], [1, 3])


def test_a_checkpoint_that_is_slower_than_its_interval_or_that_many_keys_wait_for_is_written_to_its_end(
    bench: Any, make_record: MakeRecord, make_batch: MakeBatch
) -> None:
    bounds = WorkerSettings(checkpoint_seconds=10, dirty_keys_max=6)
    worker = bench.worker(settings=bounds, states_per_write=1)
    worker.process(make_batch(make_record(n, f"k{n}", n) for n in range(3)))
    bench.clock.now += 10
    assert worker.advance_checkpoint(until=0) is None
    bench.clock.now += 10
    assert worker.advance_checkpoint(until=0)[:2] == (Position(0, 2), 3)
    worker.process(make_batch(make_record(10 + n, f"k{n}", n) for n in range(3)))
    bench.clock.now += 10
    assert worker.advance_checkpoint(until=0) is None
    worker.process(make_batch(make_record(20 + n, f"m{n}", n) for n in range(5)))
    assert worker.advance_checkpoint(until=0)[:2] == (Position(0, 12), 3)


def test_what_is_left_of_a_checkpoint_is_part_of_the_one_that_ends_the_worker(
    bench: Any, make_record: MakeRecord, make_batch: MakeBatch
) -> None:
    worker = bench.worker(settings=TEN_SECONDS, states_per_write=1)
    worker.process(make_batch(make_record(n, f"k{n}", n) for n in range(3)))
    bench.clock.now += 10
    assert worker.advance_checkpoint(until=0) is None
    worker.process(make_batch([make_record(3, "k3", 3)]))
    assert worker.make_durable()[:2] == (Position(0, 3), 4)
    assert [bench.values(f"k{n}") for n in range(4)] == [[0], [1], [2], [3]]


def test_a_state_that_was_superseded_and_has_gone_on_since_stays_and_is_written_later(
    bench: Any, make_record: MakeRecord, make_batch: MakeBatch
) -> None:
    log = [make_record(n, "a" if n else "b", n) for n in range(5)]
    zombie = bench.worker()
    worker = bench.worker(settings=TEN_SECONDS, states_per_write=1)
    worker.process(make_batch(log[:2]))
    zombie.process(make_batch(log[:4]))
    bench.clock.now += 10
    worker.advance_checkpoint(until=0)
    zombie.make_durable()
    worker.process(make_batch(log[2:]))
    # Were it loaded again now, the zombie's state would lack the last event, and this worker never reads it again.
    durable = worker.advance_checkpoint(until=0)
    assert durable is not None
    assert [event for event in bench.telemetry if isinstance(event, StateSuperseded)]
    worker.make_durable()
    assert (bench.values("a"), bench.values("b")) == ([1, 2, 3, 4], [0])


def test_shards_that_start_together_do_not_checkpoint_together(bench: Any, make_record: MakeRecord) -> None:
    due_after = []
    for number in range(4):
        bench.clock.now = started = 1_000.0
        worker = bench.worker(settings=TEN_SECONDS, shard_number=number)
        record = make_record(1, "a", 1)
        worker.process(Batch(worker.shard_id, [Record(record.data, "a", Position(number, 1), 1_000.0)]))
        while worker.advance_checkpoint(until=0) is None:
            bench.clock.now += 0.5
        due_after.append(bench.clock.now - started)
    assert due_after == [10.0, 4.0, 8.0, 1.5]


def test_a_write_holds_the_shard_for_a_twentieth_of_a_second_where_the_store_lets_it(
    bench: Any, make_record: MakeRecord, make_batch: MakeBatch
) -> None:
    worker = bench.worker(settings=TEN_SECONDS)
    store, sizes = bench.states.store, []

    def slow(states: Sequence[StoredState]) -> set[str]:
        sizes.append(len(states))
        bench.clock.now += len(states) / 1024
        written: set[str] = store(states)
        return written

    bench.states.store = slow
    worker.process(make_batch(make_record(n, f"k{n}", n) for n in range(300)))
    bench.clock.now += 10
    assert worker.advance_checkpoint(until=bench.clock.now + 0.18) is None
    assert sizes == [100, 51, 33, 25], "the first one does not know yet; the last ones have less time than that"
    assert worker.advance_checkpoint(until=0) is None
    assert sizes[4:] == [25], "without time the smallest part"
    assert worker.make_durable() is not None
    assert sizes[5:] == [66]


def test_what_came_while_a_checkpoint_was_written_is_as_old_as_the_checkpoint(
    bench: Any, make_record: MakeRecord, make_batch: MakeBatch
) -> None:
    worker = bench.worker(settings=TEN_SECONDS, states_per_write=1)
    worker.process(make_batch([make_record(1, "a", 1), make_record(2, "b", 2)]))
    bench.clock.now += 10
    assert worker.advance_checkpoint(until=0) is None
    bench.clock.now += 3
    worker.process(make_batch([make_record(3, "a", 3)]))
    assert worker.advance_checkpoint(until=0).age_seconds == 3
    assert worker.make_durable().age_seconds == 0


def test_a_worker_that_is_told_to_give_up_writes_no_further_part(
    bench: Any, make_record: MakeRecord, make_batch: MakeBatch
) -> None:
    worker = bench.worker(settings=TEN_SECONDS, states_per_write=1)
    worker.process(make_batch([make_record(1, "a", 1), make_record(2, "b", 2)]))
    bench.clock.now += 10
    assert worker.advance_checkpoint(until=0) is None
    bench.abort.set()
    with pytest.raises(WorkerAborted):
        worker.advance_checkpoint(until=0)
    assert bench.values("b") == []
