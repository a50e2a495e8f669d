"""Where the time of a batch goes: seconds by step, and by part of ``emit`` where the application tells them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter


class Stopwatch:
    """Seconds by what they were spent on: each time something ends, what passed since the one before it is its own."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.restart()

    def restart(self) -> None:
        """What passed until now is nobody's."""
        self._last = perf_counter()

    def end(self, what: str) -> None:
        """Note that this ended now."""
        now = perf_counter()
        self.seconds[what] = self.seconds.get(what, 0.0) + now - self._last
        self._last = now


class Steps(Stopwatch):
    """The steps of a batch, and the parts of one of them, ``emit``."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = Stopwatch()

    @contextmanager
    def in_emit(self) -> Iterator[None]:
        """Around the application's ``emit``: :func:`part_ended` of this thread counts for this batch."""
        self.parts.restart()
        _current.parts = self.parts
        try:
            yield
        finally:
            _current.parts = None
            self.parts.restart()


class _Current(threading.local):
    parts: Stopwatch | None = None


_current = _Current()


def part_ended(part: str) -> None:
    """For an application's ``emit``: a part of its work ended now, such as "predict". Outside of a worker: nothing."""
    if _current.parts is not None:
        _current.parts.end(part)
