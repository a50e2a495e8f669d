"""From baskets to labelled rows, through the live candidate and matrix code."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamproc_models.baskets import Basket
from streamproc_models.candidates import USERS_MAX, candidates
from streamproc_models.catalogue import UNKNOWN, Catalogue
from streamproc_models.features import decode_state, features_of
from streamproc_models.features.columns import gather
from streamproc_models.matrix import Matrix


class Examples(NamedTuple):
    """Labelled rows: for each basket the candidates of the state before it, one basket after the other."""

    #: float32 [rows, features].
    rows: NDArray[np.float32]
    #: float32 [rows]: 1 where the candidate is in the basket.
    labels: NDArray[np.float32]
    #: float32 [rows]: how many candidates a row stands for; above 1 for sampled negatives.
    weights: NDArray[np.float32]
    #: int64 [rows], ascending: the number of the basket.
    groups: NDArray[np.int64]
    #: float32 [rows]: how many items the basket has, whether or not they are candidates.
    sizes: NDArray[np.float32]

    def part(self, start: int, end: int | None = None) -> Examples:
        """These rows; not a copy."""
        return Examples._make(column[start:end] for column in self)


def _empty(width: int) -> Examples:
    none = np.empty(0, np.float32)
    return Examples(np.empty((0, width), np.float32), none, none, np.empty(0, np.int64), none)


def joined(parts: Sequence[Examples]) -> Examples:
    """All of them, in their order."""
    if not parts:
        return _empty(0)
    baskets = np.cumsum([0, *(part.groups[-1] + 1 if len(part.groups) else 0 for part in parts)])
    groups = [part.groups + first for part, first in zip(parts, baskets[:-1], strict=True)]
    numbered = [part._replace(groups=of_part) for part, of_part in zip(parts, groups, strict=True)]
    return _concatenated(numbered)


def _concatenated(parts: Sequence[Examples]) -> Examples:
    return Examples._make(np.concatenate(column) for column in zip(*parts, strict=True))


def examples(
    baskets: Sequence[Basket], catalogue: Catalogue, *, negatives_max: int, random: np.random.Generator
) -> Examples:
    """The rows of baskets that have a state before them.

    All positives are kept, and ``negatives_max`` negatives a basket. Of n negatives the kept m weigh n / m each, so a
    model trained with the weights is calibrated for all candidates.
    """
    matrix = Matrix()
    parts = [_empty(len(features_of(catalogue.generator_names)))]
    known = [basket for basket in baskets if basket.state is not None]
    for start in range(0, len(known), USERS_MAX):
        some = known[start : start + USERS_MAX]
        columns = gather([decode_state(basket.state or b"") for basket in some], catalogue.codes)
        proposed = candidates(columns, catalogue)
        rows = matrix.build(columns, proposed, catalogue)
        wanted = np.array(
            [
                number * len(catalogue) + code
                for number, basket in enumerate(some)
                for item_id in basket.prices
                if (code := catalogue.codes.get(item_id, UNKNOWN)) != UNKNOWN
            ],
            dtype=np.int64,
        )
        positive = np.isin(proposed.users * len(catalogue) + proposed.codes, wanted)
        weights = _sample(positive, proposed.users, len(some), negatives_max, random)
        kept = weights > 0
        of_rows = proposed.users[kept]
        sizes = np.array([len(basket.prices) for basket in some], dtype=np.float32)
        parts.append(
            Examples(rows[kept], positive[kept].astype(np.float32), weights[kept], start + of_rows, sizes[of_rows])
        )
    return _concatenated(parts)


def _sample(
    positive: NDArray[np.bool_], users: NDArray[np.int64], count: int, negatives_max: int, random: np.random.Generator
) -> NDArray[np.float32]:
    """The weight of each row; 0 for a negative that is not kept."""
    negatives = np.flatnonzero(~positive)
    shuffled = negatives[np.lexsort((random.random(len(negatives)), users[negatives]))]
    counts = np.bincount(users[negatives], minlength=count)
    place = np.arange(len(shuffled)) - np.repeat(np.cumsum(counts) - counts, counts)
    weights = np.ones(len(positive), dtype=np.float32)
    scale = counts / np.maximum(np.minimum(counts, negatives_max), 1)
    weights[shuffled] = np.where(place < negatives_max, scale[users[shuffled]], 0.0)
    return weights
