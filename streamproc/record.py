"""What a shard holds: records, their positions, and the batches in which a runner hands them over."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import msgspec

from streamproc.errors import SettingsError


class Position(NamedTuple):
    """Where a record stands in the log of its partition key.

    Three integers, compared in this order: the shard's number, the sequence number, and the sub-sequence number
    inside a KPL aggregate (0 for a record of its own).

    A key lives on one open shard at a time and a child shard's number is always greater than its parents', so the
    position of a key only grows, across reshards too. The sequence number alone would not do: the first one of a child
    can equal the last one of its parent.
    """

    shard_number: int
    sequence_number: int
    sub_sequence_number: int = 0

    def sortable(self) -> str:
        """The position as text that sorts as the position does, in Python, Redis and DynamoDB alike.

        Each integer is written behind the count of its digits. DynamoDB's numbers end at 38 digits and a sequence
        number has 56 (the API allows 129), so numbers are not an option there.
        """
        return _sortable(*self)

    @classmethod
    def parse(cls, text: str) -> Position:
        """Read back what :meth:`sortable` wrote. Raises ValueError for anything else."""
        parts = text.split(".")
        if len(parts) != 3:
            raise ValueError(f"{text!r} is not a position: three parts joined by '.' were expected")
        return cls(*(int(part[3:]) for part in parts))

    def __str__(self) -> str:
        return f"{shard_id_of(self.shard_number)}:{self.sequence_number}:{self.sub_sequence_number}"


# A position is written with the output, the projection and the state: the last ones are remembered.
@lru_cache(maxsize=4096)
def _sortable(shard_number: int, sequence_number: int, sub_sequence_number: int) -> str:
    digits = str(sequence_number)
    return f"{_counted(shard_number)}.{len(digits):03d}{digits}.{_counted(sub_sequence_number)}"


@lru_cache(maxsize=1024)
def _counted(integer: int) -> str:
    digits = str(integer)
    return f"{len(digits):03d}{digits}"


#: Sorts before every position of every shard.
BEGINNING = Position(-1, -1, -1)


def shard_number_of(shard_id: str) -> int:
    """The number in a shard id: 3 for ``shardId-000000000003``.

    Raises SettingsError where the id has another form, since order across reshards rests on that number.
    """
    prefix, _, digits = shard_id.rpartition("-")
    if prefix != "shardId" or not digits.isdigit():
        raise SettingsError(f"shard id {shard_id!r} does not have the form 'shardId-000000000000'")
    return int(digits)


@lru_cache(maxsize=256)
def shard_id_of(shard_number: int) -> str:
    """The id of a shard: ``shardId-000000000003`` for 3."""
    return f"shardId-{shard_number:012d}"


class Record(msgspec.Struct, frozen=True, gc=False):
    """One user record as it left the stream, de-aggregated."""

    data: bytes
    partition_key: str
    position: Position
    #: Kinesis' ApproximateArrivalTimestamp, seconds since the epoch.
    arrived_at: float


class Batch(msgspec.Struct, frozen=True, gc=False):
    """Records of one shard in the order of the log."""

    shard_id: str
    records: list[Record]
    #: Kinesis' MillisBehindLatest: how far behind the tip of the shard this read was.
    millis_behind_latest: int = 0
