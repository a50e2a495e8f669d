"""Judges a model offline as the live system is judged: the last list before a basket, against that basket.

A *judged basket* is one of a user who had an event before it. The list is ranked from the state before the basket's
first event; that is the list last published for the user, since every batch that touches a user publishes one.
"""

from __future__ import annotations

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
    """Judge the baskets that have a state, in their order; all of them, and those ``before``, count as popularity."""
    orders = Counter(item_id for basket in before for item_id in basket.prices)
    judged: list[Basket] = []
    states: list[UserState] = []
    popular: list[list[str]] = []
    for basket in baskets:
        if basket.state is not None:
            judged.append(basket)
            states.append(decode_state(basket.state))
            popular.append([item_id for item_id, _ in orders.most_common(2 * K)])
        orders.update(basket.prices.keys())
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


def _own_frequency(state: UserState, filler: Sequence[str]) -> list[str]:
    records = np.frombuffer(bytes(state.items), ITEM_DTYPE)
    by_orders = np.lexsort((-records["last_at"].astype(np.int64), -records["orders"].astype(np.int64)))
    own = [state.item_ids[index] for index in by_orders if records["orders"][index]]
    return list(dict.fromkeys([*own, *filler]))[:K]
