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
    #: The record's data, or the output's.
    data: bytes
    #: When the record arrived in the stream, seconds since the epoch.
    arrived_at: float


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
        """Positions of the shard's dead-lettered events beyond one: exactly those a worker that starts there skips."""
        ...

    def note_attempt(self, shard_id: str, attempt: Attempt | None) -> None:
        """Note durably what is in the application's code; None takes the note back."""
        ...

    def attempt(self, shard_id: str) -> Attempt | None:
        """What a worker that died left in the application's code."""
        ...

    def scan(self) -> Iterable[DeadLetter]:
        """Every entry of the namespace."""
        ...
