"""Snapshots in this process's memory, for tests."""

from __future__ import annotations

import threading

from streamproc.namespace import Namespace
from streamproc.processor import Snapshot


class MemorySnapshots:
    """A dictionary by number."""

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace
        self._snapshots: dict[int, Snapshot] = {}
        self._lock = threading.Lock()

    def check(self) -> str:
        """See :class:`streamproc.snapshot.SnapshotStore`."""
        return "in memory"

    def latest(self, after: int = 0) -> Snapshot | None:
        """See :class:`streamproc.snapshot.SnapshotStore`."""
        with self._lock:
            number = max(self._snapshots, default=0)
            return self._snapshots[number] if number > after else None

    def last_number(self) -> int:
        """See :class:`streamproc.snapshot.SnapshotStore`."""
        with self._lock:
            return max(self._snapshots, default=0)

    def get(self, number: int) -> Snapshot | None:
        """See :class:`streamproc.snapshot.SnapshotStore`."""
        with self._lock:
            return self._snapshots.get(number)

    def add(self, snapshot: Snapshot) -> bool:
        """See :class:`streamproc.snapshot.SnapshotStore`."""
        with self._lock:
            return self._snapshots.setdefault(snapshot.number, snapshot) == snapshot
