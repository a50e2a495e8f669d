"""Episodes: spans of the log with the catalogue of their first moment, as a bundle of that day would have it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate

import msgspec
import numpy as np

from streamproc_models.baskets import Basket, replay
from streamproc_models.booster import Booster
from streamproc_models.catalogue import Catalogue
from streamproc_models.evaluation import Judgement, judge
from streamproc_models.items import Item
from streamproc_models.training.examples import Examples, examples
from streamproc_models.training.settings import TrainingSettings
from streamproc_models.training.tables import catalogue_of
from streamproc_producers.events import CartEvent

#: Told what is being done, how many of its steps are done, and how many there are.
Progress = Callable[[str, int, int], None]

_DAY = 86_400.0


class InTheMaking(msgspec.Struct, frozen=True):
    """A model before it is a bundle."""

    catalogue: Catalogue
    booster: Booster | None
    calibration: tuple[float, float] | None = None


class Episode(msgspec.Struct):
    """Its baskets come twice: from states that start empty with it (*cold*), as after a deployment, and from states
    that know the log from its beginning (*warm*).
    """

    catalogue: Catalogue
    #: The baskets of the log before it.
    before: Sequence[Basket]
    cold: list[Basket]
    warm: list[Basket]

    def examples(self, settings: TrainingSettings, random: np.random.Generator) -> list[Examples]:
        """The labelled rows of the cold and of the warm baskets."""
        return [
            examples(baskets, self.catalogue, negatives_max=settings.negatives_max, random=random)
            for baskets in (self.cold, self.warm)
        ]

    def judge(self, booster: Booster) -> dict[str, Judgement]:
        """What a booster is worth on them."""
        model = InTheMaking(self.catalogue, booster)
        judged = {"cold": judge(model, self.cold, self.before), "warm": judge(model, self.warm, self.before)}
        return {states: judgement for states, judgement in judged.items() if judgement.baskets}

    @property
    def labelled(self) -> int:
        """Baskets with a state before them."""
        return sum(basket.state is not None for basket in (*self.cold, *self.warm))


def first_state_needed(cut: float, settings: TrainingSettings) -> float:
    """From when on the states before baskets are needed."""
    return cut - settings.episodes * settings.episode_days * _DAY


def episodes_of(
    log: Sequence[CartEvent],
    baskets: Sequence[Basket],
    cut: float,
    settings: TrainingSettings,
    progress: Progress,
    *,
    items: Mapping[str, Item],
    orders: bool,
) -> list[Episode]:
    """The episodes that have baskets before them, in time order. ``orders``: whether a basket is an order.

    ``items`` is what is told of items, which an item has from its first day on.
    """
    # The latest time so far: a late event belongs to the episode in which it came.
    event_times = list(accumulate((event.at for event in log), max))
    basket_times = list(accumulate((basket.at for basket in baskets), max))
    found: list[Episode] = []
    for number in range(settings.episodes, 0, -1):
        progress("preparing episodes", settings.episodes - number, settings.episodes)
        start = cut - number * settings.episode_days * _DAY
        first = bisect_left(basket_times, start)
        if not first:
            continue
        warm_end = bisect_left(basket_times, start + settings.episode_days * _DAY)
        cold: list[Basket] = []
        if settings.cold_days:
            cold_end = bisect_left(event_times, start + settings.cold_days * _DAY)
            cold = replay(log[bisect_left(event_times, start) : cold_end], orders=orders)
        warm = list(baskets[first:warm_end])
        if settings.whole_episodes:
            cold, warm = _by_user(cold), _by_user(warm)
        before = baskets[:first]
        found.append(Episode(catalogue_of(before, items, start, settings), before, cold, warm))
    return found


def _by_user(baskets: Sequence[Basket]) -> list[Basket]:
    """One basket a user: all items of his, and the state before the first of them."""
    merged: dict[str, Basket] = {}
    for basket in baskets:
        first = merged.get(basket.user_id)
        if first is None:
            merged[basket.user_id] = msgspec.structs.replace(basket, prices=dict(basket.prices))
        else:
            first.prices.update(basket.prices)
    return list(merged.values())
