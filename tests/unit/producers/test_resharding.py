"""Aggregates over the keys of a shard: which shard is expected, and what happens where it was another one."""

from collections.abc import Callable
from itertools import repeat
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from streamproc.aggregation import MAGIC, deaggregate
from streamproc.producing.bucket import TokenBucket
from streamproc.shardmap import HASH_KEY_MAX, HashRange, ShardMap, hash_key_of
from streamproc.stream import Shard, list_shards
from streamproc.telemetry import AggregateMisrouted, RecordsSent, ShardsListed, ShardsUnknown
from streamproc.testing.kinesis import CallRefused, EntriesRefused, FakeKinesis, ReplyLost, ServiceAway

STREAM = "cart-events"
MIDDLE = (HASH_KEY_MAX + 1) // 2


def raw_records(kinesis: FakeKinesis) -> list[dict[str, Any]]:
    return [record for records in kinesis.log(STREAM).values() for record in records]


def open_shards(kinesis: Any) -> list[Shard]:
    return sorted((s for s in list_shards(kinesis, STREAM) if not s.closed), key=lambda shard: shard.hash_range)


def split(kinesis: FakeKinesis, shard: Shard) -> None:
    middle = (shard.hash_range.start + shard.hash_range.end) // 2 + 1
    kinesis.split_shard(StreamName=STREAM, ShardToSplit=shard.shard_id, NewStartingHashKey=str(middle))


def merge(kinesis: FakeKinesis, one: Shard, other: Shard) -> None:
    kinesis.merge_shards(StreamName=STREAM, ShardToMerge=one.shard_id, AdjacentShardToMerge=other.shard_id)


def told(bench: Any, kind: type) -> list[Any]:
    return [event for event in bench.events if isinstance(event, kind)]


def test_keys_of_one_shard_go_in_one_aggregate_that_names_its_hash_key(bench: Any, kinesis: Any, keys_in: Any) -> None:
    requests: list[Any] = []

    class Client:
        list_shards = kinesis.list_shards

        def put_records(self, **request: Any) -> Any:
            requests.append(request)
            return kinesis.put_records(**request)

    bench.sender._client = Client
    low, high = keys_in(0, of=2, count=3), keys_in(1, of=2, count=3)
    futures = [bench.put(key, key.encode()) for key in (*low, *high, *low)]
    bench.run()
    [request] = requests
    by_hash_key = {int(entry["ExplicitHashKey"]) < MIDDLE: entry for entry in request["Records"]}
    assert {user.partition_key for user in deaggregate(by_hash_key[True]["Data"]) or []} == set(low)
    assert {user.partition_key for user in deaggregate(by_hash_key[False]["Data"]) or []} == set(high)
    assert len({future.result(timeout=0) for future in futures}) == 9


def test_an_aggregate_of_one_key_names_no_hash_key(bench: Any) -> None:
    bench.put("u1", b"1")
    bench.put("u1", b"2")
    [entry] = bench.outbox.take(0)[0]
    assert set(entry.request()) == {"Data", "PartitionKey"}


def test_after_a_split_an_aggregate_that_readers_would_drop_is_sent_again_and_not_acknowledged(
    bench: Any, kinesis: Any, keys_in: Any, read_all: Any
) -> None:
    bench.put("first", b"")
    bench.run()  # the shards are known
    keys = [*keys_in(0, of=4), *keys_in(1, of=4)]
    split(kinesis, open_shards(kinesis)[0])
    futures = [bench.put(key, b"%d" % n) for n in range(3) for key in keys]
    bench.step()
    assert not any(future.done() for future in futures)
    for key in keys:
        bench.put(key, b"3")
    bench.run()
    [misrouted] = told(bench, AggregateMisrouted)
    assert (misrouted.events, misrouted.stream) == (6, STREAM)
    stored = read_all(kinesis, may_drop=True)
    assert {key: stored[key] for key in keys} == {key: [b"0", b"1", b"2", b"3"] for key in keys}
    assert [event.open_shards for event in told(bench, ShardsListed)] == [2, 3]
    places = {future.result(timeout=0).shard_id for future in futures}
    assert places == {shard.shard_id for shard in open_shards(kinesis)[:2]}


def test_after_a_merge_an_aggregate_in_the_new_shard_is_acknowledged(bench: Any, kinesis: Any, keys_in: Any) -> None:
    bench.put("first", b"")
    bench.run()
    merge(kinesis, *open_shards(kinesis))
    low, high = keys_in(0, of=2, count=2), keys_in(1, of=2, count=2)
    futures = [bench.put(key, b"x") for key in (*low, *high)]
    bench.run()
    assert all(future.result(timeout=0) for future in futures)
    assert told(bench, AggregateMisrouted) == []
    assert kinesis.calls["PutRecords"] == 2
    bench.put(low[0], b"y")
    bench.put(high[0], b"y")
    bench.run()
    users = deaggregate(raw_records(kinesis)[-1]["Data"])
    assert users is not None
    assert {user.partition_key for user in users} == {low[0], high[0]}, "one shard now"


def test_an_aggregate_in_a_shard_that_is_not_known_waits_until_the_shards_are_listed(
    bench: Any, kinesis: Any, keys_in: Any
) -> None:
    bench.put("first", b"")
    bench.run()
    split(kinesis, open_shards(kinesis)[0])
    kinesis.script("ListShards", [CallRefused("ThrottlingException"), ServiceAway()])
    futures = [bench.put(key, b"x") for key in keys_in(0, of=4, count=2)]
    bench.clock.now += 1
    bench.step()
    pause = bench.step()
    assert pause.for_all
    assert pause.seconds
    assert not any(future.done() for future in futures)
    bench.run()
    assert all(future.result(timeout=0) for future in futures), "they hash into the child that took them"
    assert kinesis.calls["PutRecords"] == 2


def test_what_cannot_be_told_is_sent_again_with_aggregates_that_are_right_anywhere(
    bench: Any, kinesis: Any, keys_in: Any, read_all: Any
) -> None:
    bench.put("first", b"")
    bench.run()
    split(kinesis, open_shards(kinesis)[0])
    kinesis.script("ListShards", repeat(CallRefused("AccessDeniedException")))
    keys = [*keys_in(0, of=4), *keys_in(1, of=4)]
    futures = [bench.put(key, b"%d" % n) for n in range(2) for key in keys]
    bench.run()
    assert all(future.result(timeout=0) for future in futures)
    stored = read_all(kinesis_without_faults(kinesis), may_drop=True)
    assert {key: stored[key][-2:] for key in keys} == {key: [b"0", b"1"] for key in keys}
    assert "AccessDenied" in told(bench, ShardsUnknown)[0].error


@pytest.mark.parametrize("fault", [CallRefused("AccessDeniedException"), ServiceAway()])
def test_while_the_shards_cannot_be_listed_aggregates_hold_one_key_each(
    bench: Any, kinesis: Any, keys_in: Any, fault: Any
) -> None:
    kinesis.script("ListShards", [fault])
    keys = keys_in(0, of=2, count=3)
    for n in range(6):
        bench.put(keys[n % 3], b"%d" % n)
    bench.step()
    assert len(raw_records(kinesis)) == 3
    assert all(record["Data"].startswith(MAGIC) for record in raw_records(kinesis))
    bench.clock.now += 60
    for n in range(3):
        bench.put(keys[n], b"x")
    bench.run()
    assert len(raw_records(kinesis)) == 4, "one for the shard, once it is known"


def test_the_shards_are_listed_page_by_page_and_again_when_the_list_is_old(bench: Any, kinesis: Any) -> None:
    bench.put("u1", b"1")
    bench.run()
    bench.put("u1", b"2")
    bench.run()
    assert kinesis.calls["ListShards"] == 1
    bench.clock.now += 301
    bench.put("u1", b"3")
    bench.run()
    assert kinesis.calls["ListShards"] == 2

    class Paged:
        def list_shards(self, **request: Any) -> Any:
            return kinesis.list_shards(MaxResults=1, **request)

    many: Any = Paged()
    assert len(ShardMap(list_shards(many, STREAM)).open_shard_ids) == 2


def test_a_shard_that_is_throttled_rests_with_all_its_keys_and_others_go_on(
    bench: Any, kinesis: Any, keys_in: Any
) -> None:
    low, high = keys_in(0, of=2, count=2), keys_in(1, of=2, count=2)
    first = bench.put(low[0], b"1")
    kinesis.script("PutRecords", [EntriesRefused(frozenset({0}))])
    bench.step()
    later, other = bench.put(low[1], b"2"), bench.put(high[0], b"x")
    bench.step()
    assert other.done()
    assert not first.done()
    assert not later.done()
    bench.run()
    assert first.result(timeout=0)
    assert later.result(timeout=0)


def test_a_busy_key_has_at_most_half_a_duplicate_window_in_a_request_and_leaves_room_for_others(
    bench: Any, kinesis: Any, keys_in: Any, read_all: Any
) -> None:
    busy, calm = keys_in(0, of=2, count=2)
    for n in range(100):
        bench.put(busy, b"%d" % n)
    bench.put(calm, b"x")
    bench.step()
    assert len(read_all(kinesis)[busy]) == 32
    assert read_all(kinesis)[calm] == [b"x"]
    bench.run()
    assert read_all(kinesis)[busy] == [b"%d" % n for n in range(100)]


def test_an_aggregate_keeps_to_its_number_of_events(make_bench: Any, keys_in: Any) -> None:
    bench, kinesis = make_bench(aggregate_events_max=5)
    for key in keys_in(0, of=2, count=6):
        bench.put(key, b"1")
        bench.put(key, b"2")
    bench.run()
    assert [len(deaggregate(record["Data"]) or []) for record in raw_records(kinesis)] == [5, 5, 2]


def test_a_bucket_lets_a_second_s_worth_pass_in_a_second() -> None:
    bucket = TokenBucket(bytes_per_second=1000.0, records_per_second=10.0)
    now, passed_bytes, passed_records = 0.0, 0, 0
    while now < 10:
        wait = bucket.seconds_to_wait(now)
        now += wait
        if not wait:
            bucket.spend(150)
            passed_bytes += 150
            passed_records += 1
    assert 10_000 <= passed_bytes <= 10_000 + 50 + 150
    bucket = TokenBucket(records_per_second=10.0)
    now = 0.0
    while now < 10:
        wait = bucket.seconds_to_wait(now)
        now += wait
        if not wait:
            bucket.spend(150)
            passed_records += 1
    assert 98 <= passed_records - passed_bytes // 150 <= 102


def test_a_record_larger_than_a_second_s_worth_passes_and_is_paid_for() -> None:
    bucket = TokenBucket(bytes_per_second=1000.0)
    assert bucket.seconds_to_wait(0.0) == 0
    bucket.spend(5000)
    assert bucket.seconds_to_wait(0.0) == pytest.approx(4.95, abs=0.01)
    assert bucket.seconds_to_wait(4.96) == 0


def test_a_producer_that_keeps_to_the_limits_is_not_throttled(make_bench: Any) -> None:
    bench, _ = make_bench(throttles=True, bucket=lambda: TokenBucket(900_000, 900))
    futures = [bench.put(f"u{n % 50}", b"x" * 20_000) for n in range(300)]
    started = bench.clock.now
    bench.run()
    assert all(future.result(timeout=0) for future in futures)
    assert sum(event.entries_failed for event in told(bench, RecordsSent)) == 0
    assert 2 < bench.clock.now - started < 8


FAULTS = st.one_of(
    st.none(),
    st.just(ServiceAway()),
    st.just(ReplyLost()),
    st.builds(EntriesRefused, st.frozensets(st.integers(0, 9)), st.just("ProvisionedThroughputExceededException")),
)


@given(
    keys=st.lists(st.integers(0, 30), max_size=150),
    actions=st.lists(st.tuples(st.integers(0, 150), st.sampled_from(["step", "step", "split", "merge"]))),
    faults=st.lists(FAULTS, max_size=10),
    list_faults=st.lists(st.sampled_from([None, ServiceAway()]), max_size=5),
    pick=st.randoms(use_true_random=False),
)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_through_splits_and_merges_readers_get_every_event_in_the_order_of_its_key(
    keys: list[int],
    actions: list[tuple[int, str]],
    faults: list[Any],
    list_faults: list[Any],
    pick: Any,
    make_bench: Callable[..., Any],
    read_all: Callable[..., dict[str, list[bytes]]],
) -> None:
    bench, kinesis = make_bench(shards=3)
    kinesis.script("PutRecords", faults)
    kinesis.script("ListShards", list_faults)
    expected: dict[str, list[bytes]] = {}
    futures = []
    for n, number in enumerate(keys):
        key, data = f"u{number}", b"%d" % n
        expected.setdefault(key, []).append(data)
        futures.append((key, data, bench.put(key, data)))
        for at, action in actions:
            if at != n:
                continue
            shards = open_shards(kinesis_without_faults(kinesis))
            index = pick.randrange(len(shards))
            if action == "split":
                split(kinesis, shards[index])
            elif action == "merge" and index + 1 < len(shards):
                merge(kinesis, shards[index], shards[index + 1])
            else:
                bench.clock.now += bench.step().seconds or 0.0
    bench.run()
    stored = read_all(kinesis_without_faults(kinesis), may_drop=True)
    lost_replies = any(isinstance(fault, ReplyLost) for fault in faults)
    if not lost_replies:
        assert stored == expected
    assert {key: list(dict.fromkeys(seen)) for key, seen in stored.items()} == expected
    ranges = {s.shard_id: s.hash_range for s in list_shards(kinesis_without_faults(kinesis), STREAM)}
    for key, data, future in futures:
        place = future.result(timeout=0)
        [record] = [r for r in kinesis.log(STREAM)[place.shard_id] if r["SequenceNumber"] == place.sequence_number]
        users = deaggregate(record["Data"])
        if users is None:
            assert record["Data"] == data
            continue
        assert (users[place.sub_sequence_number].partition_key, users[place.sub_sequence_number].data) == (key, data)
        owned: HashRange = ranges[place.shard_id]
        assert all(owned.contains(hash_key_of(user.partition_key)) for user in users), "KCL keeps it"


def kinesis_without_faults(kinesis: FakeKinesis) -> Any:
    """For the test's own look: its calls must not use up the faults."""
    kinesis._scripts.pop("ListShards", None)
    return kinesis
