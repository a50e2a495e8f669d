"""Keeps the strongest links of each item, a block of items at a time."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from streamproc_models.catalogue import UNKNOWN
from streamproc_models.retrieval.links import Links, Weighting, rounded


def prune(
    name: str, weighting: Weighting, blocks: Iterable[tuple[int, sparse.csr_array[Any]]], *, items: int, width: int
) -> Links:
    """The ``width`` strongest links of each item; of equal ones those to the smaller codes.

    Each block is the code of its first item and a matrix [items of the block, items]; links that are not above 0 are
    left out. Items of no block have no links.
    """
    neighbours = np.full((items, width), UNKNOWN, dtype=np.int32)
    links = np.zeros((items, width), dtype=np.float32)
    for start, block in blocks:
        rows = np.repeat(np.arange(block.shape[0]), np.diff(block.indptr))
        above = block.data > 0
        rows, codes, values = rows[above], block.indices[above], block.data[above]
        order = np.lexsort((codes, -values, rows))
        rows, codes, values = rows[order], codes[order], values[order]
        counts = np.bincount(rows, minlength=block.shape[0])
        place = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
        kept = place < width
        neighbours[start + rows[kept], place[kept]] = codes[kept]
        links[start + rows[kept], place[kept]] = values[kept]
    return Links(name, weighting, neighbours, rounded(links))


def strongest(block: NDArray[np.float32], width: int) -> sparse.csr_array[Any]:
    """A dense block without what :func:`prune` would leave out anyway; it may keep more where links are equal."""
    if block.shape[1] > width:
        least = np.partition(block, block.shape[1] - width, axis=1)[:, block.shape[1] - width]
        block = np.where(block >= np.maximum(least, 0)[:, None], block, np.float32(0))
    return sparse.csr_array(block)
