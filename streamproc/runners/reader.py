"""Reading one shard by polling."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING

from streamproc.aggregation import expand
from streamproc.errors import IteratorExpired, SettingsError, StreamNotFound, translated
from streamproc.lease import LATEST, TRIM_HORIZON, Lease
from streamproc.record import Batch, Position, shard_number_of
from streamproc.stream import list_shards
from streamproc.telemetry import AggregateDropped, RetentionGapFound, Telemetry

if TYPE_CHECKING:
    from mypy_boto3_kinesis import KinesisClient
    from mypy_boto3_kinesis.type_defs import GetRecordsOutputTypeDef, GetShardIteratorInputTypeDef

    from streamproc.stream import Shard


class ShardReader:
    """An iterator over one shard that can be told to begin again.

    It opens *at* the record it continues from, not after it: a checkpoint may lie inside an aggregate, whose rest is
    still to be read, and the worker drops what it has. That the record is there again also shows that nothing between
    it and the next one was trimmed.

    Limits ("GetRecords", Kinesis API Reference): 10,000 records or 10 MiB a call, five calls a second a shard over all
    readers; an iterator expires after five minutes.
    """

    def __init__(
        self,
        client: KinesisClient,
        stream: str,
        shard: Shard,
        *,
        records_max: int,
        telemetry: Telemetry,
    ) -> None:
        self._client = client
        self._stream = stream
        self._shard = shard
        self._records_max = records_max
        self._telemetry = telemetry
        self._iterator: str | None = None
        self._last_sequence_number = ""
        self._start: datetime.datetime | None = None
        self._check_gap = False
        self._ended = False

    def seek(self, lease: Lease, now: float) -> None:
        """Continue from the lease's checkpoint. Raises SettingsError where it is one that only KCL can continue from.

        LATEST is read as the time at which the lease was made (``now`` where KCL made it): a start after that one, or
        an iterator that expires before the first record, then leaves no gap. Whole seconds, and no later than now: a
        time in the future is refused.
        """
        if lease.checkpoint == LATEST:
            since = min(now, lease.latest_since or now)
            self._start = datetime.datetime.fromtimestamp(int(since), datetime.UTC)
        elif lease.checkpoint.isdigit():
            self._last_sequence_number = lease.checkpoint
        elif lease.checkpoint != TRIM_HORIZON:
            raise SettingsError(
                f"the lease of {lease.shard_id} is at {lease.checkpoint}, which only KCL's own settings explain: set"
                f" its checkpoint to {TRIM_HORIZON}, {LATEST} or a sequence number"
            )
        self._iterator = None

    @property
    def last_sequence_number(self) -> str:
        """Of the last record that was read, or of the checkpoint; empty before the first one."""
        return self._last_sequence_number

    def _open(self) -> str:
        where: GetShardIteratorInputTypeDef = {
            "StreamName": self._stream,
            "ShardId": self._shard.shard_id,
            "ShardIteratorType": "TRIM_HORIZON",
        }
        if self._last_sequence_number:
            where["ShardIteratorType"] = "AT_SEQUENCE_NUMBER"
            where["StartingSequenceNumber"] = self._last_sequence_number
        elif self._start is not None:
            where["ShardIteratorType"] = "AT_TIMESTAMP"
            where["Timestamp"] = self._start
        with translated(f"opening {self._shard.shard_id} of {self._stream!r}"):
            iterator = self._client.get_shard_iterator(**where)["ShardIterator"]
        self._check_gap = bool(self._last_sequence_number)
        return iterator

    def read(self) -> Batch | None:
        """The next records, maybe none; None once the shard is closed and read to its end, or gone with its records.

        Raises what ``translated`` raises; after an error the same read can be tried again.
        """
        if self._ended:
            return None
        try:
            if self._iterator is None:
                self._iterator = self._open()
            with translated(f"reading {self._shard.shard_id} of {self._stream!r}"):
                answer = self._client.get_records(ShardIterator=self._iterator, Limit=self._records_max)
        except IteratorExpired:
            self._iterator = None
            raise
        except StreamNotFound:
            if self._shard.shard_id in {shard.shard_id for shard in list_shards(self._client, self._stream)}:
                raise
            # The stream is there and the shard is not: it was closed, and its last record is beyond the retention.
            self._telemetry.emit(
                RetentionGapFound(shard_id=self._shard.shard_id, checkpoint=self._last_sequence_number)
            )
            self._ended = True
            return None
        return self._batch(answer)

    def _batch(self, answer: GetRecordsOutputTypeDef) -> Batch | None:
        raw = answer["Records"]
        expanded = expand(raw, shard_number_of(self._shard.shard_id), self._shard.hash_range)
        if raw:
            self._report_gap(raw[0]["SequenceNumber"])
            self._last_sequence_number = raw[-1]["SequenceNumber"]
        for dropped in expanded.dropped:
            self._telemetry.emit(
                AggregateDropped(
                    shard_id=self._shard.shard_id,
                    sequence_number=dropped.sequence_number,
                    user_records=dropped.user_records,
                )
            )
        # Last: had anything above failed, the same records would be read again. botocore leaves a null
        # NextShardIterator out: the shard is closed, and this was the last of it.
        self._iterator = answer.get("NextShardIterator")
        self._ended = self._iterator is None
        if self._ended and not raw:
            return None
        return Batch(self._shard.shard_id, expanded.records, answer.get("MillisBehindLatest", 0))

    def _report_gap(self, first_sequence_number: str) -> None:
        if self._check_gap and int(first_sequence_number) > int(self._last_sequence_number):
            self._telemetry.emit(
                RetentionGapFound(shard_id=self._shard.shard_id, checkpoint=self._last_sequence_number)
            )
        self._check_gap = False


def position_of(lease: Lease) -> Position | None:
    """The position of a lease's checkpoint; None where the shard was not begun, or was read to its end."""
    if not lease.checkpoint.isdigit():
        return None
    return Position(shard_number_of(lease.shard_id), int(lease.checkpoint), lease.checkpoint_sub_sequence_number)
