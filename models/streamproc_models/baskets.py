"""Replays a log through the live fold, and notes each basket with the state before it: point in time, no leak.

A *basket* is what a list is judged by. In a log with purchases it is one order: it begins with the user's first
addition to the cart (or purchase) after the last purchase of the order before, and the state before that event is what
a recommendation could have known. In a log without purchases (of views, say) each event is a basket of one item.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import msgspec

from streamproc_models.features import UserState, encode_state, fold, new_state
from streamproc_producers.events import CartEvent, EventType


class Basket(msgspec.Struct, gc=False):
    """One order of one user, or one event."""

    user_id: str
    #: Event time of its first purchase, seconds since the epoch.
    at: float
    #: The encoded state before its first event; None where that is the user's first event of all.
    state: bytes | None
    #: The items bought, each with its unit price (NaN where none was told).
    prices: dict[str, float]


def has_purchases(events: Iterable[CartEvent]) -> bool:
    """Whether a basket of this log is an order; else it is an event."""
    return any(event.event_type is EventType.PURCHASE for event in events)


def replay(events: Iterable[CartEvent], *, states_from: float = -math.inf, orders: bool = True) -> list[Basket]:
    """The baskets of these events, in the order of their first purchases.

    ``events`` must be in the order of the log. States start empty, so the first events decide what they can know.
    Baskets before ``states_from`` come without a state, which saves most of the memory. Without ``orders`` each event
    but a removal is a basket.
    """
    states: dict[str, UserState] = {}
    #: The state before the first addition since the last purchase.
    begun: dict[str, bytes | None] = {}
    latest: dict[str, Basket] = {}
    baskets: list[Basket] = []
    for event in events:
        user_id, event_type = event.user_id, event.event_type
        purchase = event_type is EventType.PURCHASE
        state = states.get(user_id)
        at = event.at
        if orders:
            begins = (purchase or event_type is EventType.ADD_TO_CART) and user_id not in begun
        else:
            begins = event_type is not EventType.REMOVE_FROM_CART
        if begins:
            begun[user_id] = None if state is None or at < states_from else encode_state(state)
        if state is None:
            state = states[user_id] = new_state()
        before_orders = state.orders
        fold(state, event)
        price = math.nan if event.price is None else event.price
        if not orders:
            if begins:
                baskets.append(Basket(user_id, at, begun[user_id], {event.item_id: price}))
        elif purchase:
            before = begun.pop(user_id)
            if state.orders > before_orders:
                latest[user_id] = Basket(user_id, at, before, {})
                baskets.append(latest[user_id])
            latest[user_id].prices[event.item_id] = price
    return baskets
