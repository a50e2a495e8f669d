"""What the engine room shows, computed from what was sent and what was published. No service is asked here.

*Latency* is the time from ``put`` until Firehose accepted the first list that knows the event.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from datetime import datetime
from typing import NamedTuple

import msgspec
import numpy as np

from streamproc.producer import Acknowledged
from streamproc.record import Position, shard_number_of
from streamproc_consumers.recommendation import Recommendation
from streamproc_producers.events import CartEvent

#: Latency and arms are those of the last so many seconds, the rate of the last few.
WINDOW_SECONDS = 60.0
RATE_SECONDS = 5.0
#: Upper bounds of the histogram's bars, in milliseconds; the last bar has what is above.
BOUNDS_MS = (50, 75, 100, 150, 200, 250, 300, 400, 500, 750, 1000, 1500, 2500, 5000, 10_000)
_SEEN_MAX = 200
_SAMPLES_MAX = 20_000


class Seen(msgspec.Struct, frozen=True, rename="camel"):
    """An event, and where Kinesis stored it."""

    #: Counts the events of this feed, from 1.
    number: int
    event_type: str
    user_id: str
    item_id: str
    ts: datetime
    shard_id: str
    sequence_number: str
    sub_sequence_number: int


class Latency(msgspec.Struct, frozen=True):
    """From ``put`` to the list, in milliseconds. Percentiles are None without events."""

    p50: float | None
    p95: float | None
    p99: float | None
    events: int
    bounds: tuple[int, ...]
    counts: list[int]


class Arm(msgspec.Struct, frozen=True, rename="camel"):
    """What an arm published."""

    arm: str
    model_version: str
    lists: int


class Figures(msgspec.Struct, frozen=True, rename="camel"):
    """The engine, now."""

    events_per_second: float
    sent: int
    published: int
    #: Lists that were published again under the same id, as happens after a death.
    repeated: int
    #: Shoppers with an event that no list knows yet.
    waiting: int
    latency: Latency
    arms: list[Arm]


class Known(NamedTuple):
    """The last list of a shopper."""

    position: Position
    model_version: str
    accepted_at: float


class Feed:
    """Takes what is sent and what is published, from any thread, and tells the figures."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: deque[Seen] = deque(maxlen=_SEEN_MAX)
        self._sent_at: deque[float] = deque(maxlen=_SAMPLES_MAX)
        self._sent = self._published = self._repeated = 0
        #: By shopper, the events that no list knows yet, each with the time of its put (None: it is not measured).
        self._waiting: dict[str, deque[tuple[Position, float | None]]] = {}
        self._known: dict[str, Known] = {}
        self._latencies: deque[tuple[float, float]] = deque(maxlen=_SAMPLES_MAX)
        self._lists: deque[tuple[float, str, str]] = deque(maxlen=_SAMPLES_MAX)
        self._sent_up_to: dict[str, int] = {}

    def sent(self, event: CartEvent, at: Acknowledged, put_at: float | None, now: float) -> None:
        """Kinesis acknowledged an event that was put at ``put_at``; None leaves it out of latency and rate."""
        position = Position(shard_number_of(at.shard_id), int(at.sequence_number), at.sub_sequence_number)
        with self._lock:
            self._sent += 1
            self._sent_up_to[at.shard_id] = max(self._sent_up_to.get(at.shard_id, 0), position.sequence_number)
            known = self._known.get(event.user_id)
            if known is not None and known.position >= position:  # the list was faster than this thread
                if put_at is not None:
                    self._latencies.append((now, (known.accepted_at - put_at) * 1000))
            else:
                self._waiting.setdefault(event.user_id, deque()).append((position, put_at))
            if put_at is None:
                return
            self._sent_at.append(now)
            self._seen.append(
                Seen(
                    number=self._sent,
                    event_type=event.event_type.value,
                    user_id=event.user_id,
                    item_id=event.item_id,
                    ts=event.ts,
                    shard_id=at.shard_id,
                    sequence_number=at.sequence_number,
                    sub_sequence_number=at.sub_sequence_number,
                )
            )

    def published(self, of: Recommendation, accepted_at: float) -> None:
        """Firehose accepted a list."""
        position, user = of.position.position(), of.user_id
        with self._lock:
            self._published += 1
            self._lists.append((accepted_at, of.arm, of.model_version))
            known = self._known.get(user)
            if known is not None and known.position >= position:
                self._repeated += 1
                return
            self._known[user] = Known(position, of.model_version, accepted_at)
            waiting = self._waiting.get(user)
            while waiting and waiting[0][0] <= position:
                _, put_at = waiting.popleft()
                if put_at is not None:
                    self._latencies.append((accepted_at, (accepted_at - put_at) * 1000))
            if waiting is not None and not waiting:
                del self._waiting[user]

    def known(self, user_id: str) -> Known | None:
        """The last list of a shopper, None without one."""
        with self._lock:
            return self._known.get(user_id)

    def seen_after(self, number: int, most: int, user_id: str = "") -> list[Seen]:
        """The events after the one of this number, in their order: all of this shopper's, and the last of the others.

        ``most`` bounds the others. Without that rule a page that asks late would never see what its own visitor did.
        """
        with self._lock:
            fresh = [seen for seen in self._seen if seen.number > number]
        others = [seen.number for seen in fresh if seen.user_id != user_id]
        first = others[-most] if len(others) > most else 0
        return [seen for seen in fresh if seen.user_id == user_id or seen.number >= first]

    @property
    def events_sent(self) -> int:
        """Every event that Kinesis acknowledged."""
        return self._sent

    @property
    def waiting(self) -> int:
        """Shoppers with an event that no list knows yet."""
        return len(self._waiting)

    def sent_up_to(self) -> dict[str, int]:
        """The last sequence number of each shard."""
        with self._lock:
            return dict(self._sent_up_to)

    def figures(self, now: float) -> Figures:
        """The engine, now."""
        with self._lock:
            _forget(self._sent_at, now - RATE_SECONDS)
            for samples in (self._latencies, self._lists):
                while samples and samples[0][0] < now - WINDOW_SECONDS:
                    samples.popleft()
            latencies = [value for _, value in self._latencies]
            arms = Counter((arm, version) for _, arm, version in self._lists)
            return Figures(
                events_per_second=round(len(self._sent_at) / RATE_SECONDS, 1),
                sent=self._sent,
                published=self._published,
                repeated=self._repeated,
                waiting=len(self._waiting),
                latency=_latency(latencies),
                arms=[Arm(arm, version, lists) for (arm, version), lists in sorted(arms.items())],
            )


def _forget(times: deque[float], before: float) -> None:
    while times and times[0] < before:
        times.popleft()


def _latency(values: list[float]) -> Latency:
    counts = np.bincount(np.searchsorted(BOUNDS_MS, values), minlength=len(BOUNDS_MS) + 1)
    p50, p95, p99 = np.percentile(values, (50, 95, 99)).round(1).tolist() if values else (None, None, None)
    return Latency(p50, p95, p99, len(values), BOUNDS_MS, counts.tolist())
