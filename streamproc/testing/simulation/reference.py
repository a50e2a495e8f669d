"""The *reference*: the plain, single-threaded fold of a key's log, computed by the application's own processor."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Iterable
from typing import Any

import msgspec

from streamproc.processor import Changed, KeyedProcessor
from streamproc.record import BEGINNING, Position
from streamproc.settings import WorkerSettings
from streamproc.state import DUPLICATE_WINDOW_EVENTS, fingerprint, roll
from streamproc.testing.simulation.log import Entry


class Reference(msgspec.Struct, frozen=True):
    """A key's fold up to a position, without dead-lettered records and producer's duplicates."""

    #: Of the last folded event.
    position: Position
    events_folded: int
    ids_hash: int
    state: bytes
    event_time: float


NOTHING_FOLDED = Reference(BEGINNING, 0, 0, b"", 0.0)


def alike(processor: KeyedProcessor[Any, Any, Any], one: bytes, other: bytes) -> bool:
    """Whether two encoded states are the same: their bytes, or the bytes in another order that are equal when read.

    A set may be written in another order once it was read back. ``==`` alone would hide what ``decode_state`` loses.
    """
    if one == other:
        return True
    if sorted(one) != sorted(other):
        return False
    try:
        return bool(processor.decode_state(one) == processor.decode_state(other))
    except Exception:  # noqa: BLE001  # user code; what cannot be compared is not the same
        return False


class KeyFold:
    """The references of one key, at each of its entries. Each is computed when it is first asked for.

    An event is *never folded* where it cannot be decoded, may not be admitted, or makes the fold raise; the state goes
    on without it.
    """

    def __init__(self, processor: KeyedProcessor[Any, Any, Any], settings: WorkerSettings, dead: set[Position]) -> None:
        #: Where an event stands that is never folded, and has no dead letter yet.
        self.never_folded: dict[Position, Entry] = {}
        #: Numbers of the folded events.
        self.folded: list[int] = []
        #: Numbers of the events whose id was remembered.
        self.repeated: set[int] = set()
        self.entries: list[Entry] = []
        self._positions: list[Position] = []
        self._references: list[Reference] = []
        self._processor = processor
        self._settings = settings
        self._dead = dead
        self._restart()

    def append(self, entry: Entry) -> None:
        """The log's next entry of this key."""
        self.entries.append(entry)
        self._positions.append(entry.record.position)

    def at(self, upto: Position) -> Reference:
        """The fold up to this position."""
        index = bisect_right(self._positions, upto)
        while len(self._references) < index:
            self._references.append(self._next())
        return self._references[index - 1] if index else NOTHING_FOLDED

    def event_dead(self, position: Position) -> bool:
        """Note an event's dead letter, which ``dead`` holds. Returns whether it must have one."""
        if self.never_folded.pop(position, None) is not None:
            return True
        self._restart()
        return False

    def _restart(self) -> None:
        self.never_folded.clear()
        self.folded.clear()
        self.repeated.clear()
        self._references.clear()
        self._state = self._processor.new_state()
        self._window: deque[bytes] = deque(maxlen=DUPLICATE_WINDOW_EVENTS)

    def _next(self) -> Reference:
        before = self._references[-1] if self._references else NOTHING_FOLDED
        entry = self.entries[len(self._references)]
        position = entry.record.position
        if position in self._dead:
            return before
        try:
            return self._folded(before, entry)
        except Exception:  # noqa: BLE001  # user code
            processor = self._processor
            self._state = processor.decode_state(before.state) if before.events_folded else processor.new_state()
            self.never_folded[position] = entry
            return before

    def _folded(self, before: Reference, entry: Entry) -> Reference:
        """Raises where the event is never folded."""
        processor, settings = self._processor, self._settings
        if entry.failure == "undecodable":
            raise ValueError(entry.failure)
        event = processor.decode(entry.given.data)
        if processor.key(event) != entry.record.partition_key:
            raise ValueError("another key")
        event_time = processor.event_time(event)
        if event_time - entry.record.arrived_at > settings.ahead_seconds_max:
            raise ValueError("from the future")
        event_id = processor.event_id(event)
        if event_id in self._window:
            self.repeated.add(entry.given.number)
            return before
        if entry.failure == "always":
            raise ValueError(entry.failure)
        self._state = processor.fold(self._state, event)
        state = processor.encode_state(self._state)
        if len(state) > settings.state_bytes_max:
            raise ValueError("too large")
        self._window.append(event_id)
        self.folded.append(entry.given.number)
        ids_hash = roll(before.ids_hash, fingerprint(event_id))
        return Reference(entry.record.position, before.events_folded + 1, ids_hash, state, event_time)


class References:
    """The references of all keys."""

    def __init__(
        self, processor: KeyedProcessor[Any, Any, Any], settings: WorkerSettings, entries: Iterable[Entry]
    ) -> None:
        self.processor = processor
        self.keys: dict[str, KeyFold] = {}
        self.dead: set[Position] = set()
        for entry in entries:
            key = entry.record.partition_key
            if key not in self.keys:
                self.keys[key] = KeyFold(processor, settings, self.dead)
            self.keys[key].append(entry)

    def at(self, key: str, upto: Position) -> Reference:
        """The fold of the key's log up to this position."""
        fold = self.keys.get(key)
        return fold.at(upto) if fold else NOTHING_FOLDED

    def emission_fails(self, key: str, upto: Position) -> bool:
        """Whether no output can be made of this reference alone."""
        reference, processor = self.at(key, upto), self.processor
        if not reference.events_folded:
            return False
        state = processor.decode_state(reference.state)
        changed = Changed(key, state, reference.position, reference.event_time, reference.events_folded)
        try:
            (output,) = processor.emit([changed])
            if output is not None:
                processor.encode(output)
        except Exception:  # noqa: BLE001  # user code
            return True
        return False
