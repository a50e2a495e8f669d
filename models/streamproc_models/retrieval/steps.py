"""The log as fitting reads it: arrays, one user after the other."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Steps(NamedTuple):
    """Who touched what in which step; the rows of a user stand together, in the order of the log.

    A *step* is an order; where there are no orders (a log of views), each event is a step of its own. "Next" always
    means the next step.
    """

    #: int64 [rows], ascending from 0: a number for each user (for a log of sessions, each session is a user).
    users: NDArray[np.int64]
    #: int64 [rows]: the number of the step within the user, from 0, ascending.
    steps: NDArray[np.int64]
    #: int64 [rows]: item codes, 0 to items - 1.
    codes: NDArray[np.int64]
    #: float64 [rows]: event times, seconds since the epoch. The latest is the log's end.
    at: NDArray[np.float64]
    #: Number of items of the catalogue.
    items: int
