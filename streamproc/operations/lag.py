"""How far behind a lease's checkpoint is: one read of the shard at its place."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec

from streamproc.errors import StreamprocError, translated
from streamproc.lease import LATEST, TRIM_HORIZON, Lease

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mypy_boto3_kinesis import KinesisClient
    from mypy_boto3_kinesis.type_defs import GetShardIteratorInputTypeDef

# Shards that are read at once. Kinesis' limits are a shard's own, and this shard is read once.
_AT_ONCE = 8


class Seen(msgspec.Struct, frozen=True):
    """What one GetRecords call found."""

    #: Of the first record at or behind the place; None where the call returned none.
    sequence_number: str | None
    #: When that record arrived, seconds since the epoch.
    arrived_at: float | None
    #: MillisBehindLatest: how far what was returned is behind the tip of the shard.
    behind_seconds: float
    #: Whether a second record came with it.
    more: bool
    #: Whether nothing comes behind what was returned, as of now.
    at_tip: bool


class Lag(msgspec.Struct, frozen=True):
    """Where a lease's checkpoint stands in its shard. None is what there is not, or what could not be read."""

    behind_seconds: float | None = None
    age_seconds: float | None = None
    #: Whether the checkpoint's record is gone, by the retention.
    trimmed: bool = False
    #: Why it could not be read.
    error: str | None = None


def open_at(client: KinesisClient, stream: str, shard_id: str, where: str | int) -> str:
    """An iterator at TRIM_HORIZON, at a sequence number, or at a time, whole seconds since the epoch."""
    request: GetShardIteratorInputTypeDef = {
        "StreamName": stream,
        "ShardId": shard_id,
        "ShardIteratorType": "TRIM_HORIZON",
    }
    if isinstance(where, int):
        request["ShardIteratorType"] = "AT_TIMESTAMP"
        request["Timestamp"] = datetime.fromtimestamp(where, UTC)
    elif where != TRIM_HORIZON:
        request["ShardIteratorType"] = "AT_SEQUENCE_NUMBER"
        request["StartingSequenceNumber"] = where
    with translated(f"opening {shard_id} of {stream!r}"):
        return client.get_shard_iterator(**request)["ShardIterator"]


def read_at(client: KinesisClient, shard_id: str, iterator: str, limit: int) -> tuple[Seen, str | None]:
    """One GetRecords call, and the next iterator; None at the end of a closed shard."""
    with translated(f"reading {shard_id}"):
        answer = client.get_records(ShardIterator=iterator, Limit=limit)
    records, behind = answer["Records"], answer.get("MillisBehindLatest", 0)
    following: str | None = answer.get("NextShardIterator")  # botocore leaves a null out: the shard is closed, and read
    first = records[0] if records else None
    seen = Seen(
        first["SequenceNumber"] if first else None,
        first["ApproximateArrivalTimestamp"].timestamp() if first else None,
        behind / 1000,
        len(records) > 1,
        behind == 0 or "NextShardIterator" not in answer,
    )
    return seen, following


def look(client: KinesisClient, stream: str, lease: Lease, now: float, limit: int = 1) -> Seen | None:
    """Read once at a lease's checkpoint. None where it has no place in the shard: at its end, or at KCL's own LATEST.

    Raises what ``translated`` raises.
    """
    where: str | int = lease.checkpoint
    if lease.checkpoint == LATEST and lease.latest_since is not None:
        where = int(min(now, lease.latest_since))
    elif lease.checkpoint != TRIM_HORIZON and not lease.checkpoint.isdigit():
        return None
    iterator = open_at(client, stream, lease.shard_id, where)
    return read_at(client, lease.shard_id, iterator, limit)[0]


def lag_of(lease: Lease, seen: Seen | None, now: float) -> Lag:
    """What a look says of a lease's checkpoint."""
    if seen is None:
        return Lag()
    trimmed = lease.checkpoint.isdigit() and (
        seen.at_tip if seen.sequence_number is None else int(seen.sequence_number) > int(lease.checkpoint)
    )
    age = None if seen.arrived_at is None or trimmed else max(0.0, now - seen.arrived_at)
    return Lag(seen.behind_seconds, age, trimmed)


def lags(client: KinesisClient, stream: str, leases: Sequence[Lease], now: float) -> list[Lag]:
    """The lag of each lease, in their order. A read that fails, a throttled one too, is not tried again."""

    def lag(lease: Lease) -> Lag:
        try:
            return lag_of(lease, look(client, stream, lease, now), now)
        except StreamprocError as error:
            return Lag(error=str(error))

    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="streamproc-lag") as pool:
        return [*pool.map(lag, leases)]
