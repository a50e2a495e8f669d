"""The catalogue of a moment: popularity, item features and neighbours, from the baskets before it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamproc_models.baskets import Basket
from streamproc_models.catalogue import UNKNOWN, Catalogue
from streamproc_models.errors import TrainingDataUnusable
from streamproc_models.features.schema import MISSING

_DAY = 86_400.0
#: Half-life of an order in the popularity that ranks the items.
POPULARITY_HALF_LIFE = 14 * _DAY
#: Older items have this age, so that it does not tell how long the log is.
ITEM_AGE_DAYS_MAX = 28.0
#: Neighbours kept of an item.
NEIGHBOURS = 20
#: Of a larger basket so many items are paired: pairs grow with the square.
BASKET_ITEMS_MAX = 150
#: Baskets of one user further apart than this are not linked.
NEXT_BASKET_SECONDS_MAX = 30 * _DAY
#: Weight of a link from one basket to the user's next, beside 1 for a link within a basket.
NEXT_BASKET_WEIGHT = 0.5
#: Added to the orders of both items, so that a link seen once between two rare items is weak.
LINK_PRIOR_ORDERS = 10.0
#: Prior of the repeat rate: so many buyers, of whom the share of all items' buyers came back.
REPEAT_PRIOR_BUYERS = 20.0


def catalogue_of(baskets: Sequence[Basket], names: Mapping[str, str], at: float) -> Catalogue:
    """The catalogue as of ``at`` (seconds since the epoch), from baskets that are all before it.

    Raises TrainingDataUnusable where there are none.
    """
    if not baskets:
        raise TrainingDataUnusable("there is no order before the cut: nothing can be learned; give an earlier log")
    lines = _Lines(baskets)
    popularity = np.bincount(lines.items, np.exp2((lines.at - at) / POPULARITY_HALF_LIFE), len(lines.ids))
    # Equal popularity goes by id, so that the codes depend on the log's content alone.
    by_rank = np.array(sorted(range(len(lines.ids)), key=lambda item: (-popularity[item], lines.ids[item])))
    code_of = np.empty(len(by_rank), dtype=np.int64)
    code_of[by_rank] = np.arange(len(by_rank))
    lines.items = code_of[lines.items]
    ids = [lines.ids[item] for item in by_rank]
    neighbours, links = _neighbours(lines, len(ids))
    return Catalogue(
        ids,
        [names.get(item_id, "") for item_id in ids],
        features=_item_features(lines, len(ids), at),
        neighbours=neighbours,
        links=links,
    )


class _Lines:
    """The lines of all baskets, by column; an item is a number, at first in the order of the log."""

    def __init__(self, baskets: Sequence[Basket]) -> None:
        number_of: dict[str, int] = {}
        user_of: dict[str, int] = {}
        self.items = np.array(
            [number_of.setdefault(item_id, len(number_of)) for basket in baskets for item_id in basket.prices],
            dtype=np.int64,
        )
        self.ids = list(number_of)
        self.sizes = np.array([len(basket.prices) for basket in baskets], dtype=np.int64)
        self.offsets = np.concatenate(([0], np.cumsum(self.sizes)))
        self.order_users = np.array([user_of.setdefault(basket.user_id, len(user_of)) for basket in baskets])
        self.order_at = np.array([basket.at for basket in baskets])
        self.orders = np.repeat(np.arange(len(baskets)), self.sizes)
        self.at = self.order_at[self.orders]
        self.prices = np.array([price for basket in baskets for price in basket.prices.values()])

    def of_order(self, order: int) -> NDArray[np.int64]:
        """The items of an order, BASKET_ITEMS_MAX at most."""
        start, end = self.offsets[order], self.offsets[order + 1]
        return self.items[start : min(end, start + BASKET_ITEMS_MAX)]


def _item_features(lines: _Lines, items: int, at: float) -> NDArray[np.float32]:
    def count(chosen: NDArray[Any]) -> NDArray[np.float64]:
        return np.bincount(lines.items[chosen], minlength=items).astype(np.float64)

    shares = []
    for days in (7, 30):
        orders = max(int(np.sum(lines.order_at >= at - days * _DAY)), 1)
        shares.append(count(lines.at >= at - days * _DAY) / orders)
    # One number for each pair of buyer and item.
    _, times = np.unique(lines.order_users[lines.orders] * items + lines.items, return_counts=True)
    pairs = np.unique(lines.order_users[lines.orders] * items + lines.items) % items
    buyers = np.bincount(pairs, minlength=items)
    again = np.bincount(pairs[times > 1], minlength=items)
    repeat_rate = (again + REPEAT_PRIOR_BUYERS * again.sum() / buyers.sum()) / (buyers + REPEAT_PRIOR_BUYERS)
    priced = ~np.isnan(lines.prices)
    price = np.full(items, MISSING)
    priced_lines = count(priced)
    price_sums = np.bincount(lines.items[priced], lines.prices[priced], items)
    np.divide(price_sums, priced_lines, out=price, where=priced_lines > 0)
    first_at = np.full(items, np.inf)
    np.minimum.at(first_at, lines.items, lines.at)
    age_days = np.minimum((at - first_at) / _DAY, ITEM_AGE_DAYS_MAX)
    features = [np.arange(items), *shares, repeat_rate, price, age_days]
    return np.stack(features, axis=1).astype(np.float32)


def _neighbours(lines: _Lines, items: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """The NEIGHBOURS strongest links of each item.

    A link is the cosine of how often two items stand in one basket, plus that of how often one's basket is followed by
    the other's: weight(i, j) / sqrt((orders(i) + prior) * (orders(j) + prior)), where a basket of n items gives each
    of its pairs 1 / log2(1 + n): large baskets say less of a pair.
    """
    keys: list[NDArray[np.int64]] = []
    weights: list[NDArray[np.float32]] = []

    def link(left: NDArray[np.int64], right: NDArray[np.int64], weight: float) -> None:
        pairs = (left[:, None] * items + right).ravel()
        keys.append(pairs)
        weights.append(np.full(len(pairs), weight, dtype=np.float32))

    last_order: dict[int, int] = {}
    for order, user in enumerate(lines.order_users.tolist()):
        basket = lines.of_order(order)
        link(basket, basket, 1 / np.log2(1 + len(basket)))
        before = last_order.get(user)
        last_order[user] = order
        if before is not None and lines.order_at[order] - lines.order_at[before] <= NEXT_BASKET_SECONDS_MAX:
            earlier = lines.of_order(before)
            link(earlier, basket, NEXT_BASKET_WEIGHT / np.log2(1 + max(len(basket), len(earlier))))

    key = np.concatenate(keys)
    order_of = np.argsort(key, kind="stable")
    key = key[order_of]
    starts = np.flatnonzero(np.concatenate(([True], key[1:] != key[:-1])))
    strength = np.add.reduceat(np.concatenate(weights)[order_of], starts)
    left, right = np.divmod(key[starts], items)
    popularity = np.bincount(lines.items, minlength=items) + LINK_PRIOR_ORDERS
    strength = (strength / np.sqrt(popularity[left] * popularity[right])).astype(np.float32)
    others = left != right
    return _strongest(left[others], right[others], strength[others], items)


def _strongest(
    left: NDArray[np.int64], right: NDArray[np.int64], strength: NDArray[np.float32], items: int
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    order = np.lexsort((right, -strength, left))
    left, right, strength = left[order], right[order], strength[order]
    counts = np.bincount(left, minlength=items)
    place = np.arange(len(left)) - np.repeat(np.cumsum(counts) - counts, counts)
    kept = place < NEIGHBOURS
    neighbours = np.full((items, NEIGHBOURS), UNKNOWN, dtype=np.int32)
    links = np.zeros((items, NEIGHBOURS), dtype=np.float32)
    neighbours[left[kept], place[kept]] = right[kept]
    links[left[kept], place[kept]] = strength[kept]
    return neighbours, links
