"""States in this process's memory: for tests, and for applications that may start anew. Obeys the same conditions."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence

from streamproc.errors import NewerState
from streamproc.namespace import Namespace
from streamproc.state import StoredState


class MemoryStates:
    """A dictionary with the conditions of a real store."""

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace
        self._states: dict[str, StoredState] = {}
        self._stream: str | None = None
        self._lock = threading.Lock()

    def check(self) -> str:
        """See :class:`streamproc.state.StateStore`."""
        return "in memory"

    def prepare(self) -> None:
        """See :class:`streamproc.state.StateStore`."""

    def load(self, keys: Sequence[str]) -> dict[str, StoredState]:
        """See :class:`streamproc.state.StateStore`."""
        with self._lock:
            return {key: self._states[key] for key in keys if key in self._states}

    def store(self, states: Sequence[StoredState]) -> set[str]:
        """See :class:`streamproc.state.StateStore`."""
        superseded = set()
        with self._lock:
            for state in states:
                stored = self._states.get(state.key)
                if stored is not None and stored.fold_version > state.fold_version:
                    raise NewerState(f"the state of {state.key!r} has fold version {stored.fold_version}")
                if stored is not None and stored.position > state.position:
                    superseded.add(state.key)
                else:
                    self._states[state.key] = state
        return superseded

    def claim_stream(self, stream: str) -> str:
        """See :class:`streamproc.state.StateStore`."""
        with self._lock:
            if self._stream is None:
                self._stream = stream
            return self._stream

    def scan(self) -> Iterable[StoredState]:
        """See :class:`streamproc.state.StateStore`."""
        with self._lock:
            return list(self._states.values())

    def forget(self, key: str) -> bool:
        """See :class:`streamproc.state.StateStore`."""
        with self._lock:
            return self._states.pop(key, None) is not None
