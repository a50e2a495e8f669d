"""What is trending over all shoppers: decayed counts of items, one bounded partial a shard.

A count decays *forward* (Cormode et al., "Forward Decay", ICDE 2009): an event at time t adds 2^((t - landmark) /
half-life), and counts are divided by today's weight when they are read. So adding never touches the other items, counts
of shards add up, and late events need no rule. The landmark moves by whole steps of 32 half-lives, which scales every
count by an exact power of two: the same log gives the same bits, however it is cut.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from streamproc.processor import SharedFold
from streamproc_producers.events import CartEvent, EventType

HALF_LIFE_SECONDS = 24 * 3600.0
_STEP_HALF_LIVES = 32
_STEP_SECONDS = _STEP_HALF_LIVES * HALF_LIFE_SECONDS
#: A partial keeps twice as many at most: beyond, the least counted ones are dropped. 40 bytes each.
ITEMS_KEPT = 500
#: How many a snapshot names.
ITEMS_IN_SNAPSHOT = 100
#: What an event adds. Interest, not revenue: a view says less than a cart, and a removal takes nothing back.
WEIGHTS = {EventType.VIEW: 0.25, EventType.ADD_TO_CART: 1.0, EventType.PURCHASE: 1.0}


class TrendingItems(msgspec.Struct, array_like=True):
    """Counts as of a landmark, which counts steps since the epoch."""

    landmark: int = 0
    counts: dict[str, float] = {}
    #: The latest event time in it.
    last_at: float = 0.0


class TrendingSnapshot(msgspec.Struct, frozen=True):
    """What is trending, the most first: item ids and their decayed counts as of ``as_of``."""

    as_of: float
    item_ids: list[str]
    counts: list[float]


class Trending(SharedFold[CartEvent, TrendingItems]):
    """Decayed counts of what shoppers view, put into carts and buy."""

    version = 1

    def __init__(self) -> None:
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(TrendingItems)
        self._snapshot = msgspec.json.Encoder()

    def new_partial(self) -> TrendingItems:
        """No counts."""
        return TrendingItems()

    def fold(self, partial: TrendingItems, event: CartEvent) -> TrendingItems:
        """Count the event."""
        weight = WEIGHTS.get(event.event_type)
        if weight is None:
            return partial
        at, item_id = event.ts.timestamp(), event.item_id
        if at > partial.last_at:
            partial.last_at = at
            if at / _STEP_SECONDS >= partial.landmark + 1:
                _advance(partial)
        counts = partial.counts
        ahead = (at - partial.landmark * _STEP_SECONDS) / HALF_LIFE_SECONDS
        counts[item_id] = counts.get(item_id, 0.0) + weight * 2.0**ahead
        if len(counts) > 2 * ITEMS_KEPT:
            partial.counts = dict(_most(counts, ITEMS_KEPT))
        return partial

    def encode(self, partial: TrendingItems) -> bytes:
        """As msgpack."""
        return self._encoder.encode(partial)

    def decode(self, data: bytes) -> TrendingItems:
        """Read what :meth:`encode` wrote."""
        return self._decoder.decode(data)

    def merge(self, partials: Sequence[TrendingItems]) -> bytes:
        """A :class:`TrendingSnapshot` as JSON, as of the latest event of any shard."""
        total = TrendingItems()
        total.landmark = max((partial.landmark for partial in partials), default=0)
        total.last_at = max((partial.last_at for partial in partials), default=0.0)
        for partial in partials:
            scale = 2.0 ** (_STEP_HALF_LIVES * (partial.landmark - total.landmark))
            for item_id, count in partial.counts.items():
                total.counts[item_id] = total.counts.get(item_id, 0.0) + count * scale
        today = 2.0 ** ((total.last_at - total.landmark * _STEP_SECONDS) / HALF_LIFE_SECONDS)
        most = _most(total.counts, ITEMS_IN_SNAPSHOT)
        return self._snapshot.encode(
            TrendingSnapshot(total.last_at, [item_id for item_id, _ in most], [count / today for _, count in most])
        )


def _advance(partial: TrendingItems) -> None:
    """Move the landmark to the step of the latest event."""
    step = math.floor(partial.last_at / _STEP_SECONDS)
    scale = 2.0 ** (_STEP_HALF_LIVES * (partial.landmark - step))
    partial.counts = {item_id: count * scale for item_id, count in partial.counts.items()}
    partial.landmark = step


def _most(counts: dict[str, float], items: int) -> list[tuple[str, float]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:items]
