"""Every declared column of a user and of an item in the history, computed from the whole log by its declaration alone.

The fold is written by hand because it runs for every event; what it must come to is said here in the plainest way, and
kind, window and half-life are read from the declaration.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import numpy as np
from hypothesis import given, settings, strategies as st

from streamproc_models.features import fold, new_state
from streamproc_models.features.columns import gather, history_features
from streamproc_models.features.fold import FIVE_MINUTES, INTEREST
from streamproc_models.features.schema import FEATURES, MISSING, Feature, Kind, Scope, columns
from streamproc_models.features.state import KINDS
from streamproc_producers.events import CartEvent, EventType

START = datetime(2011, 11, 1, 12, 0, 30, tzinfo=UTC)
HOUR, DAY = 3_600, 86_400
VIEW, ADD, REMOVE, BUY = EventType.VIEW, EventType.ADD_TO_CART, EventType.REMOVE_FROM_CART, EventType.PURCHASE
#: The kind of event that the words of a declaration mean.
COUNTED = {"views": VIEW, "additions to the cart": ADD, "purchase lines": BUY, "removals from the cart": REMOVE}

Log = list[CartEvent]


@st.composite
def logs(draw: st.DrawFn) -> Log:
    """A shopper's events in the order of their times; every order has an id of its own."""
    at, order, log = 0, 0, []
    for number in range(draw(st.integers(1, 60))):
        gap = draw(st.sampled_from([0, 1, 20, 400, 2_000, 5 * HOUR, DAY, 9 * DAY]))
        order += gap > 400
        at += gap
        kind = draw(st.sampled_from([VIEW, ADD, ADD, REMOVE, BUY, BUY]))
        log.append(
            CartEvent(
                event_id=uuid.UUID(int=number),
                event_type=kind,
                user_id="u",
                item_id=draw(st.sampled_from("abcdefg")),
                ts=START + timedelta(seconds=at),
                order_id=f"o{order}" if kind is BUY else None,
                quantity=draw(st.none() | st.integers(1, 5)),
                price=draw(st.none() | st.integers(1, 400).map(lambda pennies: pennies / 4)),
            )
        )
    return log


def of_kind(log: Log, kind: EventType) -> Log:
    return [one for one in log if one.event_type is kind]


def orders_of(log: Log) -> list[str]:
    """The ids of the orders, in their order."""
    return list(dict.fromkeys(one.order_id for one in log if one.order_id is not None))


def in_window(log: Log, feature: Feature) -> int:
    """Sawtooth: exact at its head, rounded up to a whole tile at its tail."""
    assert feature.seconds is not None
    tile = FIVE_MINUTES if feature.seconds <= HOUR else HOUR if feature.seconds <= DAY else DAY
    start = (log[-1].at // tile - feature.seconds // tile) * tile
    return sum(one.at >= start for one in of_kind(log, COUNTED[feature.description]))


def decayed(log: Log, feature: Feature) -> float:
    assert feature.seconds is not None
    now = log[-1].at
    return sum(2 ** ((one.at - now) / feature.seconds) for one in of_kind(log, COUNTED[feature.description]))


def cart_of(log: Log) -> dict[str, int]:
    cart: dict[str, int] = {}
    for one in log:
        if one.event_type is ADD:
            cart[one.item_id] = cart.get(one.item_id, 0) + (one.quantity or 1)
        elif one.event_type is BUY or (one.event_type is REMOVE and one.quantity is None):
            cart.pop(one.item_id, None)
        elif one.event_type is REMOVE:
            cart[one.item_id] = max(cart.get(one.item_id, 0) - (one.quantity or 0), 0)
    return {item: quantity for item, quantity in cart.items() if quantity}


def order_gap_days(log: Log) -> float:
    orders = orders_of(log)
    if len(orders) < 2:
        return MISSING
    # An order is as old as its first line, until the last order's last line.
    begins = [min(one.at for one in log if one.order_id == order) for order in orders]
    ends = max(one.at for one in log if one.order_id == orders[-1])
    return (ends - begins[0]) / (len(orders) - 1) / DAY


OF_USER: dict[str, Callable[[Log], float]] = {
    "user_orders": lambda log: len(orders_of(log)),
    "user_lines_per_order": lambda log: len(of_kind(log, BUY)) / len(orders_of(log)) if orders_of(log) else MISSING,
    "user_order_gap_days": order_gap_days,
    "user_items": lambda log: len({one.item_id for one in log}),
    "user_cart_items": lambda log: len(cart_of(log)),
}


def numbers_with(log: Log, item: str) -> list[int]:
    """The numbers, from 1, of the orders with the item."""
    orders = orders_of(log)
    return [orders.index(each) + 1 for each in orders_of([one for one in log if one.item_id == item])]


def streak(log: Log, item: str) -> float:
    numbers = numbers_with(log, item)
    run = 0
    while numbers and numbers[-1] - run in numbers:
        run += 1
    return run


def mean_gap(log: Log, item: str) -> float:
    numbers = numbers_with(log, item)
    return (numbers[-1] - numbers[0]) / (len(numbers) - 1) if len(numbers) > 1 else MISSING


def orders_since(log: Log, item: str) -> float:
    numbers = numbers_with(log, item)
    return len(orders_of(log)) - numbers[-1] if numbers else MISSING


def order_share(log: Log, item: str) -> float:
    numbers = numbers_with(log, item)
    return len(numbers) / (len(orders_of(log)) - numbers[0] + 1) if numbers else 0


def due(log: Log, item: str) -> float:
    gap = mean_gap(log, item)
    return orders_since(log, item) / gap if gap > 0 else MISSING


def interest(log: Log, item: str) -> float:
    half_life = next(feature.seconds for feature in FEATURES if feature.name == "own_interest")
    assert half_life is not None
    weight = dict(zip(KINDS, INTEREST, strict=True))
    now = log[-1].at
    events = [one for one in log if one.item_id == item]
    return sum(weight[one.event_type] * 2 ** ((int(one.at) - now) / half_life) for one in events)


def age_days(log: Log, events: Log) -> float:
    return (log[-1].at - events[-1].at) / DAY if events else MISSING


OF_HISTORY: dict[str, Callable[[Log, str], float]] = {
    "own_orders": lambda log, item: len(numbers_with(log, item)),
    "own_order_share": order_share,
    "own_order_decay": lambda log, item: sum(0.8 ** (len(orders_of(log)) - n) for n in numbers_with(log, item)),
    "own_streak": streak,
    "own_gap_orders": mean_gap,
    "own_due": due,
    "own_interest": interest,
    "own_orders_since": orders_since,
    "own_purchase_age_days": lambda log, item: age_days(log, [o for o in of_kind(log, BUY) if o.item_id == item]),
    "own_event_age_days": lambda log, item: age_days(log, [one for one in log if one.item_id == item]),
    "own_place": lambda log, item: len({o.item_id for o in log[last_of(log, item) + 1 :]} - {item}),
    "own_in_cart": lambda log, item: cart_of(log).get(item, 0),
}


def last_of(log: Log, item: str) -> int:
    return max(index for index, one in enumerate(log) if one.item_id == item)


def declared(feature: Feature, log: Log, item: str | None) -> float:
    if item is None:
        if feature.kind is Kind.WINDOW:
            return in_window(log, feature)
        if feature.kind is Kind.DECAYED:
            return decayed(log, feature)
        return OF_USER[feature.name](log)
    if feature.name in OF_HISTORY:
        return OF_HISTORY[feature.name](log, item)
    return sum(one.item_id == item for one in of_kind(log, COUNTED[feature.description]))


@settings(max_examples=60, deadline=None)
@given(logs())
def test_every_column_of_user_and_history_is_what_its_declaration_says_of_the_log(log: Log) -> None:
    state = new_state()
    for one in log:
        state = fold(state, one)
    found = gather([state], {item: code for code, item in enumerate("abcdefg")})
    of_user = [feature for feature in FEATURES if feature.scope is Scope.USER]
    assert len(of_user) == found.user_features.shape[1]
    for feature, value in zip(of_user, found.user_features[0].tolist(), strict=True):
        assert np.isclose(value, declared(feature, log, None), rtol=1e-5, atol=1e-6), feature.name
    rows = history_features(found)[:-1].tolist()
    assert state.item_ids == sorted({one.item_id for one in log}, key=lambda item: last_of(log, item))
    for item, row in zip(state.item_ids, rows, strict=True):
        for feature, value in zip(FEATURES[columns(Scope.HISTORY)], row, strict=True):
            assert np.isclose(value, declared(feature, log, item), rtol=1e-5, atol=1e-5), (item, feature.name)
