"""The producer: events in from any thread, one acknowledgement each, in order per partition key."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Any, cast

import msgspec

from streamproc.clock import Clock, SystemClock
from streamproc.errors import ProducerClosed, PutFailed, QueueFull, RecordTooLarge, SettingsError
from streamproc.producing import endings
from streamproc.producing.bucket import TokenBucket
from streamproc.producing.outbox import Outbox
from streamproc.producing.packing import AGGREGATE_BYTES_MAX, RECORD_BYTES_MAX, KeyQueue, Packer
from streamproc.producing.sender import Pause, Sender
from streamproc.producing.waiting import EVENT_COST_BYTES, Acknowledged, Done, Failed, Waiting, resolve
from streamproc.telemetry import PutsDelayed, Telemetry

__all__ = ["Acknowledged", "Producer", "ProducerSettings"]

#: "CreateStream", Kinesis API Reference.
_STREAM_NAME = re.compile(r"[a-zA-Z0-9_.-]{1,128}")
_KEY_CHARACTERS_MAX = 256
#: Data up to this size fits with any partition key: 256 characters of up to 4 bytes.
_DATA_BYTES_ALWAYS_FIT = RECORD_BYTES_MAX - 1024
_logger = logging.getLogger("streamproc.producer")


class ProducerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How a producer batches, waits and gives up."""

    #: Memory for events that are not done, with 256 bytes for each beside its data, and 1 KB for each of their keys.
    buffer_bytes_max: int = 64 * 1024 * 1024
    #: How long ``put`` waits for room when the buffer is full, before it raises QueueFull. 0: it raises at once.
    full_wait_seconds_max: float = 60.0
    #: An event that Kinesis did not take for so long after it was put fails with PutFailed.
    record_ttl_seconds: float = 600.0
    #: How long the sender waits for company for the first event. 0: what comes during a request goes with the next.
    linger_seconds: float = 0.0
    #: Pack what waits for one shard into KPL aggregates. Consumers must then de-aggregate, as KCL does.
    aggregate: bool = True
    #: A larger event goes alone.
    aggregate_bytes_max: int = AGGREGATE_BYTES_MAX
    aggregate_events_max: int = 10_000
    #: What this producer sends to one shard: Kinesis takes 1 MB and 1,000 records a second of all producers together,
    #: and refuses more, which costs a request and a rest. None: no limit, for emulators that have none.
    shard_bytes_per_second: float | None = 1_000_000
    shard_records_per_second: float | None = 1_000

    def __post_init__(self) -> None:
        if self.buffer_bytes_max < 2 * RECORD_BYTES_MAX:
            raise SettingsError(
                f"buffer_bytes_max is {self.buffer_bytes_max}: below {2 * RECORD_BYTES_MAX} the largest record that"
                " Kinesis allows would never find room"
            )
        if not 1024 <= self.aggregate_bytes_max <= RECORD_BYTES_MAX:
            raise SettingsError(
                f"aggregate_bytes_max is {self.aggregate_bytes_max}: take 1024 to {RECORD_BYTES_MAX}; to send"
                " every event by itself, set aggregate to False"
            )
        if self.record_ttl_seconds <= 0:
            raise SettingsError(
                f"record_ttl_seconds is {self.record_ttl_seconds}: every event would expire before it is sent"
            )
        for name in ("full_wait_seconds_max", "linger_seconds"):
            if getattr(self, name) < 0:
                raise SettingsError(f"{name} is {getattr(self, name)}: it must be 0 or more seconds")
        for name in ("aggregate_events_max", "shard_bytes_per_second", "shard_records_per_second"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise SettingsError(f"{name} is {value}: it must be 1 or more, or nothing would ever be sent")


class Producer:
    """Sends events to a Kinesis stream from one background thread. Thread-safe.

    ``put`` only adds the event to the *outbox*, a queue a partition key. The sender packs what waits into a request,
    for each shard aggregates of its keys; makes one call at a time; resolves the futures of what was stored; and sends
    again what was refused, or went into a wrong shard after a reshard, before anything later of the same key. So the
    events of a key are stored in the order in which they were put; when a reply is lost, some are stored twice, with
    the same bytes, and a consumer drops the second by its event id.

    Every event's future ends: with :class:`Acknowledged`, or with PutFailed, which holds the event. An error that does
    not pass (no such stream, no permission, no region) fails the events of the call it came from, as the cause of their
    PutFailed. ``on_error`` gets every PutFailed, for those who keep no futures.

    Use it as a context manager; leaving it closes it, and so does the end of the program, by SIGTERM too (see
    :func:`streamproc.producing.endings.watch`). A child that was forked begins with an empty producer of its own; what
    waited stays the parent's. Callbacks run in the sender's thread: they must be quick, and a ``put`` in them never
    waits for room.
    """

    def __init__(
        self,
        stream: str,
        *,
        client: Any = None,
        settings: ProducerSettings | None = None,
        on_error: Callable[[PutFailed], None] | None = None,
        clock: Clock | None = None,
        telemetry: Telemetry | None = None,
    ) -> None:
        if not _STREAM_NAME.fullmatch(stream):
            raise SettingsError(f"stream is {stream!r}: a stream's name has 1 to 128 of a-z, A-Z, 0-9, '_', '.', '-'")
        self.stream = stream
        self._settings = settings or ProducerSettings()
        self._boto_client = client
        self._on_error = on_error
        self._clock = clock or SystemClock()
        self._now = time.monotonic if clock is None else clock.monotonic
        self._telemetry = telemetry or Telemetry()
        self._closed = False
        self._start_empty()

    def _start_empty(self) -> None:
        settings = self._settings
        self._outbox = Outbox(
            Packer(
                aggregate=settings.aggregate,
                aggregate_bytes_max=settings.aggregate_bytes_max,
                aggregate_events_max=settings.aggregate_events_max,
            ),
            record_ttl_seconds=settings.record_ttl_seconds,
            bucket=lambda: TokenBucket(settings.shard_bytes_per_second, settings.shard_records_per_second),
        )
        self._lock = threading.RLock()
        #: The sender waits on it for work, on the same lock as those who wait on ``_changed`` for room or for the end.
        self._work = threading.Condition(self._lock)
        self._changed = threading.Condition(self._lock)
        self._sender = Sender(
            stream=self.stream,
            client=self._client,
            outbox=self._outbox,
            lock=self._lock,
            finish=self._finish,
            clock=self._clock,
            telemetry=self._telemetry,
        )
        self._thread: threading.Thread | None = None
        self._sender_idle = False
        self._sender_lingers = False
        self._flushes = 0
        self._finished = 0
        # What `put` looks at: the buffer less one event; below 0 where there is more to do, since the thread is not
        # there yet, or no longer.
        self._cost_bytes_max = -1
        self._puts_delayed = self._puts_refused = 0
        self._delay_seconds = 0.0

    def put(self, data: bytes, partition_key: str, event: object = None) -> Future[Acknowledged]:
        """Queue one event. Never touches the network.

        ``event`` is what PutFailed hands back, ``data`` by default. Raises QueueFull when there is no room for it
        (see ``full_wait_seconds_max``), ProducerClosed, RecordTooLarge for more than 1 MiB of key and data, and
        SettingsError for what Kinesis could never take either: a key of 0 or more than 256 characters, or no bytes.
        """
        size = len(data)
        if size > _DATA_BYTES_ALWAYS_FIT or type(data) is not bytes:
            data = _checked_data(data, partition_key)
            size = len(data)
        with self._lock:
            outbox = self._outbox
            if outbox.cost_bytes + size > self._cost_bytes_max:
                self._admit(size + EVENT_COST_BYTES)
            queue = outbox.queue_of(partition_key)
            if queue is None:
                queue = self._open(partition_key)
            # What follows is Outbox.add, without the call.
            waiting = Waiting(data, event, self._now())
            queue.events.append(waiting)
            outbox.events += 1
            outbox.cost_bytes += EVENT_COST_BYTES + size
            if self._sender_lingers and outbox.request_is_full:
                self._work.notify()
        return waiting  # type: ignore[return-value]  # a Future in all but its layout; a cast would be a call

    def put_many(self, events: Iterable[tuple[bytes, str]]) -> list[Future[Acknowledged]]:
        """Queue (data, partition key) pairs in this order, all or none; cheaper than as many calls of ``put``.

        Raises what ``put`` raises, and then none of them is queued. So they must find room all together.
        """
        pairs: list[tuple[bytes, str]] = []
        cost_bytes = 0
        for data, key in events:
            if len(data) > _DATA_BYTES_ALWAYS_FIT or type(data) is not bytes:
                data = _checked_data(data, key)
            if not 1 <= len(key) <= _KEY_CHARACTERS_MAX:
                raise _wrong_key(key)
            cost_bytes += EVENT_COST_BYTES + len(data)
            pairs.append((data, key))
        if cost_bytes > self._settings.buffer_bytes_max:
            raise QueueFull(
                f"{len(pairs)} events with {cost_bytes} bytes never fit into buffer_bytes_max"
                f" ({self._settings.buffer_bytes_max}): put fewer at once"
            )
        futures: list[Waiting] = []
        with self._lock:
            self._admit(cost_bytes)
            outbox, now = self._outbox, self._now()
            for data, key in pairs:
                waiting = Waiting(data, None, now)
                (outbox.queue_of(key) or self._open(key)).events.append(waiting)
                futures.append(waiting)
            outbox.events += len(pairs)
            outbox.cost_bytes += cost_bytes
            if self._sender_lingers and outbox.request_is_full:
                self._work.notify()
        return cast("list[Future[Acknowledged]]", futures)

    def flush(self, timeout_seconds: float | None = None) -> bool:
        """Wait until every event that was put before is done. True when they are, False when the time ran out first."""
        self._refuse_in_callback("flush")
        deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        with self._lock:
            # Not all events that are waiting: those that other threads put meanwhile are none of this flush's.
            waiting = self._outbox.last_of_each_key()
            self._flushes += 1
            self._work.notify()
            try:
                if not self._changed.wait_for(lambda: _all_done(waiting), timeout_seconds):
                    return False
                left = self._outbox.left
                rest = None if deadline is None else max(0.0, deadline - time.monotonic())
                return self._changed.wait_for(lambda: self._finished >= left, rest)
            finally:
                self._flushes -= 1

    def close(self, timeout_seconds: float = 30.0) -> None:
        """Take no more events, send what waits, stop the thread. Afterwards every future is done.

        What Kinesis did not acknowledge within the time fails with PutFailed. Closing again does nothing.
        """
        self._refuse_in_callback("close")
        with self._lock:
            self._close()
            thread = self._thread
        if thread is None:
            return
        thread.join(timeout_seconds)
        if thread.is_alive():
            self._sender.abandon()
            with self._lock:
                self._work.notify()
                # The sender may have taken its last events from the outbox, and not yet resolved their futures.
                self._changed.wait_for(lambda: self._finished >= self._outbox.left, timeout_seconds)

    def begin_anew(self) -> None:
        """In a forked child, before anything else: begin empty. What waited is the parent's, as is the thread.

        The connections of a client that was given would be shared with the parent, so they are closed here.
        """
        if (close := getattr(self._boto_client, "close", None)) is not None:
            close()
        self._start_empty()

    def __enter__(self) -> Producer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _close(self) -> None:
        self._closed = True
        self._cost_bytes_max = -1
        self._work.notify()
        self._changed.notify_all()

    def _open(self, partition_key: str) -> KeyQueue:
        if not 1 <= len(partition_key) <= _KEY_CHARACTERS_MAX:
            raise _wrong_key(partition_key)
        # `put` wakes only a sender that is idle, and only for a key that it does not know to be waiting.
        if self._sender_idle:
            self._sender_idle = False
            self._work.notify()
        return self._outbox.open(partition_key)

    def _admit(self, cost_bytes: int) -> None:
        """Let events of this cost in: start the thread, wait for room. Raises what ``put`` raises."""
        if not self._closed and self._outbox.cost_bytes + cost_bytes > self._settings.buffer_bytes_max:
            self._wait_for_room(cost_bytes)
        if self._closed:
            raise ProducerClosed("the producer is closed: create a new one")
        if self._thread is None:
            # A daemon: the interpreter would join any other thread before it runs `atexit`, and wait for ever.
            name = f"streamproc-producer-{self.stream}"
            self._thread = threading.Thread(target=self._run, name=name, daemon=True)
            self._thread.start()
            self._cost_bytes_max = self._settings.buffer_bytes_max - EVENT_COST_BYTES
            endings.watch(self)

    def _wait_for_room(self, cost_bytes: int) -> None:
        # A future's callback runs in the sender's thread: waiting there, it would wait for itself.
        in_callback = threading.current_thread() is self._thread
        seconds = 0.0 if in_callback else self._settings.full_wait_seconds_max
        room_bytes = self._settings.buffer_bytes_max - cost_bytes
        started = time.monotonic()
        found = self._changed.wait_for(lambda: self._closed or self._outbox.cost_bytes <= room_bytes, seconds)
        self._puts_delayed += 1
        self._delay_seconds += time.monotonic() - started
        if not found:
            self._puts_refused += 1
            raise QueueFull(
                f"{self._outbox.events} events wait for {self.stream}, and buffer_bytes_max is"
                f" {self._settings.buffer_bytes_max}: Kinesis takes them more slowly than they are put"
            )

    def _run(self) -> None:
        try:
            pause = Pause(0.0)
            while self._wait_for_work(pause):
                pause = self._sender.step()
                if self._puts_delayed:
                    self._report_delays()
        finally:
            # Also where the thread ends by an error: no future is left without an end.
            with self._lock:
                self._close()
            self._sender.abandon()

    def _wait_for_work(self, pause: Pause) -> bool:
        """Wait until the sender has something to do. False when it never will."""
        with self._lock:
            if pause.for_all:
                self._work.wait_for(lambda: self._sender.abandoned, pause.seconds)
            elif pause.seconds != 0.0 and (seconds := self._outbox.ready_in(self._now())) != 0.0:
                # Asked again: something may have been put since the step ended.
                self._sender_idle = True
                self._work.wait_for(lambda: not self._sender_idle or self._over(), seconds)
                self._sender_idle = False
            if self._settings.linger_seconds:
                self._sender_lingers = True
                age = self._now() - self._outbox.waits_since(self._now())
                self._work.wait_for(self._is_urgent, max(0.0, self._settings.linger_seconds - age))
                self._sender_lingers = False
            return not self._over()

    def _over(self) -> bool:
        # By keys: an exception that a signal's handler raised in the middle of a put may have kept it from counting.
        return self._sender.abandoned or (self._closed and not len(self._outbox))

    def _is_urgent(self) -> bool:
        return self._closed or self._flushes > 0 or self._outbox.request_is_full

    def _refuse_in_callback(self, what: str) -> None:
        if threading.current_thread() is self._thread:
            raise SettingsError(f"{what} in a future's callback would wait for itself: call it from another thread")

    def _finish(self, done: Sequence[Done]) -> None:
        if not done:
            return
        resolve(done)
        if self._on_error is not None:
            for each in done:
                if isinstance(each, Failed):
                    self._tell(self._on_error, each.error)
        with self._lock:
            self._finished += sum(1 if isinstance(each, Failed) else len(each.events) for each in done)
            self._changed.notify_all()

    def _tell(self, on_error: Callable[[PutFailed], None], error: PutFailed) -> None:
        try:
            on_error(error)
        except Exception:  # as with a future's callbacks: it must not cost other events
            _logger.exception("on_error raised for an event of %s", self.stream)

    def _report_delays(self) -> None:
        with self._lock:
            event = PutsDelayed(
                stream=self.stream,
                puts_delayed=self._puts_delayed,
                puts_refused=self._puts_refused,
                delay_seconds=self._delay_seconds,
                buffered_bytes=self._outbox.cost_bytes,
            )
            self._puts_delayed = self._puts_refused = 0
            self._delay_seconds = 0.0
        self._telemetry.emit(event)

    def _client(self) -> Any:
        """The client, built at the first call: what is wrong with its configuration then reaches the futures."""
        if self._boto_client is not None:
            return self._boto_client
        from streamproc.aws import aws_client  # boto3 takes a while, which the import of the SDK is spared

        with endings.making_client:
            return aws_client("kinesis")  # the one of this process and environment


def _checked_data(data: bytes, partition_key: str) -> bytes:
    if not isinstance(data, bytes | bytearray | memoryview):
        raise SettingsError(f"the event's data is a {type(data).__name__}: encode it, Kinesis takes bytes")
    data = bytes(data)
    record_bytes = len(data) + len(partition_key.encode())
    if record_bytes > RECORD_BYTES_MAX:
        raise RecordTooLarge(
            f"the event has {record_bytes} bytes with its partition key, and Kinesis takes {RECORD_BYTES_MAX}: put the"
            " large part elsewhere, and its address into the event"
        )
    return data


def _wrong_key(partition_key: str) -> SettingsError:
    return SettingsError(f"the partition key has {len(partition_key)} characters: Kinesis takes 1 to 256")


def _all_done(waiting: list[Waiting]) -> bool:
    """Whether all of these are done; takes those out that are."""
    while waiting and waiting[-1].done():
        waiting.pop()
    return not waiting
