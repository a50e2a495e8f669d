"""Judges a model offline as the live system is judged: the last list before a basket, against that basket.

A *judged basket* is one of a user who had an event before it. The list is ranked from the state before the basket's
first event; that is the list last published for the user, since every batch that touches a user publishes one.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Sequence

import msgspec
import numpy as np

from streamproc_models.baskets import Basket, replay
from streamproc_models.features import UserState, decode_state
from streamproc_models.features.state import ITEM_DTYPE
from streamproc_models.metrics import K, Metrics, measure
from streamproc_models.scorer import Model, Scorer
from streamproc_producers.events import CartEvent

#: Baskets judged at most.
JUDGED_MAX = 20_000


class Judgement(msgspec.Struct, frozen=True):
    """The metrics of the model and of the baselines, on the same baskets."""

    baskets: int
    users: int
    model: Metrics
    #: The items in most orders so far, the same for everybody, counted up to the basket.
    popularity: Metrics
    #: The user's own items in most orders, then the popular ones.
    own_frequency: Metrics

    def asdict(self) -> dict[str, dict[str, float]]:
        """Name of the ranking -> metric -> value."""
        return {name: getattr(self, name).asdict() for name in ("model", "popularity", "own_frequency")}


def simulate(model: Model, events: Iterable[CartEvent], before: Sequence[Basket]) -> Judgement:
    """Serve these events with states that start empty, as after a deployment; ``before`` counts as popularity only."""
    return judge(model, replay(events), before)


def judge(model: Model, baskets: Sequence[Basket], before: Sequence[Basket]) -> Judgement:
    """Judge the baskets that have a state, in their order; all of them, and those ``before``, count as popularity.

    Of more than JUDGED_MAX every so many is judged.
    """
    baskets_with = _Popular(item_id for basket in before for item_id in basket.prices)
    judged: list[Basket] = []
    states: list[UserState] = []
    popular: list[list[str]] = []
    with_state = sum(basket.state is not None for basket in baskets)
    every = -(-with_state // JUDGED_MAX) or 1
    seen = 0
    for basket in baskets:
        seen += basket.state is not None
        if basket.state is not None and seen % every == 0:
            judged.append(basket)
            states.append(decode_state(basket.state))
            popular.append(baskets_with.top(2 * K))
        baskets_with.add(basket.prices)
    ranked = Scorer(model).rank([(basket.user_id, state) for basket, state in zip(judged, states, strict=True)], K)
    own = [_own_frequency(state, filler) for state, filler in zip(states, popular, strict=True)]
    bought = [basket.prices for basket in judged]
    return Judgement(
        len(judged),
        len({basket.user_id for basket in judged}),
        measure([[item.item_id for item in user.items] for user in ranked], bought),
        measure([items[:K] for items in popular], bought),
        measure(own, bought),
    )


class _Popular:
    """Counts items; the most counted ones without sorting all of them: only what was counted since can have risen."""

    def __init__(self, items: Iterable[str]) -> None:
        self._counts = Counter(items)
        self._risen = set(self._counts)
        self._top: list[str] = []

    def add(self, items: Iterable[str]) -> None:
        """Count each."""
        self._counts.update(items)
        self._risen.update(items)

    def top(self, n: int) -> list[str]:
        """The ``n`` most counted, the first by id of equals; ``n`` must be the same in every call."""
        if self._risen:
            counts = self._counts
            self._top = heapq.nsmallest(n, {*self._top, *self._risen}, key=lambda item: (-counts[item], item))
            self._risen.clear()
        return self._top


def _own_frequency(state: UserState, filler: Sequence[str]) -> list[str]:
    records = np.frombuffer(bytes(state.items), ITEM_DTYPE)
    by_orders = np.lexsort((-records["last_at"].astype(np.int64), -records["orders"].astype(np.int64)))
    own = [state.item_ids[index] for index in by_orders if records["orders"][index]]
    return list(dict.fromkeys([*own, *filler]))[:K]
