"""Merge what the sources propose: one row a user and item, bounded, with the scores that the model reads."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamproc_models.candidates.sources import Pairs, Source, covisit, history, popular
from streamproc_models.catalogue import Catalogue
from streamproc_models.features.columns import Columns

#: Rows a user at most.
CANDIDATES_MAX = 100
#: Users a call at most. The sort keys below hold a user, an item code and a place in 63 bits.
USERS_MAX = 1 << 12


class Candidates(NamedTuple):
    """The candidates of a batch of users: one user after the other, the best by priority first.

    The *priority* ranks what the bound keeps: own items by interest, then co-visited ones by score, then popular ones.
    """

    #: int64 [users + 1]: where each user's rows start.
    offsets: NDArray[np.int64]
    #: int64 [rows].
    users: NDArray[np.int64]
    codes: NDArray[np.int64]
    #: uint8 [rows]: a set of Source.
    sources: NDArray[np.uint8]
    #: int64 [rows]: index of the item's record in the columns, -1 without one.
    records: NDArray[np.int64]
    #: float32 [rows]: sum, maximum and number of the links from the user's recent items.
    score: NDArray[np.float32]
    strongest: NDArray[np.float32]
    links: NDArray[np.float32]


def candidates(columns: Columns, catalogue: Catalogue, candidates_max: int = CANDIDATES_MAX) -> Candidates:
    """The candidates of each user, ``candidates_max`` at most.

    A user's candidates do not depend on the others of the batch. Raises ValueError for more than USERS_MAX users.
    """
    users = len(columns.now)
    if users > USERS_MAX:
        raise ValueError(f"{users} users in one call: at most {USERS_MAX} fit the sort keys")
    proposals = [
        (Source.HISTORY, history(columns)),
        (Source.COVISIT, covisit(columns, catalogue)),
        (Source.POPULAR, popular(users, catalogue)),
    ]
    merged = _merge(proposals, len(catalogue))
    return _bound(merged, _priority(merged, columns), users, candidates_max)


def _merge(proposals: list[tuple[Source, Pairs]], items: int) -> Candidates:
    """One row for each user and code, ordered by both. ``offsets`` is left empty."""
    pairs = Pairs(*(np.concatenate(column) for column in zip(*(pairs for _, pairs in proposals), strict=True)))
    sources = np.repeat(
        np.array([source for source, _ in proposals], dtype=np.uint8), [len(pairs.users) for _, pairs in proposals]
    )
    # The place in the key makes keys unique: the links of a user's item are added up in the same order in any batch.
    bits = max(len(pairs.users), 1).bit_length()
    key = ((pairs.users * items + pairs.codes) << bits) | np.arange(len(pairs.users))
    key.sort()
    order = key & ((1 << bits) - 1)
    key >>= bits
    if not len(key):
        none = np.zeros(0, dtype=np.float32)
        return Candidates(key, key, key, sources, key, none, none, none)
    starts = np.flatnonzero(np.concatenate(([True], key[1:] != key[:-1])))
    first = order[starts]
    links = pairs.links[order]
    return Candidates(
        starts[:0],
        pairs.users[first],
        pairs.codes[first],
        np.bitwise_or.reduceat(sources[order], starts),
        # The history is proposed first, so a row that has a record begins with it.
        pairs.records[first],
        np.add.reduceat(links, starts),
        np.maximum.reduceat(links, starts),
        np.add.reduceat((links > 0).astype(np.float32), starts),
    )


def _priority(merged: Candidates, columns: Columns) -> NDArray[np.float32]:
    """Above 0; see Candidates."""
    own = merged.records >= 0
    priority = np.where(merged.score > 0, 1 + merged.score / (1 + merged.score), 1 / (1 + merged.codes))
    priority[own] = 2 + columns.interest[merged.records[own]]
    return priority.astype(np.float32)


def _bound(merged: Candidates, priority: NDArray[np.float32], users: int, candidates_max: int) -> Candidates:
    rows = len(merged.users)
    bits = max(rows, 1).bit_length()
    # The bits of floats above 0 sort as the floats do.
    descending = 0x7FFFFFFF - priority.view(np.int32).astype(np.int64)
    key = (((merged.users << 31) | descending) << bits) | np.arange(rows)
    key.sort()
    order = key & ((1 << bits) - 1)
    counts = np.bincount(merged.users, minlength=users)
    starts = np.cumsum(counts) - counts
    kept = order[np.arange(rows) - np.repeat(starts, counts) < candidates_max]
    offsets = np.zeros(users + 1, dtype=np.int64)
    np.cumsum(np.minimum(counts, candidates_max), out=offsets[1:])
    return Candidates(offsets, *(column[kept] for column in merged[1:]))
