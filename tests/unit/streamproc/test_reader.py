"""Reading one shard: where it begins, what expires, what is gone, and where it ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from streamproc.aggregation import UserRecord, aggregate
from streamproc.errors import IteratorExpired, Throttled
from streamproc.lease import LATEST, Lease
from streamproc.record import Position
from streamproc.runners.reader import ShardReader
from streamproc.shardmap import hash_key_of
from streamproc.stream import list_shards
from streamproc.telemetry import AggregateDropped, RetentionGapFound, Telemetry, TelemetryEvent
from streamproc.testing.kinesis import CallRefused, FakeKinesis

FIRST = "shardId-000000000000"


class Reading:
    """A fake stream of one shard and readers of it."""

    def __init__(self, clock: Any, **rules: Any) -> None:
        self.clock = clock
        self.kinesis = FakeKinesis(clock=clock, **rules)
        self.kinesis.create_stream(StreamName="s", ShardCount=1)
        self.telemetry: list[TelemetryEvent] = []

    def put(self, data: bytes, key: str = "k") -> str:
        answer = self.kinesis.put_records(StreamName="s", Records=[{"Data": data, "PartitionKey": key}])
        return str(answer["Records"][0]["SequenceNumber"])

    def reader(self, checkpoint: str = "TRIM_HORIZON", shard_id: str = FIRST) -> ShardReader:
        client: Any = self.kinesis
        shard = next(shard for shard in list_shards(client, "s") if shard.shard_id == shard_id)
        telemetry = Telemetry(self.telemetry.append)
        reader = ShardReader(client, "s", shard, records_max=1000, telemetry=telemetry)
        reader.seek(Lease(shard_id=shard_id, checkpoint=checkpoint), self.clock.time())
        return reader


@pytest.fixture
def reading(manual_clock: Callable[[], Any]) -> Reading:
    return Reading(manual_clock())


def data_of(reader: ShardReader) -> list[bytes]:
    batch = reader.read()
    assert batch is not None
    return [record.data for record in batch.records]


def test_a_shard_never_read_begins_at_its_first_record(reading: Reading) -> None:
    reading.put(b"1")
    reading.put(b"2")
    reader = reading.reader()
    assert data_of(reader) == [b"1", b"2"]
    assert data_of(reader) == []


def test_a_read_continues_at_the_checkpoints_own_record_so_that_the_rest_of_an_aggregate_is_not_lost(
    reading: Reading,
) -> None:
    packed = aggregate([UserRecord("k", b"a"), UserRecord("k", b"b")])
    at = reading.put(packed)
    batch = reading.reader(checkpoint=at).read()
    assert batch is not None
    assert [(record.data, record.position.sub_sequence_number) for record in batch.records] == [(b"a", 0), (b"b", 1)]
    assert batch.records[0].position == Position(0, int(at), 0)


def test_latest_begins_with_what_comes_after_the_start_even_where_the_iterator_expires_first(
    reading: Reading,
) -> None:
    reading.put(b"before")
    reading.clock.now += 1
    reader = reading.reader(LATEST)
    assert data_of(reader) == []
    reading.clock.now += 301
    reading.put(b"after")
    with pytest.raises(IteratorExpired):
        reader.read()
    assert data_of(reader) == [b"after"]


def test_an_expired_iterator_is_replaced_without_a_gap(reading: Reading) -> None:
    reading.put(b"1")
    reader = reading.reader()
    assert data_of(reader) == [b"1"]
    reading.put(b"2")
    reading.clock.now += 301
    with pytest.raises(IteratorExpired):
        reader.read()
    assert data_of(reader)[-1] == b"2"
    assert not reading.telemetry


def test_a_throttled_read_can_be_tried_again(reading: Reading) -> None:
    reading.put(b"1")
    reader = reading.reader()
    reading.kinesis.script("GetRecords", [CallRefused("ProvisionedThroughputExceededException")])
    with pytest.raises(Throttled):
        reader.read()
    assert data_of(reader) == [b"1"]


def test_a_checkpoint_beyond_the_retention_is_reported_never_silent(reading: Reading) -> None:
    checkpoint = reading.put(b"old")
    reading.clock.now += 25 * 3600
    reading.put(b"new")
    assert data_of(reading.reader(checkpoint)) == [b"new"]
    assert [type(event) for event in reading.telemetry] == [RetentionGapFound]


def test_a_closed_shard_is_read_to_its_end_and_then_ends(reading: Reading) -> None:
    reading.put(b"1")
    reading.kinesis.split_shard(StreamName="s", ShardToSplit=FIRST, NewStartingHashKey=str(2**127))
    reading.put(b"2")
    reader = reading.reader()
    assert data_of(reader) == [b"1"]
    assert reader.read() is None
    assert reader.read() is None


def test_a_closed_shard_without_records_ends_at_once(reading: Reading) -> None:
    reading.kinesis.split_shard(StreamName="s", ShardToSplit=FIRST, NewStartingHashKey=str(2**127))
    assert reading.reader().read() is None


def test_an_aggregate_that_kcl_would_drop_is_dropped_and_counted(reading: Reading) -> None:
    reading.kinesis.split_shard(StreamName="s", ShardToSplit=FIRST, NewStartingHashKey=str(2**127))
    keys = [f"key-{n}" for n in range(20)]
    low = next(key for key in keys if hash_key_of(key) < 2**127)
    high = next(key for key in keys if hash_key_of(key) >= 2**127)
    reading.put(aggregate([UserRecord(low, b"1"), UserRecord(high, b"2")]), low)
    reading.put(b"plain", low)
    assert data_of(reading.reader(shard_id="shardId-000000000001")) == [b"plain"]
    assert [event.user_records for event in reading.telemetry if isinstance(event, AggregateDropped)] == [2]


def test_a_shard_that_is_gone_with_its_records_ends_with_a_reported_gap(reading: Reading) -> None:
    checkpoint = reading.put(b"old")
    reading.kinesis.split_shard(StreamName="s", ShardToSplit=FIRST, NewStartingHashKey=str(2**127))
    reader = reading.reader(checkpoint)
    reading.clock.now += 26 * 3600
    assert reader.read() is None
    assert [type(event) for event in reading.telemetry] == [RetentionGapFound]


def test_a_subscriber_that_raises_costs_no_record(reading: Reading) -> None:
    def broken(_event: TelemetryEvent) -> None:
        raise BrokenPipeError

    packed = aggregate([UserRecord("k", b"a")])
    reading.put(packed)
    reader = reading.reader()
    reader._telemetry.subscribe(broken)
    assert data_of(reader) == [b"a"]
