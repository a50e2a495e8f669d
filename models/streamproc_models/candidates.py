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
from streamproc_models.retrieval.base import TABLE_PAIRS_MAX, Scored, Scores

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
    own = _history(columns, items)
    proposed = [own.codes]
    best = np.zeros((len(scored), users), dtype=np.float32)
    for number, one in enumerate(scored):
        codes, best[number] = _top(one, users, items, catalogue.proposed_max)
        proposed.append(codes)
    popular = np.arange(min(catalogue.proposed_max, items))
    proposed.append(np.broadcast_to(popular, (users, len(popular))))
    if len(trending):
        proposed.append(np.broadcast_to(trending, (users, len(trending))))

    pairs = _Pairs(proposed, items, catalogue.proposed_max, personal=1 + len(scored))
    if filters:
        cells = np.flatnonzero(pairs.stands)
        for one_filter in filters:
            of_users, codes = pairs.users_of(cells), pairs.codes_of(cells)
            cells = cells[one_filter.keeps(columns, catalogue, codes, own.records_of(of_users, pairs.own_of(cells)))]
        pairs.keep(cells)
    cells, offsets = pairs.first(catalogue.candidates_max)
    of_users, codes = np.repeat(np.arange(users), np.diff(offsets)), pairs.codes_of(cells)
    keys = of_users * items + codes
    sources, ranks = pairs.said_of(cells)
    return Candidates(
        offsets,
        of_users,
        codes,
        sources,
        own.records_of(of_users, pairs.own_of(cells)),
        np.array([_at(one, keys, users * items) for one in scored], np.float32).reshape(len(scored), len(cells)),
        ranks[1 : 1 + len(scored)],
        best,
    )


#: Beyond every place.
_NO_PLACE = np.int16(0x7FFF)


class _Pairs:
    """What the sources propose to each user, put together: a row a user, and in it a *cell* a proposal.

    A cell is one number: item code, source, and twice the place that the source gives the item. A row is sorted, so an
    item's cells stand together, of each source one at most. The first of them *stands* for the (user, item) pair.
    Sorting many short rows takes a tenth of one long sort.
    """

    def __init__(self, proposed: Sequence[NDArray[np.int64]], items: int, proposed_max: int, *, personal: int) -> None:
        """``proposed`` has for each source the codes [users, places], and ``items`` where there is none.

        The history is the first source. The first ``personal`` sources know the user, and the others propose the same
        to everybody.
        """
        self._sources, self._proposed_max = len(proposed), proposed_max
        widths = [codes.shape[1] for codes in proposed]
        self._place_bits = (2 * max(*widths, proposed_max)).bit_length()
        self._code_bits = bits = self._place_bits + self._sources.bit_length()
        # Behind each row so many cells without an item that no item's cells lead into the next one.
        users, width = len(proposed[0]), sum(widths) + self._sources - 1
        # Small numbers sort several times faster.
        dtype: Any = np.int32 if (items + 1) << bits < 1 << 31 else np.int64
        cells = np.full((users, width), items << bits, dtype=dtype)
        start = 0
        for source, codes in enumerate(proposed):
            doubled = np.arange(codes.shape[1])
            if source:  # own items count double
                doubled *= 2 if source < personal else 2 * _BEHIND
            said = np.minimum(doubled, 2 * max(widths[0], proposed_max)) | source << self._place_bits
            block = cells[:, start : start + codes.shape[1]]
            np.left_shift(codes, bits, out=block, casting="same_kind")
            block |= said.astype(dtype)
            start += codes.shape[1]
        cells.sort(axis=1)
        self._shape, self._cells = cells.shape, cells.ravel()
        self._codes = self._cells >> bits
        codes = self._codes
        self.stands = codes < items
        self.stands[1:] &= codes[1:] != codes[:-1]

    def keep(self, cells: NDArray[np.int64]) -> None:
        """Only these stand."""
        self.stands[:] = False
        self.stands[cells] = True

    def first(self, count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The first ``count`` cells that stand for each user, by priority (of equals the smaller code), and where each
        user's start.
        """
        users, width = self._shape
        bits = width.bit_length()
        places = self._least_places()
        places |= ~self.stands * _NO_PLACE
        key = places.astype(np.int32).reshape(self._shape)
        key <<= bits
        key |= np.arange(width, dtype=np.int32)
        key.sort(axis=1)
        kept = key[:, :count]
        found = kept < int(_NO_PLACE) << bits
        offsets = np.zeros(users + 1, dtype=np.int64)
        np.cumsum(found.sum(axis=1), out=offsets[1:])
        return ((kept & ((1 << bits) - 1)) + np.arange(users)[:, None] * width)[found], offsets

    def _least_places(self) -> NDArray[np.int16]:
        """For each cell that stands the least place of the item's cells."""
        places = self._places(self._cells).astype(np.int16)
        least, codes = places.copy(), self._codes
        for shift in range(1, self._sources):
            # What is of another item is beyond every place.
            other = (codes[shift:] != codes[:-shift]) * _NO_PLACE
            np.minimum(least[:-shift], places[shift:] | other, out=least[:-shift])
        return least

    def _places(self, cells: NDArray[Any]) -> NDArray[Any]:
        places: NDArray[Any] = np.minimum((cells & ((1 << self._place_bits) - 1)) >> 1, self._proposed_max)
        return places

    def users_of(self, cells: NDArray[np.int64]) -> NDArray[np.int64]:
        """The users."""
        users: NDArray[np.int64] = cells // self._shape[1]
        return users

    def codes_of(self, cells: NDArray[np.int64]) -> NDArray[np.int64]:
        """The item codes."""
        codes: NDArray[np.int64] = self._codes[cells].astype(np.int64)
        return codes

    def own_of(self, cells: NDArray[np.int64]) -> NDArray[np.int64]:
        """The places in the history of the user's own items, -1 of others."""
        # The history is the first source: where it proposes the item, its cell is the one that stands.
        said = self._cells[cells] & ((1 << self._code_bits) - 1)
        return np.where(said >> self._place_bits == 0, said, -1).astype(np.int64)

    def said_of(self, cells: NDArray[np.int64]) -> tuple[NDArray[np.uint32], NDArray[np.float32]]:
        """The sets of sources that propose the items; and [sources, cells] the places that they give the items,
        ``proposed_max`` where they do not propose them.
        """
        sources = np.zeros(len(cells), dtype=np.uint32)
        places = np.full((self._sources, len(cells)), self._proposed_max, dtype=np.float32)
        codes = self._codes[cells]
        for shift in range(self._sources):
            same = np.flatnonzero(self._codes[cells + shift] == codes)
            said = self._cells[cells[same] + shift]
            source = said >> self._place_bits & ((1 << self._code_bits - self._place_bits) - 1)
            sources[same] |= np.left_shift(1, source, dtype=np.uint32, casting="unsafe")
            places[source, same] = self._places(said)
        return sources, places


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


def _at(scored: Scored, keys: NDArray[np.int64], pairs: int) -> NDArray[np.float32]:
    """The scores of these pairs, which are all below ``pairs``."""
    if pairs > TABLE_PAIRS_MAX or not isinstance(scored, Scores):
        return scored.at(keys)
    table = np.zeros(pairs, dtype=np.float32)
    table[scored.keys] = scored.values
    found: NDArray[np.float32] = table[keys]
    return found


class _Own(NamedTuple):
    """The users' known items, those of most interest first."""

    #: int64 [users, places]: item codes; where a user has fewer, as many as there are items.
    codes: NDArray[np.int64]
    #: int64 [known items + 1]: indices of their records, one user after the other; the last is -1.
    records: NDArray[np.int64]
    #: int64 [users]: where each user's start.
    starts: NDArray[np.int64]

    def records_of(self, users: NDArray[np.int64], places: NDArray[np.int64]) -> NDArray[np.int64]:
        """The records at these places, -1 where a place is -1."""
        return self.records[np.where(places >= 0, self.starts[users] + places, -1)]


def _history(columns: Columns, items: int) -> _Own:
    known = np.flatnonzero(columns.record_codes != UNKNOWN)
    users = columns.record_users[known]
    counts = np.bincount(users, minlength=len(columns.now))
    bits = int(np.diff(columns.record_offsets).max(initial=0)).bit_length()
    # The bits of floats from 0 on sort as the floats do; of equals the last touched item comes first.
    key = (users << 31 | 0x7FFFFFFF - columns.interest.view(np.int32)[known]) << bits | columns.place[known]
    key.sort()
    records = columns.record_offsets[users + 1] - 1 - (key & ((1 << bits) - 1))
    starts = np.cumsum(counts) - counts
    codes = np.full((len(counts), int(counts.max(initial=0))), items)
    codes[users, np.arange(len(users)) - starts[users]] = columns.record_codes[records]
    return _Own(codes, np.append(records, -1), starts)


def _places(users: NDArray[np.int64]) -> NDArray[np.int64]:
    """Of rows that stand together by user: the place of each within its user."""
    starts = np.flatnonzero(np.concatenate(([True], users[1:] != users[:-1]))) if len(users) else users
    return np.arange(len(users)) - np.repeat(starts, np.diff(np.append(starts, len(users))))
