"""Which recommendation was the first to know an event, how long after it, and percentiles of that."""

from __future__ import annotations

from array import array
from collections import defaultdict, deque
from collections.abc import Callable

import msgspec
import numpy as np

from streamproc.record import Position
from streamproc_consumers.load.generator import Sent

#: What is reported, by name.
PERCENTILES = {"p50": 50.0, "p90": 90.0, "p95": 95.0, "p99": 99.0, "p99_9": 99.9}
#: A recommendation can be seen before the acknowledgement of its event is: so many of a user's last ones are kept.
_RECENT_MAX = 16


class Latencies:
    """Milliseconds, every one of them, so that percentiles are exact: twelve bytes an event."""

    def __init__(self) -> None:
        self._ms = array("d")
        #: In which second of the run each event was due.
        self._second = array("i")

    def __len__(self) -> int:
        return len(self._ms)

    def add(self, seconds: float, second: int = 0) -> None:
        """Take one in, of an event that was due in this second of the run."""
        self._ms.append(seconds * 1000)
        self._second.append(second)

    def by_second(self) -> list[tuple[int, int, float, float]]:
        """For each second of the run with an event: the second, the events, the median and the maximum."""
        if not self._ms:
            return []
        values, seconds = np.array(self._ms), np.array(self._second)
        order = np.argsort(seconds, kind="stable")
        values, seconds = values[order], seconds[order]
        starts = np.flatnonzero(np.r_[True, seconds[1:] != seconds[:-1]])
        return [
            (int(seconds[start]), len(part), round(float(np.median(part)), 1), round(float(part.max()), 1))
            for start, part in zip(starts, np.split(values, starts[1:]), strict=True)
        ]

    def summary(self) -> Summary | None:
        """Percentiles, mean and maximum; None without a value."""
        if not self._ms:
            return None
        values = np.array(self._ms)  # a copy: a view would keep the array from growing
        at = np.percentile(values, [*PERCENTILES.values()])
        named = {name: round(float(value), 1) for name, value in zip(PERCENTILES, at, strict=True)}
        return Summary(
            count=len(values), mean=round(float(values.mean()), 1), max=round(float(values.max()), 1), **named
        )

    def counts(self, bounds_ms: list[float]) -> list[int]:
        """How many are in each of the ranges between neighbouring bounds."""
        return [int(count) for count in np.histogram(np.array(self._ms), bounds_ms)[0]]


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """Milliseconds, over so many events."""

    count: int
    mean: float
    p50: float
    p90: float
    p95: float
    p99: float
    p99_9: float
    max: float


class Matcher:
    """Joins what was sent with what was published, as both come.

    A recommendation of a user with a position includes every event of theirs up to it; the first one that includes an
    event is the one that counts. Recommendations of a user are taken in the order of their publication: of two that
    come in the wrong order the later counts, so a latency may be overstated, never understated.
    """

    def __init__(self, on_match: Callable[[Sent, float], object]) -> None:
        self._on_match = on_match
        self._waiting: defaultdict[str, deque[Sent]] = defaultdict(deque)
        self._recent: defaultdict[str, deque[tuple[Position, float]]] = defaultdict(lambda: deque(maxlen=_RECENT_MAX))
        #: Sent events that no recommendation includes yet.
        self.waiting = 0

    def sent(self, event: Sent) -> None:
        """An event was acknowledged."""
        for position, at in self._recent.get(event.user_id, ()):
            if position >= event.position:
                self._on_match(event, at)
                return
        self._waiting[event.user_id].append(event)
        self.waiting += 1

    def published(self, user_id: str, position: Position, at: float) -> None:
        """A recommendation with this position was published then."""
        self._recent[user_id].append((position, at))
        waiting = self._waiting.get(user_id)
        if not waiting:
            return
        # In the order of the log but for a reshard's moment, so all are looked at.
        left = deque(event for event in waiting if event.position > position)
        for event in waiting:
            if event.position <= position:
                self._on_match(event, at)
        self.waiting -= len(waiting) - len(left)
        if left:
            self._waiting[user_id] = left
        else:
            del self._waiting[user_id]
