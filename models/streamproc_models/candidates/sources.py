"""The three sources of candidates. Each proposes (user, item code) pairs for all users of a batch at once."""

from __future__ import annotations

import enum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamproc_models.catalogue import UNKNOWN, Catalogue
from streamproc_models.features.columns import Columns

#: How many of a user's last touched items propose their neighbours.
RECENT_ITEMS = 12
#: How many of the most popular items are proposed to everybody.
POPULAR_ITEMS = 40


class Source(enum.IntFlag):
    """Where a candidate comes from; it may come from several."""

    HISTORY = 1  # the user had an event on it
    COVISIT = 2  # a neighbour of one of the user's recent items
    POPULAR = 4  # among the most bought items of late

    @property
    def label(self) -> str:
        """The first source as it is published: history, covisit or popular."""
        for source in (Source.HISTORY, Source.COVISIT):
            if source in self:
                return str(source.name).lower()
        return "popular"


class Pairs(NamedTuple):
    """What one source proposes; arrays of equal length."""

    users: NDArray[np.int64]
    codes: NDArray[np.int64]
    #: float32: the strength of the link of a co-visit, else 0.
    links: NDArray[np.float32]
    #: int64: index of the item's record in the columns, else -1.
    records: NDArray[np.int64]


def history(columns: Columns) -> Pairs:
    """Every item of the history that the catalogue knows."""
    known = np.flatnonzero(columns.record_codes != UNKNOWN)
    users, codes = columns.record_users[known], columns.record_codes[known]
    return Pairs(users, codes, np.zeros(len(known), dtype=np.float32), known)


def covisit(columns: Columns, catalogue: Catalogue) -> Pairs:
    """The neighbours of each user's last touched items, and the strength of each link."""
    touched_since = columns.record_offsets[columns.record_users + 1] - 1 - np.arange(len(columns.records))
    recent = np.flatnonzero((touched_since < RECENT_ITEMS) & (columns.record_codes != UNKNOWN))
    codes = columns.record_codes[recent]
    neighbours = catalogue.neighbours[codes]
    links = catalogue.links[codes]
    linked = neighbours != UNKNOWN
    users = np.broadcast_to(columns.record_users[recent, None], neighbours.shape)
    proposed = neighbours[linked].astype(np.int64)
    return Pairs(users[linked], proposed, links[linked], np.full(len(proposed), -1, dtype=np.int64))


def popular(users: int, catalogue: Catalogue) -> Pairs:
    """The most popular items, the same for everybody: the first codes."""
    items = min(POPULAR_ITEMS, len(catalogue))
    return Pairs(
        np.repeat(np.arange(users), items),
        np.tile(np.arange(items), users),
        np.zeros(users * items, dtype=np.float32),
        np.full(users * items, -1, dtype=np.int64),
    )
