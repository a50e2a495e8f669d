"""What a list is worth: for each target, over the full catalogue, vectorised over all targets.

Everything that came counts as wanted, also what no catalogue has: a list that could not know it has missed it.

- *Recall@k*: the share of the wanted items that are among the first k.
- *HR@k* (hit rate): 1 where at least one of them is. With one wanted item it is the P@k of the session literature.
- *NDCG@k*: the sum of 1 / log2(1 + rank) over the hits, divided by the best possible for min(k, wanted) hits: the ideal
  is truncated at k.
- *MRR@k*: 1 / rank of the first hit, 0 without one.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

#: The lengths at which lists are judged; a list is as long as the longest.
KS = (10, 20)
K_MAX = max(KS)
#: A model is asked for so many places: without the items that the user has, K_MAX are to be left.
RANKED_MAX = 200
#: No item at this place of a list; an item that the trial does not know. Both are below 0 and no hits.
NOTHING, ELSEWHERE = -1, -2

#: Metric -> float64 [targets]; NaN where a target has nothing to measure.
PerTarget = Mapping[str, NDArray[np.float64]]


def contains(keys: NDArray[np.int64], wanted: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which of ``wanted`` are in ``keys``, which ascend; of the shape of ``wanted``."""
    if not len(keys):
        return np.zeros(wanted.shape, dtype=bool)
    return np.asarray(keys[np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)] == wanted)


def pairs(lists: NDArray[np.int64], items: int) -> NDArray[np.int64]:
    """int64, of the shape of ``lists``: target * items + code; below 0 at empty places."""
    return np.where(lists >= 0, np.arange(len(lists), dtype=np.int64)[:, None] * items + lists, NOTHING)


def found(lists: NDArray[np.int64], truth: NDArray[np.int64], items: int) -> NDArray[np.bool_]:
    """bool [targets, places]: whether the item at the place came. ``truth`` holds ascending pairs.

    Raises ValueError where a list names an item twice: it would count twice.
    """
    ordered = np.sort(lists, axis=1)
    if np.any((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)):
        raise ValueError("a list names an item twice: each of a list's items must be another one")
    return contains(truth, pairs(lists, items))


def measure(hits: NDArray[np.bool_], sizes: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
    """All metrics of each target, from the places of its hits and the number of wanted items."""
    discount = 1 / np.log2(np.arange(2, K_MAX + 2))
    best = np.concatenate(([np.nan], np.cumsum(discount)))
    wanted = np.where(sizes > 0, sizes, np.nan)
    measured: dict[str, NDArray[np.float64]] = {}
    for k in KS:
        first = hits[:, :k]
        measured[f"recall_at_{k}"] = first.sum(axis=1) / wanted
        measured[f"hr_at_{k}"] = np.where(sizes > 0, first.any(axis=1), np.nan)
        measured[f"ndcg_at_{k}"] = first @ discount[: first.shape[1]] / best[np.minimum(sizes, k)]
        rank = np.where(first.any(axis=1), first.argmax(axis=1) + 1, np.inf)
        measured[f"mrr_at_{k}"] = np.where(sizes > 0, 1 / rank, np.nan)
    return measured


def restricted(hits: NDArray[np.bool_], sizes: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
    """Recall and hit rate of some of the wanted items alone, at their places in the whole lists."""
    measured = measure(hits, sizes)
    return {name: values for name, values in measured.items() if name.startswith(("recall", "hr"))}
