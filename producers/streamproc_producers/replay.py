"""Sends recorded or simulated events at a chosen pace, and keeps a journal of what became of each."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import IO, NamedTuple
from uuid import UUID

import msgspec

from streamproc.clock import Clock, SystemClock
from streamproc.errors import PutFailed, QueueFull, SettingsError, StreamprocError, is_transient
from streamproc.producer import Acknowledged
from streamproc_producers.cart import CartProducer
from streamproc_producers.events import CartEvent

#: After a stop, what was put has so long to be acknowledged.
_STOP_SECONDS_MAX = 30.0
_PROGRESS_SECONDS = 0.1
#: Shorter waits cost more than they space out; the next event makes up for it, since due times are absolute.
_WAIT_SECONDS_MIN = 0.001


class Pace(msgspec.Struct, frozen=True, kw_only=True):
    """When each event is due: by a rate, by the events' own times, or at once.

    Due times count from the start, not from the event before. So a producer that was held up sends what it owes at
    once, and its delay counts in the latency of every event that it made late.
    """

    #: Event time over real time: at 60, an hour of events takes a minute.
    speed: float | None = None
    #: Events a second.
    rate: float | None = None
    #: The rate ends after so long; what is left is sent as fast as possible.
    rate_seconds: float | None = None

    def __post_init__(self) -> None:
        for name in ("speed", "rate", "rate_seconds"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise SettingsError(f"{name} is {value}: it must be above 0, or no event would ever be due")
        if self.speed is not None and self.rate is not None:
            raise SettingsError("speed and rate both say when an event is due: give one of them")
        if self.rate_seconds is not None and self.rate is None:
            raise SettingsError(f"rate_seconds is {self.rate_seconds}, but no rate is given that could end after it")

    def due_seconds(self, index: int, at: float, first_at: float) -> float | None:
        """Seconds after the start at which event ``index`` (from 0) is due, or None for as soon as possible.

        ``at`` and ``first_at`` are the event times of this event and of the first, in seconds.
        """
        if self.rate is not None:
            due = index / self.rate
            return due if self.rate_seconds is None or due < self.rate_seconds else None
        return (at - first_at) / self.speed if self.speed is not None else None


class JournalLine(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One event of a replay and what became of it. Times are seconds since the epoch."""

    event_id: UUID
    user_id: str
    #: When ``put`` was called.
    put_at: float
    #: When it was to be called by the pace: latency counts from here. Absent where the event had no due time.
    due_at: float | None = None
    shard_id: str | None = None
    sequence_number: str | None = None
    sub_sequence_number: int | None = None
    #: PutFailed's code, where the event was not acknowledged.
    error: str | None = None
    event: CartEvent


class ReplayReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a replay came to."""

    #: Events that were put.
    sent: int
    acknowledged: int
    #: Events that failed, by PutFailed's code.
    failed: dict[str, int]
    seconds: float
    #: Whether it was stopped before the last event.
    stopped: bool = False
    #: What no further event would have survived either: no such stream, no permission. The replay ended there.
    error: StreamprocError | None = None


def replay(
    events: Iterable[CartEvent],
    producer: CartProducer,
    pace: Pace,
    *,
    journal: IO[bytes] | None = None,
    on_progress: Callable[[ReplayReport], None] | None = None,
    stop: threading.Event | None = None,
    clock: Clock | None = None,
) -> ReplayReport:
    """Put the events in their order, each when it is due, and wait until all of them are done.

    ``journal`` gets a :class:`JournalLine` of JSON for each event, in the order of the puts, as soon as it and all
    before it are done. ``on_progress`` is called at most ten times a second. ``stop`` ends it early: what was put is
    flushed, for 30 seconds at most. The producer stays open.
    """
    clock = clock or SystemClock()
    stop = stop or threading.Event()
    tally = _Tally(journal, clock)
    first_at: float | None = None
    reported_at = clock.monotonic()
    for index, event in enumerate(events):
        first_at = event.at if first_at is None else first_at
        due = pace.due_seconds(index, event.at, first_at)
        if due is not None:
            wait = tally.started + due - clock.monotonic()
            if wait > _WAIT_SECONDS_MIN:
                clock.wait(wait, stop)
        if stop.is_set() or not _put(event, producer, tally, due, stop):
            tally.stopped = True
            break
        tally.settle()
        if tally.error is not None:
            break
        if on_progress is not None and clock.monotonic() - reported_at >= _PROGRESS_SECONDS:
            reported_at = clock.monotonic()
            on_progress(tally.report())
    producer.flush(_STOP_SECONDS_MAX if tally.stopped else None)
    tally.settle(all_of_them=True)
    report = tally.report()
    if on_progress is not None:
        on_progress(report)
    return report


def read_journal(path: Path) -> Iterator[JournalLine]:
    """The lines of a journal. Raises SettingsError for a line that is none."""
    decode = msgspec.json.Decoder(JournalLine).decode
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                yield decode(line)
            except msgspec.MsgspecError as error:
                raise SettingsError(f"{path}, line {number}, is no line of a replay's journal: {error}") from error


def _put(event: CartEvent, producer: CartProducer, tally: _Tally, due: float | None, stop: threading.Event) -> bool:
    """Put the event, however long there is no room for it. False when stopped before."""
    put_at = tally.clock.time()
    while True:
        try:
            future = producer.put(event)
        except QueueFull:
            if stop.is_set():
                return False
            continue
        tally.pending.append(_Pending(event, put_at, None if due is None else tally.started_at + due, future))
        tally.sent += 1
        return True


class _Pending(NamedTuple):
    event: CartEvent
    put_at: float
    due_at: float | None
    future: Future[Acknowledged]


class _Tally:
    """Counts, and the events that are not yet in the journal."""

    def __init__(self, journal: IO[bytes] | None, clock: Clock) -> None:
        self.clock = clock
        self.started = clock.monotonic()
        self.started_at = clock.time()
        self.pending: deque[_Pending] = deque()
        self.sent = 0
        self.acknowledged = 0
        self.failed: Counter[str] = Counter()
        self.stopped = False
        self.error: StreamprocError | None = None
        self._journal = journal
        self._encode = msgspec.json.Encoder().encode

    def settle(self, *, all_of_them: bool = False) -> None:
        """Count and write down what is done, up to the first event that is not; or all, after the last flush."""
        lines: list[bytes] = []
        while self.pending and (all_of_them or self.pending[0].future.done()):
            line = self._settled(self.pending.popleft())
            if self._journal is not None:
                lines.append(self._encode(line))
        if self._journal is not None and lines:
            self._journal.write(b"\n".join(lines) + b"\n")

    def _settled(self, pending: _Pending) -> JournalLine:
        event, put_at, due_at, future = pending
        acknowledged: Acknowledged | None = None
        code: str | None = None
        failure = future.exception() if future.done() else None
        if isinstance(failure, PutFailed):
            code = failure.code
            if isinstance(failure.__cause__, StreamprocError) and not is_transient(failure.__cause__):
                self.error = self.error or failure.__cause__
        elif future.done():
            acknowledged = future.result()
        else:
            code = "NotAcknowledged"  # only after a stop
        if code is None:
            self.acknowledged += 1
        else:
            self.failed[code] += 1
        return JournalLine(
            event_id=event.event_id,
            user_id=event.user_id,
            put_at=put_at,
            due_at=due_at,
            shard_id=acknowledged and acknowledged.shard_id,
            sequence_number=acknowledged and acknowledged.sequence_number,
            sub_sequence_number=acknowledged.sub_sequence_number if acknowledged else None,
            error=code,
            event=event,
        )

    def report(self) -> ReplayReport:
        return ReplayReport(
            sent=self.sent,
            acknowledged=self.acknowledged,
            failed=dict(self.failed),
            seconds=self.clock.monotonic() - self.started,
            stopped=self.stopped,
            error=self.error,
        )
