"""Reading a shard no further than another application did: what a rebuild follows."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Protocol

from streamproc.record import Batch, Position, Record, shard_number_of
from streamproc.runners.reader import ShardReader, position_of

if TYPE_CHECKING:
    from mypy_boto3_kinesis import KinesisClient

    from streamproc.lease import Lease
    from streamproc.stream import Shard
    from streamproc.telemetry import Telemetry


class Lead(Protocol):
    """The application that another one follows."""

    def missing(self, shards: Sequence[Shard], known: Collection[str]) -> list[Lease]:
        """The leases that the follower lacks, parents before children; ``known`` are those it has."""
        ...

    def limit(self, shard_id: str) -> Position | None:
        """The last position of a shard that the follower may have; None where it may read to the shard's end.

        It never goes back.
        """
        ...


class LimitedReader(ShardReader):
    """Gives a shard's records up to a limit that moves, cut at exactly that record, inside an aggregate too.

    Kinesis is not asked while the limit is reached, nor while records of the last read are still beyond it: the reads
    of a shard are few, and the application that is followed needs them.
    """

    def __init__(
        self,
        client: KinesisClient,
        stream: str,
        shard: Shard,
        *,
        records_max: int,
        telemetry: Telemetry,
        limit: Callable[[], Position | None],
    ) -> None:
        super().__init__(client, stream, shard, records_max=records_max, telemetry=telemetry)
        self._shard_id = shard.shard_id
        self._limit = limit
        #: The last position that was given; before the shard's first one at the beginning.
        self._given = Position(shard_number_of(shard.shard_id), -1, -1)
        #: Read, and beyond the limit.
        self._beyond: list[Record] = []
        self._millis_behind_latest = 0
        self._all_read = False

    def seek(self, lease: Lease, now: float) -> None:
        """See :class:`ShardReader`."""
        super().seek(lease, now)
        self._given = position_of(lease) or self._given

    def read(self) -> Batch | None:
        """See :class:`ShardReader`. None only once the limit is the shard's end, too."""
        limit = self._limit()
        if not self._beyond and not self._all_read and (limit is None or self._given < limit):
            batch = super().read()
            if batch is None:
                self._all_read = True
            else:
                self._beyond, self._millis_behind_latest = batch.records, batch.millis_behind_latest
        if limit is None and self._all_read and not self._beyond:
            return None
        records = self._beyond
        count = len(records) if limit is None else bisect_right(records, limit, key=lambda record: record.position)
        given, self._beyond = records[:count], records[count:]
        if given:
            self._given = max(self._given, given[-1].position)
        return Batch(self._shard_id, given, self._millis_behind_latest)
