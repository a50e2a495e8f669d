"""Candidates: which items are worth scoring for a user. One row a user and item, bounded.

They come from the *history* (the user's own items), from every generator of the bundle, and from what is *popular*.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamproc_models.catalogue import UNKNOWN, Catalogue
from streamproc_models.features.columns import Columns
from streamproc_models.filters import Filter
from streamproc_models.retrieval.base import Scored

#: Users a call at most: keys of a user, a score and a place must fit 63 bits, and the work the processor's caches.
USERS_MAX = 256

HISTORY, POPULAR = "history", "popular"
_POPULAR_BEHIND = 4


class Candidates(NamedTuple):
    """The candidates of a batch of users: one user after the other, the best by priority first.

    The *priority* is the best place that any source gives the item, own items counting double, and popular ones a
    quarter: it decides what the bound keeps, and which of two equal scores comes first.
    """

    #: int64 [users + 1]: where each user's rows start.
    offsets: NDArray[np.int64]
    #: int64 [rows].
    users: NDArray[np.int64]
    codes: NDArray[np.int64]
    #: uint32 [rows]: a set of sources, bits in the order of :func:`source_names`.
    sources: NDArray[np.uint32]
    #: int64 [rows]: index of the item's record in the columns, -1 without one.
    records: NDArray[np.int64]
    #: float32 [generators, rows]: the score, and the place among what the generator proposes (where it does not
    #: propose the item: how many it proposes at most).
    scores: NDArray[np.float32]
    ranks: NDArray[np.float32]
    #: float32 [generators, users]: the best score that each generator gives to any item; 0 where it gives none.
    best: NDArray[np.float32]


def source_names(catalogue: Catalogue) -> tuple[str, ...]:
    """The sources in their order: history, the generators, popular."""
    return (HISTORY, *catalogue.generator_names, POPULAR)


def source_label(sources: int, names: tuple[str, ...]) -> str:
    """The first source of a set, as it is published."""
    return names[(sources & -sources).bit_length() - 1]


def candidates(columns: Columns, catalogue: Catalogue, filters: Sequence[Filter] = ()) -> Candidates:
    """The candidates of each user that all filters keep, as many as the catalogue says at most.

    A user's candidates do not depend on the others of the batch. Raises ValueError for more than USERS_MAX users.
    """
    users, items, proposed_max = len(columns.now), len(catalogue), catalogue.proposed_max
    if users > USERS_MAX:
        raise ValueError(f"{users} users in one call: at most {USERS_MAX} fit the sort keys")
    own_keys, own_records, own_places = _history(columns, items)
    scored: list[Scored] = [generator.scored(columns, items) for generator in catalogue.generators]
    proposed: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = [(own_keys, own_places // 2)]
    best = np.zeros((len(scored), users), dtype=np.float32)
    for number, one in enumerate(scored):
        keys, values = one.top(items, proposed_max)
        of_source = keys // items
        place = _places(of_source)
        proposed.append((keys, place))
        best[number, of_source[place == 0]] = values[place == 0]
    popular = min(proposed_max, items)
    popular_places = np.tile(np.arange(popular), users)
    proposed.append((np.repeat(np.arange(users) * items, popular) + popular_places, _POPULAR_BEHIND * popular_places))

    keys = _unique(np.concatenate([keys for keys, _ in proposed]))
    sources = np.zeros(len(keys), dtype=np.uint32)
    places = np.full((len(proposed), len(keys)), proposed_max, dtype=np.int64)
    for number, (of_source, place) in enumerate(proposed):
        index = np.searchsorted(keys, of_source)
        sources[index] |= np.uint32(1 << number)
        places[number, index] = place
    records = np.full(len(keys), -1, dtype=np.int64)
    records[np.searchsorted(keys, own_keys)] = own_records

    for one_filter in filters:
        stays = one_filter.keeps(columns, catalogue, keys % items, records)
        keys, sources, records, places = keys[stays], sources[stays], records[stays], places[:, stays]
    kept, offsets = _bound(keys // items, places.min(axis=0), users, catalogue.candidates_max)
    keys = keys[kept]
    return Candidates(
        offsets,
        keys // items,
        keys % items,
        sources[kept],
        records[kept],
        np.array([one.at(keys) for one in scored], dtype=np.float32).reshape(len(scored), len(keys)),
        places[1:-1, kept].astype(np.float32),
        best,
    )


def _history(columns: Columns, items: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """The user's known items, those of most interest first: keys, records and places."""
    known = np.flatnonzero(columns.record_codes != UNKNOWN)
    users = columns.record_users[known]
    order = np.lexsort((columns.place[known], -columns.interest[known], users))
    known, users = known[order], users[order]
    return users * items + columns.record_codes[known], known, _places(users)


def _places(users: NDArray[np.int64]) -> NDArray[np.int64]:
    """Of rows that stand together by user: the place of each within its user."""
    starts = np.flatnonzero(np.concatenate(([True], users[1:] != users[:-1]))) if len(users) else users
    return np.arange(len(users)) - np.repeat(starts, np.diff(np.append(starts, len(users))))


def _unique(keys: NDArray[np.int64]) -> NDArray[np.int64]:
    keys.sort()
    return keys[np.concatenate(([True], keys[1:] != keys[:-1]))] if len(keys) else keys


def _bound(
    users: NDArray[np.int64], priority: NDArray[np.int64], count: int, candidates_max: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The rows that are kept, by user and priority (of equals the smaller code), and where each user's start."""
    rows = len(users)
    bits = max(rows, 1).bit_length()
    key = (((users << 16) | priority) << bits) | np.arange(rows)
    key.sort()
    order = key & ((1 << bits) - 1)
    counts = np.bincount(users, minlength=count)
    kept = order[np.arange(rows) - np.repeat(np.cumsum(counts) - counts, counts) < candidates_max]
    offsets = np.zeros(count + 1, dtype=np.int64)
    np.cumsum(np.minimum(counts, candidates_max), out=offsets[1:])
    return kept, offsets
