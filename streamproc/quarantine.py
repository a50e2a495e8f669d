"""Finding a record that kills the process, without ever blaming one that does not.

An exception in the application's code is caught; a segmentation fault, an exit of the process or the kernel's
out-of-memory killer is not, and the same record would kill every worker after it. So:

1. A worker that follows one that died is *careful*: it notes durably which records are in the application's code, and
   takes the note back when they come out of it. Waiting for a store is outside, and never counts.
2. A worker that finds such a note follows a death inside the application's code. The noted records are *suspects*, and
   are tried one at a time, each with a note of its own.
3. A note of a single record, tried alone, *condemns* it: it is dead-lettered, and the shard goes on.

The first death leaves no note, the second one names the batch, the third one the record. A process that serves several
shards lets one of them at a time into the application's code while any worker in it is careful, so that a death has one
possible cause. A worker is careful until its first checkpoint.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from streamproc.deadletter import Attempt, DeadLetterStore
from streamproc.record import Position, Record

T = TypeVar("T")


class _OneAtATime:
    """Lets one shard of the process at a time into the application's code, while any worker is careful."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._changes = threading.Lock()
        self._careful = 0

    def add(self, workers: int) -> None:
        """Count careful workers in or out."""
        with self._changes:
            self._careful += workers

    @contextlib.contextmanager
    def section(self) -> Iterator[None]:
        """One pass through the application's code."""
        if self._careful:
            with self._lock:
                yield
        else:
            yield


_PROCESS = _OneAtATime()


def in_user_code(call: Callable[[], T]) -> T:
    """Run application code that belongs to no record, alone while any worker of the process is careful."""
    with _PROCESS.section():
        return call()


class Quarantine:
    """The rule for one shard's worker."""

    def __init__(self, shard_id: str, deadletters: DeadLetterStore) -> None:
        self._shard_id = shard_id
        self._deadletters = deadletters
        self._careful = False
        self._suspects: Attempt | None = None
        self._condemned: Position | None = None

    def start(self) -> None:
        """Become careful, after a worker that died; read what it left behind."""
        self._suspects = self._deadletters.attempt(self._shard_id)
        if self._suspects is not None and self._suspects.alone:
            self._condemned, self._suspects = self._suspects.first, None
        self._careful = True
        _PROCESS.add(1)

    def close(self) -> None:
        """Stop being careful: at the first checkpoint, or when the worker ends."""
        if self._careful:
            self._careful = False
            _PROCESS.add(-1)

    @property
    def is_careful(self) -> bool:
        """Whether each pass through the application's code is noted."""
        return self._careful

    @property
    def condemned(self) -> Position | None:
        """The record that killed the process when it was tried alone."""
        return self._condemned

    def groups(self, records: Sequence[Record]) -> list[list[Record]]:
        """The records in order, suspects one by one, all others together."""
        suspects = self._suspects
        if suspects is None:
            return [list(records)]
        groups: list[list[Record]] = []
        alone = True
        for record in records:
            suspect = suspects.first <= record.position <= suspects.last
            if suspect or alone or not groups:
                groups.append([record])
            else:
                groups[-1].append(record)
            alone = suspect
        return groups

    @contextlib.contextmanager
    def user_code(self, records: Sequence[Record], durably: Callable[[Callable[[], None]], None]) -> Iterator[None]:
        """Around the application's code. ``durably`` makes a write, however long that takes."""
        if not self._careful:
            with _PROCESS.section():
                yield
            return
        first, last = records[0].position, records[-1].position
        suspects = self._suspects
        alone = suspects is not None and first == last and suspects.first <= first <= suspects.last
        with _PROCESS.section():
            durably(
                lambda: self._deadletters.note_attempt(self._shard_id, Attempt(first=first, last=last, alone=alone))
            )
            try:
                yield
            finally:
                # An exception is no death: it came out of the application's code, as a result does.
                durably(lambda: self._deadletters.note_attempt(self._shard_id, None))
