"""The log that a schedule reads: keyed events on one to three shards, with what goes wrong in real ones."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import msgspec

from streamproc.record import Position, Record, shard_id_of
from streamproc.shardmap import ALL_HASH_KEYS, HASH_KEY_MAX, HashRange, hash_key_of
from streamproc.testing.simulation.application import UNDECODABLE, Letter
from streamproc.testing.simulation.faults import Faults

#: Where a duplicate may follow its first copy: well within the window of 64 events, as a producer promises.
_DUPLICATE_DISTANCE_MAX = 30
_HALF = HASH_KEY_MAX // 2
_HALVES = (HashRange(0, _HALF), HashRange(_HALF + 1, HASH_KEY_MAX))
_POISON = ("undecodable", "always", "once", "until mended", "emission")


class Entry(msgspec.Struct, frozen=True):
    """One record of the log and what is known about it."""

    record: Record
    id: str
    #: As :attr:`Letter.fails`, or "undecodable".
    fails: str


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


def make_log(rng: random.Random, faults: Faults, *, mendable: bool) -> Log:
    """A log of 20 to 60 events on 3 to 5 keys; one in ten is long: 120 to 180 events, most of them of one key.

    Only a long log replays more events of a key than its duplicate window remembers. ``mendable`` lets in events whose
    fold fails until the first crash, as when a mended program is started.
    """
    is_long = rng.random() < 0.1
    count = rng.randint(120, 180) if is_long else rng.randint(20, 60)
    keys = [f"key-{number}" for number in range(rng.randint(3, 5))]
    ids = _ids(rng, faults, count)
    shards = [Shard(0, ALL_HASH_KEYS)]
    if rng.random() < 0.4:
        shards = [Shard(number, half) for number, half in enumerate(_HALVES)]
    reshard_at = rng.randint(count // 5, count * 4 // 5) if faults.is_enabled("reshard") else -1
    kinds = _POISON if mendable else tuple(kind for kind in _POISON if kind != "until mended")
    letters: dict[int, Letter] = {}
    for at, first in enumerate(ids):
        if at == reshard_at:
            faults.count("reshard")
            shards += _children(shards)
        if first in letters:
            letter = letters[first]
        else:
            key = keys[0] if is_long and rng.random() < 0.9 else rng.choice(keys)
            fails = ""
            if faults.strikes("poison", 0.08):
                # An event that is sent twice could be put aside the first time and be mended the second.
                fails = rng.choice([kind for kind in kinds if kind != "until mended" or ids.count(first) == 1])
            letter = letters[first] = Letter(key, f"event-{first}", fails)
        _append(rng, shards, letter)
    return Log(shards, is_long)


def _ids(rng: random.Random, faults: Faults, count: int) -> list[int]:
    """A number for each record of the log: where the event came first. One that comes again is a producer's duplicate.

    The window remembers an event from its first copy on, so that is where the distance is counted from.
    """
    ids: list[int] = []
    while len(ids) < count:
        recent = [first for first in ids[-_DUPLICATE_DISTANCE_MAX:] if first >= len(ids) - _DUPLICATE_DISTANCE_MAX]
        if recent and faults.strikes("duplicate", 0.08):
            ids.append(rng.choice(recent))
        else:
            ids.append(len(ids))
    return ids


def _append(rng: random.Random, shards: list[Shard], letter: Letter) -> None:
    hash_key = hash_key_of(letter.key)
    shard = next(shard for shard in shards if not shard.closed and shard.hash_range.contains(hash_key))
    sub_sequence_number = 0
    if shard.entries and rng.random() < 0.3:  # inside the aggregate before it
        sub_sequence_number = shard.entries[-1].record.position.sub_sequence_number + 1
    elif shard.entries:
        shard.sequence_number += rng.randint(1, 3)
    data = UNDECODABLE if letter.fails == "undecodable" else msgspec.json.encode(letter)
    position = Position(shard.number, shard.sequence_number, sub_sequence_number)
    shard.entries.append(Entry(Record(data, letter.key, position, 1_000.0), letter.id, letter.fails))


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
