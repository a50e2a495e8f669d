"""Ranks the candidates of all users of a batch with one call of the booster."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from streamproc.errors import SettingsError
from streamproc.steps import part_ended
from streamproc_models.booster import Booster
from streamproc_models.bundle import calibrated
from streamproc_models.candidates import (
    POPULAR,
    TRENDING,
    USERS_MAX,
    Candidates,
    candidates,
    source_label,
    source_names,
    trending_codes,
)
from streamproc_models.catalogue import UNKNOWN, Catalogue
from streamproc_models.features import FEATURES, UserState
from streamproc_models.features.columns import Columns, gather
from streamproc_models.features.schema import Scope
from streamproc_models.filters import Filter
from streamproc_models.matrix import Matrix

#: What a list lacks, the most first; it is labelled with the first that holds. The bundle has no booster, ...
NO_MODEL = "no_model"
#: ... or knows no item of the user, so popularity ranks; ...
NO_CANDIDATES = "no_candidates"
#: ... there were fewer candidates than places, and what is popular comes after them; ...
FEW_CANDIDATES = "few_candidates"
#: ... no generator has anything to say, and the model ranks the user's own items and the popular ones; ...
NO_NEIGHBOURS = "no_neighbours"
#: ... or the user's last event is more than STALE_SECONDS after the end of the bundle's log.
STALE_MODEL = "stale_model"
_FALLBACKS = (NO_CANDIDATES, NO_NEIGHBOURS, STALE_MODEL, None)

_ITEM_FEATURES = [feature for feature in FEATURES if feature.scope is Scope.ITEM]
_SHARE = [feature.name for feature in _ITEM_FEATURES].index("item_share_30d")
#: From then on nothing that any window of an item's features counts is of the time before the user's last event.
STALE_SECONDS = float(max(feature.seconds or 0 for feature in _ITEM_FEATURES))


class Model(Protocol):
    """What ranks: a :class:`streamproc_models.bundle.Bundle`, or one in the making."""

    @property
    def catalogue(self) -> Catalogue:
        """Items and neighbours."""
        ...

    @property
    def booster(self) -> Booster | None:
        """The booster, or None where popularity ranks."""
        ...

    @property
    def calibration(self) -> tuple[float, float] | None:
        """What makes probabilities of its scores; see :func:`streamproc_models.bundle.calibrated`."""
        ...


class RankedItem(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """One place in a list, as it is published. Where nothing is explored the last two fields are not."""

    id: str
    name: str
    #: Probability that the item is in the user's next basket. Where popularity ranks: share of recent orders with it.
    probability: float
    #: The first source that proposed it: history, a generator's name, popular, or trending.
    source: str
    #: 1 is the first.
    rank: int
    #: Whether it was drawn at random from the candidates behind the list.
    explored: bool = False
    #: The probability with which this place went to this item, given the model and the user's features.
    propensity: float = 1.0

    @property
    def item_id(self) -> str:
        """The item's id, by the name that it has everywhere else."""
        return self.id


class Ranked(msgspec.Struct, frozen=True, gc=False):
    """A user's list, and None or what it lacks."""

    user_id: str
    items: list[RankedItem]
    fallback: str | None
    #: How many candidates stand behind the list; 0 where popularity ranks or fills up.
    behind: int = 0


class Cascade(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which candidates all trees score: those that the first ones find the best. The others are not listed.

    What is listed keeps its score, to the last bit. What the first trees put behind ``keep`` others and all trees would
    put into the list is missed.
    """

    #: Trees that score every candidate.
    first_trees: int = 40
    #: Candidates of a user that all trees score; at least as many as a list has places.
    keep: int = 25

    def __post_init__(self) -> None:
        if self.first_trees < 1 or self.keep < 1:
            raise SettingsError(
                f"the cascade has first_trees {self.first_trees} and keep {self.keep}: both must be 1 or more"
            )


class Scorer:
    """Ranks with one model.

    States become columns, columns candidates, candidates a matrix, and the matrix scores, each for all users at once.
    Equal scores go by the candidates' priority, then to the more popular item, so a list depends on the user's
    state, the model and what is offered as trending alone. Not for two threads at once: the matrix' memory is used
    again.
    """

    def __init__(self, model: Model, filters: Sequence[Filter] = (), *, cascade: Cascade | None = None) -> None:
        self.model = model
        self._filters = filters
        #: The first trees, where there is a cascade and they are not all.
        self._first: Booster | None = None
        self._keep = 0
        if cascade is not None and model.booster is not None and cascade.first_trees < model.booster.trees:
            self._first, self._keep = model.booster.first(cascade.first_trees), cascade.keep
        self._matrix = Matrix()
        self._sources = (*source_names(model.catalogue), TRENDING)
        self._trending = trending_codes(model.catalogue, ())

    def offer(self, item_ids: Sequence[str]) -> None:
        """Take these for trending from the next call on: candidates of every user, the first first."""
        self._trending = trending_codes(self.model.catalogue, item_ids)

    def rank(self, users: Sequence[tuple[str, UserState]], k: int = 10) -> list[Ranked]:
        """The ``k`` best items of each user (fewer where there are fewer candidates), in the order of ``users``."""
        if self.model.booster is None:
            return [Ranked(user_id, self._popular(state, k), NO_MODEL) for user_id, state in users]
        ranked: list[Ranked] = []
        for start in range(0, len(users), USERS_MAX):
            ranked += self._rank(users[start : start + USERS_MAX], k, self.model.booster)
        return ranked

    def rank_codes(self, states: Sequence[UserState], k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The item codes of the ``k`` best candidates [users, k], and their scores; -1 and 0 where there are fewer.

        Without a booster the most popular items, with their share of recent orders. See :meth:`rank`, which gives
        people what this gives to measurements.
        """
        codes = np.full((len(states), k), UNKNOWN, dtype=np.int64)
        found = np.zeros((len(states), k), dtype=np.float32)
        booster, catalogue = self.model.booster, self.model.catalogue
        if booster is None:
            for row, state in enumerate(states):
                for item in self._popular(state, k):
                    codes[row, item.rank - 1], found[row, item.rank - 1] = (
                        catalogue.codes[item.item_id],
                        item.probability,
                    )
            return codes, found
        for start in range(0, len(states), USERS_MAX):
            _, proposed, scores = self._score(states[start : start + USERS_MAX], booster, k)
            best, offsets = best_rows(scores, proposed, k)
            place = np.arange(len(best)) - np.repeat(offsets[:-1], np.diff(offsets))
            users = start + proposed.users[best]
            codes[users, place] = proposed.codes[best]
            found[users, place] = calibrated(scores[best], self.model.calibration)
        return codes, found

    def _score(
        self, states: Sequence[UserState], booster: Booster, k: int
    ) -> tuple[Columns, Candidates, NDArray[np.float32]]:
        columns = gather(states, self.model.catalogue.codes)
        proposed = candidates(columns, self.model.catalogue, self._filters, self._trending)
        part_ended("candidates")
        rows = self._matrix.build(columns, proposed, self.model.catalogue)
        part_ended("matrix")
        scores = self._scores_of(rows, booster, proposed, k)
        part_ended("predict")
        return columns, proposed, scores

    def _scores_of(
        self, rows: NDArray[np.float32], booster: Booster, proposed: Candidates, k: int
    ) -> NDArray[np.float32]:
        """Scores float32 [rows]: as all trees give them, and minus infinity where only the first trees did."""
        if self._first is None:
            return booster.scores(rows)
        best, _ = best_rows(self._first.scores(rows), proposed, max(self._keep, k))
        best.sort()
        scores = np.full(len(rows), -np.inf, dtype=np.float32)
        # All trees, not the rest of them: their sum is then the one that every other row gets.
        scores[best] = booster.scores(rows[best])
        return scores

    def best_candidates(self, users: Sequence[tuple[str, UserState]], k: int) -> list[list[RankedItem]]:
        """The ``k`` best candidates of each user, fewer where there are fewer; none without a booster."""
        if self.model.booster is None:
            return [[] for _ in users]
        found: list[list[RankedItem]] = []
        for start in range(0, len(users), USERS_MAX):
            part = users[start : start + USERS_MAX]
            _, proposed, scores = self._score([state for _, state in part], self.model.booster, k)
            places, bounds = self._places(proposed, scores, k)
            found += [places[begin:end] for begin, end in pairwise(bounds)]
        return found

    def _places(self, proposed: Candidates, scores: NDArray[np.float32], k: int) -> tuple[list[RankedItem], list[int]]:
        """The ``k`` best of each user, one user after the other, and where each user's start."""
        catalogue = self.model.catalogue
        best, offsets = best_rows(scores, proposed, k)
        codes, sources = proposed.codes[best].tolist(), proposed.sources[best].tolist()
        labels = {some: source_label(some, self._sources) for some in set(sources)}
        places = list(
            map(
                RankedItem,
                map(catalogue.ids.__getitem__, codes),
                map(catalogue.names.__getitem__, codes),
                calibrated(scores[best], self.model.calibration).tolist(),
                map(labels.__getitem__, sources),
                (np.arange(len(best)) - np.repeat(offsets[:-1], np.diff(offsets)) + 1).tolist(),
            )
        )
        bounds: list[int] = offsets.tolist()
        return places, bounds

    def _rank(self, users: Sequence[tuple[str, UserState]], k: int, booster: Booster) -> list[Ranked]:
        columns, proposed, scores = self._score([state for _, state in users], booster, k)
        places, bounds = self._places(proposed, scores, k)
        wanted = min(k, len(self.model.catalogue))
        ranked: list[Ranked] = []
        for (user_id, state), start, end, count, lacks in zip(
            users,
            bounds[:-1],
            bounds[1:],
            np.diff(proposed.offsets).tolist(),
            self._lacks(columns, proposed),
            strict=True,
        ):
            found, behind = places[start:end], count - (end - start)
            if lacks == NO_CANDIDATES:
                found, behind = self._popular(state, k), 0
            elif end - start < wanted:
                found, lacks = self._filled(found, state, k), FEW_CANDIDATES
            ranked.append(Ranked(user_id, found, lacks, behind))
        part_ended("lists")
        return ranked

    def _lacks(self, columns: Columns, proposed: Candidates) -> list[str | None]:
        """What each user's list lacks, but for places."""
        is_known = np.zeros(len(columns.now), dtype=np.bool_)
        is_known[columns.record_users[columns.record_codes != UNKNOWN]] = True
        is_linked = (proposed.best > 0).any(axis=0)
        is_stale = columns.now > self.model.catalogue.as_of + STALE_SECONDS
        places: list[int] = np.select([~is_known, ~is_linked, is_stale], [0, 1, 2], 3).tolist()
        return [_FALLBACKS[place] for place in places]

    def _filled(self, places: list[RankedItem], state: UserState, k: int) -> list[RankedItem]:
        """The places, and behind them the popular items that are not there, as far as the filters leave them."""
        listed = {place.item_id for place in places}
        rest = [item for item in self._popular(state, k + len(places)) if item.item_id not in listed]
        return places + [
            msgspec.structs.replace(item, rank=rank)
            for rank, item in enumerate(rest[: k - len(places)], len(places) + 1)
        ]

    def _popular(self, state: UserState, k: int) -> list[RankedItem]:
        catalogue = self.model.catalogue
        codes = np.arange(len(catalogue) if self._filters else min(k, len(catalogue)))
        if self._filters:
            columns = gather([state], catalogue.codes)
            records = np.full(len(catalogue), -1, dtype=np.int64)
            known = np.flatnonzero(columns.record_codes != UNKNOWN)
            records[columns.record_codes[known]] = known
            for one_filter in self._filters:
                stays = one_filter.keeps(columns, catalogue, codes, records)
                codes, records = codes[stays], records[stays]
        return [
            RankedItem(
                catalogue.ids[code], catalogue.names[code], float(catalogue.features[code, _SHARE]), POPULAR, rank
            )
            for rank, code in enumerate(codes[:k].tolist(), 1)
        ]


def best_rows(scores: NDArray[np.float32], proposed: Candidates, k: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The rows of each user's ``k`` best scores, best first; and int64 [users + 1] where each user's start."""
    # The bits of floats sort as the floats do, once those of the ones below 0 are turned round; the row in the key
    # decides between equals.
    signed = scores.view(np.int32).astype(np.int64)
    descending = 0x7FFFFFFF - np.where(signed < 0, -(signed & 0x7FFFFFFF), signed)
    counts = np.diff(proposed.offsets)
    width = int(counts.max(initial=0))
    bits = width.bit_length()
    # One short row a user: sorting those takes a tenth of sorting all at once.
    found = np.arange(width) < counts[:, None]
    key = np.full(found.shape, np.iinfo(np.int64).max)
    key[found] = descending << bits
    key |= np.arange(width)
    key.sort(axis=1)
    rows = (key[:, :k] & ((1 << bits) - 1)) + proposed.offsets[:-1, None]
    offsets = np.zeros(len(counts) + 1, dtype=np.int64)
    np.cumsum(np.minimum(counts, k), out=offsets[1:])
    return rows[found[:, :k]], offsets
