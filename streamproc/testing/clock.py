"""A clock that a test moves."""

from __future__ import annotations

import threading


class ManualClock:
    """Stands still until a test moves ``now``, or somebody waits: that returns at once and moves it by the seconds."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self.now = now
        #: The seconds of every wait.
        self.waits: list[float] = []

    def time(self) -> float:
        """See :class:`streamproc.clock.Clock`."""
        return self.now

    def monotonic(self) -> float:
        """See :class:`streamproc.clock.Clock`."""
        return self.now

    def wait(self, seconds: float, stop: threading.Event | None = None) -> bool:
        """See :class:`streamproc.clock.Clock`."""
        self.waits.append(seconds)
        self.now += seconds
        return stop is not None and stop.is_set()
