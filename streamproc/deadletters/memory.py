"""Dead letters in this process's memory, for tests."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence

import msgspec

from streamproc.deadletter import Attempt, DeadLetter, Kind, Status
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

    def claim(self, first_position: Position, at: Position) -> bool:
        """See :class:`streamproc.deadletter.DeadLetterStore`."""
        return self._move((first_position, Kind.EVENT, 0), Status.REPLAYED, at)

    def drop(self, letter: DeadLetter) -> bool:
        """See :class:`streamproc.deadletter.DeadLetterStore`."""
        return self._move((letter.position, letter.kind, letter.ordinal), Status.DROPPED)

    def mark_replayed(self, letter: DeadLetter) -> bool:
        """See :class:`streamproc.deadletter.DeadLetterStore`."""
        if letter.kind is not Kind.EMISSION:
            raise ValueError(f"{letter.kind} at {letter.position}: only a worker's claim marks an event as replayed")
        return self._move((letter.position, letter.kind, letter.ordinal), Status.REPLAYED)

    def _move(self, key: tuple[Position, Kind, int], status: Status, at: Position | None = None) -> bool:
        with self._lock:
            letter = self._letters.get(key)
            if letter is not None and letter.status is Status.OPEN:
                letter = self._letters[key] = msgspec.structs.replace(letter, status=status, replayed_at=at)
            return letter is not None and (letter.status, letter.replayed_at) == (status, at)

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

    def scan(self, *, with_data: bool = True) -> Iterable[DeadLetter]:
        """See :class:`streamproc.deadletter.DeadLetterStore`."""
        with self._lock:
            letters = list(self._letters.values())
        return letters if with_data else [msgspec.structs.replace(letter, data=b"") for letter in letters]

    def find(self, position: Position, *, with_data: bool = True) -> list[DeadLetter]:
        """See :class:`streamproc.deadletter.DeadLetterStore`."""
        with self._lock:
            found = [letter for key, letter in self._letters.items() if key[0] == position]
        return found if with_data else [msgspec.structs.replace(letter, data=b"") for letter in found]

    def forget(self, partition_key: str) -> int:
        """See :class:`streamproc.deadletter.DeadLetterStore`."""
        with self._lock:
            gone = [key for key, letter in self._letters.items() if letter.partition_key == partition_key]
            for key in gone:
                del self._letters[key]
        return len(gone)
