"""A run as a whole: the generator, what comes out, and the report of both."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from typing import cast

import pytest

from streamproc.errors import AccessDenied
from streamproc.producer import Acknowledged
from streamproc.record import Position
from streamproc_consumers.load.cost import Line
from streamproc_consumers.load.prices import read_prices
from streamproc_consumers.load.published import Published
from streamproc_consumers.load.report import Report
from streamproc_consumers.load.run import Plan, Progress, run
from streamproc_consumers.load.shape import Shape
from streamproc_producers.cart import CartProducer
from streamproc_producers.events import CartEvent


class System:
    """Producer and outcome in one: every event is acknowledged, and in a recommendation 0.2 s after its time."""

    meaning = "until it was published"

    def __init__(self) -> None:
        self.published: deque[Published] = deque()
        self.silent = False
        self.failure: Exception | None = None
        self.puts = 0

    def put(self, event: CartEvent) -> Future[Acknowledged]:
        self.puts += 1
        position = Position(0, self.puts, 0)
        if not self.silent:
            self.published.append(Published(event.user_id, position, event.at + 0.2, 1_000))
        future: Future[Acknowledged] = Future()
        future.set_result(Acknowledged("shardId-000000000000", str(self.puts)))
        return future

    def flush(self, timeout_seconds: float | None = None) -> bool:
        del timeout_seconds
        return True

    def look(self) -> Iterator[Published]:
        if self.failure:
            raise self.failure
        while self.published:
            yield self.published.popleft()


def loaded(system: System, *, with_outcome: bool = True, seconds: float = 0.4, wait: float = 5.0) -> Report:
    shape = Shape(rate=200, seconds=seconds)
    plan = Plan(stream="cart-events", shape=shape, users=20, items=20, seed=0, wait_seconds=wait)
    return run(
        plan,
        cast("CartProducer", system),
        system if with_outcome else None,
        [Line("Firehose", 0.72), Line("EC2", 1.44)],
        read_prices(),
        stop=threading.Event(),
        look_seconds=0.01,
    )


def test_every_event_is_found_in_a_recommendation_and_both_latencies_count_from_its_intended_time() -> None:
    report = loaded(System())
    assert report.events_due == report.events_acknowledged == 80
    assert report.recommendation_ms is not None
    assert (report.recommendation_ms.count, report.events_without_recommendation) == (80, 0)
    assert report.recommendation_ms.p50 == pytest.approx(200, abs=0.1)
    assert report.recommendation_bytes == 1_000
    assert sum(second.events for second in report.timeline) == sum(bar.events for bar in report.histogram_ms) == 80


def test_an_hours_bill_becomes_dollars_for_a_million_events() -> None:
    report = loaded(System())
    assert report.dollars_per_million_events == pytest.approx(2.16 / 0.72)
    assert [line.dollars_per_million_events for line in report.cost_lines] == [1.0, 2.0]


def test_without_a_place_to_look_only_puts_are_measured() -> None:
    report = loaded(System(), with_outcome=False)
    assert report.recommendation_ms is None
    assert report.events_without_recommendation is None
    assert report.put_ms is not None
    assert report.put_ms.count == 80


def test_events_whose_recommendations_never_come_are_counted_and_waited_for_no_longer_than_asked() -> None:
    system = System()
    system.silent = True
    report = loaded(system, wait=0.2)
    assert report.events_without_recommendation == 80
    assert report.recommendation_ms is None


def test_a_place_that_cannot_be_read_ends_the_run_with_its_error() -> None:
    system = System()
    system.failure = AccessDenied("listing s3://shop/: no")
    with pytest.raises(AccessDenied, match="listing"):
        loaded(system, seconds=30)
    assert system.puts < 5_000


def test_progress_tells_what_was_put_and_what_is_waited_for() -> None:
    told: list[Progress] = []
    system = System()
    shape = Shape(rate=200, seconds=0.5)
    plan = Plan(stream="s", shape=shape, users=20, items=20, seed=0, wait_seconds=5.0)
    run(
        plan,
        cast("CartProducer", system),
        system,
        [Line("EC2", 1.0)],
        read_prices(),
        stop=threading.Event(),
        on_progress=told.append,
        look_seconds=0.01,
    )
    assert len(told) >= 3
    assert told[-1].due == told[-1].tally.acknowledged == told[-1].recommendations == 100
    assert told[-1].recent_ms_p50 == pytest.approx(200, abs=0.1)
