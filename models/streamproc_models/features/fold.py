"""The fold: one event into one user's state. Pure, deterministic, and with no clock but the events' own.

A *late* event is one older than the user's latest (by event time). It never moves ``last_at`` back:

- it counts in its own tile where that tile is still inside its window, else in none;
- a decayed counter as of t0 takes v += 2^(-(t0 - t) / H), the same as if it had come in time;
- it counts for its item, and changes the cart only if it is not older than that item's last event;
- a late purchase of another order than the last one counts as a line, not as an order.
"""

from __future__ import annotations

import struct
import zlib
from math import exp2
from sys import intern

import numpy as np

from streamproc_models.features.state import (
    ADD,
    DECAYED,
    HALF_LIVES,
    ID_BYTES_KEPT,
    ID_BYTES_MAX,
    ITEM,
    ITEM_DTYPE,
    ITEMS_KEPT,
    ITEMS_MAX,
    KINDS,
    ORDER_DECAY,
    PURCHASE,
    REMOVE,
    TILE,
    VIEW,
    UserState,
)
from streamproc_producers.events import CartEvent, EventType

#: Grows whenever a state folded by older code would mean something else to this code.
FOLD_VERSION = 2

#: Weight of an event in its item's interest, by kind. A removal undoes the cart, not the interest.
INTEREST = (0.1, 0.5, 0.0, 1.0)
#: Half-life of an item's interest, in seconds.
INTEREST_HALF_LIFE = HALF_LIVES[-1]
#: Purchases without an order id belong to one order if they are not further apart than this, in seconds.
ORDER_GAP_MAX = 1_800.0

#: Tile lengths in seconds, and how many tiles a state keeps of each: the window's and the one its tail is in.
FIVE_MINUTES, HOUR, DAY = 300, 3_600, 86_400
TILES_5M, TILES_1H, TILES_1D = 13, 25, 31

_U2_MAX = 0xFFFF
#: The records hold 32 bits of seconds: 1970 to 2106.
_SECONDS_MAX = float(0xFFFFFFFF)
_PRICE_MAX = 1e6
_COUNT = struct.Struct("<H")
_NUMBER = struct.Struct("<I")
_FLOAT = struct.Struct("<f")
_ITEM_BYTES = ITEM.size
_NEW_ITEM = bytes(_ITEM_BYTES)
#: Of an item's record: what begins it, where its counts by kind begin, ...
_SEEN, _SEEN_COUNTS_AT = struct.Struct("<IIf"), 16
#: ... its order_decay, what is there from ``orders`` to ``streak``, and its quantity in the cart.
_ORDER_DECAY_AT, _ORDERS, _ORDERS_AT, _IN_CART_AT = 12, struct.Struct("<5H"), 24, 30
#: Where the counts of the last tile begin, seen from the end of the tiles.
_LAST_COUNTS_AT = _NUMBER.size - TILE.size
_SHORT, _MIDDLE, _LONG = HALF_LIVES
_OF_KIND = struct.Struct(f"<{len(HALF_LIVES)}f")
#: What an event of each kind adds to the counters of all kinds.
_ADDED = tuple(tuple(float(kind == other) for other in range(len(KINDS))) for kind in range(len(KINDS)))
# Looked up once: an enum's member takes longer than a name.
_VIEW, _ADD, _PURCHASE = EventType.VIEW, EventType.ADD_TO_CART, EventType.PURCHASE


def fold(state: UserState, event: CartEvent) -> UserState:
    """The state with the event in it; changes ``state`` and returns it."""
    event_type = event.event_type
    if event_type is _VIEW:
        kind = VIEW
    elif event_type is _ADD:
        kind = ADD
    elif event_type is _PURCHASE:
        kind = PURCHASE
    else:
        kind = REMOVE
    at = event.ts.timestamp()
    if not 0.0 <= at <= _SECONDS_MAX:
        at = 0.0 if at < 0.0 else _SECONDS_MAX
    second, last_at = int(at), state.last_at
    if at > last_at:
        state.last_at = at
    elif at < last_at:
        state.late_events += 1
    _count_in_tiles(state, kind, second, last_at)
    _decay(state.decayed, kind, at - last_at)
    new_order = kind == PURCHASE and _count_order(state, event, at)
    _touch_item(state, event, kind, second, new_order)
    return state


def _count_in_tiles(state: UserState, kind: int, second: int, last_at: float) -> None:
    """Count an event of this second; ``last_at`` is the latest one before it."""
    tiles_5m = state.tiles_5m
    if second // FIVE_MINUTES == last_at // FIVE_MINUTES and tiles_5m:
        # In the five minutes of the latest event, and so in its hour and its day, the last tiles of all.
        low = kind * _COUNT.size + _LAST_COUNTS_AT
        for tiles in (tiles_5m, state.tiles_1h, state.tiles_1d):
            if (count := tiles[low]) < 0xFF:
                tiles[low] = count + 1
            else:
                _count(tiles, len(tiles) + low)
        return
    latest = int(state.last_at)
    for tiles, length, kept in (
        (tiles_5m, FIVE_MINUTES, TILES_5M),
        (state.tiles_1h, HOUR, TILES_1H),
        (state.tiles_1d, DAY, TILES_1D),
    ):
        number = second // length
        start = len(tiles) - TILE.size
        if start < 0 or _NUMBER.unpack_from(tiles, start)[0] != number:
            oldest = latest // length - kept + 1
            if number < oldest:
                continue
            while tiles and _NUMBER.unpack_from(tiles)[0] < oldest:
                del tiles[: TILE.size]
            start = _tile_of(tiles, number)
        _count(tiles, start + _NUMBER.size + kind * _COUNT.size)


def _count(counts: bytearray, offset: int) -> None:
    if (low := counts[offset]) < 0xFF:
        counts[offset] = low + 1
    elif (count := _COUNT.unpack_from(counts, offset)[0]) < _U2_MAX:
        _COUNT.pack_into(counts, offset, count + 1)


def _tile_of(tiles: bytearray, number: int) -> int:
    """Where the tile of this number starts; it is made where there is none. Most are at the end."""
    end = len(tiles)
    while end:
        stored = _NUMBER.unpack_from(tiles, end - TILE.size)[0]
        if stored == number:
            return end - TILE.size
        if stored < number:
            break
        end -= TILE.size
    tiles[end:end] = TILE.pack(number, *[0] * len(KINDS))
    return end


def _decay(counters: bytearray, kind: int, elapsed: float) -> None:
    """Bring the counters to the event, so many seconds after the latest one, and count it; a late one is decayed."""
    if elapsed > 0:
        short, middle, long = exp2(-elapsed / _SHORT), exp2(-elapsed / _MIDDLE), exp2(-elapsed / _LONG)
        v0, v1, v2, a0, a1, a2, r0, r1, r2, p0, p1, p2 = DECAYED.unpack_from(counters)
        v, a, r, p = _ADDED[kind]
        # Rounded once, with the event in it.
        DECAYED.pack_into(
            counters,
            0,
            v0 * short + v,
            v1 * middle + v,
            v2 * long + v,
            a0 * short + a,
            a1 * middle + a,
            a2 * long + a,
            r0 * short + r,
            r1 * middle + r,
            r2 * long + r,
            p0 * short + p,
            p1 * middle + p,
            p2 * long + p,
        )
    else:
        start = kind * _OF_KIND.size
        short, middle, long = _OF_KIND.unpack_from(counters, start)
        weights = [exp2(elapsed / half_life) for half_life in HALF_LIVES]
        _OF_KIND.pack_into(counters, start, short + weights[0], middle + weights[1], long + weights[2])


def _count_order(state: UserState, event: CartEvent, at: float) -> bool:
    """Count a purchase line; whether it begins an order."""
    state.order_lines += 1
    if event.price is not None:
        state.price_sum += min(event.price, _PRICE_MAX)
        state.priced_lines += 1
    order = zlib.crc32(event.order_id.encode()) if event.order_id is not None else 0
    if state.orders:
        same = order == state.last_order and (order != 0 or at - state.last_order_at <= ORDER_GAP_MAX)
        if same or at < state.last_order_at:
            if same:
                state.last_order_at = max(state.last_order_at, at)
            return False
    else:
        state.first_order_at = at
    state.orders += 1
    state.last_order = order
    state.last_order_at = at
    return True


def _touch_item(state: UserState, event: CartEvent, kind: int, second: int, new_order: bool) -> None:
    """Move the item to the end of the history, with the event in its record."""
    start = _moved_to_end(state, event.item_id)
    items = state.items
    last_at, purchased_at, interest = _SEEN.unpack_from(items, start)
    late = second < last_at
    if late:
        interest += INTEREST[kind] * exp2((second - last_at) / INTEREST_HALF_LIFE)
    else:
        if second > last_at:
            interest *= exp2((last_at - second) / INTEREST_HALF_LIFE)
        interest += INTEREST[kind]
        last_at = second
    if kind == PURCHASE and second > purchased_at:
        purchased_at = second
    _SEEN.pack_into(items, start, last_at, purchased_at, interest)
    _count(items, start + _SEEN_COUNTS_AT + kind * _COUNT.size)
    if kind == PURCHASE:
        _order_item(state, start, new_order, late)
    elif kind != VIEW and not late:
        in_cart = _COUNT.unpack_from(items, start + _IN_CART_AT)[0]
        if kind == ADD:
            in_cart = min(in_cart + (event.quantity or 1), _U2_MAX)
        else:
            # Without a quantity, all of the item leaves the cart.
            in_cart = max(in_cart - event.quantity, 0) if event.quantity is not None else 0
        _COUNT.pack_into(items, start + _IN_CART_AT, in_cart)


def _moved_to_end(state: UserState, item_id: str) -> int:
    """Where the item's record is now: the last one. It is made where there is none."""
    item_ids, items = state.item_ids, state.items
    # The last touched item is often touched again, and then nothing moves.
    if not item_ids or item_ids[-1] != item_id:
        try:
            index = item_ids.index(item_id)
        except ValueError:
            id_bytes = len(item_id.encode())
            if len(item_ids) >= ITEMS_MAX or state.id_bytes + id_bytes > ID_BYTES_MAX:
                _cut_history(state)
                item_ids, items = state.item_ids, state.items
            # One string an item, whoever has it: less memory, and what is looked up again and again stays in the cache.
            item_ids.append(intern(item_id))
            state.id_bytes += id_bytes
            items += _NEW_ITEM
        else:
            item_ids.append(item_ids.pop(index))
            index *= _ITEM_BYTES
            record = items[index : index + _ITEM_BYTES]
            del items[index : index + _ITEM_BYTES]
            items += record
    return len(items) - _ITEM_BYTES


def _order_item(state: UserState, start: int, new_order: bool, late: bool) -> None:
    """A purchase line in the item's record: the orders that had it, and the cart that it leaves."""
    items = state.items
    decayed = _FLOAT.unpack_from(items, start + _ORDER_DECAY_AT)[0]
    orders, first_order, last_order, in_cart, streak = _ORDERS.unpack_from(items, start + _ORDERS_AT)
    order = min(state.orders, _U2_MAX)
    if new_order or last_order != order:
        orders += orders < _U2_MAX
        decayed = decayed * ORDER_DECAY ** max(order - last_order, 0) + 1.0
        streak = min(streak + 1, _U2_MAX) if order == last_order + 1 else 1
        last_order = order
        first_order = first_order or order
    if not late:
        in_cart = 0
    _FLOAT.pack_into(items, start + _ORDER_DECAY_AT, decayed)
    _ORDERS.pack_into(items, start + _ORDERS_AT, orders, first_order, last_order, in_cart, streak)


def _cut_history(state: UserState) -> None:
    """Keep what is in the cart first, then the items of most interest as of now; of equals the last touched.

    At most ITEMS_KEPT items stay, and as many as have ID_BYTES_KEPT bytes of ids together. Their order stays.
    """
    records = np.frombuffer(bytes(state.items), ITEM_DTYPE)
    age = state.last_at - records["last_at"]
    interest = records["interest"] * np.exp2(-age / INTEREST_HALF_LIFE)
    best_first = np.lexsort((-np.arange(len(records)), -interest, records["in_cart"] == 0))[:ITEMS_KEPT]
    id_bytes = np.array([len(item_id.encode()) for item_id in state.item_ids])
    kept = np.sort(best_first[np.cumsum(id_bytes[best_first]) <= ID_BYTES_KEPT])
    state.item_ids = [state.item_ids[index] for index in kept.tolist()]
    state.items = bytearray(records[kept].tobytes())
    state.id_bytes = int(id_bytes[kept].sum())
