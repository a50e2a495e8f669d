"""What is sent, again or not, and in which order: packing, outbox and sender, step by step."""

import random
from collections.abc import Callable
from concurrent.futures import Future
from itertools import repeat
from typing import Any

import pytest
from botocore.exceptions import NoRegionError
from hypothesis import HealthCheck, given, settings, strategies as st

from streamproc.aggregation import MAGIC
from streamproc.errors import AccessDenied, PutFailed, StreamNotFound, is_transient
from streamproc.producer import Acknowledged
from streamproc.producing.packing import AGGREGATE_BYTES_MAX, KEY_EVENTS_MAX, REQUEST_BYTES_MAX
from streamproc.state import DUPLICATE_WINDOW_EVENTS
from streamproc.telemetry import RecordsSent, Retried, ShardsListed
from streamproc.testing.kinesis import CallRefused, EntriesRefused, FakeKinesis, Fault, ReplyLost, ServiceAway

STREAM = "cart-events"
#: The fixtures of these properties are functions that make what an example uses.
FACTORIES = [HealthCheck.function_scoped_fixture]
THROTTLED = "ProvisionedThroughputExceededException"


def raw_records(kinesis: FakeKinesis) -> list[dict[str, Any]]:
    return [record for records in kinesis.log(STREAM).values() for record in records]


def sent(bench: Any) -> list[RecordsSent]:
    return [event for event in bench.events if isinstance(event, RecordsSent)]


def failure(future: Future[Acknowledged]) -> PutFailed:
    error = future.exception(timeout=0)
    assert isinstance(error, PutFailed)
    return error


def test_a_single_event_is_sent_as_a_plain_record_and_acknowledged_with_its_place(bench: Any, kinesis: Any) -> None:
    future = bench.put("u1", b"one")
    bench.run()
    [record] = raw_records(kinesis)
    assert (record["Data"], record["PartitionKey"]) == (b"one", "u1")
    place = future.result(timeout=0)
    assert kinesis.log(STREAM)[place.shard_id] == [record]
    assert (place.sequence_number, place.sub_sequence_number) == (record["SequenceNumber"], 0)


def test_waiting_events_of_one_key_go_as_one_aggregate(bench: Any, kinesis: Any, read_all: Any) -> None:
    futures = [bench.put("u1", b"%d" % n) for n in range(5)]
    bench.run()
    [record] = raw_records(kinesis)
    assert record["Data"].startswith(MAGIC)
    assert record["PartitionKey"] == "u1"
    assert read_all(kinesis) == {"u1": [b"0", b"1", b"2", b"3", b"4"]}
    assert [f.result(timeout=0).sub_sequence_number for f in futures] == [0, 1, 2, 3, 4]


def test_without_aggregation_a_key_has_one_event_in_a_request(make_bench: Any, read_all: Any) -> None:
    bench, kinesis = make_bench(aggregate=False)
    for n in range(3):
        bench.put("u1", b"%d" % n)
    bench.run()
    assert kinesis.calls["PutRecords"] == 3
    assert read_all(kinesis) == {"u1": [b"0", b"1", b"2"]}


def test_an_aggregate_holds_half_as_many_events_as_a_consumers_duplicate_window(bench: Any, kinesis: Any) -> None:
    for n in range(KEY_EVENTS_MAX + 1):
        bench.put("u1", b"%d" % n)
    bench.run()
    first, second = raw_records(kinesis)
    assert first["Data"].startswith(MAGIC)
    assert second["Data"] == b"%d" % (DUPLICATE_WINDOW_EVENTS // 2)


def test_an_aggregate_stays_below_its_size_and_a_large_event_goes_alone(
    bench: Any, kinesis: Any, read_all: Any
) -> None:
    sizes = [100, AGGREGATE_BYTES_MAX // 2, AGGREGATE_BYTES_MAX // 2, AGGREGATE_BYTES_MAX, 100]
    data = [bytes([n]) * size for n, size in enumerate(sizes)]
    for item in data:
        bench.put("u1", item)
    bench.run()
    assert read_all(kinesis) == {"u1": data}
    records = raw_records(kinesis)
    assert all(len(r["Data"]) <= AGGREGATE_BYTES_MAX for r in records)
    assert [r["Data"].startswith(MAGIC) for r in records] == [True, False, False, False]


def test_a_request_keeps_to_500_entries(make_bench: Any) -> None:
    bench, kinesis = make_bench(aggregate=False)
    for n in range(501):
        bench.put(f"u{n}", b"x")
    bench.run()
    assert kinesis.calls["PutRecords"] == 2
    assert [event.entries for event in sent(bench)] == [500, 1]


def test_a_request_keeps_to_its_size(bench: Any) -> None:
    for n in range(9):
        bench.put(f"u{n}", b"x" * 1_000_000)
    bench.run()
    assert [event.entries for event in sent(bench)] == [4, 4, 1]
    assert all(event.request_bytes <= REQUEST_BYTES_MAX for event in sent(bench))


@given(
    sizes=st.lists(st.integers(0, 60_000), min_size=1, max_size=80),
    keys=st.lists(st.text(min_size=1, max_size=50), min_size=1, max_size=5),
)
@settings(max_examples=50, suppress_health_check=FACTORIES)
def test_the_size_that_is_counted_is_never_below_the_size_that_is_sent(
    sizes: list[int], keys: list[str], make_bench: Any
) -> None:
    keys = [key.encode("utf-8", "replace").decode() for key in keys]
    bench, kinesis = make_bench()
    for n, size in enumerate(sizes):
        bench.put(keys[n % len(keys)], b"x" * size)
    bench.run()
    counted = sum(event.request_bytes for event in sent(bench))
    assert counted >= sum(len(r["Data"]) + len(r["PartitionKey"].encode()) for r in raw_records(kinesis))


def test_a_refused_entry_is_sent_again_before_later_events_of_its_key(bench: Any, kinesis: Any, read_all: Any) -> None:
    first, other = bench.put("u1", b"1"), bench.put("u2", b"x")
    kinesis.script("PutRecords", [EntriesRefused(frozenset({0}))])
    bench.step()
    assert not first.done()
    assert other.done()
    bench.put("u1", b"2")
    bench.run()
    assert read_all(kinesis)["u1"] == [b"1", b"2"]


def test_only_what_was_refused_is_sent_again(make_bench: Any) -> None:
    bench, kinesis = make_bench(aggregate=False)
    for n in range(10):
        bench.put(f"u{n}", b"%d" % n)
    kinesis.script("PutRecords", [EntriesRefused(frozenset({2, 5}))])
    bench.run()
    assert [event.entries for event in sent(bench)] == [10, 2]
    assert sorted(r["Data"] for r in raw_records(kinesis)) == [b"%d" % n for n in range(10)]


def test_a_key_that_was_refused_rests_while_others_go_on(bench: Any, kinesis: Any) -> None:
    bench.put("u1", b"1")
    kinesis.script("PutRecords", [EntriesRefused(frozenset({0}))])
    pause = bench.step()
    assert pause.seconds is not None
    assert pause.seconds > 0
    assert not pause.for_all
    other = bench.put("u2", b"x")
    bench.step()
    assert other.done()
    assert [r["Data"] for r in raw_records(kinesis)] == [b"x"]


def test_rests_grow_with_every_refusal_and_start_anew_after_a_success(bench: Any, kinesis: Any) -> None:
    kinesis.script("PutRecords", [EntriesRefused(frozenset({0}))] * 12)
    bench.put("u1", b"1")
    bench.run()
    rests = [event.wait_seconds for event in bench.events if isinstance(event, Retried)]
    assert len(rests) == 12
    assert rests[0] <= 0.05
    assert max(rests) > 0.5
    kinesis.script("PutRecords", [EntriesRefused(frozenset({0}))])
    bench.put("u1", b"2")
    pause = bench.step()
    assert pause.seconds is not None
    assert pause.seconds <= 0.05


@pytest.mark.parametrize(
    "fault", [ServiceAway(), ReplyLost(), CallRefused("InternalFailure", 500), CallRefused("ThrottlingException")]
)
def test_a_call_that_fails_in_a_way_that_passes_is_made_again_after_a_wait_for_all(
    bench: Any, kinesis: Any, fault: Fault
) -> None:
    futures = [bench.put(f"u{n}", b"x") for n in range(3)]
    kinesis.script("PutRecords", [fault])
    pause = bench.step()
    assert pause.for_all
    assert pause.seconds
    bench.run()
    assert all(future.result(timeout=0) for future in futures)
    assert [event.attempt for event in bench.events if isinstance(event, Retried)] == [1]


def test_after_a_lost_reply_the_same_bytes_are_sent_again(bench: Any, kinesis: Any, read_all: Any) -> None:
    bench.put("u1", b"1")
    bench.put("u1", b"2")
    kinesis.script("PutRecords", [ReplyLost()])
    bench.step()
    bench.put("u1", b"3")
    bench.run()
    assert read_all(kinesis)["u1"] == [b"1", b"2", b"1", b"2", b"3"]


@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        (CallRefused("ResourceNotFoundException"), StreamNotFound),
        (CallRefused("AccessDeniedException"), AccessDenied),
    ],
)
def test_an_error_that_does_not_pass_fails_the_events_of_its_call_with_the_cause(
    bench: Any, kinesis: Any, fault: CallRefused, cause: type[Exception]
) -> None:
    event = object()
    future = bench.put("u1", b"1", event)
    kinesis.script("PutRecords", [fault])
    bench.run()
    error = failure(future)
    assert error.event is event
    assert error.code == fault.code
    assert isinstance(error.__cause__, cause)
    later = bench.put("u1", b"2")
    bench.run()
    assert later.result(timeout=0)


def test_a_client_that_cannot_be_made_fails_the_events_with_a_sentence(bench: Any) -> None:
    def no_client() -> Any:
        raise NoRegionError

    bench.sender._client = no_client
    future = bench.put("u1", b"1")
    bench.run()
    error = failure(future)
    assert "AWS_REGION" in str(error)
    assert not is_transient(error)


def test_an_entry_refused_for_good_fails_its_events_and_no_others(bench: Any, kinesis: Any) -> None:
    one, other = bench.put("u1", b"1"), bench.put("u2", b"2")
    kinesis.script("PutRecords", [EntriesRefused(frozenset({0}), "KMSAccessDeniedException")])
    bench.run()
    assert failure(one).code == "KMSAccessDeniedException"
    assert other.result(timeout=0)


def test_an_event_that_kinesis_does_not_take_in_its_time_to_live_fails_with_the_last_error(make_bench: Any) -> None:
    bench, kinesis = make_bench(ttl=60.0)
    kinesis.script("PutRecords", repeat(EntriesRefused(frozenset(range(500)), THROTTLED)))
    future = bench.put("u1", b"1")
    bench.run()
    error = failure(future)
    assert (error.event, error.code) == (b"1", "RecordExpired")
    assert THROTTLED in str(error)


def test_times_to_live_end_for_all_keys_while_the_service_is_away(make_bench: Any) -> None:
    bench, kinesis = make_bench(ttl=60.0)
    kinesis.script("PutRecords", repeat(ServiceAway()))
    futures = [bench.put(f"u{n}", b"x") for n in range(1200)]
    bench.run(steps_max=200)
    assert {failure(future).code for future in futures} == {"RecordExpired"}
    assert bench.clock.now < 1_700_000_000 + 70


def test_a_busy_key_does_not_hold_up_the_others(make_bench: Any) -> None:
    bench, kinesis = make_bench(aggregate=False)
    for n in range(3):
        bench.put("busy", b"%d" % n)
    for n in range(600):
        bench.put(f"u{n}", b"x")
    bench.step()
    bench.step()
    keys = [r["PartitionKey"] for r in raw_records(kinesis)]
    assert len(set(keys)) == 601


def test_abandoning_fails_what_waits_and_ignores_a_late_reply(bench: Any, kinesis: Any) -> None:
    class Late:
        def put_records(self, **request: Any) -> Any:
            bench.sender.abandon()
            return kinesis.put_records(**request)

    bench.sender._client = Late
    future = bench.put("u1", b"1")
    bench.step()
    assert failure(future).code == "ProducerClosed"
    assert bench.outbox.events == 0


def test_what_was_sent_is_told_once_a_call(bench: Any, kinesis: Any, keys_in: Any) -> None:
    low, high = keys_in(0, of=2)[0], keys_in(1, of=2)[0]
    for key in (low, low, high):
        bench.put(key, b"xx")
    kinesis.script("PutRecords", [EntriesRefused(frozenset({0}))])
    bench.step()
    listed, retried, told = bench.events
    assert listed == ShardsListed(stream=STREAM, open_shards=2)
    assert isinstance(retried, Retried)
    assert "1 entries of PutRecords to cart-events" in retried.what
    assert isinstance(told, RecordsSent)
    waiting = told.events_waiting
    assert (told.stream, told.events, told.entries, told.entries_failed) == (STREAM, 3, 2, 1)
    assert waiting in (1, 2)


FAULTS: st.SearchStrategy[Fault] = st.one_of(
    st.none(),
    st.just(ServiceAway()),
    st.just(ReplyLost()),
    st.just(CallRefused("InternalFailure", 500)),
    st.builds(EntriesRefused, st.frozensets(st.integers(0, 9)), st.just(THROTTLED)),
)


def without_duplicates(seen: list[bytes]) -> list[bytes]:
    """What a consumer keeps that remembers the last 64 ids of a key."""
    kept: list[bytes] = []
    for data in seen:
        if data not in kept[-DUPLICATE_WINDOW_EVENTS:]:
            kept.append(data)
    return kept


@given(
    keys=st.lists(st.sampled_from("abcdefg"), max_size=150),
    steps=st.lists(st.integers(0, 150), max_size=20),
    faults=st.lists(FAULTS, max_size=30),
    aggregate=st.booleans(),
    seed=st.integers(),
)
@settings(max_examples=200, deadline=None, suppress_health_check=FACTORIES)
def test_each_event_is_stored_in_the_order_of_its_key_and_acknowledged_once_whatever_fails(
    keys: list[str],
    steps: list[int],
    faults: list[Fault],
    aggregate: bool,
    seed: int,
    make_bench: Callable[..., Any],
    read_all: Callable[[FakeKinesis], dict[str, list[bytes]]],
) -> None:
    bench, kinesis = make_bench(shards=3, aggregate=aggregate, put_order=random.Random(seed))
    kinesis.script("PutRecords", faults)
    expected: dict[str, list[bytes]] = {}
    futures: list[tuple[bytes, Future[Acknowledged]]] = []
    for n, key in enumerate(keys):
        data = b"%d" % n
        expected.setdefault(key, []).append(data)
        futures.append((data, bench.put(key, data)))
        for _ in range(steps.count(n)):
            bench.clock.now += bench.step().seconds or 0.0
    bench.run()
    stored = read_all(kinesis)
    assert {key: without_duplicates(seen) for key, seen in stored.items()} == expected
    if not any(isinstance(fault, ReplyLost) for fault in faults):
        assert stored == expected
    places = [future.result(timeout=0) for _, future in futures]
    assert len(set(places)) == len(places)
    assert bench.outbox.events == len(bench.outbox) == bench.outbox.cost_bytes == 0
