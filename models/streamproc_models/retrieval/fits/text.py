"""Links by name: items whose names share words or parts of words. What a new item has before anyone has bought it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from scipy import sparse

from streamproc_models.retrieval.fits.prune import prune
from streamproc_models.retrieval.links import Links, Weighting

_WORD = re.compile(r"\w+")
_LETTERS = (3, 4)
#: A word counts as much as so many of its parts.
_WORD_WEIGHT = 2.0
#: A term of more than this share of the items tells none from another.
_COMMON = 0.2
_BLOCK_ITEMS = 500


def fit_text(
    names: Sequence[str],
    *,
    name: str = "text",
    weighting: Weighting = Weighting.INTEREST,
    width: int = 50,
    least: float = 0.1,
    block_items: int = _BLOCK_ITEMS,
) -> Links:
    """Links between items by their ``names``, by item code: cosine of tf-idf of words and of three and four letters.

    An item without a name has no links; neither has a cosine below ``least``. Memory: the terms of all names twice,
    and the links of ``block_items`` items.
    """
    terms = _terms(names)
    of_terms = sparse.csr_array(terms.T)

    def blocks() -> Iterator[tuple[int, sparse.csr_array[Any]]]:
        for start in range(0, len(names), block_items):
            found = terms[start : start + block_items] @ of_terms
            rows = np.repeat(np.arange(found.shape[0]), np.diff(found.indptr))
            found.data[(found.data < least) | (found.indices == rows + start)] = 0
            yield start, found

    return prune(name, weighting, blocks(), items=len(names), width=width)


def _terms(names: Sequence[str]) -> sparse.csr_array[Any]:
    """float32 [items, terms]: tf-idf, each row of length 1."""
    numbers: dict[str, int] = {}
    rows: list[int] = []
    columns: list[int] = []
    weights: list[float] = []
    for row, text in enumerate(names):
        for word in _WORD.findall(text.lower()):
            rows.append(row)
            columns.append(numbers.setdefault(word, len(numbers)))
            weights.append(_WORD_WEIGHT)
            marked = f" {word} "
            for letters in _LETTERS:
                for start in range(len(marked) - letters + 1):
                    part = "*" + marked[start : start + letters]
                    rows.append(row)
                    columns.append(numbers.setdefault(part, len(numbers)))
                    weights.append(1.0)
    shape = (len(names), len(numbers))
    terms = sparse.csr_array((np.array(weights, dtype=np.float32), (rows, columns)), shape=shape)
    terms.sum_duplicates()
    named = max(int((np.diff(terms.indptr) > 0).sum()), 1)
    holders = np.bincount(terms.indices, minlength=len(numbers))
    rare = np.where(holders > max(_COMMON * named, 10), 0, np.log((1 + named) / (1 + holders)) + 1).astype(np.float32)
    terms.data = np.log1p(terms.data) * rare[terms.indices]
    terms.eliminate_zeros()
    of_rows = np.repeat(np.arange(len(names)), np.diff(terms.indptr))
    lengths = np.sqrt(np.bincount(of_rows, terms.data.astype(np.float64) ** 2, minlength=len(names)))
    terms.data = (terms.data / lengths[of_rows]).astype(np.float32)
    return terms
