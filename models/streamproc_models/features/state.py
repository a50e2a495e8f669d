"""What is kept of a user: compact, bounded, and laid out so that NumPy reads thousands of users at once.

Whatever there is many of is packed into bytes of fixed-size records. ``b"".join`` over the users then gives one array,
with no Python per record; msgpack copies the bytes as they are.
"""

from __future__ import annotations

import struct
import threading
from sys import intern

import msgspec
import numpy as np

#: The kinds of events, in the order of every count by type.
KINDS = ("view", "add_to_cart", "remove_from_cart", "purchase")
VIEW, ADD, REMOVE, PURCHASE = range(4)

#: A tile: its number (event time // tile length) and the events in it by kind.
TILE = struct.Struct("<I4H")
TILE_DTYPE = np.dtype([("number", "<u4"), ("events", "<u2", (len(KINDS),))])

#: Half-lives of the decayed counters, in seconds: 30 minutes, a day, 30 days.
HALF_LIVES = (1_800.0, 86_400.0, 30 * 86_400.0)
#: The decayed counters: for each kind of event one a half-life, as of the user's last event.
DECAYED = struct.Struct(f"<{len(KINDS) * len(HALF_LIVES)}f")
DECAYED_DTYPE = np.dtype(("<f4", (len(KINDS), len(HALF_LIVES))))

#: What is kept of an item. Times are whole seconds since the epoch; 0 stands for never.
ITEM = struct.Struct("<IIff9H")
ITEM_DTYPE = np.dtype(
    [
        ("last_at", "<u4"),  # last event
        ("purchased_at", "<u4"),  # last purchase
        ("interest", "<f4"),  # decayed weight of its events, as of last_at; see fold.INTEREST
        ("order_decay", "<f4"),  # sum over the orders with it of ORDER_DECAY ** (orders since), as of last_order
        ("views", "<u2"),
        ("adds", "<u2"),
        ("removes", "<u2"),
        ("purchases", "<u2"),  # purchase lines
        ("orders", "<u2"),  # orders that had it
        ("first_order", "<u2"),  # number of the user's first order that had it, from 1; 0: none
        ("last_order", "<u2"),
        ("in_cart", "<u2"),  # quantity in the cart
        ("streak", "<u2"),  # orders in a row that had it, up to last_order
    ]
)

#: What an order counts in ``order_decay`` after each later order of the user.
ORDER_DECAY = 0.8

#: A history that grows beyond so many items is cut ...
ITEMS_MAX = 160
#: ... to so many, the most interesting ones, so that a cut is paid for by the next 32 new items.
ITEMS_KEPT = 128
#: The same two bounds for the UTF-8 bytes of the item ids together (an id has up to 1,024).
ID_BYTES_MAX = 7 * 1024
ID_BYTES_KEPT = 5 * 1024


class UserState(msgspec.Struct, array_like=True, gc=False):
    """One user's state.

    - *Tiles* count events by kind in slots of 5 minutes, an hour and a day, ascending and without empty ones. A window
      is a sum of tiles, exact at its head and rounded up to a whole tile at its tail (a *sawtooth* window).
    - *Decayed counters* halve every half-life.
    - The *history* holds the user's items, the last touched one last: ``item_ids`` and, in the same order, one
      ``ITEM`` record each. The *cart* is those with ``in_cart`` above 0.
    - An *order* is the purchases of one ``order_id``.

    At most 16 KB whatever the user does: 9 KB and the ids' 7 KB.
    """

    #: Event time of the latest event, seconds since the epoch. It is the ``now`` of all features.
    last_at: float = 0.0
    #: Events that were older than the latest one when they came.
    late_events: int = 0
    tiles_5m: bytearray = msgspec.field(default_factory=bytearray)
    tiles_1h: bytearray = msgspec.field(default_factory=bytearray)
    tiles_1d: bytearray = msgspec.field(default_factory=bytearray)
    decayed: bytearray = msgspec.field(default_factory=lambda: bytearray(DECAYED.size))
    item_ids: list[str] = msgspec.field(default_factory=list)
    items: bytearray = msgspec.field(default_factory=bytearray)
    #: UTF-8 bytes of ``item_ids`` together.
    id_bytes: int = 0
    #: Orders so far, and the purchase lines of all of them.
    orders: int = 0
    order_lines: int = 0
    first_order_at: float = 0.0
    last_order_at: float = 0.0
    #: CRC-32 of the last order's id, 0 without one.
    last_order: int = 0
    #: Sum and number of the unit prices of purchase lines that told one.
    price_sum: float = 0.0
    priced_lines: int = 0

    def cart(self) -> dict[str, int]:
        """The items in the cart and their quantities, the last touched one last."""
        records = np.frombuffer(self.items, ITEM_DTYPE)
        quantities: list[int] = records["in_cart"].tolist()
        return {item_id: quantity for item_id, quantity in zip(self.item_ids, quantities, strict=True) if quantity}


class _Memory(threading.local):
    def __init__(self) -> None:
        self.buffer = bytearray()


_memory = _Memory()
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(UserState)


def new_state() -> UserState:
    """The state of a user without events."""
    return UserState()


def encode_state(state: UserState) -> bytes:
    """The state as msgpack."""
    # Into memory that is used again, and from there into bytes of just its size: what the encoder allocates it trims,
    # and to keep that takes three times as long.
    _encoder.encode_into(state, _memory.buffer)
    return bytes(_memory.buffer)


def decode_state(data: bytes) -> UserState:
    """Read what :func:`encode_state` wrote. Raises msgspec.DecodeError for anything else."""
    state = _decoder.decode(data)
    # As the fold does: one string an item.
    state.item_ids = [*map(intern, state.item_ids)]
    return state
