"""The feature matrix: one float32 row a user and candidate, for all users of a batch.

Live scoring and training call this same code, so a row is the same in both, bit for bit.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streamproc_models.candidates import Candidates
from streamproc_models.catalogue import Catalogue
from streamproc_models.features.columns import Columns, history_features
from streamproc_models.features.schema import FEATURES, MISSING, Scope, columns as columns_of, features_of

_USER, _ITEM = columns_of(Scope.USER), columns_of(Scope.ITEM)
_HISTORY, _CANDIDATE = columns_of(Scope.HISTORY), columns_of(Scope.CANDIDATE)
_PRICE = [feature.name for feature in FEATURES].index("item_price") - _ITEM.start


class Matrix:
    """Builds matrices in memory that is used again: a matrix is valid until the next call."""

    def __init__(self) -> None:
        self._memory = np.empty((0, 0), dtype=np.float32)

    def build(self, columns: Columns, candidates: Candidates, catalogue: Catalogue) -> NDArray[np.float32]:
        """float32 [rows, features], the rows of ``candidates``; ``now`` is each user's last event time."""
        rows, width = len(candidates.users), len(features_of(catalogue.generator_names))
        if rows > len(self._memory) or width != self._memory.shape[1]:
            self._memory = np.empty((rows, width), dtype=np.float32)
        matrix = self._memory[:rows]
        _place(matrix, _USER, columns.user_features, candidates.users)
        _place(matrix, _ITEM, catalogue.features, candidates.codes)
        # -1, of a candidate without history, is the last row.
        _place(matrix, _HISTORY, history_features(columns), candidates.records)
        pair = matrix[:, _CANDIDATE]
        user_price = columns.user_price[candidates.users]
        item_price = catalogue.features[:, _PRICE][candidates.codes]
        ratio = np.full(rows, MISSING, dtype=np.float32)
        np.divide(item_price, user_price, out=ratio, where=(item_price >= 0) & (user_price > 0), casting="same_kind")
        pair[:, 0] = ratio
        said = matrix[:, len(FEATURES) :]
        pair[:, 1] = (candidates.scores > 0).sum(axis=0)
        for number, (score, rank, best) in enumerate(
            zip(candidates.scores, candidates.ranks, candidates.best, strict=True)
        ):
            relative, of_row = np.zeros(rows, dtype=np.float32), best[candidates.users]
            np.divide(score, of_row, out=relative, where=of_row > 0)
            said[:, 3 * number] = score
            said[:, 3 * number + 1] = relative
            said[:, 3 * number + 2] = rank
        return matrix


def _place(matrix: NDArray[np.float32], columns: slice, block: NDArray[np.float32], rows: NDArray[np.int64]) -> None:
    """``matrix[:, columns] = block[rows]`` in a third of the time: the columns of a row are moved as one value."""
    width = block.shape[1] * block.itemsize
    whole = np.dtype(
        {"names": ["block"], "formats": [f"V{width}"], "offsets": [columns.start * 4], "itemsize": matrix.shape[1] * 4}
    )
    source = np.ascontiguousarray(block, dtype=np.float32).view(f"V{width}")[:, 0]
    matrix.view(whole)["block"][:, 0] = source.take(rows, mode="wrap")
