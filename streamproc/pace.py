"""At most one output a key in an interval: which keys wait, and which may emit now.

What waits is emitted when the interval is over, and before a checkpoint begins, so that every event below a checkpoint
is in an output. Interval and waiting are of this worker's clock: a replay may emit at other positions.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import takewhile
from typing import Any

from streamproc.clock import Clock
from streamproc.processor import Changed


class Pace:
    """The keys of one shard that changed since their last output. Not thread-safe."""

    def __init__(self, seconds: float, clock: Clock) -> None:
        self._seconds = seconds
        self._clock = clock
        #: When each key emitted last, the earliest first; none that is longer ago than the interval.
        self._emitted_at: dict[str, float] = {}
        #: Event time of the last event of each key that waits.
        self._waiting: dict[str, float] = {}

    def due(self, changed: Iterable[Changed[Any]], *, at_once: bool = False) -> list[tuple[str, float]]:
        """Of these keys and those that wait, the ones that emit now, each with the event time of its last event."""
        now = self._clock.monotonic()
        emitted_at, waiting = self._emitted_at, self._waiting
        for item in changed:
            waiting[item.key] = item.event_time
        for key in [*takewhile(lambda key: emitted_at[key] <= now - self._seconds, emitted_at)]:
            del emitted_at[key]
        due = [(key, at) for key, at in waiting.items() if at_once or key not in emitted_at]
        for key, _ in due:
            del waiting[key]
            emitted_at.pop(key, None)
            emitted_at[key] = now
        return due
