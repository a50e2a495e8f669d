"""Co-visitation in one small table: items that stand in one basket, and in one basket and the user's next."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from streamproc_models.retrieval.fits.prune import prune
from streamproc_models.retrieval.links import Links, Weighting
from streamproc_models.retrieval.steps import Steps

_DAY = 86_400.0
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


def fit_covisit(steps: Steps, name: str = "covisit") -> Links:
    """The NEIGHBOURS strongest links of each item.

    A link is the cosine of how often two items stand in one basket, plus that of how often one's basket is followed by
    the other's: weight(i, j) / sqrt((orders(i) + prior) * (orders(j) + prior)), where a basket of n items gives each
    of its pairs 1 / log2(1 + n): large baskets say less of a pair.
    """
    baskets, users, at = _baskets(steps)
    sizes = np.diff(baskets.indptr)
    links = baskets.T @ _scaled(baskets, 1 / np.log2(1 + sizes))
    followed = np.flatnonzero((users[1:] == users[:-1]) & (at[1:] - at[:-1] <= NEXT_BASKET_SECONDS_MAX))
    if len(followed):
        weight = NEXT_BASKET_WEIGHT / np.log2(1 + np.maximum(sizes[followed], sizes[followed + 1]))
        links = links + baskets[followed].T @ _scaled(baskets[followed + 1], weight)
    pairs = links.tocoo()
    others = pairs.row != pairs.col
    left, right = pairs.row[others], pairs.col[others]
    orders = np.bincount(steps.codes, minlength=steps.items) + LINK_PRIOR_ORDERS
    strength = (pairs.data[others] / np.sqrt(orders[left] * orders[right])).astype(np.float32)
    table = sparse.csr_array((strength, (left, right)), shape=links.shape)
    return prune(name, Weighting.RECENT, [(0, table)], items=steps.items, width=NEIGHBOURS)


def _baskets(steps: Steps) -> tuple[sparse.csr_array, NDArray[np.int64], NDArray[np.float64]]:
    """The baskets as rows of ones, and the user and the time of each."""
    begins = np.flatnonzero(
        np.concatenate(([True], (steps.users[1:] != steps.users[:-1]) | (steps.steps[1:] != steps.steps[:-1])))
    )
    if not len(steps.users):
        begins = begins[:0]
    counts = np.diff(np.append(begins, len(steps.users)))
    kept = np.arange(len(steps.users)) - np.repeat(begins, counts) < BASKET_ITEMS_MAX
    starts = np.concatenate(([0], np.cumsum(np.minimum(counts, BASKET_ITEMS_MAX))))
    codes = steps.codes[kept]
    rows = sparse.csr_array((np.ones(len(codes)), codes, starts), shape=(len(begins), steps.items))
    return rows, steps.users[begins], steps.at[begins]


def _scaled(rows: sparse.csr_array, factors: NDArray[np.float64]) -> sparse.csr_array:
    return sparse.csr_array((np.repeat(factors, np.diff(rows.indptr)), rows.indices, rows.indptr), shape=rows.shape)
