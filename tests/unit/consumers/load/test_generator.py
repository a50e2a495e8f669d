"""The open loop: nothing that happens to one event moves the intended time of another."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from datetime import UTC, datetime
from typing import cast

import pytest

from streamproc.errors import PutFailed, QueueFull, StreamNotFound, Throttled
from streamproc.producer import Acknowledged
from streamproc.testing.clock import ManualClock
from streamproc_consumers.load.generator import OpenLoop, Sent, mean_event_bytes, shoppers
from streamproc_consumers.load.shape import Shape
from streamproc_producers.cart import CartProducer
from streamproc_producers.events import CartEvent


class Producer:
    """Acknowledges at once, but for what a test has planned for an event by its number."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.put_at: list[float] = []
        self.events: list[CartEvent] = []
        self.stalls: dict[int, float] = {}
        self.failures: dict[int, PutFailed] = {}
        self.full: dict[int, int] = {}
        self.flushed_for: list[float | None] = []

    def put(self, event: CartEvent) -> Future[Acknowledged]:
        number = len(self.events)
        if self.full.get(number):
            self.full[number] -= 1
            self.clock.now += 1.0  # what full_wait_seconds_max is
            raise QueueFull("full")
        self.events.append(event)
        self.put_at.append(self.clock.now)
        self.clock.now += self.stalls.get(number, 0.0)
        future: Future[Acknowledged] = Future()
        if number in self.failures:
            future.set_exception(self.failures[number])
        else:
            future.set_result(Acknowledged("shardId-000000000000", str(number + 1)))
        return future

    def flush(self, timeout_seconds: float | None = None) -> bool:
        self.flushed_for.append(timeout_seconds)
        return True


class Bench:
    def __init__(self, rate: float = 100.0, seconds: float = 1.0) -> None:
        self.clock = ManualClock()
        self.began = self.clock.now
        self.producer = Producer(self.clock)
        self.stop = threading.Event()
        self.sent: list[Sent] = []
        self.shape = Shape(rate=rate, seconds=seconds)
        self.loop = OpenLoop(
            cast("CartProducer", self.producer), on_sent=self.sent.append, clock=self.clock, stop=self.stop
        )

    def run(self) -> None:
        start = datetime(2026, 1, 1, tzinfo=UTC)
        self.loop.run(shoppers(50, 50, self.shape.rate, 0, start), self.shape.due_seconds())


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_every_event_is_put_at_its_intended_time_which_it_carries(bench: Bench) -> None:
    bench.run()
    due = [bench.began + seconds for seconds in bench.shape.due_seconds()]
    assert bench.producer.put_at == pytest.approx(due, abs=0.0011)
    assert [event.at for event in bench.producer.events] == pytest.approx(due, abs=1e-6)
    assert [sent.due_at for sent in bench.sent] == pytest.approx(due)
    assert bench.loop.tally.acknowledged == len(due)


def test_a_stall_thins_nothing_out_and_counts_in_the_latency_of_every_event_that_it_delayed(bench: Bench) -> None:
    bench.producer.stalls[50] = 0.3
    bench.run()
    assert len(bench.sent) == bench.shape.events
    late = [sent.acknowledged_at - sent.due_at for sent in bench.sent]
    assert max(late[:50]) < 0.002
    assert late[51] == pytest.approx(0.29, abs=0.002)
    assert late[60] == pytest.approx(0.2, abs=0.002)
    assert late[85] < 0.002
    assert bench.loop.tally.late_seconds_max == pytest.approx(0.29, abs=0.002)


def test_a_full_producer_delays_an_event_and_loses_none(bench: Bench) -> None:
    bench.producer.full[10] = 2
    bench.run()
    assert len(bench.sent) == bench.shape.events
    assert bench.sent[10].acknowledged_at - bench.sent[10].due_at == pytest.approx(2.0, abs=0.01)


def test_a_stop_ends_it_early_and_flushes_what_was_put_for_a_bounded_time(bench: Bench) -> None:
    class Stops(ManualClock):
        def wait(self, seconds: float, stop: threading.Event | None = None) -> bool:
            if self.now - bench.began > 0.5:
                bench.stop.set()
            return super().wait(seconds, stop)

    bench.clock.__class__ = Stops
    bench.run()
    assert bench.loop.tally.stopped
    assert 40 < len(bench.sent) < 60
    assert bench.loop.tally.acknowledged == bench.loop.tally.put == len(bench.sent)
    assert bench.producer.flushed_for == [30.0]


def test_failures_are_counted_by_their_code_and_passing_ones_end_nothing(bench: Bench) -> None:
    for number in (3, 4):
        bench.producer.failures[number] = PutFailed("no", code="Expired", event=None)
        bench.producer.failures[number].__cause__ = Throttled("slow down")
    bench.run()
    assert bench.loop.tally.failed == {"Expired": 2}
    assert bench.loop.tally.acknowledged == bench.shape.events - 2
    assert bench.loop.tally.error is None


def test_what_no_event_would_survive_ends_the_run(bench: Bench) -> None:
    bench.producer.failures[5] = PutFailed("gone", code="ResourceNotFoundException", event=None)
    bench.producer.failures[5].__cause__ = StreamNotFound("no such stream")
    bench.run()
    assert isinstance(bench.loop.tally.error, StreamNotFound)
    assert bench.loop.tally.put == 6


def test_the_same_seed_gives_the_same_shop_with_new_ids() -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    first, second = (next(shoppers(50, 50, 10.0, 7, start)) for _ in range(2))
    assert (first.user_id, first.item_id) == (second.user_id, second.item_id)
    assert first.event_id != second.event_id
    assert 100 < mean_event_bytes(shoppers(50, 50, 10.0, 7, start)) < 300
