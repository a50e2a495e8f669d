"""The producer that apps use: one method an action, checked before it is queued."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from datetime import UTC, datetime
from types import TracebackType
from typing import Any
from uuid import UUID

from streamproc.errors import DecodeError, PutFailed
from streamproc.producer import Acknowledged, Producer, ProducerSettings
from streamproc.telemetry import Telemetry
from streamproc_producers.events import CartEvent, EventType, decode, encode, new_event_id


class CartProducer:
    """Sends cart events to a Kinesis stream, each user's in order. Thread-safe, as :class:`Producer` is.

    ::

        with CartProducer("cart-events") as producer:
            producer.add_to_cart(user_id="u1", item_id="85123A", quantity=2, price=2.55)

    Every method queues its event and returns at once with a future: of the event's place in the stream, or of
    PutFailed, which holds the event. Who keeps no futures passes ``on_error``, which gets every PutFailed, in the
    sender's thread.

    An event is checked by the decoder that consumers use, so none is queued that they would refuse. What is wrong is a
    DecodeError with the field's name. ``ts`` is now and ``event_id`` a new one where they are not given. Further
    errors: QueueFull and ProducerClosed.
    """

    def __init__(
        self,
        stream: str,
        *,
        client: Any = None,
        settings: ProducerSettings | None = None,
        on_error: Callable[[PutFailed], None] | None = None,
        telemetry: Telemetry | None = None,
    ) -> None:
        self._producer = Producer(stream, client=client, settings=settings, on_error=on_error, telemetry=telemetry)

    def view(
        self,
        *,
        user_id: str,
        item_id: str,
        price: float | None = None,
        session_id: str | None = None,
        ts: datetime | None = None,
        event_id: UUID | None = None,
    ) -> Future[Acknowledged]:
        """A shopper looked at an item."""
        return self._put_new(
            EventType.VIEW, ts, event_id, user_id=user_id, item_id=item_id, price=price, session_id=session_id
        )

    def add_to_cart(
        self,
        *,
        user_id: str,
        item_id: str,
        quantity: int | None = None,
        price: float | None = None,
        session_id: str | None = None,
        ts: datetime | None = None,
        event_id: UUID | None = None,
    ) -> Future[Acknowledged]:
        """A shopper put an item into the cart. ``price`` is that of one unit."""
        return self._put_new(
            EventType.ADD_TO_CART,
            ts,
            event_id,
            user_id=user_id,
            item_id=item_id,
            quantity=quantity,
            price=price,
            session_id=session_id,
        )

    def remove_from_cart(
        self,
        *,
        user_id: str,
        item_id: str,
        quantity: int | None = None,
        price: float | None = None,
        session_id: str | None = None,
        ts: datetime | None = None,
        event_id: UUID | None = None,
    ) -> Future[Acknowledged]:
        """A shopper took an item out of the cart."""
        return self._put_new(
            EventType.REMOVE_FROM_CART,
            ts,
            event_id,
            user_id=user_id,
            item_id=item_id,
            quantity=quantity,
            price=price,
            session_id=session_id,
        )

    def purchase(
        self,
        *,
        user_id: str,
        item_id: str,
        order_id: str,
        quantity: int | None = None,
        price: float | None = None,
        session_id: str | None = None,
        ts: datetime | None = None,
        event_id: UUID | None = None,
    ) -> Future[Acknowledged]:
        """A shopper bought an item: one event a line of the order, all with its ``order_id``."""
        return self._put_new(
            EventType.PURCHASE,
            ts,
            event_id,
            user_id=user_id,
            item_id=item_id,
            order_id=order_id,
            quantity=quantity,
            price=price,
            session_id=session_id,
        )

    def put(self, event: CartEvent) -> Future[Acknowledged]:
        """Queue an event that was made elsewhere."""
        data, checked = checked_bytes(event)
        return self._producer.put(data, checked.user_id, checked)

    def put_many(self, events: Iterable[CartEvent]) -> list[Future[Acknowledged]]:
        """Queue events in this order. On an error those before it stay queued."""
        return [self.put(event) for event in events]

    def flush(self, timeout_seconds: float | None = None) -> bool:
        """Wait until what was put before is done. False when the time ran out first."""
        return self._producer.flush(timeout_seconds)

    def close(self, timeout_seconds: float = 30.0) -> None:
        """Send what waits and stop. Afterwards every future is done."""
        self._producer.close(timeout_seconds)

    def __enter__(self) -> CartProducer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _put_new(
        self, event_type: EventType, ts: datetime | None, event_id: UUID | None, **fields: Any
    ) -> Future[Acknowledged]:
        return self.put(
            CartEvent(event_id=event_id or new_event_id(), event_type=event_type, ts=ts or datetime.now(UTC), **fields)
        )


def checked_bytes(event: CartEvent) -> tuple[bytes, CartEvent]:
    """The event's bytes, and the event as a consumer reads them. Raises DecodeError with the field's name.

    msgspec checks types when it decodes, not when an event is made in Python.
    """
    try:
        data = encode(event)
    except (TypeError, ValueError, OverflowError) as error:
        raise DecodeError(f"`{(field := _unencodable(event))}` cannot be written as JSON: {error}", field) from error
    if isinstance(event.price, float) and not math.isfinite(event.price):
        # JSON has no such numbers: it would be written as null, and silently be a missing price.
        raise DecodeError(f"`price` is {event.price}: a finite number is expected", "price")
    return data, decode(data)


def _unencodable(event: CartEvent) -> str | None:
    for field in event.__struct_fields__:
        try:
            encode(getattr(event, field))
        except (TypeError, ValueError, OverflowError):
            return field
    return None
