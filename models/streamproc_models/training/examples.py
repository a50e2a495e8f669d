"""From baskets to labelled rows, through the live candidate and matrix code."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamproc_models.baskets import Basket
from streamproc_models.candidates import candidates
from streamproc_models.catalogue import UNKNOWN, Catalogue
from streamproc_models.features import FEATURES, decode_state
from streamproc_models.features.columns import gather
from streamproc_models.matrix import Matrix

_BASKETS_A_CALL = 1_000


class Examples(NamedTuple):
    """Labelled rows: for each basket the candidates of the state before it."""

    #: float32 [rows, features].
    rows: NDArray[np.float32]
    #: float32 [rows]: 1 where the candidate is in the basket.
    labels: NDArray[np.float32]
    #: float32 [rows]: how many candidates a row stands for; above 1 for sampled negatives.
    weights: NDArray[np.float32]


def examples(
    baskets: Sequence[Basket], catalogue: Catalogue, *, negatives_max: int, random: np.random.Generator
) -> Examples:
    """The rows of baskets that have a state before them.

    All positives are kept, and ``negatives_max`` negatives a basket. Of n negatives the kept m weigh n / m each, so a
    model trained with the weights is calibrated for all candidates.
    """
    matrix = Matrix()
    parts = [Examples(np.empty((0, len(FEATURES)), np.float32), np.empty(0, np.float32), np.empty(0, np.float32))]
    known = [(decode_state(basket.state), basket.prices) for basket in baskets if basket.state is not None]
    for start in range(0, len(known), _BASKETS_A_CALL):
        some = known[start : start + _BASKETS_A_CALL]
        columns = gather([state for state, _ in some], catalogue.codes)
        proposed = candidates(columns, catalogue)
        rows = matrix.build(columns, proposed, catalogue)
        wanted = np.array(
            [
                number * len(catalogue) + code
                for number, (_, bought) in enumerate(some)
                for item_id in bought
                if (code := catalogue.codes.get(item_id, UNKNOWN)) != UNKNOWN
            ],
            dtype=np.int64,
        )
        positive = np.isin(proposed.users * len(catalogue) + proposed.codes, wanted)
        weights = _sample(positive, proposed.users, len(some), negatives_max, random)
        kept = weights > 0
        parts.append(Examples(rows[kept], positive[kept].astype(np.float32), weights[kept]))
    return Examples(*(np.concatenate(column) for column in zip(*parts, strict=True)))


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
