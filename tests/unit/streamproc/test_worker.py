"""The commit protocol, one shard on memory ports."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from streamproc.deadletter import Kind
from streamproc.errors import NewerState, ServiceUnreachable, SettingsError, Throttled
from streamproc.record import Batch, Position, Record
from streamproc.settings import WorkerSettings
from streamproc.shardmap import HashRange, hash_key_of
from streamproc.sink import Delivery
from streamproc.state import DUPLICATE_WINDOW_EVENTS, StoredState
from streamproc.telemetry import DeadLettered, ProjectionCaughtUp, ProjectionUnavailable, Retried, StateSuperseded
from streamproc.worker import WorkerAborted

MakeRecord = Callable[..., Record]
MakeBatch = Callable[[Iterable[Record]], Batch]


def test_events_are_folded_in_log_order_and_one_output_is_published_a_key_and_batch(
    bench: Any, make_record: MakeRecord, make_batch: MakeBatch
) -> None:
    worker = bench.worker()
    worker.process(make_batch([make_record(1, "a", 1), make_record(2, "b", 2), make_record(3, "a", 3)]))
    worker.make_durable()
    assert bench.values("a") == [1, 3]
    assert bench.outputs() == [{"key": "a", "n": 2}, {"key": "b", "n": 1}]
    assert bench.processor.emit_calls == [2]


def test_a_key_may_emit_nothing(bench: Any, make_record: MakeRecord, make_batch: MakeBatch) -> None:
    bench.worker().process(make_batch([make_record(1, "silent", 1)]))
    assert bench.outputs() == []


def test_nothing_is_durable_before_a_checkpoint_and_everything_is_after_it(
    bench: Any, make_record: MakeRecord, make_batch: MakeBatch
) -> None:
    worker = bench.worker()
    worker.process(make_batch([make_record(1, "a", 1), make_record(2, "b", 2)]))
    assert bench.values("a") == []
    assert worker.make_durable()[:2] == (Position(0, 2), 2)
    assert (bench.values("a"), bench.values("b")) == ([1], [2])
    assert worker.make_durable() is None


def test_a_worker_that_starts_at_the_checkpoint_skips_what_the_states_contain(
    bench: Any, make_record: MakeRecord, make_batch: MakeBatch
) -> None:
    log = [make_record(number, "ab"[number % 2], number) for number in range(10)]
    worker = bench.worker()
    worker.process(make_batch(log[:6]))
    worker.make_durable()
    again = bench.worker(Position(0, 2))  # killed after the states were written and before the lease moved
    again.process(make_batch(log[2:]))
    again.make_durable()
    assert bench.values("a") == [0, 2, 4, 6, 8]
    assert bench.values("b") == [1, 3, 5, 7, 9]


@given(
    log=st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 9)), max_size=40),
    cuts=st.lists(st.tuples(st.integers(1, 7), st.booleans(), st.booleans()), max_size=30),
)
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])  # it only gives a class
def test_states_equal_one_fold_of_the_log_however_it_is_cut_and_wherever_the_worker_dies(
    make_bench: Callable[[], Any],
    make_record: MakeRecord,
    make_batch: MakeBatch,
    log: list[tuple[str, int]],
    cuts: list[tuple[int, bool, bool]],
) -> None:
    bench = make_bench()
    records = [make_record(number, key, value) for number, (key, value) in enumerate(log)]
    checkpoint: Position | None = None
    worker, at = bench.worker(), 0
    for size, makes_durable, dies in [*cuts, (len(records), True, False)]:
        worker.process(make_batch(records[at : at + size]))
        at += size
        if makes_durable and (durable := worker.make_durable()) and not dies:
            checkpoint = durable[0]
        if dies:
            worker = bench.worker(checkpoint)
            at = 0 if checkpoint is None else checkpoint.sequence_number
    worker.process(make_batch(records[at:]))
    worker.make_durable()
    for key in "abc":
        assert bench.values(key) == [value for owner, value in log if owner == key]
    # Every event below a checkpoint is reflected in a published output of its key.
    for key in {key for key, _ in log}:
        count = sum(1 for owner, _ in log if owner == key)
        assert max(output["n"] for output in bench.outputs() if output["key"] == key) == count


def test_a_producers_duplicate_is_dropped_within_the_window(
    bench: Any, make_record: MakeRecord, make_batch: MakeBatch
) -> None:
    worker = bench.worker()
    first = [make_record(n, "a", n, event_id=f"e{n}") for n in range(DUPLICATE_WINDOW_EVENTS)]
    repeated = [make_record(1000 + n, "a", n, event_id=f"e{n}") for n in range(DUPLICATE_WINDOW_EVENTS)]
    worker.process(make_batch(first))
    worker.process(make_batch(repeated))
    worker.make_durable()
    assert bench.values("a") == list(range(DUPLICATE_WINDOW_EVENTS))


def test_a_record_that_cannot_be_decoded_is_dead_lettered_and_the_batch_goes_on(
    bench: Any, make_record: MakeRecord, make_batch: MakeBatch
) -> None:
    worker = bench.worker()
    broken = Record(b"{", "a", Position(0, 2), 1_000.0)
    worker.process(make_batch([make_record(1, "a", 1), broken, make_record(3, "a", 3)]))
    worker.make_durable()
    assert bench.values("a") == [1, 3]
    assert bench.letters()[2].reason == "not JSON"
    assert [event for event in bench.telemetry if isinstance(event, DeadLettered)]


def test_an_event_whose_fold_keeps_failing_is_dead_lettered_alone_and_leaves_no_trace_in_the_state(
    bench: Any, make_record: MakeRecord, make_batch: MakeBatch
) -> None:
    worker = bench.worker()
    worker.process(make_batch([make_record(1, "a", 1), make_record(2, "a", "poison"), make_record(3, "a", 3)]))
    worker.make_durable()
    assert bench.values("a") == [1, 3]
    assert bench.letters()[2].reason == "fold failed: ValueError: poison"
    assert bench.states.load(["a"])["a"].events_folded == 2


def test_an_event_whose_fold_fails_once_is_folded(bench: Any, make_record: MakeRecord, make_batch: MakeBatch) -> None:
    bench.processor.fails_once = {"shaky"}
    worker = bench.worker()
    worker.process(make_batch([make_record(1, "a", 1), make_record(2, "a", "shaky"), make_record(3, "a", 3)]))
    worker.make_durable()
    assert bench.values("a") == [1, "shaky", 3]
    assert bench.letters() == {}


def test_a_dead_lettered_event_is_not_folded_by_a_replay_even_where_it_now_could_be(
    bench: Any, make_record: MakeRecord, make_batch: MakeBatch
) -> None:
    bench.worker().process(make_batch([make_record(1, "a", "poison"), make_record(2, "a", 2)]))  # then it dies
    mended = bench.worker()
    mended.process(make_batch([make_record(1, "a", "mended"), make_record(2, "a", 2)]))
    mended.make_durable()
    assert bench.values("a") == [2]


def test_an_event_that_would_make_its_state_too_large_is_dead_lettered(
    bench: Any, make_record: MakeRecord, make_batch: MakeBatch
) -> None:
    worker = bench.worker(settings=WorkerSettings(state_bytes_max=1024))
    worker.process(make_batch([make_record(1, "a", 1), make_record(2, "a", "x" * 2000), make_record(3, "a", 3)]))
    worker.make_durable()
    assert bench.values("a") == [1, 3]
    assert "state_bytes_max is 1024" in bench.letters()[2].reason


def test_an_event_whose_partition_key_is_not_its_key_is_dead_lettered(
    bench: Any, make_record: MakeRecord, make_batch: MakeBatch
) -> None:
    stray = make_record(1, "a", 1)
    stray = Record(stray.data, "other", stray.position, stray.arrived_at)
    bench.worker().process(make_batch([stray]))
    assert bench.letters()[1].field == "partition_key"
    assert "is not the state key" in bench.letters()[1].reason


def test_an_event_that_does_not_hash_into_the_shard_is_dead_lettered(
    bench: Any, make_record: MakeRecord, make_batch: MakeBatch
) -> None:
    elsewhere = HashRange(0, hash_key_of("a") - 1)
    bench.worker(hash_range=elsewhere).process(make_batch([make_record(1, "a", 1), make_record(2, "a", 2)]))
    assert sorted(bench.letters()) == [1, 2]
    assert "does not hash into this shard" in bench.letters()[1].reason


def test_an_event_dated_far_after_its_arrival_is_dead_lettered_and_one_far_before_it_is_folded(
    bench: Any, make_record: MakeRecord, make_batch: MakeBatch
) -> None:
    worker = bench.worker(settings=WorkerSettings(ahead_seconds_max=60))
    worker.process(make_batch([make_record(1, "a", 1, at=1_061), make_record(2, "a", 2, at=-1e9)]))
    worker.make_durable()
    assert bench.letters()[1].field == "ts"
    assert bench.values("a") == [2]


def test_an_emission_that_keeps_failing_is_dead_lettered_and_its_state_and_the_other_keys_stand(
    bench: Any, make_record: MakeRecord, make_batch: MakeBatch
) -> None:
    worker = bench.worker()
    worker.process(make_batch([make_record(n, key, n) for n, key in enumerate(["a", "b", "unemittable", "c"])]))
    worker.make_durable()
    assert sorted(output["key"] for output in bench.outputs()) == ["a", "b", "c"]
    assert bench.values("unemittable") == [2]
    assert bench.letters()[2].kind is Kind.EMISSION
    assert "cannot emit" in bench.letters()[2].reason


def test_only_the_outputs_that_failed_are_published_again(
    bench: Any, make_record: MakeRecord, make_batch: MakeBatch, flaky_sink: Any
) -> None:
    bench.sink = flaky_sink(ServiceUnreachable("away"), lambda _: Delivery([1], [], "throttled"))
    bench.worker().process(make_batch([make_record(n, key, n) for n, key in enumerate("abc")]))
    assert [output["key"] for output in bench.outputs()] == ["a", "c", "b"]
    assert len([event for event in bench.telemetry if isinstance(event, Retried)]) == 2


def test_an_output_refused_for_good_is_dead_lettered_as_an_emission(
    bench: Any, make_record: MakeRecord, make_batch: MakeBatch, flaky_sink: Any
) -> None:
    bench.sink = flaky_sink(lambda _: Delivery([], [(0, "too large")]))
    bench.worker().process(make_batch([make_record(7, "a", 1)]))
    letter = bench.letters()[7]
    assert (letter.kind, letter.reason, letter.partition_key) == (Kind.EMISSION, "refused: too large", "a")
    assert b'"key": "a"' in letter.data


def test_an_error_that_does_not_pass_ends_the_worker_and_nothing_advances(
    bench: Any, make_record: MakeRecord, make_batch: MakeBatch, flaky_sink: Any
) -> None:
    bench.sink = flaky_sink(PermissionError("no"))
    worker = bench.worker()
    with pytest.raises(PermissionError):
        worker.process(make_batch([make_record(1, "a", 1)]))
    assert worker.make_durable() is None
    assert bench.values("a") == []


def test_a_wait_for_a_service_ends_when_the_worker_is_told_to_give_up(
    bench: Any, make_record: MakeRecord, make_batch: MakeBatch, flaky_sink: Any
) -> None:
    bench.sink = flaky_sink(Throttled("slow down"))
    worker, publish = bench.worker(), bench.sink.publish

    def told_meanwhile(outputs: Sequence[bytes]) -> Delivery:
        bench.abort.set()
        delivery: Delivery = publish(outputs)
        return delivery

    bench.sink.publish = told_meanwhile
    with pytest.raises(WorkerAborted, match="given up: slow down"):
        worker.process(make_batch([make_record(1, "a", 1)]))


def test_the_stream_goes_on_without_the_projection_and_the_latest_states_are_projected_when_it_is_back(
    bench: Any, make_record: MakeRecord, make_batch: MakeBatch
) -> None:
    worker = bench.worker()
    project = bench.projection.project

    def away(_states: Sequence[StoredState]) -> int:
        raise ServiceUnreachable("Redis is away")

    bench.projection.project = away
    worker.process(make_batch([make_record(1, "a", 1)]))
    worker.process(make_batch([make_record(2, "a", 2), make_record(3, "b", 3)]))
    assert len(bench.outputs()) == 3
    assert [event for event in bench.telemetry if isinstance(event, ProjectionUnavailable)]
    bench.projection.project = project
    bench.clock.now += 60
    worker.process(make_batch([]))  # an empty read is enough
    assert {key: state.events_folded for key, state in bench.projection.read(["a", "b"]).items()} == {"a": 2, "b": 1}
    assert [event for event in bench.telemetry if isinstance(event, ProjectionCaughtUp)]


def test_a_state_that_another_worker_wrote_later_is_not_overwritten_and_is_loaded_again(
    bench: Any, make_record: MakeRecord, make_batch: MakeBatch
) -> None:
    log = [make_record(n, "a", n) for n in range(4)]
    zombie, successor = bench.worker(), bench.worker()
    zombie.process(make_batch(log[:2]))
    successor.process(make_batch(log[:3]))
    successor.make_durable()
    zombie.make_durable()
    assert bench.values("a") == [0, 1, 2]
    assert [event for event in bench.telemetry if isinstance(event, StateSuperseded)]
    zombie.process(make_batch(log[2:]))
    zombie.make_durable()
    assert bench.values("a") == [0, 1, 2, 3]


def test_a_state_of_a_newer_fold_stops_the_worker_before_it_writes(
    bench: Any, make_record: MakeRecord, make_batch: MakeBatch
) -> None:
    bench.states.store([StoredState("a", Position(0, 0), 1, 0, b"", 2, b'{"values": [0]}')])
    with pytest.raises(NewerState, match="fold version 2"):
        bench.worker().process(make_batch([make_record(1, "a", 1)]))


def test_clean_states_leave_memory_and_dirty_ones_stay(
    bench: Any, make_record: MakeRecord, make_batch: MakeBatch
) -> None:
    worker = bench.worker(settings=WorkerSettings(states_in_memory_max=3, dirty_keys_max=3))
    log = [make_record(n, f"k{n}", n) for n in range(6)]
    worker.process(make_batch(log))
    worker.make_durable()
    worker.process(make_batch([make_record(10 + n, f"k{n}", n) for n in range(6)]))
    worker.make_durable()
    assert [bench.values(f"k{n}") for n in range(6)] == [[n, n] for n in range(6)]


def test_a_reason_that_holds_a_whole_event_is_cut_so_that_its_dead_letter_can_be_written(
    bench: Any, make_record: MakeRecord, make_batch: MakeBatch
) -> None:
    class Talkative(type(bench.processor)):  # type: ignore[misc]  # the conftest's class, by a value
        def fold(self, _state: Any, _event: Any) -> Any:
            raise ValueError("x" * 500_000)

    bench.processor = Talkative()
    bench.worker().process(make_batch([make_record(1, "a", 1)]))
    assert len(bench.letters()[1].reason) == 2000


def test_a_decoder_that_cannot_reach_its_registry_is_asked_again_and_rejects_nothing(
    bench: Any, make_record: MakeRecord, make_batch: MakeBatch
) -> None:
    decode, away = bench.processor.decode, [ConnectionError("registry")] * 3

    def flaky(data: bytes) -> Any:
        if away:
            raise away.pop()
        return decode(data)

    bench.processor.decode = flaky
    worker = bench.worker()
    worker.process(make_batch([make_record(1, "a", 1), make_record(2, "a", 2)]))
    worker.make_durable()
    assert bench.values("a") == [1, 2]
    assert bench.letters() == {}


def test_a_throttled_checkpoint_goes_on_where_it_was(
    bench: Any, make_record: MakeRecord, make_batch: MakeBatch
) -> None:
    store, asked = bench.states.store, []

    def throttled(states: Sequence[StoredState]) -> set[str]:
        asked.append(len(states))
        if len(asked) % 2:
            raise Throttled("slow down")
        written: set[str] = store(states)
        return written

    bench.states.store = throttled
    worker = bench.worker()
    worker.process(make_batch(make_record(n, f"k{n}", n) for n in range(250)))
    assert worker.make_durable()[:2] == (Position(0, 249), 250)
    assert asked == [100, 100, 100, 100, 50, 50]


def test_states_leave_memory_in_a_replay_that_changes_nothing(
    bench: Any, make_record: MakeRecord, make_batch: MakeBatch
) -> None:
    bounds = WorkerSettings(states_in_memory_max=10, dirty_keys_max=10)
    log = [make_record(n, f"k{n}", n) for n in range(100)]
    first = bench.worker(settings=bounds)
    first.process(make_batch(log))
    first.make_durable()
    again = bench.worker(settings=bounds)
    again.process(make_batch(log))
    again.make_durable()
    assert len(again._keyed.states) == 10


def test_a_processor_that_is_none_is_named(bench: Any) -> None:
    bench.processor = object()
    with pytest.raises(SettingsError, match="processor is a object"):
        bench.worker()


def test_a_state_of_an_older_fold_is_migrated_and_folded_on(
    bench: Any, make_record: MakeRecord, make_batch: MakeBatch
) -> None:
    class Second(type(bench.processor)):  # type: ignore[misc]  # the conftest's class, by a value
        fold_version = 2

        def migrate_state(self, data: bytes, fold_version: int) -> Any:
            assert fold_version == 1
            return {"values": [value * 10 for value in self.decode_state(data)["values"]]}

    first = bench.worker()
    first.process(make_batch([make_record(1, "a", 1), make_record(2, "b", 2)]))
    first.make_durable()
    bench.processor = Second()
    second = bench.worker(Position(0, 2))
    second.process(make_batch([make_record(3, "a", 3)]))
    second.make_durable()
    assert bench.values("a") == [10, 3]
    assert bench.states.load(["a"])["a"].fold_version == 2
    assert bench.states.load(["b"])["b"].fold_version == 1, "migrated with its next event"


def test_an_older_worker_beside_a_newer_one_stops_and_never_writes_over_it(
    bench: Any, make_record: MakeRecord, make_batch: MakeBatch
) -> None:
    class Second(type(bench.processor)):  # type: ignore[misc]  # the conftest's class, by a value
        fold_version = 2

        def migrate_state(self, data: bytes, _fold_version: int) -> Any:
            return self.decode_state(data)

    old = bench.worker()
    old.process(make_batch([make_record(1, "a", 1)]))
    old.make_durable()
    first_processor, bench.processor = bench.processor, Second()
    new = bench.worker(Position(0, 1))
    new.process(make_batch([make_record(2, "a", 2)]))
    new.make_durable()
    old.process(make_batch([make_record(2, "a", 2), make_record(3, "a", 3)]))
    with pytest.raises(NewerState):
        old.make_durable()
    assert bench.states.load(["a"])["a"].fold_version == 2
    bench.processor = first_processor  # rolled back too early
    with pytest.raises(NewerState, match="deploy the newer version"):
        bench.worker(Position(0, 2)).process(make_batch([make_record(3, "a", 3)]))


def test_a_state_of_an_older_fold_without_a_migration_is_refused_with_what_to_do(
    bench: Any, make_record: MakeRecord, make_batch: MakeBatch
) -> None:
    bench.states.store([StoredState("a", Position(0, 0), 1, 0, b"", 0, b"{}")])
    with pytest.raises(SettingsError, match="override migrate_state"):
        bench.worker().process(make_batch([make_record(1, "a", 1)]))


def test_a_worker_that_ended_leaves_memory_with_its_states_at_once(
    bench: Any, make_record: MakeRecord, make_batch: MakeBatch
) -> None:
    worker = bench.worker()
    worker.process(make_batch([make_record(1, "a", 1)]))
    gone = weakref.ref(worker)
    gc.disable()
    try:
        worker.close()
        del worker
        assert gone() is None
    finally:
        gc.enable()
