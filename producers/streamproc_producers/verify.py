"""Whether a consumer would read all that was sent: the aggregates of a stream, held against KCL's rule.

KCL drops an aggregate whole, and silently, where the hash key of one of its user records lies outside the shard that
the aggregate is in. What is read here is read as KCL reads it, from the stream or from a *capture*.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from streamproc.aggregation import MAGIC, UserRecord, deaggregate
from streamproc.clock import SystemClock
from streamproc.errors import SettingsError, translated
from streamproc.retry import Retries
from streamproc.shardmap import HashRange, hash_key_of
from streamproc.stream import list_shards
from streamproc.telemetry import Telemetry

if TYPE_CHECKING:
    from mypy_boto3_kinesis import KinesisClient
    from mypy_boto3_kinesis.type_defs import GetShardIteratorInputTypeDef

#: So many offenders are named, and of each so many user records.
_NAMED_MAX = 20
_USERS_NAMED_MAX = 3


class Read(NamedTuple):
    """One Kinesis record, and the shard it is in."""

    shard_id: str
    hash_range: HashRange
    sequence_number: str
    data: bytes


class Offender(NamedTuple):
    """An aggregate that KCL would drop."""

    shard_id: str
    sequence_number: str
    users: int
    #: Some of the user records that hash outside the shard, by partition key.
    keys_outside: list[str]


class Verdict(msgspec.Struct):
    """What was found."""

    records: int = 0
    #: What looks like an aggregate, and is none: KCL hands it on as it is.
    unreadable: int = 0
    aggregates: int = 0
    user_records: int = 0
    keys_per_aggregate_max: int = 0
    dropped: int = 0
    user_records_dropped: int = 0
    #: Of those, how many are in the stream again, in an aggregate that is kept, as after a reshard.
    user_records_sent_again: int = 0
    offenders: list[Offender] = msgspec.field(default_factory=list)


def verify(read: Callable[[], Iterable[Read]]) -> Verdict:
    """Judge every record that ``read`` gives; it is called again where something would be dropped."""
    verdict = Verdict()
    lost: Counter[tuple[str, bytes]] = Counter()
    for record in read():
        verdict.records += 1
        users = deaggregate(record.data)
        if users is None:
            verdict.unreadable += record.data.startswith(MAGIC)
            continue
        verdict.aggregates += 1
        verdict.user_records += len(users)
        verdict.keys_per_aggregate_max = max(
            verdict.keys_per_aggregate_max, len({user.partition_key for user in users})
        )
        outside = _outside(users, record.hash_range)
        if not outside:
            continue
        verdict.dropped += 1
        verdict.user_records_dropped += len(users)
        lost.update((user.partition_key, user.data) for user in users)
        if len(verdict.offenders) < _NAMED_MAX:
            keys = [user.partition_key for user in outside[:_USERS_NAMED_MAX]]
            verdict.offenders.append(Offender(record.shard_id, record.sequence_number, len(users), keys))
    if lost:
        verdict.user_records_sent_again = _sent_again(read(), lost)
    return verdict


def _outside(users: list[UserRecord], hash_range: HashRange) -> list[UserRecord]:
    def effective(user: UserRecord) -> int:
        return hash_key_of(user.partition_key) if user.explicit_hash_key is None else user.explicit_hash_key

    return [user for user in users if not hash_range.contains(effective(user))]


def _sent_again(records: Iterable[Read], lost: Counter[tuple[str, bytes]]) -> int:
    """How many of the lost user records are kept somewhere. A plain record's key is not looked at: data is enough."""
    found = 0
    by_data = Counter(data for _, data in lost.elements())
    for record in records:
        users = deaggregate(record.data)
        if users is not None and _outside(users, record.hash_range):
            continue
        for data in [record.data] if users is None else [user.data for user in users]:
            if by_data[data] > 0:
                by_data[data] -= 1
                found += 1
    return found


def read_stream(client: KinesisClient, stream: str, since: datetime | None, until: datetime | None) -> Iterator[Read]:
    """Every record of every shard, closed ones too, from ``since`` (the oldest) to ``until`` (now).

    What passes is tried again: five reads a second a shard are allowed, over all readers. Raises what ``translated``
    does.
    """
    end = until or datetime.now(UTC)
    for shard in list_shards(client, stream):
        retries = Retries(shard.shard_id, SystemClock(), Telemetry(), threading.Event())
        where: GetShardIteratorInputTypeDef = {
            "StreamName": stream,
            "ShardId": shard.shard_id,
            "ShardIteratorType": "TRIM_HORIZON",
        }
        if since is not None:
            where["ShardIteratorType"] = "AT_TIMESTAMP"
            where["Timestamp"] = since
        what = f"reading {shard.shard_id} of {stream!r}"

        def opened(where: GetShardIteratorInputTypeDef = where, what: str = what) -> str:
            with translated(what):
                return client.get_shard_iterator(**where)["ShardIterator"]

        iterator: str | None = retries.call(what, opened)
        while iterator:

            def got(iterator: str = iterator, what: str = what) -> Any:
                with translated(what):
                    return client.get_records(ShardIterator=iterator)

            answer = retries.call(what, got)
            for record in answer["Records"]:
                if record["ApproximateArrivalTimestamp"] < end:
                    yield Read(shard.shard_id, shard.hash_range, record["SequenceNumber"], record["Data"])
            last = answer["Records"][-1]["ApproximateArrivalTimestamp"] if answer["Records"] else None
            reached = answer["MillisBehindLatest"] == 0 or (last is not None and last >= end)
            iterator = None if reached else answer.get("NextShardIterator")


class _Range(msgspec.Struct, rename="pascal"):
    starting_hash_key: str
    ending_hash_key: str


class _Line(msgspec.Struct, rename="pascal"):
    """A line of a capture: a shard as ListShards gives it, or a record as GetRecords does, with its shard."""

    shard_id: str | None = None
    hash_key_range: _Range | None = None
    data: bytes | None = None
    sequence_number: str = ""


def read_capture(path: Path) -> Iterator[Read]:
    """The records of a capture.

    A line of JSON each: first the shards as ListShards gives them, then the records as GetRecords gives them (data in
    base64), each with its ``ShardId``, which may be left out where there is one shard. Raises SettingsError with the
    number of a line that is none of that.
    """
    ranges: dict[str, HashRange] = {}
    try:
        with path.open("rb") as file:
            for number, text in enumerate(file, 1):
                if not text.strip():
                    continue
                try:
                    line = msgspec.json.decode(text, type=_Line)
                    if line.hash_key_range is not None and line.shard_id is not None:
                        given = line.hash_key_range
                        ranges[line.shard_id] = HashRange(int(given.starting_hash_key), int(given.ending_hash_key))
                        continue
                except ValueError as error:
                    raise SettingsError(f"{path}, line {number} is neither a shard nor a record: {error}") from error
                shard_id = line.shard_id or (next(iter(ranges)) if len(ranges) == 1 else None)
                if shard_id not in ranges:
                    raise SettingsError(
                        f"{path}, line {number}: {shard_id or 'no ShardId'}, and no line before gives its HashKeyRange;"
                        " begin the capture with the shards as `aws kinesis list-shards` prints them, a line each"
                    )
                if line.data is None:
                    raise SettingsError(
                        f"{path}, line {number} has no Data: a record is expected, as GetRecords gives it"
                    )
                yield Read(shard_id, ranges[shard_id], line.sequence_number, line.data)
    except OSError as error:
        raise SettingsError(f"--capture: {path} cannot be read: {error.strerror}") from error
