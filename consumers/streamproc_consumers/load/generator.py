"""The open loop: each event is sent at its intended time, whatever became of those before it."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from datetime import datetime
from itertools import islice
from typing import NamedTuple

import msgspec

from streamproc.clock import Clock, SystemClock
from streamproc.errors import PutFailed, QueueFull, StreamprocError, is_transient
from streamproc.producer import Acknowledged
from streamproc.record import Position, shard_number_of
from streamproc_producers.cart import CartProducer
from streamproc_producers.events import CartEvent, encode, new_event_id, utc
from streamproc_producers.simulate import Shop, simulate

#: After a stop, what was put has so long to be acknowledged.
STOP_SECONDS_MAX = 30.0
_PROGRESS_SECONDS = 0.1
#: Shorter waits cost more than they space out; due times are absolute, so nothing drifts.
_WAIT_SECONDS_MIN = 0.001


class Sent(NamedTuple):
    """An event that Kinesis stored. Times are seconds since the epoch."""

    user_id: str
    #: The intended time: latencies count from here.
    due_at: float
    put_at: float
    #: When the acknowledgement was there.
    acknowledged_at: float
    position: Position


class Tally(msgspec.Struct):
    """What a run has come to so far."""

    put: int = 0
    acknowledged: int = 0
    #: Events that failed, by PutFailed's code.
    failed: dict[str, int] = {}
    #: The latest that an event was put after its intended time, seconds.
    late_seconds_max: float = 0.0
    seconds: float = 0.0
    stopped: bool = False
    #: What no further event would have survived either: no such stream, no permission. The run ended there.
    error: StreamprocError | None = None


def shoppers(users: int, items: int, rate: float, seed: int, start: datetime) -> Iterator[CartEvent]:
    """Events of a simulated shop, with new ids, as many shoppers at once as the rate needs."""
    return simulate(Shop(users=users, items=items, rate=rate, seed=seed), start, new_event_id)


class OpenLoop:
    """Sends events at their intended times and hands over what was acknowledged.

    The events' own times become the intended ones, so that what comes out can be joined with what went in. Waiting for
    room in a full producer delays the events after it, which count the delay: it never thins the load out.
    """

    def __init__(
        self,
        producer: CartProducer,
        *,
        on_sent: Callable[[Sent], object],
        clock: Clock | None = None,
        stop: threading.Event | None = None,
    ) -> None:
        self._producer = producer
        self._on_sent = on_sent
        self._clock = clock or SystemClock()
        self._stop = stop or threading.Event()
        self._pending: deque[tuple[CartEvent, float, float, Future[Acknowledged], list[float]]] = deque()
        self._failed: Counter[str] = Counter()
        self.tally = Tally()
        #: Seconds since the epoch at which the run began; 0 before.
        self.started_at = 0.0

    def run(
        self, events: Iterable[CartEvent], due_seconds: Iterable[float], on_progress: Callable[[], object] | None = None
    ) -> Tally:
        """Send one event at each due time (seconds after now), then wait for the acknowledgements.

        ``on_progress`` is called at most ten times a second. A stop ends it early; what was put is flushed, for thirty
        seconds at most.
        """
        clock, tally, stop = self._clock, self.tally, self._stop
        started, self.started_at = clock.monotonic(), clock.time()
        reported_at = started

        def look() -> None:
            nonlocal reported_at
            self._settle()
            if on_progress is not None and clock.monotonic() - reported_at >= _PROGRESS_SECONDS:
                reported_at = clock.monotonic()
                tally.seconds = reported_at - started
                on_progress()

        for event, due in zip(events, due_seconds, strict=False):
            while (wait := started + due - clock.monotonic()) > _WAIT_SECONDS_MIN and not stop.is_set():
                # In pieces: acknowledgements are taken in, and progress is shown, at low rates too.
                clock.wait(min(wait, _PROGRESS_SECONDS), stop)
                look()
            if tally.error is not None:
                break
            if stop.is_set() or not self._put(event, started, due):
                tally.stopped = True
                break
            look()
        tally.seconds = clock.monotonic() - started
        self._producer.flush(STOP_SECONDS_MAX if tally.stopped else None)
        self._settle(all_of_them=True)
        if on_progress is not None:
            on_progress()
        return tally

    def _put(self, event: CartEvent, started: float, due: float) -> bool:
        """Put the event, however long there is no room for it. False when stopped before."""
        due_at = self.started_at + due
        event = msgspec.structs.replace(event, ts=utc(due_at))
        self.tally.late_seconds_max = max(self.tally.late_seconds_max, self._clock.monotonic() - started - due)
        put_at = self._clock.time()
        acknowledged: list[float] = []
        while True:
            try:
                future = self._producer.put(event)
            except QueueFull:
                if self._stop.is_set():
                    return False
            else:
                break
        # In the sender's thread, at the acknowledgement: this one may be asleep then.
        future.add_done_callback(lambda _: acknowledged.append(self._clock.time()))
        self._pending.append((event, due_at, put_at, future, acknowledged))
        self.tally.put += 1
        return True

    def _settle(self, *, all_of_them: bool = False) -> None:
        while self._pending and (all_of_them or self._pending[0][3].done()):
            event, due_at, put_at, future, acknowledged = self._pending.popleft()
            if not future.done():
                self._failed["NotAcknowledged"] += 1  # only after a stop
            elif isinstance(failure := future.exception(), PutFailed):
                self._failed[failure.code] += 1
                if isinstance(failure.__cause__, StreamprocError) and not is_transient(failure.__cause__):
                    self.tally.error = self.tally.error or failure.__cause__
            else:
                place = future.result()
                position = Position(
                    shard_number_of(place.shard_id), int(place.sequence_number), place.sub_sequence_number
                )
                at = acknowledged[0] if acknowledged else self._clock.time()
                self._on_sent(Sent(event.user_id, due_at, put_at, at, position))
                self.tally.acknowledged += 1
        self.tally.failed = dict(self._failed)


def mean_event_bytes(events: Iterable[CartEvent]) -> float:
    """Bytes of an event, over the first thousand of these."""
    sizes = [len(encode(event)) for event in islice(events, 1000)]
    return sum(sizes) / len(sizes)
