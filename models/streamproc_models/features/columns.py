"""From the states of many users to columns: a few joins and casts, with no Python per record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain, repeat
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamproc_models.catalogue import UNKNOWN
from streamproc_models.features.fold import DAY, FIVE_MINUTES, HOUR, INTEREST_HALF_LIFE
from streamproc_models.features.schema import FEATURES, MISSING, Scope, columns
from streamproc_models.features.state import (
    ADD,
    DECAYED_DTYPE,
    HALF_LIVES,
    ITEM_DTYPE,
    ORDER_DECAY,
    PURCHASE,
    TILE_DTYPE,
    VIEW,
    UserState,
)

_USER_COLUMNS = columns(Scope.USER).stop - columns(Scope.USER).start
_MISSING_WITHOUT_HISTORY = {
    "own_gap_orders",
    "own_due",
    "own_orders_since",
    "own_purchase_age_days",
    "own_event_age_days",
    "own_place",
}
_HISTORY = [feature.name for feature in FEATURES if feature.scope is Scope.HISTORY]
#: What an item without history has in these columns.
_NEVER = [MISSING if name in _MISSING_WITHOUT_HISTORY else 0 for name in _HISTORY]
_ORDER_DECAYS = ORDER_DECAY ** np.arange(100)
_HISTORY_COLUMNS = columns(Scope.HISTORY).stop - columns(Scope.HISTORY).start


class Columns(NamedTuple):
    """The states of a batch of users, by column. Nothing in a user's columns depends on the other users."""

    #: float64 [users]: event time of each user's last event.
    now: NDArray[np.float64]
    #: float32 [users, features of scope USER].
    user_features: NDArray[np.float32]
    #: float64 [users]: mean unit price of the purchase lines, MISSING without one.
    user_price: NDArray[np.float64]
    #: Item records of all histories, one user after the other, the last touched item of each last.
    records: NDArray[np.void]
    #: int64 [users + 1]: where each user's records start.
    record_offsets: NDArray[np.int64]
    #: int64 [records]: the user and the item code of each.
    record_users: NDArray[np.int64]
    record_codes: NDArray[np.int64]
    #: int64 [records]: how many items were touched since; 0 for the last touched item.
    place: NDArray[np.int64]
    #: float32 [records]: the interest as of now.
    interest: NDArray[np.float32]
    #: float64 [users]: orders so far.
    orders: NDArray[np.float64]
    #: float32 [records]: the decayed count of the orders with it, as of the user's last order.
    order_decay: NDArray[np.float32]


def gather(states: Sequence[UserState], codes: Mapping[str, int]) -> Columns:
    """The columns of these states; ``codes`` maps item ids to item codes, and others become UNKNOWN."""
    now = np.array([state.last_at for state in states], dtype=np.float64)
    records = np.frombuffer(b"".join([state.items for state in states]), ITEM_DTYPE)
    counts = np.array([len(state.item_ids) for state in states], dtype=np.int64)
    offsets = _offsets(counts)
    users = np.repeat(np.arange(len(states)), counts)
    item_ids = chain.from_iterable([state.item_ids for state in states])
    record_codes = np.fromiter(map(codes.get, item_ids, repeat(UNKNOWN)), dtype=np.int64, count=len(records))
    age = now[users] - records["last_at"]
    interest = (records["interest"] * np.exp2(-age / INTEREST_HALF_LIFE)).astype(np.float32)
    orders = np.array(
        [
            (s.orders, s.order_lines, s.first_order_at, s.last_order_at, s.price_sum, s.priced_lines, len(s.item_ids))
            for s in states
        ],
        dtype=np.float64,
    ).reshape(len(states), 7)
    user_price = np.full(len(states), MISSING)
    np.divide(orders[:, 4], orders[:, 5], out=user_price, where=orders[:, 4] > 0)
    in_cart = _sums((records["in_cart"] > 0).astype(np.int64), offsets)
    orders_since = np.where(records["orders"] > 0, orders[users, 0] - records["last_order"], 0).astype(np.int64)
    return Columns(
        now,
        _user_features(states, now, orders, in_cart),
        user_price,
        records,
        offsets,
        users,
        record_codes,
        offsets[users + 1] - 1 - np.arange(len(records)),
        interest,
        orders[:, 0],
        (records["order_decay"] * _ORDER_DECAYS[np.clip(orders_since, 0, len(_ORDER_DECAYS) - 1)]).astype(np.float32),
    )


def _user_features(
    states: Sequence[UserState], now: NDArray[np.float64], orders: NDArray[np.float64], in_cart: NDArray[np.int64]
) -> NDArray[np.float32]:
    five_minutes = _Tiles([state.tiles_5m for state in states], now, FIVE_MINUTES)
    hours = _Tiles([state.tiles_1h for state in states], now, HOUR)
    days = _Tiles([state.tiles_1d for state in states], now, DAY)
    decayed = np.frombuffer(b"".join([state.decayed for state in states]), DECAYED_DTYPE)
    lines_per_order, gap_days = np.full(len(states), MISSING), np.full(len(states), MISSING)
    np.divide(orders[:, 1], orders[:, 0], out=lines_per_order, where=orders[:, 0] > 0)
    np.divide(orders[:, 3] - orders[:, 2], (orders[:, 0] - 1) * DAY, out=gap_days, where=orders[:, 0] > 1)
    features: list[NDArray[Any]] = [
        orders[:, 0],
        lines_per_order,
        gap_days,
        orders[:, 6],
        in_cart,
        hours.window(VIEW, DAY),
        five_minutes.window(ADD, HOUR),
        five_minutes.window(PURCHASE, HOUR),
        hours.window(PURCHASE, DAY),
        days.window(PURCHASE, 7 * DAY),
        days.window(PURCHASE, 30 * DAY),
        decayed[:, ADD, HALF_LIVES.index(DAY)],
        decayed[:, PURCHASE, HALF_LIVES.index(30 * DAY)],
    ]
    return _block(features, len(states), _USER_COLUMNS)


class _Tiles:
    """The tiles of one length, of all users."""

    def __init__(self, tiles: Sequence[bytearray], now: NDArray[np.float64], length: int) -> None:
        self._length = length
        self._records = np.frombuffer(b"".join(tiles), TILE_DTYPE)
        counts = np.array([len(packed) for packed in tiles], dtype=np.int64) // TILE_DTYPE.itemsize
        self._offsets = _offsets(counts)
        users = np.repeat(np.arange(len(tiles)), counts)
        self._age = (now // length)[users] - self._records["number"]

    def window(self, kind: int, seconds: int) -> NDArray[np.int64]:
        """Each user's events of a kind in the sawtooth window: from floor(now - seconds) to a whole tile, up to now."""
        inside = self._age <= seconds // self._length
        return _sums(self._records["events"][:, kind] * inside, self._offsets)


def history_features(columns: Columns) -> NDArray[np.float32]:
    """float32 [records + 1, features of scope HISTORY]; the last row is that of an item without history."""
    records, users = columns.records, columns.record_users
    now = columns.now[users]
    orders = columns.orders[users]
    bought = records["orders"] > 0
    first_order, last_order = records["first_order"].astype(np.float64), records["last_order"].astype(np.float64)
    since = np.where(bought, orders - last_order, MISSING)
    gap, due = np.full(len(records), MISSING), np.full(len(records), MISSING)
    again = records["orders"] > 1
    np.divide(last_order - first_order, records["orders"] - 1.0, out=gap, where=again)
    np.divide(since, gap, out=due, where=again & (gap > 0))
    features: list[NDArray[Any]] = [
        records["orders"],
        records["orders"] / np.maximum(orders - first_order + 1, 1),
        columns.order_decay,
        records["streak"],
        gap,
        due,
        columns.interest,
        since,
        np.where(bought, (now - records["purchased_at"]) / DAY, MISSING),
        (now - records["last_at"]) / DAY,
        columns.place,
        records["views"],
        records["adds"],
        records["removes"],
        records["in_cart"],
    ]
    block = np.zeros((len(records) + 1, _HISTORY_COLUMNS), dtype=np.float32)
    block[:-1] = _block(features, len(records), _HISTORY_COLUMNS)
    block[-1] = _NEVER
    return block


def _block(features: Sequence[NDArray[Any]], rows: int, width: int) -> NDArray[np.float32]:
    block = np.empty((rows, width), dtype=np.float32)
    for column, values in zip(range(width), features, strict=True):
        block[:, column] = values
    return block


def _offsets(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    offsets = np.zeros(len(counts) + 1, dtype=np.int64)
    np.cumsum(counts, out=offsets[1:])
    return offsets


def _sums(values: NDArray[np.integer[Any]], offsets: NDArray[np.int64]) -> NDArray[np.int64]:
    """The sum of each user's values; of integers, so that no order of addition matters."""
    running = np.zeros(len(values) + 1, dtype=np.int64)
    np.cumsum(values, out=running[1:])
    return running[offsets[1:]] - running[offsets[:-1]]
