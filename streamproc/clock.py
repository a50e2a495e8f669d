"""Time as a parameter: what waits or dates something takes a :class:`Clock`, so tests need no sleep."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from typing import Protocol


class Clock(Protocol):
    """Where the library gets the time from, and how it waits."""

    def time(self) -> float:
        """Seconds since the epoch."""
        ...

    def monotonic(self) -> float:
        """Seconds on a clock that never goes back."""
        ...

    def wait(self, seconds: float, stop: threading.Event | None = None) -> bool:
        """Wait so long, or until ``stop`` is set. True when it was."""
        ...


class SystemClock:
    """The machine's clock."""

    def time(self) -> float:
        """See :class:`Clock`."""
        return time.time()

    def monotonic(self) -> float:
        """See :class:`Clock`."""
        return time.monotonic()

    def wait(self, seconds: float, stop: threading.Event | None = None) -> bool:
        """See :class:`Clock`."""
        if stop is None:
            time.sleep(seconds)
            return False
        return stop.wait(seconds)


def backoff(base: float = 0.05, cap: float = 5.0, rng: random.Random | None = None) -> Iterator[float]:
    """Seconds to wait before each further try: exponential with full jitter, from ``base`` up to ``cap``.

    Full jitter spreads the retries of a fleet that failed at one moment; see "Exponential Backoff And Jitter" in the
    AWS Architecture Blog.
    """
    draw = (rng or random).uniform
    ceiling = base
    while True:
        yield draw(ceiling / 10, ceiling)
        ceiling = min(cap, ceiling * 2)
