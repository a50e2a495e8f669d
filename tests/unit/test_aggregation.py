"""The KPL format, against AWS' own aggregator and de-aggregator, and KCL's rules."""

import base64
import subprocess
import sys
from datetime import UTC, datetime
from hashlib import md5
from typing import Any

import pytest
from hypothesis import given, strategies as st

from streamproc.aggregation import (
    MAGIC,
    UserRecord,
    aggregate,
    aggregate_by_key,
    deaggregate,
    expand,
)
from streamproc.kpl import AggregatedRecord
from streamproc.record import Position
from streamproc.shardmap import ALL_HASH_KEYS, HASH_KEY_MAX, HashRange, hash_key_of

ARRIVED = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
partition_keys = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)
user_records = st.builds(
    UserRecord, partition_keys, st.binary(max_size=50), st.none() | st.integers(min_value=0, max_value=HASH_KEY_MAX)
)


def raw(data: bytes, number: int = 7, partition_key: str = "key") -> dict[str, Any]:
    return {
        "Data": data,
        "SequenceNumber": str(number),
        "PartitionKey": partition_key,
        "ApproximateArrivalTimestamp": ARRIVED,
    }


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Any:
    """AWS' package, whose modules put their folder on sys.path when they are imported."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    from aws_kinesis_agg import aggregator, deaggregator

    class Aws:
        RecordAggregator = aggregator.RecordAggregator
        deaggregate_records = staticmethod(deaggregator.iter_deaggregate_records)

    return Aws


@given(st.lists(user_records, min_size=1))
def test_an_aggregate_gives_back_what_went_in_in_order(records: list[UserRecord]) -> None:
    assert deaggregate(aggregate(records)) == records


@given(
    st.lists(st.tuples(partition_keys, st.lists(st.binary(max_size=300), min_size=1)), unique_by=lambda each: each[0])
)
def test_an_aggregate_made_by_key_is_the_same(keys: list[tuple[str, list[bytes]]]) -> None:
    assert aggregate_by_key(keys) == aggregate([UserRecord(key, data) for key, datas in keys for data in datas])


@given(st.lists(user_records, min_size=1))
def test_what_is_written_by_hand_is_what_the_generated_messages_write(records: list[UserRecord]) -> None:
    message = AggregatedRecord()
    body = aggregate(records)[len(MAGIC) : -16]
    message.ParseFromString(body)
    assert message.SerializeToString() == body
    keys, hash_keys = message.partition_key_table, message.explicit_hash_key_table
    assert len(set(keys)) == len(keys)
    assert [
        UserRecord(
            keys[record.partition_key_index],
            record.data,
            int(hash_keys[record.explicit_hash_key_index]) if record.HasField("explicit_hash_key_index") else None,
        )
        for record in message.records
    ] == records


def test_aws_own_deaggregator_reads_our_aggregates(aws: Any) -> None:
    records = [UserRecord("a", b"1"), UserRecord("b", b"2", 5), UserRecord("a", b"3", 5), UserRecord("ü", b"", 6)]
    read = list(aws.deaggregate_records([raw(aggregate(records[:1]))], "Boto3"))
    assert [(r["kinesis"]["partitionKey"], r["kinesis"]["explicitHashKey"]) for r in read] == [("a", None)]
    explicit = [UserRecord(key, data, 5) for key, data, _ in records]
    read = list(aws.deaggregate_records([raw(aggregate(explicit))], "Boto3"))
    assert [
        (r["kinesis"]["partitionKey"], base64.b64decode(r["kinesis"]["data"]), r["kinesis"]["explicitHashKey"])
        for r in read
    ] == [(key, data, "5") for key, data, _ in records]
    assert [r["kinesis"]["subSequenceNumber"] for r in read] == [0, 1, 2, 3]


def test_we_read_aws_own_aggregates(aws: Any) -> None:
    aggregator = aws.RecordAggregator()
    aggregator.add_user_record("a", b"1")
    aggregator.add_user_record("b", b"2", "340282366920938463463374607431768211455")
    aggregator.add_user_record("a", b"3")
    _, _, data = aggregator.clear_and_get().get_contents()
    assert deaggregate(data) == [UserRecord("a", b"1"), UserRecord("b", b"2", HASH_KEY_MAX), UserRecord("a", b"3")]


@given(st.binary())
def test_data_without_the_magic_is_a_plain_record(data: bytes) -> None:
    assert deaggregate(data) is None


@given(st.binary(max_size=60))
def test_data_that_only_begins_like_an_aggregate_is_a_plain_record(body: bytes) -> None:
    assert deaggregate(MAGIC + body) is None


def test_an_aggregate_with_one_flipped_bit_is_a_plain_record() -> None:
    data = bytearray(aggregate([UserRecord("a", b"1")]))
    data[10] ^= 1
    assert deaggregate(bytes(data)) is None


@pytest.mark.parametrize(
    "body",
    [
        b"\xff\xff\xff",  # no protobuf
        b"\x1a\x04\x08\x05\x1a\x00",  # a record whose key index points outside the table
        b"\x0a\x01a\x12\x01x\x1a\x06\x08\x00\x10\x00\x1a\x00",  # an explicit hash key that is no number
    ],
)
def test_a_digest_that_fits_a_message_that_cannot_be_read_is_a_plain_record(body: bytes) -> None:
    assert deaggregate(MAGIC + body + md5(body, usedforsecurity=False).digest()) is None


def test_records_get_the_position_of_their_aggregate_and_their_index_in_it() -> None:
    data = aggregate([UserRecord("a", b"1"), UserRecord("b", b"2")])
    records, dropped = expand([raw(b"plain", 6, "p"), raw(data, 7)], 3, ALL_HASH_KEYS)
    assert [(r.data, r.partition_key, r.position) for r in records] == [
        (b"plain", "p", Position(3, 6, 0)),
        (b"1", "a", Position(3, 7, 0)),
        (b"2", "b", Position(3, 7, 1)),
    ]
    assert {r.arrived_at for r in records} == {ARRIVED.timestamp()}
    assert dropped == []


@given(st.lists(user_records, min_size=1), st.integers(0, HASH_KEY_MAX), st.integers(0, HASH_KEY_MAX))
def test_an_aggregate_is_kept_whole_or_dropped_whole(users: list[UserRecord], one: int, other: int) -> None:
    shard = HashRange(min(one, other), max(one, other))
    records, dropped = expand([raw(aggregate(users))], 0, shard)
    hashes = [hash_key_of(key) if explicit is None else explicit for key, _, explicit in users]
    if all(shard.start <= hash_key <= shard.end for hash_key in hashes):
        assert (len(records), dropped) == (len(users), [])
    else:
        assert (records, dropped) == ([], [("7", len(users))])


@given(partition_keys, st.lists(st.binary(max_size=20), min_size=1))
def test_an_aggregate_of_one_key_is_never_dropped_by_the_shard_that_owns_the_key(key: str, data: list[bytes]) -> None:
    own = hash_key_of(key)
    records, dropped = expand([raw(aggregate(UserRecord(key, item) for item in data))], 0, HashRange(own, own))
    assert ([r.data for r in records], dropped) == (data, [])


def test_a_plain_record_is_kept_wherever_its_key_hashes() -> None:
    records, _ = expand([raw(b"x")], 0, HashRange(0, 0))
    assert [r.data for r in records] == [b"x"]


def test_importing_leaves_no_trace_of_the_protobuf_modules_name() -> None:
    code = (
        "import sys; path = list(sys.path); mine = sys.modules['config_pb2'] = object()\n"
        "from streamproc.aggregation import aggregate, deaggregate, UserRecord\n"
        "assert 'google.protobuf' not in sys.modules, 'who only sends does not need it'\n"
        "deaggregate(aggregate([UserRecord('k', b'x')]))\n"
        "assert sys.path == path and sys.modules['config_pb2'] is mine and 'messages_pb2' not in sys.modules"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_hash_keys_are_the_md5_as_a_big_endian_integer() -> None:
    assert hash_key_of("user-1") == int(md5(b"user-1", usedforsecurity=False).hexdigest(), 16)
    assert str(HashRange(1, 2)) == "hash keys 1 to 2"
