"""Where a partition key lands: its hash key, the ranges of hash keys that shards own, and the shards of a stream."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from hashlib import md5
from typing import NamedTuple, Protocol

#: Hash keys are 128-bit unsigned integers ("HashKeyRange", Kinesis API Reference).
HASH_KEY_MAX = 2**128 - 1


def hash_key_of(partition_key: str) -> int:
    """The MD5 of the key's UTF-8 bytes, as an integer ("PutRecords", Kinesis API Reference)."""
    return int.from_bytes(md5(partition_key.encode(), usedforsecurity=False).digest())


class HashRange(NamedTuple):
    """The hash keys that a shard owns, both ends included."""

    start: int
    end: int

    def contains(self, hash_key: int) -> bool:
        """Whether the shard owns this hash key."""
        return self.start <= hash_key <= self.end

    def __str__(self) -> str:
        return f"hash keys {self.start} to {self.end}"


#: The range of a stream's only shard.
ALL_HASH_KEYS = HashRange(0, HASH_KEY_MAX)


class ShardLike(Protocol):
    """What a map wants to know of a shard; :class:`streamproc.stream.Shard` does."""

    @property
    def shard_id(self) -> str:
        """Its name."""
        ...

    @property
    def hash_range(self) -> HashRange:
        """What it owns, or owned until it was closed."""
        ...

    @property
    def closed(self) -> bool:
        """Whether it takes no more records."""
        ...


class ShardMap:
    """The shards of a stream at one moment.

    A shard's range never changes and its id is never used again, so a map that is out of date is wrong about which
    shards are open, never about a shard that it knows.
    """

    def __init__(self, shards: Iterable[ShardLike]) -> None:
        everyone = list(shards)
        self._ranges = {shard.shard_id: shard.hash_range for shard in everyone}
        self._open = sorted((shard.hash_range, shard.shard_id) for shard in everyone if not shard.closed)
        self._starts = [hash_range.start for hash_range, _ in self._open]

    @property
    def open_shard_ids(self) -> list[str]:
        """In the order of their hash keys."""
        return [shard_id for _, shard_id in self._open]

    def owner(self, hash_key: int) -> str | None:
        """The open shard that owns this hash key; None in a gap, which a list made during a reshard may have."""
        index = bisect_right(self._starts, hash_key) - 1
        if index < 0:
            return None
        hash_range, shard_id = self._open[index]
        return shard_id if hash_key <= hash_range.end else None

    def range_of(self, shard_id: str) -> HashRange | None:
        """What this shard owns, or owned; None where it was not there yet."""
        return self._ranges.get(shard_id)
