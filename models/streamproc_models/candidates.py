"""Candidates: which items are worth scoring for a user. One row a user and item, bounded.

They come from the *history* (the user's own items), from every generator of the bundle, from what is *popular*, and
where a caller has them from items that are *trending* over all users.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamproc_models.catalogue import UNKNOWN, Catalogue
from streamproc_models.features.columns import Columns
from streamproc_models.filters import Filter
from streamproc_models.retrieval.base import Scored, Scores

#: Users a call at most: keys of a user, a score and a place must fit 63 bits, and the work the processor's caches.
USERS_MAX = 512

HISTORY, POPULAR, TRENDING = "history", "popular", "trending"
#: What is proposed to everybody alike has its place so many times further behind.
_BEHIND = 4


class Candidates(NamedTuple):
    """The candidates of a batch of users: one user after the other, the best by priority first.

    The *priority* is the best place that any source gives the item, own items counting double, and popular and
    trending ones a quarter: it decides what the bound keeps, and which of two equal scores comes first.
    """

    #: int64 [users + 1]: where each user's rows start.
    offsets: NDArray[np.int64]
    #: int64 [rows].
    users: NDArray[np.int64]
    codes: NDArray[np.int64]
    #: uint32 [rows]: a set of sources, bits in the order of :func:`source_names`, and TRENDING after them.
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


def trending_codes(catalogue: Catalogue, item_ids: Sequence[str]) -> NDArray[np.int64]:
    """The codes of trending items, in their order and without those that the catalogue does not know."""
    codes = catalogue.codes
    return np.array([codes[item_id] for item_id in item_ids if item_id in codes], dtype=np.int64)


_NONE_TRENDING: NDArray[np.int64] = np.zeros(0, dtype=np.int64)


def source_label(sources: int, names: tuple[str, ...]) -> str:
    """The first source of a set, as it is published."""
    return names[(sources & -sources).bit_length() - 1]


def candidates(
    columns: Columns,
    catalogue: Catalogue,
    filters: Sequence[Filter] = (),
    trending: NDArray[np.int64] = _NONE_TRENDING,
) -> Candidates:
    """The candidates of each user that all filters keep, as many as the catalogue says at most.

    ``trending`` are codes that are proposed to every user, the first first; see :func:`trending_codes`. A user's
    candidates do not depend on the others of the batch. Raises ValueError for more than USERS_MAX users.
    """
    users, items = len(columns.now), len(catalogue)
    if users > USERS_MAX:
        raise ValueError(f"{users} users in one call: at most {USERS_MAX} fit the sort keys")
    scored: list[Scored] = [generator.scored(columns, items) for generator in catalogue.generators]
    own_codes, own_records = _history(columns, items)
    proposed = [own_codes]
    best = np.zeros((len(scored), users), dtype=np.float32)
    for number, one in enumerate(scored):
        codes, best[number] = _top(one, users, items, catalogue.proposed_max)
        proposed.append(codes)
    popular = np.arange(min(catalogue.proposed_max, items))
    proposed.append(np.broadcast_to(popular, (users, len(popular))))
    if len(trending):
        proposed.append(np.broadcast_to(trending, (users, len(trending))))

    pairs = _Pairs(proposed, own_records, items, catalogue.proposed_max, personal=1 + len(scored))
    if filters:
        cells = np.flatnonzero(pairs.stands)
        for one_filter in filters:
            cells = cells[one_filter.keeps(columns, catalogue, pairs.codes_of(cells), pairs.records_of(cells))]
        pairs.keep(cells)
    cells, offsets = pairs.first(catalogue.candidates_max)
    of_users, codes = np.repeat(np.arange(users), np.diff(offsets)), pairs.codes_of(cells)
    keys = of_users * items + codes
    shape = len(scored), len(cells)
    return Candidates(
        offsets,
        of_users,
        codes,
        pairs.sources_of(cells),
        pairs.records_of(cells),
        np.array([_at(one, keys, users * items) for one in scored], dtype=np.float32).reshape(shape),
        np.array([pairs.ranks_of(cells, number) for number, _ in enumerate(scored, 1)], np.float32).reshape(shape),
        best,
    )


#: Beyond every place.
_NO_PLACE = np.int16(0x7FFF)


class _Pairs:
    """What the sources propose to each user, put together: a row a user, and in it a *cell* a proposal.

    A row is sorted by item code and then by source, so that an item's cells stand together, of each source one at most.
    The first of them *stands* for the (user, item) pair. Sorting many short rows takes a tenth of one long sort.
    """

    def __init__(
        self,
        proposed: Sequence[NDArray[np.int64]],
        own_records: NDArray[np.int64],
        items: int,
        proposed_max: int,
        *,
        personal: int,
    ) -> None:
        """``proposed`` has for each source the codes [users, places], and ``items`` where there is none.

        The history is the first source, with ``own_records`` beside its codes. The first ``personal`` sources know the
        user, and the others propose the same to everybody.
        """
        widths = [codes.shape[1] for codes in proposed]
        cells = sum(widths)
        bits = cells.bit_length()
        # Small keys sort several times faster.
        dtype: Any = np.int32 if (items + 1) << bits < 1 << 31 else np.int64
        codes = np.concatenate(proposed, axis=1, dtype=dtype)
        codes <<= bits
        codes |= np.arange(cells, dtype=dtype)
        codes.sort(axis=1)
        self._own_records, self._proposed_max = own_records, proposed_max
        #: Which proposal a cell is: index into the row as it was given.
        self._columns = codes & dtype((1 << bits) - 1)
        codes >>= bits
        self._codes = codes
        places = np.concatenate([np.arange(width) for width in widths])
        places[: widths[0]] //= 2  # own items count double
        places[sum(widths[:personal]) :] *= _BEHIND
        self._places = np.minimum(places, proposed_max).astype(np.int16)[self._columns]
        self._of_source = np.repeat(np.arange(len(widths), dtype=np.int16), widths)[self._columns]
        self.stands = codes < items
        self.stands[:, 1:] &= codes[:, 1:] != codes[:, :-1]
        #: 0 where the cell 1, 2, ... further on is of the same item, else what no place is above.
        self._apart = [
            (codes[:, shift:] != codes[:, :-shift]).astype(np.int16) * _NO_PLACE for shift in range(1, len(widths))
        ]

    def keep(self, cells: NDArray[np.int64]) -> None:
        """Only these stand."""
        self.stands[:] = False
        self.stands.ravel()[cells] = True

    def first(self, count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The first ``count`` cells that stand for each user, by priority (of equals the smaller code), and where each
        user's start.
        """
        users, cells = self._codes.shape
        bits = cells.bit_length()
        key = self._least(self._places).astype(np.int32)
        key <<= bits
        key |= np.arange(cells, dtype=np.int32)
        key[~self.stands] = np.iinfo(np.int32).max
        key.sort(axis=1)
        kept = key[:, :count]
        found = kept != np.iinfo(np.int32).max
        offsets = np.zeros(users + 1, dtype=np.int64)
        np.cumsum(found.sum(axis=1), out=offsets[1:])
        return ((kept & ((1 << bits) - 1)) + np.arange(users)[:, None] * cells)[found], offsets

    def _least(self, values: NDArray[np.int16]) -> NDArray[np.int16]:
        """For each cell that stands the least value of the item's cells."""
        least = values.copy()
        for shift, apart in enumerate(self._apart, 1):
            np.minimum(least[:, :-shift], values[:, shift:] | apart, out=least[:, :-shift])
        return least

    def codes_of(self, cells: NDArray[np.int64]) -> NDArray[np.int64]:
        """The item codes."""
        return self._codes.ravel()[cells].astype(np.int64)

    def records_of(self, cells: NDArray[np.int64]) -> NDArray[np.int64]:
        """The records of the user's own items, -1 of others."""
        # The history is the first source: where it proposes the item, its cell is the one that stands.
        own = self._own_records.shape[1]
        columns = self._columns.ravel()[cells]
        records = self._own_records[cells // self._codes.shape[1], np.minimum(columns, own - 1)]
        return np.where(columns < own, records, -1)

    def sources_of(self, cells: NDArray[np.int64]) -> NDArray[np.uint32]:
        """The sets of sources that propose the items."""
        sources = np.uint32(1) << self._of_source.astype(np.uint32)
        found = sources.copy()
        for shift, apart in enumerate(self._apart, 1):
            found[:, :-shift] |= sources[:, shift:] * (apart == 0)
        of_cells: NDArray[np.uint32] = found.ravel()[cells]
        return of_cells

    def ranks_of(self, cells: NDArray[np.int64], source: int) -> NDArray[np.int16]:
        """The places that this source gives the items; ``proposed_max`` where it does not propose them."""
        places = np.where(self._of_source == source, self._places, np.int16(self._proposed_max))
        return self._least(places).ravel()[cells]


def _top(scored: Scored, users: int, items: int, proposed_max: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The codes [users, places] that a generator proposes, ``items`` where there are fewer; and the best scores."""
    keys, values = scored.top(items, proposed_max)
    of_users = keys // items
    place = _places(of_users)
    codes = np.full((users, int(place.max(initial=-1)) + 1), items)
    codes[of_users, place] = keys - of_users * items
    best = np.zeros(users, dtype=np.float32)
    best[of_users[place == 0]] = values[place == 0]
    return codes, best


#: A table of scores by pair that is larger takes longer to make than the pairs take to look up.
_TABLE_PAIRS_MAX = 1 << 20


def _at(scored: Scored, keys: NDArray[np.int64], pairs: int) -> NDArray[np.float32]:
    """The scores of these pairs, which are all below ``pairs``."""
    if pairs > _TABLE_PAIRS_MAX or not isinstance(scored, Scores):
        return scored.at(keys)
    table = np.zeros(pairs, dtype=np.float32)
    table[scored.keys] = scored.values
    found: NDArray[np.float32] = table[keys]
    return found


def _history(columns: Columns, items: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The codes [users, places] of the user's known items, those of most interest first, and their records.

    Where a user has fewer the code is ``items``.
    """
    counts = np.diff(columns.record_offsets)
    width = max(int(counts.max(initial=0)), 1)
    bits = width.bit_length()
    # The bits of floats from 0 on sort as the floats do; of equals the last touched item comes first.
    least_first = 0x7FFFFFFF - columns.interest.view(np.int32).astype(np.int64)
    none = np.iinfo(np.int64).max
    key = np.full((len(counts), width), none)
    key[columns.record_users, columns.place] = np.where(
        columns.record_codes != UNKNOWN, (least_first << bits) | columns.place, none
    )
    key.sort(axis=1)
    found = key != none
    records = np.where(found, columns.record_offsets[1:, None] - 1 - (key & ((1 << bits) - 1)), -1)
    return np.where(found, np.append(columns.record_codes, UNKNOWN)[records], items), records


def _places(users: NDArray[np.int64]) -> NDArray[np.int64]:
    """Of rows that stand together by user: the place of each within its user."""
    starts = np.flatnonzero(np.concatenate(([True], users[1:] != users[:-1]))) if len(users) else users
    return np.arange(len(users)) - np.repeat(starts, np.diff(np.append(starts, len(users))))
