"""Ranks the candidates of all users of a batch with one call of the booster."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec
import numpy as np
import xgboost
from numpy.typing import NDArray

from streamproc_models.bundle import predict
from streamproc_models.candidates import CANDIDATES_MAX, USERS_MAX, Candidates, Source, candidates
from streamproc_models.catalogue import UNKNOWN, Catalogue
from streamproc_models.features import FEATURES, UserState
from streamproc_models.features.columns import gather
from streamproc_models.features.schema import Scope
from streamproc_models.matrix import Matrix

#: Why a list is not the model's: the bundle has none ...
NO_MODEL = "no_model"
#: ... or the user has no item that the bundle knows, and so only the popular ones to rank.
NO_CANDIDATES = "no_candidates"

_SHARE = [feature.name for feature in FEATURES if feature.scope is Scope.ITEM].index("item_share_30d")
_LABELS = [Source(flags).label for flags in range(2 ** len(Source))]


class Model(Protocol):
    """What ranks: a :class:`streamproc_models.bundle.Bundle`, or one in the making."""

    @property
    def catalogue(self) -> Catalogue:
        """Items and neighbours."""
        ...

    @property
    def booster(self) -> xgboost.Booster | None:
        """The booster, or None where popularity ranks."""
        ...


class RankedItem(msgspec.Struct, frozen=True, gc=False):
    """One place in a list."""

    item_id: str
    name: str
    #: Probability that the item is in the user's next basket. In a fallback: share of recent orders with the item.
    probability: float
    #: The first source that proposed it: history, covisit or popular.
    source: str
    #: 1 is the first.
    rank: int


class Ranked(msgspec.Struct, frozen=True, gc=False):
    """A user's list, and None or the reason why it is by popularity."""

    user_id: str
    items: list[RankedItem]
    fallback: str | None


class Scorer:
    """Ranks with one model.

    States become columns, columns candidates, candidates a matrix, and the matrix scores, each for all users at once.
    Equal scores go by the candidates' priority, then to the more popular item, so a list depends on the user's state
    and the model alone. Not for two threads at once: the matrix' memory is used again.
    """

    def __init__(self, model: Model, *, candidates_max: int = CANDIDATES_MAX) -> None:
        self.model = model
        self._candidates_max = candidates_max
        self._matrix = Matrix()

    def rank(self, users: Sequence[tuple[str, UserState]], k: int = 10) -> list[Ranked]:
        """The ``k`` best items of each user (fewer where there are fewer candidates), in the order of ``users``."""
        if self.model.booster is None:
            popular = self._popular(k)
            return [Ranked(user_id, popular, NO_MODEL) for user_id, _ in users]
        ranked: list[Ranked] = []
        for start in range(0, len(users), USERS_MAX):
            ranked += self._rank(users[start : start + USERS_MAX], k, self.model.booster)
        return ranked

    def _rank(self, users: Sequence[tuple[str, UserState]], k: int, booster: xgboost.Booster) -> list[Ranked]:
        catalogue = self.model.catalogue
        columns = gather([state for _, state in users], catalogue.codes)
        proposed = candidates(columns, catalogue, self._candidates_max)
        scores = predict(booster, self._matrix.build(columns, proposed, catalogue))
        best, offsets = best_rows(scores, proposed, k)
        ids, names = catalogue.ids, catalogue.names
        places = [
            RankedItem(ids[code], names[code], probability, _LABELS[sources], rank)
            for code, probability, sources, rank in zip(
                proposed.codes[best].tolist(),
                scores[best].tolist(),
                proposed.sources[best].tolist(),
                (np.arange(len(best)) - np.repeat(offsets[:-1], np.diff(offsets)) + 1).tolist(),
                strict=True,
            )
        ]
        known = np.bincount(columns.record_users[columns.record_codes != UNKNOWN], minlength=len(users)).tolist()
        bounds = offsets.tolist()
        return [
            Ranked(user_id, places[start:end], None) if items else Ranked(user_id, self._popular(k), NO_CANDIDATES)
            for (user_id, _), start, end, items in zip(users, bounds[:-1], bounds[1:], known, strict=True)
        ]

    def _popular(self, k: int) -> list[RankedItem]:
        catalogue = self.model.catalogue
        shares = catalogue.features[:k, _SHARE].tolist()
        return [
            RankedItem(item_id, name, share, Source.POPULAR.label, rank)
            for rank, (item_id, name, share) in enumerate(
                zip(catalogue.ids[:k], catalogue.names[:k], shares, strict=True), 1
            )
        ]


def best_rows(scores: NDArray[np.float32], proposed: Candidates, k: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The rows of each user's ``k`` best scores, best first; and int64 [users + 1] where each user's start."""
    bits = max(len(scores), 1).bit_length()
    # The bits of floats from 0 on sort as the floats do; the row in the key decides between equals.
    descending = 0x7FFFFFFF - scores.view(np.int32).astype(np.int64)
    key = (((proposed.users << 31) | descending) << bits) | np.arange(len(scores))
    key.sort()
    order = key & ((1 << bits) - 1)
    counts = np.diff(proposed.offsets)
    place = np.arange(len(scores)) - np.repeat(proposed.offsets[:-1], counts)
    offsets = np.zeros(len(counts) + 1, dtype=np.int64)
    np.cumsum(np.minimum(counts, k), out=offsets[1:])
    return order[place < k], offsets
