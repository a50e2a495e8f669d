"""The log as sparse matrices: which items each step holds, and what came in the steps before it."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from streamproc_models.retrieval.steps import Steps

#: Of a step with more items only the first so many are read: a wholesaler's order links everything with everything.
BASKET_ITEMS_MAX = 150
#: What an earlier step would count less than this is left out, which bounds how far back a history goes.
_LEAST_WEIGHT = 0.01


class Baskets(NamedTuple):
    """The steps of a log, one row each, in the order of the log."""

    #: float32 [steps, items]: 1 for the items of the step.
    items: sparse.csr_array[Any]
    #: int64 [steps]: whose step it is.
    users: NDArray[np.int64]
    #: float64 [steps]: event time of its first row.
    at: NDArray[np.float64]

    def histories(self, decay: float) -> sparse.csr_array[Any]:
        """float32 [steps, items]: what came before each step; of ``n`` steps ago it counts ``decay ** (n - 1)``.

        It has at most log(.01) / log(decay) times as many elements as the log has rows.
        """
        count = len(self.users)
        farthest = 1 + int(math.log(_LEAST_WEIGHT) / math.log(decay))
        now, before, weights = [], [], []
        for distance in range(1, min(farthest, count - 1) + 1):
            steps = np.flatnonzero(self.users[distance:] == self.users[:-distance]) + distance
            now.append(steps)
            before.append(steps - distance)
            weights.append(np.full(len(steps), decay ** (distance - 1), dtype=np.float32))
        if not now:
            return sparse.csr_array((count, self.items.shape[1]), dtype=np.float32)
        pairs = (np.concatenate(now), np.concatenate(before))
        found = sparse.csr_array((np.concatenate(weights), pairs), shape=(count, count)) @ self.items
        found.sort_indices()
        return found


def baskets(steps: Steps) -> Baskets:
    """The steps of the log. An item that comes twice in a step counts once."""
    changes = np.ones(len(steps.users), dtype=bool)
    changes[1:] = (np.diff(steps.users) != 0) | (np.diff(steps.steps) != 0)
    starts = np.flatnonzero(changes)
    number = np.cumsum(changes) - 1
    kept = np.arange(len(number)) - starts[number] < BASKET_ITEMS_MAX
    ones = np.ones(int(kept.sum()), dtype=np.float32)
    items = sparse.csr_array((ones, (number[kept], steps.codes[kept])), shape=(len(starts), steps.items))
    items.sum_duplicates()
    items.data[:] = 1
    return Baskets(items, steps.users[starts], steps.at[starts])
