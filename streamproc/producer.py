"""The producer: events in from any thread, one acknowledgement each, in order per partition key."""

from __future__ import annotations

import atexit
import os
import re
import threading
from collections import Counter
from concurrent.futures import Future
from types import TracebackType
from typing import Any

import msgspec

from streamproc.clock import Clock, SystemClock
from streamproc.errors import ProducerClosed, PutFailed, QueueFull, SettingsError
from streamproc.producing.outbox import Outbox
from streamproc.producing.packing import ENTRIES_MAX, RECORD_BYTES_MAX, REQUEST_BYTES_MAX, Acknowledged, Packer, Waiting
from streamproc.producing.sender import Done, Pause, Sender
from streamproc.telemetry import Telemetry

__all__ = ["Acknowledged", "Producer", "ProducerSettings"]

#: What an event costs beside its bytes: its future, most of all (measured: 1.6 KB on CPython 3.11).
_EVENT_COST_BYTES = 2048
#: "CreateStream", Kinesis API Reference.
_STREAM_NAME = re.compile(r"[a-zA-Z0-9_.-]{1,128}")


class ProducerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How a producer batches, waits and gives up."""

    #: Memory for events that are not done, with 2 KB for each beside its data.
    buffer_bytes_max: int = 64 * 1024 * 1024
    #: How long ``put`` waits for room when the buffer is full, before it raises QueueFull. 0: it raises at once.
    full_wait_seconds_max: float = 60.0
    #: An event that Kinesis did not take for so long after it was put fails with PutFailed.
    record_ttl_seconds: float = 600.0
    #: How long the sender waits for company for the first event. 0: what comes during a request goes with the next.
    linger_seconds: float = 0.0
    #: Pack what waits of one partition key into one KPL aggregate. Consumers must then de-aggregate, as KCL does.
    aggregate: bool = True

    def __post_init__(self) -> None:
        if self.buffer_bytes_max < 2 * RECORD_BYTES_MAX:
            raise SettingsError(
                f"buffer_bytes_max is {self.buffer_bytes_max}: below {2 * RECORD_BYTES_MAX} the largest record that"
                " Kinesis allows would never find room"
            )
        if self.record_ttl_seconds <= 0:
            raise SettingsError(
                f"record_ttl_seconds is {self.record_ttl_seconds}: every event would expire before it is sent"
            )
        for name in ("full_wait_seconds_max", "linger_seconds"):
            if getattr(self, name) < 0:
                raise SettingsError(f"{name} is {getattr(self, name)}: it must be 0 or more seconds")


class Producer:
    """Sends events to a Kinesis stream from one background thread. Thread-safe.

    ``put`` only adds the event to the *outbox*, a queue a partition key. The sender packs what waits into a request,
    makes one call at a time, resolves the futures of what was stored, and sends again what was refused, before anything
    later of the same key. So the events of a key are stored in the order in which they were put; when a reply is lost,
    some are stored twice, with the same bytes, and a consumer drops the second by its event id.

    Every event's future ends: with :class:`Acknowledged`, or with PutFailed, which holds the event. An error that does
    not pass (no such stream, no permission, no region) fails the events of the call it came from, as the cause of their
    PutFailed.

    Use it as a context manager; leaving it closes it, and so does the end of the program. Callbacks of the futures run
    in the sender's thread: they must be quick, and a ``put`` in them never waits for room.
    """

    def __init__(
        self,
        stream: str,
        *,
        client: Any = None,
        settings: ProducerSettings | None = None,
        clock: Clock | None = None,
        telemetry: Telemetry | None = None,
    ) -> None:
        if not _STREAM_NAME.fullmatch(stream):
            raise SettingsError(f"stream is {stream!r}: a stream's name has 1 to 128 of a-z, A-Z, 0-9, '_', '.', '-'")
        self.stream = stream
        self._settings = settings or ProducerSettings()
        self._boto_client = client
        self._clock = clock or SystemClock()
        self._outbox = Outbox(
            Packer(aggregate=self._settings.aggregate), record_ttl_seconds=self._settings.record_ttl_seconds
        )
        self._lock = threading.RLock()
        #: The sender waits on it for work, on the same lock as those who wait on ``_changed`` for room or for the end.
        self._work = threading.Condition(self._lock)
        self._changed = threading.Condition(self._lock)
        self._sender = Sender(
            stream=stream,
            client=self._client,
            outbox=self._outbox,
            lock=self._lock,
            finish=self._finish,
            clock=self._clock,
            telemetry=telemetry or Telemetry(),
        )
        self._process_id = os.getpid()
        self._thread: threading.Thread | None = None
        self._sender_idle = False
        self._sender_lingers = False
        self._closed = False
        self._room_bytes = self._settings.buffer_bytes_max
        # `flush` waits for the events put before it, not for those that other threads put meanwhile: each call begins a
        # generation, and this counts the events of each that are not done.
        self._generation = 0
        self._unfinished: Counter[int] = Counter()

    def put(self, data: bytes, partition_key: str, event: object = None) -> Future[Acknowledged]:
        """Queue one event. Never touches the network.

        ``event`` is what PutFailed hands back, ``data`` by default. Raises QueueFull when there is no room for it
        (see ``full_wait_seconds_max``), ProducerClosed, and SettingsError for what Kinesis could never take: a key of
        0 or more than 256 characters, or more than 1 MiB of key and data.
        """
        if not 1 <= len(partition_key) <= 256:
            raise SettingsError(f"the partition key has {len(partition_key)} characters: Kinesis takes 1 to 256")
        record_bytes = len(data) + len(partition_key.encode())
        if record_bytes > RECORD_BYTES_MAX:
            raise SettingsError(
                f"the event has {record_bytes} bytes with its partition key: Kinesis takes {RECORD_BYTES_MAX}"
            )
        cost_bytes = record_bytes + _EVENT_COST_BYTES
        if os.getpid() != self._process_id:
            # The thread that sends did not come along, and the lock may be held for ever.
            raise ProducerClosed("this producer was made before the process was forked: make one in each process")
        with self._lock:
            if self._closed:
                raise ProducerClosed("put after close: create a new producer")
            if cost_bytes > self._room_bytes:
                self._wait_for_room(cost_bytes)
            if self._thread is None:
                self._thread = self._start()
            waiting = Waiting(
                data, data if event is None else event, cost_bytes, self._generation, self._clock.monotonic()
            )
            self._outbox.add(partition_key, waiting)
            self._room_bytes -= cost_bytes
            self._unfinished[self._generation] += 1
            if self._sender_idle or (self._sender_lingers and self._request_is_full()):
                self._sender_idle = False
                self._work.notify()
        return waiting.future

    def flush(self, timeout_seconds: float | None = None) -> bool:
        """Wait until every event that was put before is done. True when they are, False when the time ran out first."""
        self._refuse_in_callback("flush")
        with self._lock:
            generation = self._generation
            self._generation += 1
            self._work.notify()
            return self._changed.wait_for(lambda: self._finished_through(generation), timeout_seconds)

    def close(self, timeout_seconds: float = 30.0) -> None:
        """Take no more events, send what waits, stop the thread. Afterwards every future is done.

        What Kinesis did not acknowledge within the time fails with PutFailed. Closing again does nothing.
        """
        self._refuse_in_callback("close")
        with self._lock:
            self._closed = True
            self._work.notify()
            self._changed.notify_all()
            thread = self._thread
        if thread is None:
            return
        thread.join(timeout_seconds)
        if thread.is_alive():
            self._sender.abandon()
            with self._lock:
                self._work.notify()
                # The sender may have taken its last events from the outbox, and not yet resolved their futures.
                self._changed.wait_for(lambda: not self._unfinished, timeout_seconds)
        atexit.unregister(self.close)

    def __enter__(self) -> Producer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _start(self) -> threading.Thread:
        # A daemon: the interpreter would join any other thread before it runs `atexit`, and wait for ever.
        thread = threading.Thread(target=self._run, name=f"streamproc-producer-{self.stream}", daemon=True)
        thread.start()
        atexit.register(self.close)
        return thread

    def _run(self) -> None:
        try:
            pause = Pause(0.0)
            while self._wait_for_work(pause):
                pause = self._sender.step()
        finally:
            # Also where the thread ends by an error (a telemetry subscriber raised): no future is left without an end.
            with self._lock:
                self._closed = True
            self._sender.abandon()

    def _wait_for_work(self, pause: Pause) -> bool:
        """Wait until the sender has something to do. False when it never will."""
        with self._lock:
            if pause.for_all:
                self._work.wait_for(lambda: self._sender.abandoned, pause.seconds)
            elif pause.seconds != 0.0:
                # `put` wakes only a sender that is idle: one that is busy sees the event anyway.
                self._sender_idle = True
                self._work.wait_for(lambda: not self._sender_idle or self._over(), pause.seconds)
                self._sender_idle = False
            if self._settings.linger_seconds:
                self._sender_lingers = True
                self._work.wait_for(self._is_urgent, self._settings.linger_seconds)
                self._sender_lingers = False
            return not self._over()

    def _over(self) -> bool:
        return self._sender.abandoned or (self._closed and not self._outbox.events)

    def _is_urgent(self) -> bool:
        flushed = not self._finished_through(self._generation - 1)
        return self._closed or flushed or self._request_is_full()

    def _request_is_full(self) -> bool:
        return len(self._outbox) >= ENTRIES_MAX or self._outbox.cost_bytes >= REQUEST_BYTES_MAX

    def _finished_through(self, generation: int) -> bool:
        return min(self._unfinished, default=generation + 1) > generation

    def _wait_for_room(self, cost_bytes: int) -> None:
        # A future's callback runs in the sender's thread: waiting there, it would wait for itself.
        in_callback = threading.current_thread() is self._thread
        seconds = 0.0 if in_callback else self._settings.full_wait_seconds_max
        self._changed.wait_for(lambda: self._closed or cost_bytes <= self._room_bytes, seconds)
        if self._closed:
            raise ProducerClosed("the producer was closed while put waited for room: create a new one")
        if cost_bytes > self._room_bytes:
            raise QueueFull(
                f"{self._outbox.events} events wait for {self.stream}, and buffer_bytes_max is"
                f" {self._settings.buffer_bytes_max}: Kinesis takes them more slowly than they are put"
            )

    def _refuse_in_callback(self, what: str) -> None:
        if threading.current_thread() is self._thread:
            raise SettingsError(f"{what} in a future's callback would wait for itself: call it from another thread")

    def _finish(self, done: list[Done]) -> None:
        if not done:
            return
        for event, outcome in done:
            if isinstance(outcome, PutFailed):
                event.future.set_exception(outcome)
            else:
                event.future.set_result(outcome)
        with self._lock:
            for event, _ in done:
                self._room_bytes += event.cost_bytes
                self._unfinished[event.generation] -= 1
            for generation in [number for number, events in self._unfinished.items() if not events]:
                del self._unfinished[generation]
            self._changed.notify_all()

    def _client(self) -> Any:
        """The client, built at the first call: what is wrong with its configuration then reaches the futures."""
        if self._boto_client is None:
            from streamproc.aws import aws_client  # boto3 takes a while, which the import of the SDK is spared

            self._boto_client = aws_client("kinesis")
        return self._boto_client
