"""The SDK that apps import: the cart-event contract and the producer that sends it."""

from __future__ import annotations

from streamproc.producer import Acknowledged, ProducerSettings
from streamproc_producers.cart import CartProducer
from streamproc_producers.events import CartEvent, EventType, decode, encode, new_event_id

__all__ = [
    "Acknowledged",
    "CartEvent",
    "CartProducer",
    "EventType",
    "ProducerSettings",
    "decode",
    "encode",
    "new_event_id",
]
