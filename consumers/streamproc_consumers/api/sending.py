"""Events on their way to Kinesis, for an event loop: sent with the SDK's producer, and done when Kinesis has them."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from concurrent.futures import Future
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any, Protocol

import msgspec

from streamproc.errors import DecodeError, PutFailed, StreamprocError
from streamproc.producer import Acknowledged, ProducerSettings
from streamproc.settings import WorkerSettings
from streamproc.telemetry import Telemetry
from streamproc_consumers.api.answers import EventIn
from streamproc_producers.cart import CartProducer
from streamproc_producers.events import CartEvent, EventType, new_event_id

#: Makes event ids of idempotency keys. Fixed for good: another one would let a repeated request count twice.
_EVENT_IDS = uuid.UUID("0b0d8b6c-6d0c-5a52-9d58-1d2c1f0f0a53")
_AHEAD = timedelta(seconds=WorkerSettings().ahead_seconds_max)


class Sends(Protocol):
    """What of :class:`CartProducer` is used."""

    def put(self, event: CartEvent) -> Future[Acknowledged]:
        """Queue an event."""
        ...

    def close(self, timeout_seconds: float = ...) -> None:
        """Send what waits and stop."""
        ...


class NotSent(StreamprocError):
    """Kinesis did not acknowledge an event in time. It may have stored it: send it again under the same id."""


class Sending:
    """Sends events. For one event loop."""

    def __init__(self, producer: Sends, acknowledge_seconds: float) -> None:
        self._producer = producer
        self._seconds = acknowledge_seconds

    @classmethod
    def to(cls, stream: str, acknowledge_seconds: float, telemetry: Telemetry) -> Sending:
        """To a stream. Where the producer's memory is full, an event is refused at once: nobody may block the loop."""
        settings = ProducerSettings(record_ttl_seconds=acknowledge_seconds, full_wait_seconds_max=0.0)
        return cls(CartProducer(stream, settings=settings, telemetry=telemetry), acknowledge_seconds)

    async def send(self, events: Sequence[CartEvent]) -> list[Acknowledged | Exception]:
        """Where Kinesis stored each; or NotSent, or DecodeError for what consumers would refuse."""
        outcomes: list[Acknowledged | Exception | Future[Acknowledged]] = []
        for event in events:
            try:
                outcomes.append(self._producer.put(event))
            except DecodeError as error:
                outcomes.append(error)
            except StreamprocError as error:  # its memory is full, or it was closed
                outcomes.append(NotSent(str(error)))
        waiting = [outcome for outcome in outcomes if isinstance(outcome, Future)]
        if waiting:
            await _all_done(waiting, self._seconds)
        return [_outcome(each) if isinstance(each, Future) else each for each in outcomes]

    async def close(self) -> None:
        """Send what waits."""
        await asyncio.to_thread(self._producer.close, self._seconds)


async def _all_done(futures: Sequence[Future[Acknowledged]], seconds: float) -> None:
    """Wait until all are done, or for so long. One wake-up of the loop, however many there are."""
    loop = asyncio.get_running_loop()
    done = asyncio.Event()
    ended = count(1)  # its next() is one step of the interpreter: the sender's thread counts, and this one

    def note(_: Any) -> None:
        if next(ended) == len(futures):
            loop.call_soon_threadsafe(done.set)

    for future in futures:
        future.add_done_callback(note)
    try:
        async with asyncio.timeout(seconds):
            await done.wait()
    except TimeoutError:
        return


def _outcome(future: Future[Acknowledged]) -> Acknowledged | Exception:
    if not future.done():
        return NotSent("Kinesis did not acknowledge it in time")
    error = future.exception()
    if error is None:
        return future.result()
    if isinstance(error, PutFailed):
        return NotSent(f"Kinesis did not take it: {error.code}")
    return NotSent(str(error))


def event_of(given: EventIn, *, caller: str, idempotency_key: str | None, index: int = 0) -> CartEvent:
    """The event as it goes into the stream. Raises DecodeError with the field where a consumer would refuse it.

    Without an id of its own it gets one from the caller, the idempotency key and its index, so that a request that is
    sent twice is one event to the consumers, whether or not anybody remembers the first.
    """
    now = datetime.now(UTC)
    ts = given.ts or now
    if ts > now + _AHEAD:
        raise DecodeError("`ts` is more than a day ahead: the recommender refuses such events", "ts")
    event_id = given.event_id
    if event_id is None:
        event_id = (
            uuid.uuid5(_EVENT_IDS, f"{caller}\x00{idempotency_key}\x00{index}") if idempotency_key else new_event_id()
        )
    fields = msgspec.structs.asdict(given)
    fields |= {"event_type": EventType(given.event_type), "ts": ts, "event_id": event_id}
    return CartEvent(**fields)
