"""A projection in this process's memory, for tests."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from streamproc.namespace import Namespace
from streamproc.state import StoredState


class MemoryProjection:
    """A dictionary with the fence of a real projection."""

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace
        self._states: dict[str, StoredState] = {}
        self._lock = threading.Lock()

    def check(self) -> str:
        """See :class:`streamproc.projection.Projection`."""
        return "in memory"

    def project(self, states: Sequence[StoredState]) -> int:
        """See :class:`streamproc.projection.Projection`."""
        refused = 0
        with self._lock:
            for state in states:
                projected = self._states.get(state.key)
                if projected is not None and projected.position > state.position:
                    refused += 1
                else:
                    self._states[state.key] = state
        return refused

    def read(self, keys: Sequence[str]) -> dict[str, StoredState]:
        """See :class:`streamproc.projection.Projection`."""
        with self._lock:
            return {key: self._states[key] for key in keys if key in self._states}

    def forget(self, key: str) -> bool:
        """See :class:`streamproc.projection.Projection`."""
        with self._lock:
            return self._states.pop(key, None) is not None
