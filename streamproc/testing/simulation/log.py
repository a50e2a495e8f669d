"""The log that a schedule reads: keyed events on one to three shards, with what goes wrong in real ones."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from streamproc.record import Position, Record, shard_id_of
from streamproc.shardmap import ALL_HASH_KEYS, HASH_KEY_MAX, HashRange, hash_key_of
from streamproc.testing.simulation.application import Given, Played
from streamproc.testing.simulation.faults import Dice
from streamproc.testing.simulation.mishaps import FAILURES, with_failure

#: Where a duplicate may follow its first copy: well within the window of 64 events, as a producer promises.
_DUPLICATE_DISTANCE_MAX = 30
_FAILURES_FOR_GOOD = tuple(failure for failure in FAILURES[1:] if failure != "until mended")
_HALF = HASH_KEY_MAX // 2
_HALVES = (HashRange(0, _HALF), HashRange(_HALF + 1, HASH_KEY_MAX))


class Entry(msgspec.Struct, frozen=True):
    """One record of the log and what is known about it."""

    record: Record
    #: The event, which duplicates share.
    given: Given
    #: One of :data:`streamproc.testing.simulation.mishaps.FAILURES`.
    failure: str


@dataclass
class Shard:
    """A shard's records in order. Its children are read once it has been read to its end."""

    number: int
    hash_range: HashRange
    parents: list[int] = field(default_factory=list)
    closed: bool = False
    entries: list[Entry] = field(default_factory=list)
    sequence_number: int = 100

    @property
    def shard_id(self) -> str:
        """As Kinesis names it."""
        return shard_id_of(self.number)


class Log(msgspec.Struct, frozen=True):
    """All shards, parents before children."""

    shards: list[Shard]
    is_long: bool

    def entries(self) -> list[Entry]:
        """All records; those of one key in their order."""
        return [entry for shard in self.shards for entry in shard.entries]


def make_log(rng: random.Random, dice: Dice, played: Played, *, mendable: bool) -> Log:
    """The events in their order, with duplicates and failures, across a reshard; one log in ten is long.

    ``mendable`` lets in events whose fold fails until the first crash.
    """
    is_long = rng.random() < 0.1
    events = played.events(rng, is_long)
    order = _with_duplicates(rng, dice, len(events))
    shards = [Shard(0, ALL_HASH_KEYS)]
    if rng.random() < 0.4:
        shards = [Shard(number, half) for number, half in enumerate(_HALVES)]
    reshard_at = rng.randint(len(order) // 5, len(order) * 4 // 5) if dice.is_enabled("reshard") else -1
    failures: dict[int, str] = {}
    for at, index in enumerate(order):
        if at == reshard_at:
            dice.count("reshard")
            shards += _children(shards)
        if index not in failures:
            # An event that is sent twice could be put aside the first time and be mended the second.
            choices = FAILURES[1:] if mendable and order.count(index) == 1 else _FAILURES_FOR_GOOD
            failures[index] = rng.choice(choices) if dice.strikes("poison", 0.08) else ""
        _append(rng, shards, events[index], failures[index])
    return Log(shards, is_long)


def _with_duplicates(rng: random.Random, dice: Dice, count: int) -> Sequence[int]:
    """The order of the log: each event by its place among those given, and once more where a producer repeats it.

    The window remembers an event from its first copy on, so that is where the distance is counted from.
    """
    order: list[int] = []
    first_at: dict[int, int] = {}
    for index in range(count):
        first_at[index] = len(order)
        order.append(index)
        while dice.strikes("duplicate", 0.08):
            since = len(order) - _DUPLICATE_DISTANCE_MAX
            order.append(rng.choice([index for index in order[-_DUPLICATE_DISTANCE_MAX:] if first_at[index] > since]))
    return order


def _append(rng: random.Random, shards: list[Shard], given: Given, failure: str) -> None:
    hash_key = hash_key_of(given.partition_key)
    shard = next(shard for shard in shards if not shard.closed and shard.hash_range.contains(hash_key))
    sub_sequence_number = 0
    if shard.entries and rng.random() < 0.3:  # inside the aggregate before it
        sub_sequence_number = shard.entries[-1].record.position.sub_sequence_number + 1
    elif shard.entries:
        shard.sequence_number += rng.randint(1, 3)
    position = Position(shard.number, shard.sequence_number, sub_sequence_number)
    data = with_failure(failure, given.number, given.data)
    shard.entries.append(Entry(Record(data, given.partition_key, position, given.arrived_at), given, failure))


def _children(shards: list[Shard]) -> list[Shard]:
    """Split the only shard, or merge the two. A child's first sequence number equals its parent's last one."""
    for shard in shards:
        shard.closed = True
    parents = [shard.number for shard in shards]
    first = max(shard.sequence_number for shard in shards)
    ranges = _HALVES if len(shards) == 1 else (ALL_HASH_KEYS,)
    return [
        Shard(len(shards) + number, hash_range, parents, sequence_number=first)
        for number, hash_range in enumerate(ranges)
    ]
