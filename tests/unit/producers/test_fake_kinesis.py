"""The rules that the fake obeys. The integration tests put the same questions to an emulator."""

import random
from datetime import datetime
from itertools import pairwise
from typing import Any

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, ReadTimeoutError
from hypothesis import given, strategies as st

from streamproc.errors import code_of, is_transient
from streamproc.record import shard_number_of
from streamproc.shardmap import HASH_KEY_MAX, hash_key_of
from streamproc.testing.kinesis import CallRefused, EntriesRefused, FakeKinesis, ReplyLost, ServiceAway

STREAM = "cart-events"


def put(kinesis: FakeKinesis, *keys: str, data: bytes = b"x") -> list[dict[str, Any]]:
    entries = [{"Data": data, "PartitionKey": key} for key in keys]
    results: list[dict[str, Any]] = kinesis.put_records(StreamName=STREAM, Records=entries)["Records"]
    return results


def iterator(kinesis: FakeKinesis, shard_id: str, kind: str = "TRIM_HORIZON", **options: Any) -> str:
    response = kinesis.get_shard_iterator(StreamName=STREAM, ShardId=shard_id, ShardIteratorType=kind, **options)
    return str(response["ShardIterator"])


def read(kinesis: FakeKinesis, shard_id: str, kind: str = "TRIM_HORIZON", **options: Any) -> list[bytes]:
    response = kinesis.get_records(ShardIterator=iterator(kinesis, shard_id, kind, **options))
    return [record["Data"] for record in response["Records"]]


def refused(call: Any, **request: Any) -> str:
    with pytest.raises(ClientError) as raised:
        call(**request)
    return code_of(raised.value)


@pytest.fixture
def one(clock: Any) -> FakeKinesis:
    """A stream of one shard."""
    kinesis = FakeKinesis(clock=clock)
    kinesis.create_stream(StreamName=STREAM, ShardCount=1)
    return kinesis


SHARD = "shardId-000000000000"


@given(st.integers(1, 20), st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=9), min_size=1))
def test_shards_share_all_hash_keys_and_take_the_keys_that_hash_into_them(shards: int, keys: list[str]) -> None:
    kinesis = FakeKinesis()
    kinesis.create_stream(StreamName=STREAM, ShardCount=shards)
    described = kinesis.list_shards(StreamName=STREAM)["Shards"]
    ranges = {
        shard["ShardId"]: (int(shard["HashKeyRange"]["StartingHashKey"]), int(shard["HashKeyRange"]["EndingHashKey"]))
        for shard in described
    }
    bounds = sorted(ranges.values())
    assert bounds[0][0] == 0
    assert bounds[-1][1] == HASH_KEY_MAX
    assert all(left[1] + 1 == right[0] for left, right in pairwise(bounds))
    for key, result in zip(keys, put(kinesis, *keys), strict=True):
        low, high = ranges[result["ShardId"]]
        assert low <= hash_key_of(key) <= high


def test_an_explicit_hash_key_decides_before_the_partition_key(kinesis: Any) -> None:
    for hash_key, shard in ((0, SHARD), (HASH_KEY_MAX, "shardId-000000000001")):
        entry = {"Data": b"x", "PartitionKey": "k", "ExplicitHashKey": str(hash_key)}
        [result] = kinesis.put_records(StreamName=STREAM, Records=[entry])["Records"]
        assert result["ShardId"] == shard


def test_sequence_numbers_have_56_digits_and_grow(one: FakeKinesis) -> None:
    numbers = [result["SequenceNumber"] for result in put(one, *"abc")]
    assert {len(number) for number in numbers} == {56}
    assert [int(number) for number in numbers] == sorted({int(number) for number in numbers})


@pytest.mark.parametrize(
    ("entries", "code"),
    [
        ([("k", 1)] * 501, "ValidationException"),
        ([], "ValidationException"),
        ([("k", 1_048_576)], "ValidationException"),
        ([("", 1)], "ValidationException"),
        ([("k" * 257, 1)], "ValidationException"),
        ([("k", 1_048_000)] * 11, "InvalidArgumentException"),
    ],
)
def test_put_records_refuses_what_is_too_large_as_a_whole(
    one: FakeKinesis, entries: list[tuple[str, int]], code: str
) -> None:
    records = [{"PartitionKey": key, "Data": b"x" * size} for key, size in entries]
    assert refused(one.put_records, StreamName=STREAM, Records=records) == code
    assert one.log(STREAM) == {SHARD: []}


def test_entries_of_one_call_are_stored_in_any_order_where_that_is_asked_for(clock: Any) -> None:
    kinesis = FakeKinesis(clock=clock, put_order=random.Random(3))
    kinesis.create_stream(StreamName=STREAM, ShardCount=1)
    records = [{"PartitionKey": "k", "Data": b"%d" % n} for n in range(10)]
    results = kinesis.put_records(StreamName=STREAM, Records=records)["Records"]
    stored = {record["SequenceNumber"]: record["Data"] for record in kinesis.log(STREAM)[SHARD]}
    assert [stored[result["SequenceNumber"]] for result in results] == [b"%d" % n for n in range(10)]
    assert list(stored.values()) != [b"%d" % n for n in range(10)]


def test_iterators_start_where_they_are_told(one: FakeKinesis, clock: Any) -> None:
    numbers = []
    for n in range(3):
        clock.now += 1
        numbers += [result["SequenceNumber"] for result in put(one, "k", data=b"%d" % n)]
    assert read(one, SHARD) == [b"0", b"1", b"2"]
    assert read(one, SHARD, "AT_SEQUENCE_NUMBER", StartingSequenceNumber=numbers[1]) == [b"1", b"2"]
    assert read(one, SHARD, "AFTER_SEQUENCE_NUMBER", StartingSequenceNumber=numbers[1]) == [b"2"]
    assert read(one, SHARD, "AT_TIMESTAMP", Timestamp=clock.now - 1) == [b"1", b"2"]
    assert read(one, SHARD, "AT_TIMESTAMP", Timestamp=datetime.fromtimestamp(clock.now).astimezone()) == [b"2"]
    assert read(one, SHARD, "LATEST") == []
    request = {"StreamName": STREAM, "ShardId": SHARD}
    assert refused(one.get_shard_iterator, **request, ShardIteratorType="MIDDLE") == "InvalidArgumentException"
    foreign = {"ShardIteratorType": "AT_SEQUENCE_NUMBER", "StartingSequenceNumber": "1"}
    assert refused(one.get_shard_iterator, **request, **foreign) == "InvalidArgumentException"


def test_reads_go_on_where_the_last_one_ended(one: FakeKinesis) -> None:
    put(one, *"abcde")
    response = one.get_records(ShardIterator=iterator(one, SHARD), Limit=3)
    assert len(response["Records"]) == 3
    assert response["MillisBehindLatest"] > 0
    response = one.get_records(ShardIterator=response["NextShardIterator"], Limit=3)
    assert len(response["Records"]) == 2
    assert response["MillisBehindLatest"] == 0


def test_a_read_returns_10_mib_at_most(one: FakeKinesis) -> None:
    for n in range(12):
        put(one, f"k{n}", data=b"x" * 1_000_000)
    assert len(one.get_records(ShardIterator=iterator(one, SHARD))["Records"]) == 10


def test_an_iterator_expires_after_five_minutes(one: FakeKinesis, clock: Any) -> None:
    opened = iterator(one, SHARD)
    clock.now += 300
    one.get_records(ShardIterator=opened)
    clock.now += 1
    assert refused(one.get_records, ShardIterator=opened) == "ExpiredIteratorException"


def test_records_older_than_the_retention_are_gone(one: FakeKinesis, clock: Any) -> None:
    [old] = put(one, "k", data=b"old")
    clock.now += 24 * 3600
    assert read(one, SHARD) == [b"old"]
    put(one, "k", data=b"new")
    clock.now += 1
    assert read(one, SHARD) == [b"new"]
    assert read(one, SHARD, "AT_SEQUENCE_NUMBER", StartingSequenceNumber=old["SequenceNumber"]) == [b"new"]


def test_a_split_closes_the_parent_and_its_keys_go_on_in_the_children(one: FakeKinesis) -> None:
    before = put(one, *"abcdefgh")
    one.split_shard(StreamName=STREAM, ShardToSplit=SHARD, NewStartingHashKey=str(2**127))
    after = put(one, *"abcdefgh")
    assert {result["ShardId"] for result in after} == {"shardId-000000000001", "shardId-000000000002"}
    response = one.get_records(ShardIterator=iterator(one, SHARD))
    assert len(response["Records"]) == len(before)
    assert "NextShardIterator" not in response
    assert [(child["ShardId"], child["ParentShards"]) for child in response["ChildShards"]] == [
        ("shardId-000000000001", [SHARD]),
        ("shardId-000000000002", [SHARD]),
    ]
    parent, child, _ = one.list_shards(StreamName=STREAM)["Shards"]
    assert "EndingSequenceNumber" in parent["SequenceNumberRange"]
    assert child["ParentShardId"] == SHARD
    assert one.describe_stream_summary(StreamName=STREAM)["StreamDescriptionSummary"]["OpenShardCount"] == 2


def test_a_childs_first_sequence_number_can_equal_its_parents_last(one: FakeKinesis) -> None:
    last = put(one, *"abc")[-1]
    one.split_shard(StreamName=STREAM, ShardToSplit=SHARD, NewStartingHashKey=str(2**127))
    [first] = put(one, "a")
    assert first["SequenceNumber"] == last["SequenceNumber"]
    assert shard_number_of(first["ShardId"]) > shard_number_of(last["ShardId"])


def test_a_merge_joins_two_adjacent_open_shards(kinesis: Any) -> None:
    merge = {"StreamName": STREAM, "ShardToMerge": "shardId-000000000001", "AdjacentShardToMerge": SHARD}
    put(kinesis, *"abcdef")
    kinesis.merge_shards(**merge)
    child = kinesis.list_shards(StreamName=STREAM)["Shards"][2]
    assert (child["ParentShardId"], child["AdjacentParentShardId"]) == ("shardId-000000000001", SHARD)
    assert child["HashKeyRange"] == {"StartingHashKey": "0", "EndingHashKey": str(HASH_KEY_MAX)}
    assert {result["ShardId"] for result in put(kinesis, *"abcdef")} == {"shardId-000000000002"}
    assert refused(kinesis.merge_shards, **merge) == "InvalidArgumentException"
    split = {"StreamName": STREAM, "ShardToSplit": SHARD, "NewStartingHashKey": "5"}
    assert refused(kinesis.split_shard, **split) == "InvalidArgumentException"


def test_shards_are_listed_by_page(clock: Any) -> None:
    kinesis = FakeKinesis(clock=clock)
    kinesis.create_stream(StreamName=STREAM, ShardCount=5)
    first = kinesis.list_shards(StreamName=STREAM, MaxResults=3)
    assert refused(kinesis.list_shards, StreamName=STREAM, NextToken=first["NextToken"]) == "InvalidArgumentException"
    second = kinesis.list_shards(NextToken=first["NextToken"])
    assert [len(first["Shards"]), len(second["Shards"])] == [3, 2]
    assert "NextToken" not in second
    assert refused(kinesis.list_shards, StreamName=STREAM, ShardFilter={}) == "InvalidArgumentException"


def test_limits_of_a_shard_are_kept_where_that_is_asked_for(clock: Any) -> None:
    kinesis = FakeKinesis(clock=clock, throttles=True)
    kinesis.create_stream(StreamName=STREAM, ShardCount=1)
    opened = iterator(kinesis, SHARD)
    for _ in range(5):
        kinesis.get_records(ShardIterator=opened)
    assert refused(kinesis.get_records, ShardIterator=opened) == "ProvisionedThroughputExceededException"
    assert "ErrorCode" in put(kinesis, *"ab", data=b"x" * 600_000)[1]
    clock.now += 1
    kinesis.get_records(ShardIterator=opened)
    results = [result for _ in range(3) for result in put(kinesis, *[f"k{n}" for n in range(500)])]
    assert sum("ErrorCode" in result for result in results) == 500


def test_a_stream_that_is_deleted_and_made_again_is_another_one(one: FakeKinesis, clock: Any) -> None:
    put(one, "k")
    opened = iterator(one, SHARD)
    before = one.describe_stream_summary(StreamName=STREAM)["StreamDescriptionSummary"]
    assert refused(one.create_stream, StreamName=STREAM, ShardCount=1) == "ResourceInUseException"
    one.delete_stream(StreamName=STREAM)
    assert refused(one.describe_stream_summary, StreamName=STREAM) == "ResourceNotFoundException"
    clock.now += 1
    one.create_stream(StreamName=STREAM, ShardCount=1)
    after = one.describe_stream_summary(StreamARN=before["StreamARN"])["StreamDescriptionSummary"]
    assert before["StreamCreationTimestamp"] < after["StreamCreationTimestamp"]
    assert refused(one.get_records, ShardIterator=opened) == "ResourceNotFoundException"
    shard = {"StreamName": STREAM, "ShardId": "shardId-000000000009", "ShardIteratorType": "LATEST"}
    assert refused(one.get_shard_iterator, **shard) == "ResourceNotFoundException"


def test_it_fails_as_it_is_told_one_call_at_a_time(one: FakeKinesis) -> None:
    one.script("PutRecords", [ServiceAway(), CallRefused("InternalFailure", 500), None, ReplyLost()])
    one.script("PutRecords", [EntriesRefused(frozenset({1}))])
    for error in (EndpointConnectionError, ClientError):
        with pytest.raises(error) as raised:
            put(one, "k")
        assert is_transient(raised.value)
        assert one.log(STREAM)[SHARD] == []
    put(one, "k", data=b"stored")
    with pytest.raises(ReadTimeoutError):
        put(one, "k", data=b"stored too")
    assert ["ErrorCode" in result for result in put(one, *"abc")] == [False, True, False]
    assert [record["Data"] for record in one.log(STREAM)[SHARD]] == [b"stored", b"stored too", b"x", b"x"]
    put(one, "k")
    assert one.calls == {"CreateStream": 1, "PutRecords": 6}
