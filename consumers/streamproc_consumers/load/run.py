"""One run: the generator in this thread, what comes out in another, and the report of both."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime

import msgspec

from streamproc.clock import Clock, SystemClock
from streamproc_consumers.load.cost import Line
from streamproc_consumers.load.generator import OpenLoop, Sent, Tally, mean_event_bytes, shoppers
from streamproc_consumers.load.latency import Latencies, Matcher
from streamproc_consumers.load.prices import Prices
from streamproc_consumers.load.published import Outcome
from streamproc_consumers.load.report import Report, Second, buckets, cost_lines
from streamproc_consumers.load.shape import Shape
from streamproc_producers.cart import CartProducer

#: How often what came out is looked at.
_LOOK_SECONDS = 0.25
_STOPPED_WAIT_SECONDS = 5.0


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What a run does."""

    stream: str
    shape: Shape
    users: int
    items: int
    seed: int
    #: How long recommendations are waited for after the last event.
    wait_seconds: float


class Progress(msgspec.Struct, frozen=True):
    """What is shown while it runs."""

    tally: Tally
    due: int
    recommendations: int
    waiting: int
    #: Of the newest events with a recommendation, milliseconds; None before the first.
    recent_ms_p50: float | None


class Follower(threading.Thread):
    """Joins what was sent with what came out. Only it touches the matcher; the generator only leaves events here."""

    def __init__(self, outcome: Outcome, clock: Clock, look_seconds: float = _LOOK_SECONDS) -> None:
        super().__init__(name="streamproc-load-follower", daemon=True)
        self.latencies = Latencies()
        self.recommendations = self.recommendation_bytes = 0
        self.failure: Exception | None = None
        self.started_at = 0.0
        self._outcome = outcome
        self._clock = clock
        self._look_seconds = look_seconds
        self._sent: deque[Sent] = deque()
        self._recent: deque[float] = deque(maxlen=500)
        self._matcher = Matcher(self._matched)
        self._leave = threading.Event()

    def sent(self, event: Sent) -> None:
        """Leave an event for it."""
        self._sent.append(event)

    @property
    def waiting(self) -> int:
        """Sent events that no recommendation was seen for yet."""
        return len(self._sent) + self._matcher.waiting

    @property
    def recent_ms_p50(self) -> float | None:
        """Of the newest events."""
        newest = sorted(self._recent.copy())
        return newest[len(newest) // 2] * 1000 if newest else None

    def run(self) -> None:
        """See the class."""
        try:
            while not self._leave.is_set():
                self._look()
                self._clock.wait(self._look_seconds, self._leave)
            self._look()
        except Exception as error:  # noqa: BLE001  # raised again in the main thread
            self.failure = error

    def _look(self) -> None:
        while self._sent:
            self._matcher.sent(self._sent.popleft())
        for item in self._outcome.look():
            self.recommendations += 1
            self.recommendation_bytes += item.data_bytes
            self._matcher.published(item.user_id, item.position, item.at)

    def _matched(self, event: Sent, at: float) -> None:
        self.latencies.add(at - event.due_at, int(event.due_at - self.started_at))
        self._recent.append(at - event.due_at)

    def leave(self) -> None:
        """Look once more, and end."""
        self._leave.set()
        self.join()


def run(
    plan: Plan,
    producer: CartProducer,
    outcome: Outcome | None,
    lines: list[Line],
    prices: Prices,
    *,
    stop: threading.Event,
    on_progress: Callable[[Progress], object] = lambda _: None,
    clock: Clock | None = None,
    look_seconds: float = _LOOK_SECONDS,
) -> Report:
    """Send the shape's events and report. ``lines`` is the bill of an hour at the shape's rate.

    A ``stop`` ends the sending and the waiting for recommendations; the report is of what there is. Raises the error of
    the generator or of the outcome where no further event, or recommendation, could have come through.
    """
    clock = clock or SystemClock()
    shape, due = plan.shape, 0
    now = datetime.fromtimestamp(clock.time(), UTC)
    events = shoppers(plan.users, plan.items, shape.rate, plan.seed, now)
    event_bytes = mean_event_bytes(shoppers(plan.users, plan.items, shape.rate, plan.seed, now))
    acknowledged = Latencies()
    follower = Follower(outcome, clock, look_seconds) if outcome else None

    def on_sent(event: Sent) -> None:
        acknowledged.add(event.acknowledged_at - event.due_at, int(event.due_at - loop.started_at))
        if follower:
            follower.started_at = loop.started_at
            follower.sent(event)

    def show() -> None:
        tally = loop.tally
        if follower is None:
            on_progress(Progress(tally, due, 0, 0, None))
        else:
            on_progress(Progress(tally, due, follower.recommendations, follower.waiting, follower.recent_ms_p50))

    def check() -> None:
        show()
        if follower and follower.failure:
            stop.set()

    loop = OpenLoop(producer, on_sent=on_sent, clock=clock, stop=stop)
    due = shape.events
    if follower:
        follower.start()
    try:
        tally = loop.run(events, shape.due_seconds(), check)
        # After a stop what was sent before is waited for, a moment; a stop while waiting ends that.
        wait_seconds = min(plan.wait_seconds, _STOPPED_WAIT_SECONDS) if tally.stopped else plan.wait_seconds
        deadline = clock.monotonic() + wait_seconds
        while follower and follower.is_alive() and follower.waiting and clock.monotonic() < deadline:
            if stop.is_set() and not tally.stopped:
                break
            clock.wait(0.1)
            show()
    finally:
        if follower:
            follower.leave()
    if tally.error is not None:
        raise tally.error
    if follower and follower.failure:
        raise follower.failure
    shown = follower.latencies if follower and len(follower.latencies) else acknowledged
    hourly = sum(line.dollars_per_hour for line in lines)
    return Report(
        started_at=now.isoformat(timespec="seconds"),
        seconds=round(tally.seconds, 1),
        stopped=tally.stopped,
        stream=plan.stream,
        shape=shape.kind,
        rate=shape.rate,
        ramp_seconds=shape.ramp_seconds,
        users=plan.users,
        seed=plan.seed,
        events_due=due,
        events_put=tally.put,
        events_acknowledged=tally.acknowledged,
        events_failed=tally.failed,
        late_ms_max=round(tally.late_seconds_max * 1000, 1),
        event_bytes=round(event_bytes, 1),
        recommendations=follower.recommendations if follower else 0,
        recommendation_bytes=(
            round(follower.recommendation_bytes / follower.recommendations, 1)
            if follower and follower.recommendations
            else None
        ),
        events_without_recommendation=follower.waiting if follower else None,
        put_ms=acknowledged.summary(),
        recommendation_ms=follower.latencies.summary() if follower else None,
        recommendation_means=outcome.meaning if outcome else None,
        prices_date=prices.date,
        prices_region=prices.region,
        dollars_per_million_events=round(hourly / (shape.rate * 3600) * 1e6, 4),
        cost_lines=cost_lines(lines, shape.rate),
        timeline=[Second(*second) for second in shown.by_second()],
        histogram_ms=buckets(shown),
    )
