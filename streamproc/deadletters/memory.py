"""Dead letters in this process's memory, for tests."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence

from streamproc.deadletter import Attempt, DeadLetter, Kind
from streamproc.namespace import Namespace
from streamproc.record import Position


class MemoryDeadLetters:
    """A dictionary by position, kind and ordinal."""

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace
        self._letters: dict[tuple[Position, Kind, int], DeadLetter] = {}
        self._attempts: dict[str, Attempt] = {}
        self._lock = threading.Lock()

    def check(self) -> str:
        """See :class:`streamproc.deadletter.DeadLetterStore`."""
        return "in memory"

    def prepare(self) -> None:
        """See :class:`streamproc.deadletter.DeadLetterStore`."""

    def write(self, letters: Sequence[DeadLetter]) -> None:
        """See :class:`streamproc.deadletter.DeadLetterStore`."""
        with self._lock:
            for letter in letters:
                self._letters.setdefault((letter.position, letter.kind, letter.ordinal), letter)

    def event_positions_after(self, shard_id: str, after: Position) -> set[Position]:
        """See :class:`streamproc.deadletter.DeadLetterStore`."""
        with self._lock:
            return {
                position
                for (position, kind, _), letter in self._letters.items()
                if kind is Kind.EVENT and letter.shard_id == shard_id and position > after
            }

    def note_attempt(self, shard_id: str, attempt: Attempt | None) -> None:
        """See :class:`streamproc.deadletter.DeadLetterStore`."""
        with self._lock:
            if attempt is None:
                self._attempts.pop(shard_id, None)
            else:
                self._attempts[shard_id] = attempt

    def attempt(self, shard_id: str) -> Attempt | None:
        """See :class:`streamproc.deadletter.DeadLetterStore`."""
        with self._lock:
            return self._attempts.get(shard_id)

    def scan(self) -> Iterable[DeadLetter]:
        """See :class:`streamproc.deadletter.DeadLetterStore`."""
        with self._lock:
            return list(self._letters.values())
