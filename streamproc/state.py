"""The port for durable states, and the envelope in which the library keeps an application's state.

A state's position is what makes applying a log twice harmless: an event at or below it is in the state already. The
envelope also carries what proves it: how many events were folded, a rolling hash over their ids in order, and a bounded
window of the last ids, by which a producer's duplicate (the same event at another position) is dropped.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import Protocol

import msgspec

from streamproc.record import Position

#: How many of a key's last events are remembered to drop a producer's duplicates. A producer has at most half as many
#: events of a key on their way, so a lost reply repeats no event that left the window, even where others write as many
#: for the same key in between.
DUPLICATE_WINDOW_EVENTS = 64
_ID = struct.Struct("<Q")
_ID_BYTES = _ID.size
_POSITION_BYTES = 4
_ENTRY_BYTES = _ID_BYTES + _POSITION_BYTES
_WINDOW_BYTES_MAX = DUPLICATE_WINDOW_EVENTS * _ENTRY_BYTES
_HASH_MASK = (1 << 64) - 1
# Odd, so that no id is ever shifted out of the hash; the multiplier of Knuth's MMIX generator.
_HASH_MULTIPLIER = 6364136223846793005
_GOLDEN_RATIO = 0x9E3779B97F4A7C15
_BY_SUB_SEQUENCE = _GOLDEN_RATIO * 1_000_003 & _HASH_MASK
_BY_SEQUENCE = _GOLDEN_RATIO * 1_000_003**2 & _HASH_MASK


class StoredState(msgspec.Struct, frozen=True, gc=False):
    """A key's state as it is written to DynamoDB and Redis."""

    key: str
    #: The last event in the state.
    position: Position
    events_folded: int
    #: Rolling hash over the ids of the folded events, in their order; see :func:`roll`.
    ids_hash: int
    #: The last event ids, each with the position it was first seen at; see :func:`remember`.
    window: bytes
    fold_version: int
    #: The application's own encoding.
    state: bytes


class _Wire(msgspec.Struct, array_like=True, gc=False):
    # msgpack's integers end at 64 bits and a sequence number has about 186, so the position travels as text.
    key: str
    position: str
    events_folded: int
    ids_hash: int
    window: bytes
    fold_version: int
    state: bytes


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Wire)


def encode_stored(stored: StoredState, position: str | None = None) -> bytes:
    """The envelope as msgpack. ``position`` is its position's sortable text, where the caller has it already."""
    return _encoder.encode(
        _Wire(
            stored.key,
            position or stored.position.sortable(),
            stored.events_folded,
            stored.ids_hash,
            stored.window,
            stored.fold_version,
            stored.state,
        )
    )


def decode_stored(data: bytes) -> StoredState:
    """Read what :func:`encode_stored` wrote. Raises msgspec.DecodeError for anything else."""
    wire = _decoder.decode(data)
    try:
        position = Position.parse(wire.position)
    except ValueError as error:
        raise msgspec.DecodeError(str(error)) from error
    return StoredState(
        wire.key,
        position,
        wire.events_folded,
        wire.ids_hash,
        wire.window,
        wire.fold_version,
        wire.state,
    )


def fingerprint(event_id: bytes) -> bytes:
    """Eight bytes that stand for an event id. Two of 10^9 events collide within one window with p < 10^-8."""
    return blake2b(event_id, digest_size=_ID_BYTES).digest()


def roll(ids_hash: int, id_fingerprints: bytes) -> int:
    """The rolling hash with one more event id, or several, one after the other: for each h * m + id, modulo 2^64.

    It tells the ids and their order.
    """
    for (number,) in _ID.iter_unpack(id_fingerprints):
        ids_hash = (ids_hash * _HASH_MULTIPLIER + number) & _HASH_MASK
    return ids_hash


def is_remembered(window: bytes, id_fingerprint: bytes) -> bool:
    """Whether the window holds this id."""
    at = window.rfind(id_fingerprint)  # takes half of what find does
    while at >= 0:
        if at % _ENTRY_BYTES == 0:
            return True
        at = window.rfind(id_fingerprint, 0, at + _ID_BYTES - 1)
    return False


def remember(window: bytes, id_fingerprint: bytes, position: Position) -> bytes:
    """The window with this id, first seen at this position, and without the oldest one where it is full."""
    shard_number, sequence_number, sub_sequence_number = position
    # A position is only ever compared with another one for being the same, so a multiplicative hash of it will do
    # (Knuth, TAOCP 6.4); a tenth of the cost of a cryptographic one, for every event.
    mixed = sequence_number * _BY_SEQUENCE + sub_sequence_number * _BY_SUB_SEQUENCE + shard_number * _GOLDEN_RATIO
    seen_at = (mixed & _HASH_MASK) >> 32
    return (window + (id_fingerprint + seen_at.to_bytes(_POSITION_BYTES, "little")))[-_WINDOW_BYTES_MAX:]


class StateStore(Protocol):
    """Where states are durable: the truth after the worker's own memory.

    A store is bound to one namespace. Its methods raise errors for which ``is_transient`` decides whether to try again;
    a write that lost its race is a value.
    """

    def check(self) -> str:
        """One cheap call that shows whether the service can be used; returns a detail for a person, or raises."""
        ...

    def prepare(self) -> None:
        """Create what is needed where there is none."""
        ...

    def load(self, keys: Sequence[str]) -> dict[str, StoredState]:
        """The stored states of these keys, read strongly consistent; keys without one are left out.

        Raises SettingsError, with the key, where what is stored cannot be read.
        """
        ...

    def store(self, states: Sequence[StoredState]) -> set[str]:
        """Write each state unless the stored one is later; return the keys where it is (*superseded*).

        Every other state is durable on return. The same state may be written again, and a late request that arrives
        after a later one changes nothing. Raises NewerState where a stored state has a newer fold version.
        """
        ...

    def claim_stream(self, stream: str) -> str:
        """Note which stream this application reads, once; return what is noted.

        ``stream`` is the name and the creation timestamp. The application's leases speak of that one alone.
        """
        ...

    def scan(self) -> Iterable[StoredState]:
        """Every state of the namespace, in no order. Raises SettingsError as :meth:`load` does."""
        ...

    def forget(self, key: str) -> bool:
        """Erase the state of a key, readable or not; return whether there was one.

        A worker that has it in memory writes it again with its next checkpoint: none may run.
        """
        ...
