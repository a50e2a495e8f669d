"""One PutRecords call at a time: take, send, settle. The thread that repeats it is the producer's."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from botocore.exceptions import ClientError

from streamproc.clock import Clock, backoff
from streamproc.errors import PutFailed, code_of, is_throttle, is_transient, translated
from streamproc.producing.outbox import Outbox
from streamproc.producing.packing import Entry
from streamproc.producing.prediction import Prediction
from streamproc.producing.waiting import Done, Failed, Stored, Waiting
from streamproc.producing.wire import put_records
from streamproc.telemetry import AggregateMisrouted, RecordsSent, Retried, Telemetry

#: The codes of a PutFailed that are the producer's own.
EXPIRED = "RecordExpired"
CLOSED = "ProducerClosed"


class Pause(NamedTuple):
    """What the sender's thread does between two steps."""

    #: None: until an event is put.
    seconds: float | None
    #: The call failed as a whole: an event that is put meanwhile must wait too.
    for_all: bool = False


class Answered(NamedTuple):
    """An entry that Kinesis stored, and where."""

    entry: Entry
    shard_id: str
    sequence_number: str


class Sender:
    """Sends what waits in an outbox, one request at a time, with entries for as many shards as have any.

    After each call every entry is *settled* (stored, or refused for good) or stays first of its keys and is sent again:
    after a rest of its keys where it was refused alone, after a wait of the sender where the whole call failed. An
    event older than its time to live fails instead.

    An entry of several keys that went into another shard than expected is stored for its readers only if all keys hash
    into that one, as after a merge; else they drop it whole, and it is sent again, as several. Whether it is cannot be
    said of a shard that is not known: then the shards are listed first, while everything else waits.

    ``lock`` guards the outbox. It is not held during the call, nor while ``finish`` resolves futures, whose callbacks
    may put further events.
    """

    def __init__(
        self,
        *,
        stream: str,
        client: Callable[[], Any],
        outbox: Outbox,
        lock: threading.RLock,
        finish: Callable[[Sequence[Done]], None],
        clock: Clock,
        telemetry: Telemetry,
    ) -> None:
        self._stream = stream
        self._what = f"PutRecords to {stream}"
        self._client = client
        self._outbox = outbox
        self._lock = lock
        self._finish = finish
        self._clock = clock
        self._telemetry = telemetry
        self._prediction = Prediction(stream, client, clock, telemetry)
        self._undecided: list[Answered] = []
        self._waits = backoff()
        self._failures = 0
        self.abandoned = False

    def step(self) -> Pause:
        """Send one request, if there is something to send. Returns how long to pause before the next step."""
        if self._undecided or self._outbox.events:
            wait = self._look_at_shards()
            if wait:
                return Pause(wait, for_all=True)
        with self._lock:
            entries, expired = self._outbox.take(self._clock.monotonic())
        self._finish(list(_expiries(expired)))
        wait = self._send(entries) if entries else 0.0
        if wait:
            return Pause(wait, for_all=True)
        with self._lock:
            return Pause(0.0 if self._undecided else self._outbox.ready_in(self._clock.monotonic()))

    def abandon(self) -> None:
        """Fail everything that waits, in a request or not. A reply that is still to come is not looked at."""
        with self._lock:
            self.abandoned = True
            drained = self._outbox.drain()
        message = "the producer was closed before Kinesis acknowledged the event"
        self._finish([Failed(event, _failure(event, f"{message}{_after(last)}", CLOSED)) for event, last in drained])

    def _look_at_shards(self) -> float:
        """List the shards where that is due. Returns the seconds to wait before it is tried again, for all keys."""
        if self._prediction.refresh():
            with self._lock:
                self._outbox.move_to(self._prediction.shards)
        if not self._undecided:
            return 0.0
        wait = self._prediction.seconds_to_wait
        if wait:
            return wait
        undecided, self._undecided = self._undecided, []
        self._settle_stored(undecided, last_word=True)
        return 0.0

    def _send(self, entries: list[Entry]) -> float:
        """Make the call and deal with its entries. Returns the seconds that the sender must wait, for all keys."""
        request = [entry.request() for entry in entries]
        started = self._clock.monotonic()
        error: Exception | None = None
        try:
            with translated(self._what):
                response = put_records(self._client(), self._stream, request)
        except Exception as caught:  # noqa: BLE001  # whatever a client raises belongs to the futures of its events
            error = caught
        seconds = self._clock.monotonic() - started
        wait, failed = 0.0, len(entries)
        if error is None:
            self._waits, self._failures = backoff(), 0
            failed = self._call_answered(entries, response["Records"])
        elif is_transient(error):
            wait = self._call_failed(entries, str(error))
        else:
            self._call_refused(entries, error)
        self._telemetry.emit(
            RecordsSent(
                stream=self._stream,
                events=sum(entry.events_count for entry in entries),
                entries=len(entries),
                entries_failed=failed,
                request_bytes=sum(entry.request_bytes for entry in entries),
                seconds=seconds,
                events_waiting=self._outbox.events,
            )
        )
        return wait

    def _call_failed(self, entries: list[Entry], error: str) -> float:
        """The call failed in a way that passes: nothing of it was stored, or all of it and the reply was lost."""
        wait = next(self._waits)
        with self._lock:
            if self.abandoned:
                return 0.0
            self._outbox.put_back(entries, error)
            expired = self._outbox.expire(self._clock.monotonic())
        self._finish(list(_expiries(expired)))
        self._failures += 1
        self._telemetry.emit(Retried(what=self._what, error=error, attempt=self._failures, wait_seconds=wait))
        return wait

    def _call_refused(self, entries: list[Entry], error: Exception) -> None:
        """The call failed for good: so do its events, with the error as cause."""
        cause = error.__cause__
        code = code_of(cause) if isinstance(cause, ClientError) else type(error).__name__
        done: list[Done] = []
        for entry in entries:
            for event in entry.events:
                failure = _failure(event, str(error), code)
                failure.__cause__ = error
                done.append(Failed(event, failure))
        self._settle(entries, done)

    def _call_answered(self, entries: list[Entry], results: list[dict[str, Any]]) -> int:
        """The call was answered, entry by entry. Returns how many entries were refused."""
        stored: list[Answered] = []
        lost: list[Entry] = []
        refused: list[tuple[Entry, str, bool]] = []
        done: list[Done] = []
        for entry, result in zip(entries, results, strict=True):
            code = result.get("ErrorCode")
            if not code:
                stored.append(Answered(entry, result["ShardId"], result["SequenceNumber"]))
                continue
            message = f"{result.get('ErrorMessage', '')} ({code})"
            if _passes(code):
                refused.append((entry, message, is_throttle(code)))
            else:
                lost.append(entry)
                done += [Failed(event, _failure(event, f"{self._what}: {message}", code)) for event in entry.events]
        if lost:
            self._settle(lost, done)
        if stored:
            self._settle_stored(stored, last_word=False)
        if refused:
            self._rest(refused)
        return len(refused) + len(lost)

    def _settle_stored(self, answered: list[Answered], *, last_word: bool) -> None:
        """Settle what readers will find, send again what they will drop, and keep what cannot be told yet.

        ``last_word``: no list of the shards will tell more, so what cannot be told is sent again. It may be read twice
        then, which is what a consumer knows how to handle, where a loss is not.
        """
        settled: list[Entry] = []
        again: list[Entry] = []
        done: list[Done] = []
        for each in answered:
            entry, shard_id, sequence_number = each
            keeps = self._prediction.keeps(entry, shard_id)
            if keeps:
                settled.append(entry)
                done.append(Stored(entry.events, shard_id, sequence_number))
            elif keeps is None and not last_word:
                self._undecided.append(each)
            else:
                again.append(entry)
                self._telemetry.emit(
                    AggregateMisrouted(
                        stream=self._stream,
                        shard_id=shard_id,
                        expected_shard_id=entry.shard_id or "",
                        events=entry.events_count,
                    )
                )
        with self._lock:
            if self.abandoned:
                return
            self._outbox.settle(settled)
            self._outbox.put_back(again, "Kinesis stored it in a shard whose readers would drop it")
        self._finish(done)

    def _settle(self, entries: list[Entry], done: list[Done]) -> None:
        with self._lock:
            if self.abandoned:
                return
            self._outbox.settle(entries)
        self._finish(done)

    def _rest(self, refused: list[tuple[Entry, str, bool]]) -> None:
        with self._lock:
            if self.abandoned:
                return
            wait = self._outbox.refuse(refused, self._clock.monotonic())
            attempt = max(part.queue.refusals for entry, _, _ in refused for part in entry.parts)
        what = f"{len(refused)} entries of {self._what}"
        self._telemetry.emit(Retried(what=what, error=refused[0][1], attempt=attempt, wait_seconds=wait))


def _passes(code: str) -> bool:
    """Whether an entry that was refused with this code can be taken later: the library's one rule, for a code."""
    error: Any = {"Error": {"Code": code}}
    return is_transient(ClientError(error, "PutRecords"))


def _expiries(expired: Iterable[tuple[Waiting, str]]) -> Iterator[Failed]:
    for event, last_error in expired:
        message = f"the event's time to live ended before Kinesis took it{_after(last_error)}"
        yield Failed(event, _failure(event, message, EXPIRED))


def _after(last_error: str) -> str:
    return f"; the last error was: {last_error}" if last_error else ""


def _failure(event: Waiting, message: str, code: str) -> PutFailed:
    return PutFailed(message, code=code, event=event.data if event.event is None else event.event)
