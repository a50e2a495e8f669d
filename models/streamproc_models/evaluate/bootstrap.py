"""How far a mean over users could be off: percentile bootstrap, the same resamples for all that is compared."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 1_000
#: Share of the resamples inside an interval.
LEVEL = 0.95
_AT_ONCE = 100


def resampled(values: NDArray[np.float64], *, seed: int, resamples: int = RESAMPLES) -> NDArray[np.float64]:
    """float64 [resamples, columns]: the means of ``values`` [users, columns] over users drawn with replacement.

    NaN marks a user who has nothing to measure in a column, and is in no mean of it. All columns see the same draws, so
    the difference of two columns is a paired one. A resample without any user of a column is NaN.
    """
    random = np.random.default_rng(seed)
    users = len(values)
    present = ~np.isnan(values)
    some = np.where(present, values, 0.0)
    counted = present.astype(np.float64)
    means = np.full((resamples, values.shape[1]), np.nan)
    for start in range(0, resamples if users else 0, _AT_ONCE):
        rows = min(_AT_ONCE, resamples - start)
        drawn = random.integers(users, size=(rows, users)) + np.arange(rows)[:, None] * users
        times = np.bincount(drawn.ravel(), minlength=rows * users).reshape(rows, users).astype(np.float64)
        counts = times @ counted
        np.divide(times @ some, counts, out=means[start : start + rows], where=counts > 0)
    return means


def interval(means: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The bounds of the middle LEVEL of each column of :func:`resampled`; NaN for a column without any mean."""
    low, high = np.full(means.shape[1], np.nan), np.full(means.shape[1], np.nan)
    known = ~np.isnan(means).all(axis=0)
    tail = (1 - LEVEL) / 2
    if known.any():
        low[known], high[known] = np.nanquantile(means[:, known], (tail, 1 - tail), axis=0)
    return low, high
