"""The reference of a shard's partial: the plain fold of the shard's log, by the application's own shared fold."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from streamproc.processor import KeyedProcessor, SharedFold
from streamproc.record import Position
from streamproc.state import fingerprint, roll
from streamproc.testing.simulation.log import Entry


class PartialReference(msgspec.Struct, frozen=True):
    """A shard's shared fold up to a position."""

    events_folded: int
    ids_hash: int
    partial: bytes


class ShardFold:
    """The references of one shard: of its events those that the references of their keys hold, in the log's order."""

    def __init__(
        self,
        processor: KeyedProcessor[Any, Any, Any],
        shared: SharedFold[Any, Any],
        entries: Sequence[Entry],
        is_folded: Callable[[str, Position], bool],
    ) -> None:
        self._processor = processor
        self._shared = shared
        self._entries = entries
        self._is_folded = is_folded
        self.restart()

    def restart(self) -> None:
        """A dead letter changes what is folded."""
        self._references = [PartialReference(0, 0, b"")]
        self._partial = self._shared.new_partial()

    def at(self, upto: Position) -> PartialReference:
        """The fold up to this position."""
        index = bisect_right(self._entries, upto, key=lambda entry: entry.record.position)
        while len(self._references) <= index:
            self._references.append(self._next())
        return self._references[index]

    def _next(self) -> PartialReference:
        before, entry = self._references[-1], self._entries[len(self._references) - 1]
        if not self._is_folded(entry.record.partition_key, entry.record.position):
            return before
        event = self._processor.decode(entry.given.data)
        try:
            self._partial = self._shared.fold(self._partial, event)
        except Exception:  # noqa: BLE001  # user code: left out, and put aside
            self._partial = self._shared.decode(before.partial) if before.partial else self._shared.new_partial()
            return before
        ids_hash = roll(before.ids_hash, fingerprint(self._processor.event_id(event)))
        return PartialReference(before.events_folded + 1, ids_hash, self._shared.encode(self._partial))
