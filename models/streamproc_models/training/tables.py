"""The catalogue of a moment: popularity, item features and generators, from the baskets before it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamproc_models.baskets import Basket
from streamproc_models.catalogue import Catalogue
from streamproc_models.errors import TrainingDataUnusable
from streamproc_models.features.schema import MISSING
from streamproc_models.items import Item
from streamproc_models.retrieval.steps import Steps
from streamproc_models.training.generators import fit_generators
from streamproc_models.training.settings import TrainingSettings

_DAY = 86_400.0
#: Half-life of an order in the popularity that ranks the items.
POPULARITY_HALF_LIFE = 14 * _DAY
#: Older items have this age, so that it does not tell how long the log is.
ITEM_AGE_DAYS_MAX = 28.0
#: Prior of the repeat rate: so many buyers, of whom the share of all items' buyers came back.
REPEAT_PRIOR_BUYERS = 20.0
#: Added to both shares of the trend, so that an item that is seldom bought has none.
_TREND_PRIOR = 1e-4
_UNTOLD = Item()


def catalogue_of(
    baskets: Sequence[Basket], items: Mapping[str, Item], at: float, settings: TrainingSettings
) -> Catalogue:
    """The catalogue as of ``at`` (seconds since the epoch), from baskets that are all before it.

    Raises TrainingDataUnusable where there are none.
    """
    lines = _Lines(baskets, settings.item_baskets_min)
    if not len(lines.items):
        raise TrainingDataUnusable("there is no order before the cut: nothing can be learned; give an earlier log")
    popularity = np.bincount(lines.items, np.exp2((lines.at - at) / POPULARITY_HALF_LIFE), len(lines.ids))
    # Equal popularity goes by id, so that the codes depend on the log's content alone.
    by_rank = np.array(sorted(range(len(lines.ids)), key=lambda item: (-popularity[item], lines.ids[item])))
    code_of = np.empty(len(by_rank), dtype=np.int64)
    code_of[by_rank] = np.arange(len(by_rank))
    lines.items = code_of[lines.items]
    ids = [lines.ids[item] for item in by_rank]
    told = [items.get(item_id, _UNTOLD) for item_id in ids]
    return Catalogue(
        ids,
        [item.name for item in told],
        _item_features(lines, len(ids), at),
        fit_generators(settings.generators, _steps(lines, len(ids)), told),
        settings.candidates_max,
        settings.proposed_max,
        categories=[item.category for item in told] if any(item.category for item in told) else [],
        brands=[item.brand for item in told] if any(item.brand for item in told) else [],
    )


def _steps(lines: _Lines, items: int) -> Steps:
    """The lines by user; the baskets of a user are his steps."""
    users = lines.order_users[lines.orders]
    by_user = np.argsort(users, kind="stable")
    orders_before = np.zeros(len(lines.order_users), dtype=np.int64)
    order = np.argsort(lines.order_users, kind="stable")
    counts = np.bincount(lines.order_users)
    orders_before[order] = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    return Steps(users[by_user], orders_before[lines.orders][by_user], lines.items[by_user], lines.at[by_user], items)


class _Lines:
    """The lines of all baskets, by column; an item is a number, at first in the order of the log."""

    def __init__(self, baskets: Sequence[Basket], baskets_min: int) -> None:
        number_of: dict[str, int] = {}
        user_of: dict[str, int] = {}
        items = np.array(
            [number_of.setdefault(item_id, len(number_of)) for basket in baskets for item_id in basket.prices],
            dtype=np.int64,
        )
        sizes = np.array([len(basket.prices) for basket in baskets], dtype=np.int64)
        prices = np.array([price for basket in baskets for price in basket.prices.values()])
        orders = np.repeat(np.arange(len(baskets)), sizes)
        frequent = np.bincount(items, minlength=len(number_of)) >= baskets_min
        kept = frequent[items]
        self.ids = [item_id for item_id, often in zip(number_of, frequent.tolist(), strict=True) if often]
        self.items = (np.cumsum(frequent) - 1)[items[kept]]
        self.prices, self.orders = prices[kept], orders[kept]
        self.order_users = np.array(
            [user_of.setdefault(basket.user_id, len(user_of)) for basket in baskets], dtype=np.int64
        )
        self.order_at = np.array([basket.at for basket in baskets])
        self.at = self.order_at[self.orders]


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
    trend = (shares[0] + _TREND_PRIOR) / (shares[1] + _TREND_PRIOR)
    features = [np.arange(items), *shares, repeat_rate, trend, price, age_days]
    return np.stack(features, axis=1).astype(np.float32)
