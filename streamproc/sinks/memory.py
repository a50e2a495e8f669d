"""A sink in this process's memory, for tests."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from streamproc.namespace import Namespace
from streamproc.sink import Delivery


class MemorySink:
    """Keeps every output in the order it was published."""

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace
        self.outputs: list[bytes] = []
        self._lock = threading.Lock()

    def check(self) -> str:
        """See :class:`streamproc.sink.Sink`."""
        return "in memory"

    def publish(self, outputs: Sequence[bytes]) -> Delivery:
        """See :class:`streamproc.sink.Sink`."""
        with self._lock:
            self.outputs.extend(outputs)
        return Delivery([], [])
