"""An event that was put and is not yet done: its data, and its future, in one small object."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from concurrent.futures._base import FINISHED, RUNNING
from typing import Any, NamedTuple

import msgspec

from streamproc.errors import PutFailed

#: What an event costs beside its data: this object, its places in queues, the head of its data, and what packing adds
#: while it is sent (measured: 0.15 KB on CPython 3.11, before it is sent).
EVENT_COST_BYTES = 256
_logger = logging.getLogger("streamproc.producer")


class Acknowledged(NamedTuple):
    """Kinesis stored the event, on several machines, at this place."""

    shard_id: str
    sequence_number: str
    #: The index inside a KPL aggregate, 0 for a record of its own.
    sub_sequence_number: int = 0


class Stored(NamedTuple):
    """Events that one Kinesis record holds, in this order, and where it is."""

    events: Sequence[Waiting]
    shard_id: str
    sequence_number: str


class Failed(NamedTuple):
    """An event that Kinesis did not take, and what its future gets."""

    event: Waiting
    error: PutFailed


Done = Stored | Failed

#: Held while the futures of a batch become done, and while a future gets its watch: never for longer.
_resolving = threading.Lock()


class _Watch:
    """What a future needs once somebody waits for it by itself."""

    __slots__ = ("callbacks", "condition", "waiters")

    def __init__(self) -> None:
        self.condition = threading.Condition()
        self.waiters: list[Any] = []
        self.callbacks: list[Callable[[Any], object]] = []


class Waiting(msgspec.Struct, gc=False, eq=False):
    """An event, and the future of its place in the stream: a ``concurrent.futures.Future`` in all but its layout.

    A Future makes a condition, a lock and two lists, and is one more object for the garbage collector to walk through,
    with all others, again and again: 1.2 KB, and more time than all else that is done for an event. Most futures are
    never waited for by themselves. So this one makes those parts when somebody does, and is done by one assignment
    otherwise, under a lock that is taken once a batch; and the collector does not know it. Hence no subclass: it tells
    ``isinstance`` that it is a Future, as mocks do, which is what asyncio asks. ``wait`` and ``as_completed`` use the
    private names below.

    A future cannot be cancelled: from the start its event belongs to the stream, and may be on its way.
    """

    data: bytes
    #: What the caller put, for the error of a failure; None for the data itself.
    event: object
    #: On the monotonic clock, seconds.
    put_at: float
    _state: str = RUNNING
    #: What holds the event, or the failure; set before the state says that it is. And the event's index there.
    _outcome: Stored | PutFailed | None = None
    _index: int = 0
    _watch: _Watch | None = None

    __class__ = property(lambda _: Future)

    @property
    def _watched(self) -> _Watch:
        if self._watch is None:
            with _resolving:
                if self._watch is None:
                    self._watch = _Watch()
        return self._watch

    @property
    def _condition(self) -> threading.Condition:
        return self._watched.condition

    @property
    def _waiters(self) -> list[Any]:
        return self._watched.waiters

    def cancel(self) -> bool:
        """False: it is too late."""
        return False

    def cancelled(self) -> bool:
        """False."""
        return False

    def running(self) -> bool:
        """Whether the event is still waiting or on its way."""
        return self._state == RUNNING

    def done(self) -> bool:
        """Whether the event was stored or has failed."""
        return self._state == FINISHED

    def result(self, timeout: float | None = None) -> Acknowledged:
        """The event's place in the stream. Raises its PutFailed, or TimeoutError."""
        if (failure := self.exception(timeout)) is not None:
            try:
                raise failure
            finally:
                # The traceback would hold this frame, and the frame the failure: a cycle.
                del failure
        return Acknowledged(self._outcome.shard_id, self._outcome.sequence_number, self._index)  # type: ignore[union-attr]

    def exception(self, timeout: float | None = None) -> PutFailed | None:
        """The event's PutFailed, None where it was stored. Raises TimeoutError."""
        if self._state != FINISHED:
            deadline = None if timeout is None else time.monotonic() + timeout
            with self._condition:
                while self._state != FINISHED:
                    if not self._condition.wait(None if deadline is None else max(0.0, deadline - time.monotonic())):
                        raise TimeoutError
        return self._outcome if isinstance(self._outcome, PutFailed) else None

    def add_done_callback(self, fn: Callable[[Any], object]) -> None:
        """Call this with the future when it is done, in the sender's thread; at once where it is."""
        watch = self._watched
        with watch.condition:
            if self._state != FINISHED:
                watch.callbacks.append(fn)
                return
        self._call(fn)

    def __repr__(self) -> str:
        return f"<Waiting {self._outcome if self.done() else 'not done'}>"

    def _wake(self) -> None:
        """Become done, and tell those who watch."""
        watch = self._watched
        with watch.condition:
            self._state = FINISHED
            for waiter in watch.waiters:
                if isinstance(self._outcome, PutFailed):
                    waiter.add_exception(self)
                else:
                    waiter.add_result(self)
            watch.condition.notify_all()
            # The collector could not break the cycle of a callback that knows the future.
            callbacks, watch.callbacks = watch.callbacks, []
        for callback in callbacks:
            self._call(callback)

    def _call(self, callback: Callable[[Any], object]) -> None:
        try:
            callback(self)
        except Exception:
            _logger.exception("a callback failed for %r", self)


def resolve(done: Iterable[Done]) -> None:
    """Give the events their outcomes, and run their callbacks."""
    watched: list[Waiting] = []
    with _resolving:
        for each in done:
            if isinstance(each, Failed):
                each.event._outcome = each.error
                if each.event._watch is None:
                    each.event._state = FINISHED
                else:
                    watched.append(each.event)
                continue
            place = Stored((), each.shard_id, each.sequence_number)
            for index, event in enumerate(each.events):
                event._outcome = place
                event._index = index
                # A program that keeps its futures need not keep what it sent.
                event.data = b""
                event.event = None
                if event._watch is None:
                    event._state = FINISHED
                else:
                    watched.append(event)
    for event in watched:
        event._wake()


def begin_anew() -> None:
    """In a forked child: the thread that held the lock is not there."""
    global _resolving
    _resolving = threading.Lock()
