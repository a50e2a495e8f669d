"""The port for dead letters: records and emissions put aside, durably, with the reason."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from typing import Protocol

import msgspec

from streamproc.record import Position


class Kind(enum.StrEnum):
    """What was put aside."""

    #: A record that was not folded. The state goes on without it.
    EVENT = "event"
    #: An output that was not published. The state stands.
    EMISSION = "emission"
    #: An event that is in its key's state and not in its shard's partial; see streamproc.partial.
    SHARED = "shared"


class Status(enum.StrEnum):
    """What became of an entry since it was written."""

    #: Nothing yet.
    OPEN = "open"
    #: An event that a worker folded later in the log, or an emission that was published after all.
    REPLAYED = "replayed"
    #: Given up by an operator. A copy of it that is in the stream already is not folded.
    DROPPED = "dropped"


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """One entry. Position, kind and ordinal identify it, so that a replay writes it once."""

    shard_id: str
    position: Position
    kind: Kind
    #: Tells apart the outputs that one record of a stateless application gave.
    ordinal: int = 0
    #: A sentence for a person.
    reason: str
    #: The wrong field, where it is one field's fault.
    field: str | None = None
    partition_key: str
    #: The record's data, or the output's; empty where it was not asked for, or where `emit` gave none.
    data: bytes
    #: When the record arrived in the stream, seconds since the epoch.
    arrived_at: float
    status: Status = Status.OPEN
    #: Of a replayed record that was put aside again: where it first stood.
    first_position: Position | None = None
    #: Of a replayed event: where a worker met it again.
    replayed_at: Position | None = None


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """Records that were given to the application's code and did not come out of it; see streamproc.quarantine."""

    first: Position
    last: Position
    #: Whether it was a single record, tried alone since it was under suspicion.
    alone: bool = False


class DeadLetterStore(Protocol):
    """Where dead letters are kept. Bound to one namespace."""

    def check(self) -> str:
        """One cheap call that shows whether the service can be used; returns a detail for a person, or raises."""
        ...

    def prepare(self) -> None:
        """Create what is needed where there is none."""
        ...

    def write(self, letters: Sequence[DeadLetter]) -> None:
        """Make the entries durable, before it returns. One that is there already stays as it is."""
        ...

    def event_positions_after(self, shard_id: str, after: Position) -> set[Position]:
        """Positions of the shard's dead-lettered events beyond one: exactly those a worker that starts there skips.

        Whatever their status: a replayed event is folded where it was claimed, and never where it first stood.
        """
        ...

    def claim(self, first_position: Position, at: Position) -> bool:
        """Called by a worker that meets a replayed event at ``at``: whether it is to be folded there.

        Marks the event's entry durably as replayed at ``at``, unless it was dropped or claimed for another position.
        True where it is claimed for exactly ``at``, now or before, so that a lost reply and a worker's replay ask again
        and hear the same. False otherwise, also where there is no such entry.
        """
        ...

    def drop(self, letter: DeadLetter) -> bool:
        """Mark an open entry as dropped. True where it is dropped, now or before; False where it was replayed."""
        ...

    def mark_replayed(self, letter: DeadLetter) -> bool:
        """Mark an open emission as published. True where it is so, now or before; False where it was dropped.

        An event is marked by :meth:`claim` alone. Raises ValueError for one.
        """
        ...

    def note_attempt(self, shard_id: str, attempt: Attempt | None) -> None:
        """Note durably what is in the application's code; None takes the note back."""
        ...

    def attempt(self, shard_id: str) -> Attempt | None:
        """What a worker that died left in the application's code."""
        ...

    def scan(self, *, with_data: bool = True) -> Iterable[DeadLetter]:
        """Every entry of the namespace, in no order. Without data, nothing large is read, and ``data`` is empty."""
        ...

    def find(self, position: Position, *, with_data: bool = True) -> list[DeadLetter]:
        """The entries at a position, of every kind and ordinal.

        Raises SettingsError where the data of one is gone.
        """
        ...

    def forget(self, partition_key: str) -> int:
        """Erase every entry with this partition key, with its data; return how many there were.

        May be repeated. A copy of one that is still in the stream finds no entry to claim, and is not folded.
        """
        ...
