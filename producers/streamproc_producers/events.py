"""The contract: what a shopping-cart event is. One definition for producer, consumer, API and training.

On the wire an event is a JSON object::

    {"event_id": "0190c0de-...", "event_type": "add_to_cart", "user_id": "u1", "item_id": "85123A",
     "ts": "2011-11-01T08:26:00Z", "order_id": "536365", "quantity": 6, "price": 2.55}

Unknown fields are ignored, so that an older consumer can read a newer producer. A missing or wrong field is a
:class:`streamproc.errors.DecodeError` that names it.
"""

from __future__ import annotations

import enum
import os
import re
import time
import uuid
from datetime import UTC, datetime
from typing import Annotated

import msgspec

from streamproc.errors import DecodeError


class EventType(enum.StrEnum):
    """What a shopper did."""

    VIEW = "view"
    ADD_TO_CART = "add_to_cart"
    REMOVE_FROM_CART = "remove_from_cart"
    PURCHASE = "purchase"


#: Kinesis takes partition keys of 1 to 256 characters, and the user is the partition key.
UserId = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
ItemId = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]


class CartEvent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One action of one shopper on one item. Its partition key is ``user_id``."""

    #: Made once by the producer; it survives retries, so that a duplicate can be told from a second action.
    event_id: uuid.UUID
    event_type: EventType
    user_id: UserId
    item_id: ItemId
    #: Event time, RFC 3339 with an offset. Features know no other clock.
    ts: Annotated[datetime, msgspec.Meta(tz=True)]
    session_id: str | None = None
    order_id: str | None = None
    #: Bounded, as the price is, so that no event overflows a feature.
    quantity: Annotated[int, msgspec.Meta(ge=1, le=1_000_000_000)] | None = None
    #: Unit price in the shop's currency.
    price: Annotated[float, msgspec.Meta(ge=0, le=1e12)] | None = None

    @property
    def at(self) -> float:
        """Event time in seconds since the epoch."""
        return self.ts.timestamp()


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(CartEvent)
#: msgspec puts the path of a wrong field last ("... - at `$.user_id`") and names a missing one in the sentence.
_WRONG_FIELD = re.compile(r" - at `\$\.(?P<path>[^`]+)`$")
_MISSING_FIELD = re.compile(r"missing required field `(?P<name>[^`]+)`")


def encode(event: CartEvent) -> bytes:
    """The event as one line of JSON, UTF-8."""
    return _encoder.encode(event)


def decode(data: bytes) -> CartEvent:
    """Read an event. Raises DecodeError with the field's name where one is missing or wrong."""
    try:
        if not data.isascii():
            data.decode()  # msgspec checks the text of the fields that it knows, and the archive keeps the others too
        return _decoder.decode(data)
    except msgspec.ValidationError as error:
        text = str(error)
        wrong, missing = _WRONG_FIELD.search(text), _MISSING_FIELD.search(text)
        field = wrong["path"] if wrong else missing["name"] if missing else None
        raise DecodeError(text, field) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        reason = "the record is empty" if not data else f"not JSON: {error}"
        raise DecodeError(reason) from error


def new_event_id() -> uuid.UUID:
    """A UUID of version 7 (RFC 9562): milliseconds since the epoch, then 74 random bits.

    Its order is that of creation, to the millisecond; the standard library makes them only from Python 3.14 on.
    """
    milliseconds = time.time_ns() // 1_000_000
    random = int.from_bytes(os.urandom(10))
    rand_a, rand_b = random >> 68, random & ((1 << 62) - 1)
    return uuid.UUID(
        int=(milliseconds & ((1 << 48) - 1)) << 80 | 0x7 << 76 | (rand_a & 0xFFF) << 64 | 0b10 << 62 | rand_b
    )


def utc(seconds: float) -> datetime:
    """The time so many seconds after the epoch, in UTC."""
    return datetime.fromtimestamp(seconds, UTC)
