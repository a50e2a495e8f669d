"""A Kinesis in memory that obeys the real rules and can be told to fail."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from itertools import chain
from typing import Any, NamedTuple

from botocore.exceptions import ClientError, EndpointConnectionError, ReadTimeoutError

from streamproc.clock import Clock, SystemClock
from streamproc.record import shard_id_of, shard_number_of
from streamproc.shardmap import HASH_KEY_MAX, HashRange, hash_key_of

# "PutRecords", "GetRecords", "GetShardIterator" (API Reference) and "Quotas and limits" (Developer Guide).
PUT_RECORDS_ENTRIES_MAX = 500
PUT_RECORDS_REQUEST_BYTES_MAX = 10 * 1024 * 1024
RECORD_BYTES_MAX = 1024 * 1024
GET_RECORDS_MAX = 10_000
GET_RECORDS_BYTES_MAX = 10 * 1024 * 1024
READS_PER_SECOND = 5
WRITES_PER_SECOND = 1000
WRITTEN_BYTES_PER_SECOND = 1024 * 1024
ITERATOR_SECONDS = 300.0

#: Real ones have 56 digits too, far beyond 64 bits.
_FIRST_SEQUENCE_NUMBER = 49590338271490256608559692538361571095921575989136588898


class CallRefused(NamedTuple):
    """The call fails with this error code before it has any effect."""

    code: str
    status: int = 400
    message: str = "scripted"


class ServiceAway(NamedTuple):
    """The call does not reach the service."""


class ReplyLost(NamedTuple):
    """The call takes effect, and its reply never arrives: the client sees a timeout."""


class EntriesRefused(NamedTuple):
    """PutRecords refuses the entries at these indices, with this code each, and stores the others."""

    indices: frozenset[int]
    code: str = "ProvisionedThroughputExceededException"


#: What happens to one call; None lets it pass.
Fault = CallRefused | ServiceAway | ReplyLost | EntriesRefused | None


class _Shard:
    """One shard: its range, its family and what is retained of its log."""

    def __init__(self, number: int, hash_range: HashRange, first: int, parents: tuple[_Shard, ...] = ()) -> None:
        self.id = shard_id_of(number)
        self.hash_range = hash_range
        self.first = first
        self.parents = parents
        self.children: list[_Shard] = []
        self.closed_at: float | None = None
        self.next = first
        #: Records that retention removed: offsets count from the first record ever.
        self.trimmed = 0
        self.records: list[dict[str, Any]] = []
        self.reads: list[float] = []
        self.written: list[tuple[float, int]] = []

    @property
    def closed(self) -> bool:
        return self.closed_at is not None

    def append(self, data: bytes, partition_key: str, now: float) -> str:
        sequence_number, self.next = str(self.next), self.next + 1
        self.records.append(
            {
                "SequenceNumber": sequence_number,
                "ApproximateArrivalTimestamp": datetime.fromtimestamp(now, UTC),
                "Data": data,
                "PartitionKey": partition_key,
            }
        )
        return sequence_number

    def offset_where(self, test: Callable[[dict[str, Any]], bool]) -> int:
        """The offset of the first retained record that passes the test, else of the tip."""
        index = next((index for index, record in enumerate(self.records) if test(record)), len(self.records))
        return self.trimmed + index

    def describe(self) -> dict[str, Any]:
        described: dict[str, Any] = {
            "ShardId": self.id,
            "HashKeyRange": _range_of(self),
            "SequenceNumberRange": {"StartingSequenceNumber": str(self.first)},
        }
        if self.closed:
            described["SequenceNumberRange"]["EndingSequenceNumber"] = str(self.next)
        for name, parent in zip(("ParentShardId", "AdjacentParentShardId"), self.parents, strict=False):
            described[name] = parent.id
        return described


class _Stream(NamedTuple):
    name: str
    created_at: float
    shards: dict[str, _Shard]

    @property
    def arn(self) -> str:
        return f"arn:aws:kinesis:eu-west-1:123456789012:stream/{self.name}"

    def add(self, hash_range: HashRange, first: int, parents: tuple[_Shard, ...] = ()) -> _Shard:
        # Numbers are never used again, though the shards that had them are gone.
        number = max((shard_number_of(shard_id) for shard_id in self.shards), default=-1) + 1
        shard = _Shard(number, hash_range, first, parents)
        self.shards[shard.id] = shard
        return shard


class FakeKinesis:
    """The calls of a boto3 Kinesis client that the library makes, on streams in memory. Thread-safe.

    It keeps the rules that code trips over: shards own ranges of hash keys; sequence numbers have 56 digits and grow
    within a shard; the first one of a child equals the last one of its parent; a closed shard takes nothing, and at its
    end names its children and gives no further iterator; PutRecords refuses what is too large and reports failures per
    entry; iterators expire; records older than the retention are gone.

    ``put_order`` draws the order in which the entries of one PutRecords call are stored, since AWS guarantees none;
    without it they are stored as given. ``throttles`` switches on the limits of a shard: five reads, 1000 records and
    1 MiB written a second, by ``clock``.

    Faults come from a script, one per call::

        kinesis.script("PutRecords", [CallRefused("InternalFailure", 500), None, ReplyLost()])
    """

    def __init__(
        self,
        *,
        clock: Clock | None = None,
        put_order: random.Random | None = None,
        throttles: bool = False,
        retention_hours: int = 24,
    ) -> None:
        self._clock = clock or SystemClock()
        self._put_order = put_order
        self._throttles = throttles
        self._retention_hours = retention_hours
        self._streams: dict[str, _Stream] = {}
        self._scripts: dict[str, Iterator[Fault]] = {}
        self._lock = threading.RLock()
        #: Calls by operation, refused ones included.
        self.calls: dict[str, int] = {}

    def script(self, operation: str, faults: Iterable[Fault]) -> None:
        """Decide what happens to the next calls of an operation; after the last fault, calls pass again."""
        with self._lock:
            self._scripts[operation] = chain(self._scripts.get(operation, iter(())), faults)

    def log(self, stream: str) -> dict[str, list[dict[str, Any]]]:
        """What every shard retains, in log order, as GetRecords would return it."""
        with self._lock:
            return {shard.id: list(shard.records) for shard in self._streams[stream].shards.values()}

    # The calls, as boto3 names them. Their requests and responses are those of the API Reference.

    def create_stream(self, **request: Any) -> dict[str, Any]:
        """CreateStream, ready at once, with ranges of equal size."""
        return self._call("CreateStream", self._create_stream, request)

    def delete_stream(self, **request: Any) -> dict[str, Any]:
        """DeleteStream, done at once."""
        return self._call("DeleteStream", self._delete_stream, request)

    def describe_stream_summary(self, **request: Any) -> dict[str, Any]:
        """DescribeStreamSummary."""
        return self._call("DescribeStreamSummary", self._describe_stream_summary, request)

    def list_shards(self, **request: Any) -> dict[str, Any]:
        """ListShards, with MaxResults and NextToken; a ShardFilter is refused."""
        return self._call("ListShards", self._list_shards, request)

    def split_shard(self, **request: Any) -> dict[str, Any]:
        """SplitShard, done at once."""
        return self._call("SplitShard", self._split_shard, request)

    def merge_shards(self, **request: Any) -> dict[str, Any]:
        """MergeShards, done at once."""
        return self._call("MergeShards", self._merge_shards, request)

    def put_records(self, **request: Any) -> dict[str, Any]:
        """PutRecords."""
        return self._call("PutRecords", self._put_records, request)

    def get_shard_iterator(self, **request: Any) -> dict[str, Any]:
        """GetShardIterator, all five types. A sequence number beyond the retention gives the oldest record."""
        return self._call("GetShardIterator", self._get_shard_iterator, request)

    def get_records(self, **request: Any) -> dict[str, Any]:
        """GetRecords."""
        return self._call("GetRecords", self._get_records, request)

    def _call(
        self, operation: str, handler: Callable[[dict[str, Any]], dict[str, Any]], request: dict[str, Any]
    ) -> dict[str, Any]:
        with self._lock:
            self.calls[operation] = self.calls.get(operation, 0) + 1
            fault = next(self._scripts.get(operation, iter(())), None)
            if isinstance(fault, ServiceAway):
                raise EndpointConnectionError(endpoint_url="https://kinesis.invalid")
            if isinstance(fault, CallRefused):
                raise _refusal(operation, fault.code, fault.message, fault.status)
            if isinstance(fault, EntriesRefused):
                request = {**request, "_refused": fault}
            try:
                response = handler(request)
            except _Invalid as error:
                raise _refusal(operation, error.code, str(error)) from None
            if isinstance(fault, ReplyLost):
                raise ReadTimeoutError(endpoint_url="https://kinesis.invalid")
            return response

    def _stream(self, request: dict[str, Any]) -> _Stream:
        name = request.get("StreamName") or request["StreamARN"].rpartition("/")[2]
        stream = self._streams.get(name)
        if stream is None:
            raise _Invalid(f"Stream {name} under account 123456789012 not found.", "ResourceNotFoundException")
        oldest = datetime.fromtimestamp(self._clock.time() - self._retention_hours * 3600, UTC)
        for shard in stream.shards.values():
            beyond = shard.offset_where(lambda record: record["ApproximateArrivalTimestamp"] >= oldest)
            del shard.records[: beyond - shard.trimmed]
            shard.trimmed = beyond
        gone = [
            shard.id
            for shard in stream.shards.values()
            if shard.closed_at is not None and shard.closed_at < oldest.timestamp()
        ]
        for shard_id in gone:
            del stream.shards[shard_id]
        return stream

    def _shard(self, stream: _Stream, shard_id: str) -> _Shard:
        if shard_id not in stream.shards:
            raise _Invalid(f"Shard {shard_id} in stream {stream.name} does not exist", "ResourceNotFoundException")
        return stream.shards[shard_id]

    def _create_stream(self, request: dict[str, Any]) -> dict[str, Any]:
        name, count = request["StreamName"], request.get("ShardCount", 4)
        if name in self._streams:
            raise _Invalid(f"Stream {name} already exists.", "ResourceInUseException")
        self._streams[name] = stream = _Stream(name, self._clock.time(), {})
        width = (HASH_KEY_MAX + 1) // count
        for number in range(count):
            end = HASH_KEY_MAX if number == count - 1 else (number + 1) * width - 1
            stream.add(HashRange(number * width, end), _FIRST_SEQUENCE_NUMBER + number)
        return {}

    def _delete_stream(self, request: dict[str, Any]) -> dict[str, Any]:
        del self._streams[self._stream(request).name]
        return {}

    def _describe_stream_summary(self, request: dict[str, Any]) -> dict[str, Any]:
        stream = self._stream(request)
        return {
            "StreamDescriptionSummary": {
                "StreamName": stream.name,
                "StreamARN": stream.arn,
                "StreamStatus": "ACTIVE",
                "StreamModeDetails": {"StreamMode": "PROVISIONED"},
                "RetentionPeriodHours": self._retention_hours,
                "StreamCreationTimestamp": datetime.fromtimestamp(stream.created_at, UTC),
                "EnhancedMonitoring": [],
                "OpenShardCount": sum(not shard.closed for shard in stream.shards.values()),
            }
        }

    def _list_shards(self, request: dict[str, Any]) -> dict[str, Any]:
        if "ShardFilter" in request:
            raise _Invalid("this fake knows no ShardFilter")
        name, start = json.loads(request["NextToken"]) if "NextToken" in request else (None, 0)
        if name and "StreamName" in request:
            raise _Invalid("NextToken and StreamName cannot be provided together.")
        stream = self._stream({"StreamName": name} if name else request)
        shards = list(stream.shards.values())
        end = start + request.get("MaxResults", 1000)
        response: dict[str, Any] = {"Shards": [shard.describe() for shard in shards[start:end]]}
        if end < len(shards):
            response["NextToken"] = json.dumps([stream.name, end])
        return response

    def _split_shard(self, request: dict[str, Any]) -> dict[str, Any]:
        stream = self._stream(request)
        parent = self._shard(stream, request["ShardToSplit"])
        middle = int(request["NewStartingHashKey"])
        if parent.closed or not parent.hash_range.start < middle <= parent.hash_range.end:
            raise _Invalid(f"{parent.id} is closed or does not own {middle} beyond its first hash key")
        start, end = parent.hash_range
        self._reshard(stream, (parent,), [HashRange(start, middle - 1), HashRange(middle, end)])
        return {}

    def _merge_shards(self, request: dict[str, Any]) -> dict[str, Any]:
        stream = self._stream(request)
        parents = tuple(self._shard(stream, request[name]) for name in ("ShardToMerge", "AdjacentShardToMerge"))
        low, high = sorted(parent.hash_range for parent in parents)
        if any(parent.closed for parent in parents) or low.end + 1 != high.start:
            raise _Invalid(f"{parents[0].id} and {parents[1].id} are not two adjacent open shards")
        self._reshard(stream, parents, [HashRange(low.start, high.end)])
        return {}

    def _reshard(self, stream: _Stream, parents: tuple[_Shard, ...], ranges: list[HashRange]) -> None:
        # The last sequence number of a parent is given out again by its child: order must not rest on it alone.
        first = max(max(parent.first, parent.next - 1) for parent in parents)
        children = [stream.add(hash_range, first, parents) for hash_range in ranges]
        for parent in parents:
            parent.closed_at = self._clock.time()
            parent.children += children

    def _put_records(self, request: dict[str, Any]) -> dict[str, Any]:
        stream = self._stream(request)
        entries, refused = request["Records"], request.get("_refused", EntriesRefused(frozenset()))
        sizes = [_checked_size(entry) for entry in entries]
        if not 1 <= len(entries) <= PUT_RECORDS_ENTRIES_MAX:
            raise _Invalid(f"{len(entries)} records: 1 to {PUT_RECORDS_ENTRIES_MAX} are allowed", "ValidationException")
        if sum(sizes) > PUT_RECORDS_REQUEST_BYTES_MAX:
            raise _Invalid(f"the request has {sum(sizes)} bytes: 10 MiB are allowed")
        results: list[dict[str, Any]] = [{} for _ in entries]
        order = list(range(len(entries)))
        if self._put_order is not None:
            self._put_order.shuffle(order)
        for index in order:
            entry = entries[index]
            shard = self._owner(stream, entry)
            code = refused.code if index in refused.indices else self._throttled_write(shard, sizes[index])
            if code:
                results[index] = {"ErrorCode": code, "ErrorMessage": f"refused by {shard.id}"}
            else:
                number = shard.append(entry["Data"], entry["PartitionKey"], self._clock.time())
                results[index] = {"SequenceNumber": number, "ShardId": shard.id}
        return {"FailedRecordCount": sum("ErrorCode" in result for result in results), "Records": results}

    def _owner(self, stream: _Stream, entry: dict[str, Any]) -> _Shard:
        explicit = entry.get("ExplicitHashKey")
        hash_key = hash_key_of(entry["PartitionKey"]) if explicit is None else int(explicit)
        return next(s for s in stream.shards.values() if not s.closed and s.hash_range.contains(hash_key))

    def _throttled_write(self, shard: _Shard, size: int) -> str | None:
        if not self._throttles:
            return None
        now = self._clock.time()
        shard.written = [(at, written) for at, written in shard.written if at > now - 1]
        total = sum(written for _, written in shard.written)
        if len(shard.written) >= WRITES_PER_SECOND or total + size > WRITTEN_BYTES_PER_SECOND:
            return "ProvisionedThroughputExceededException"
        shard.written.append((now, size))
        return None

    def _get_shard_iterator(self, request: dict[str, Any]) -> dict[str, Any]:
        stream = self._stream(request)
        shard = self._shard(stream, request["ShardId"])
        kind = request["ShardIteratorType"]
        if kind == "TRIM_HORIZON":
            offset = shard.trimmed
        elif kind == "LATEST":
            offset = shard.trimmed + len(shard.records)
        elif kind == "AT_TIMESTAMP":
            since = request["Timestamp"]
            since = since if isinstance(since, datetime) else datetime.fromtimestamp(since, UTC)
            offset = shard.offset_where(lambda record: record["ApproximateArrivalTimestamp"] >= since)
        elif kind in ("AT_SEQUENCE_NUMBER", "AFTER_SEQUENCE_NUMBER"):
            number = int(request["StartingSequenceNumber"])
            if not shard.first <= number <= shard.next:
                raise _Invalid(f"{number} did not come from {shard.id}")
            beyond = number + (kind == "AFTER_SEQUENCE_NUMBER")
            offset = shard.offset_where(lambda record: int(record["SequenceNumber"]) >= beyond)
        else:
            raise _Invalid(f"{kind!r} is no type of shard iterator")
        return {"ShardIterator": self._iterator(stream, shard, offset)}

    def _iterator(self, stream: _Stream, shard: _Shard, offset: int) -> str:
        return json.dumps([stream.name, stream.created_at, shard.id, offset, self._clock.time()])

    def _get_records(self, request: dict[str, Any]) -> dict[str, Any]:
        name, created_at, shard_id, offset, issued_at = json.loads(request["ShardIterator"])
        stream = self._stream({"StreamName": name})
        if stream.created_at != created_at:
            raise _Invalid("the iterator belongs to a stream that was deleted", "ResourceNotFoundException")
        shard = self._shard(stream, shard_id)
        now = self._clock.time()
        if now - issued_at > ITERATOR_SECONDS:
            raise _Invalid("Iterator expired.", "ExpiredIteratorException")
        if self._throttles:
            shard.reads = [at for at in shard.reads if at > now - 1]
            if len(shard.reads) >= READS_PER_SECOND:
                raise _Invalid(f"Rate exceeded for shard {shard.id}", "ProvisionedThroughputExceededException")
            shard.reads.append(now)
        start = max(offset, shard.trimmed) - shard.trimmed
        records = _first_of(shard.records[start : start + min(request.get("Limit", GET_RECORDS_MAX), GET_RECORDS_MAX)])
        reached = shard.trimmed + start + len(records)
        response: dict[str, Any] = {"Records": records, "MillisBehindLatest": 0}
        if start + len(records) < len(shard.records):
            behind = now - shard.records[start + len(records)]["ApproximateArrivalTimestamp"].timestamp()
            response["MillisBehindLatest"] = max(1, int(behind * 1000))
        elif shard.closed:
            # boto3 leaves a null out, so at the end of a shard the key is absent.
            response["ChildShards"] = [
                {"ShardId": child.id, "ParentShards": [p.id for p in child.parents], "HashKeyRange": _range_of(child)}
                for child in shard.children
            ]
            return response
        response["NextShardIterator"] = self._iterator(stream, shard, reached)
        return response


class _Invalid(Exception):
    """A request that the service refuses."""

    def __init__(self, message: str, code: str = "InvalidArgumentException") -> None:
        super().__init__(message)
        self.code = code


def _refusal(operation: str, code: str, message: str, status: int = 400) -> ClientError:
    response = {"Error": {"Code": code, "Message": message}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(response, operation)  # type: ignore[arg-type]  # the stubs want every field of the metadata


def _checked_size(entry: dict[str, Any]) -> int:
    key, data = entry["PartitionKey"], entry["Data"]
    size = len(key.encode()) + len(data)
    if not 1 <= len(key) <= 256:
        raise _Invalid(f"a partition key has {len(key)} characters: 1 to 256 are allowed", "ValidationException")
    if size > RECORD_BYTES_MAX:
        raise _Invalid(f"a record has {size} bytes with its partition key: 1 MiB is allowed", "ValidationException")
    return size


def _first_of(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """As many as one GetRecords response holds."""
    size = 0
    for index, record in enumerate(records):
        size += len(record["Data"])
        if size > GET_RECORDS_BYTES_MAX and index:
            return records[:index]
    return records


def _range_of(shard: _Shard) -> dict[str, str]:
    return {"StartingHashKey": str(shard.hash_range.start), "EndingHashKey": str(shard.hash_range.end)}
