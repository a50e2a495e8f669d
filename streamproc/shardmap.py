"""Where a partition key lands: its hash key, and the ranges of hash keys that shards own."""

from __future__ import annotations

from hashlib import md5
from typing import NamedTuple

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
