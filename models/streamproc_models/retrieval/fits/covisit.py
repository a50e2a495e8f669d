"""Co-visitation: what follows an item, and what comes with it in one step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from streamproc_models.retrieval.fits.baskets import Baskets, baskets
from streamproc_models.retrieval.fits.prune import prune
from streamproc_models.retrieval.links import Links, Weighting
from streamproc_models.retrieval.steps import Steps

_DAY = 86_400.0
_BLOCK_ITEMS = 1_000


def fit_next(
    steps: Steps,
    *,
    name: str = "next",
    weighting: Weighting = Weighting.RECENT,
    width: int = 100,
    decay: float = 0.7,
    backward: float = 0.5,
    half_life_days: float = 60.0,
    popularity: float = 0.1,
    shrinkage: float = 3.0,
    block_items: int = _BLOCK_ITEMS,
) -> Links:
    """Links from the items of earlier steps to those of a step.

    An item ``n`` steps before counts ``decay ** (n - 1)``; the way back counts ``backward`` as much. A step's links
    halve with every ``half_life_days`` before the log's end. The sum is divided by the popularity of both items: by
    that of the first so that it is a share, by that of the second to the power ``popularity``; ``shrinkage`` is added
    to the first.

    Memory: the histories of all steps twice, and the links of ``block_items`` items.
    """
    log = baskets(steps)
    fresh = _freshness(log, half_life_days)
    before, after = log.histories(decay), sparse.csr_array(log.items.multiply(fresh[:, None]))
    from_before, from_after = sparse.csr_array(before.T), sparse.csr_array(after.T)
    seen = np.asarray(fresh @ log.items)
    scale = 1 / np.maximum(seen, np.float32(1e-9)) ** popularity

    def blocks() -> Iterator[tuple[int, sparse.csr_array[Any]]]:
        for start in range(0, steps.items, block_items):
            some = slice(start, start + block_items)
            found = from_before[some] @ after
            if backward:
                found = found + backward * (from_after[some] @ before)
            yield start, _scaled(found, 1 / np.maximum(seen[some] + shrinkage, np.float32(1e-9)), scale)

    return prune(name, weighting, blocks(), items=steps.items, width=width)


def fit_together(
    steps: Steps,
    *,
    name: str = "together",
    weighting: Weighting = Weighting.LAST_ORDER,
    width: int = 100,
    half_life_days: float = 60.0,
    shrinkage: float = 10.0,
    block_items: int = _BLOCK_ITEMS,
) -> Links:
    """Links between the items of one step: the cosine, with ``shrinkage`` steps without the other added to each item.

    A step halves with every ``half_life_days`` before the log's end. Memory: the log twice, and the links of
    ``block_items`` items.
    """
    log = baskets(steps)
    fresh = _freshness(log, half_life_days)
    weighted = sparse.csr_array(log.items.multiply(fresh[:, None]))
    of_items = sparse.csr_array(weighted.T)
    scale = 1 / np.sqrt(np.maximum(np.asarray(fresh @ log.items) + shrinkage, np.float32(1e-9)))

    def blocks() -> Iterator[tuple[int, sparse.csr_array[Any]]]:
        for start in range(0, steps.items, block_items):
            found = of_items[start : start + block_items] @ log.items
            yield start, _scaled(_without_itself(found, start), scale[start : start + block_items], scale)

    return prune(name, weighting, blocks(), items=steps.items, width=width)


def _freshness(log: Baskets, half_life_days: float) -> NDArray[np.float32]:
    """float32 [steps]: 1 at the log's end, half as much with every half-life before it."""
    age = (log.at.max(initial=0.0) - log.at) / _DAY
    fresh: NDArray[np.float32] = np.exp2(-age / half_life_days).astype(np.float32)
    return fresh


def _scaled(
    block: sparse.csr_array[Any], of_rows: NDArray[np.floating[Any]], of_columns: NDArray[np.floating[Any]]
) -> sparse.csr_array[Any]:
    values = block.data * np.repeat(of_rows, np.diff(block.indptr)) * of_columns[block.indices]
    return sparse.csr_array((values, block.indices, block.indptr), shape=block.shape)


def _without_itself(block: sparse.csr_array[Any], start: int) -> sparse.csr_array[Any]:
    rows = np.repeat(np.arange(block.shape[0]), np.diff(block.indptr))
    block.data[block.indices == rows + start] = 0
    return block
