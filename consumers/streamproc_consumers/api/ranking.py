"""Lists on demand, with the consumer's own ranker: requests of the same moment share one call of the booster."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec

from streamproc.telemetry import Telemetry
from streamproc_consumers.api.answers import Contributions, Item, Reason
from streamproc_consumers.api.gathering import Gathered
from streamproc_consumers.arms import Experiment, Ranker, Served
from streamproc_consumers.reload import Models
from streamproc_consumers.trending import Trend
from streamproc_models.candidates import POPULAR, USERS_MAX
from streamproc_models.explain import Explanation, explain
from streamproc_models.features import UserState, new_state
from streamproc_models.features.schema import MISSING
from streamproc_models.filters import Bought
from streamproc_models.related import related
from streamproc_models.scorer import Cascade, RankedItem

#: Features that an explanation lists; the others are summed.
REASONS_MAX = 10
UNKNOWN_ITEM = "unknown_item"
NO_LINKS = "no_links"
PURCHASED = (Bought(),)


class Wish(NamedTuple):
    """Whose list, and which one."""

    user_id: str
    state: UserState
    k: int
    exclude_purchased: bool


class Listed(NamedTuple):
    """The list, and the error where the user's own state could not be ranked: then it is a new user's."""

    served: Served
    error: Exception | None


class Rankings:
    """Ranks what waits, in the event loop: a batch takes milliseconds, and a thread would fight for the interpreter.

    As the recommender does it: the same arms, models, candidates, matrix and scorer.
    """

    def __init__(self, models: Models, experiment: Experiment | None, cascade: Cascade | None = None) -> None:
        # The recommender scores for the shadow.
        experiment = msgspec.structs.replace(experiment, shadow=0.0) if experiment else None
        self._models = models
        self._rankers = {
            False: Ranker(models, experiment, cascade=cascade),
            True: Ranker(models, experiment, filters=PURCHASED, cascade=cascade),
        }
        self._ranked = Gathered(self._rank, most=USERS_MAX)

    def start(self, telemetry: Telemetry) -> None:
        """Follow the models from now on."""
        self._models.start(telemetry)

    def offer(self, trend: Trend) -> None:
        """Take this for what is trending from the next list on."""
        for ranker in self._rankers.values():
            ranker.offer(trend)

    @property
    def alias(self) -> str:
        """Of the main arm."""
        return self._models.serving.main

    @property
    def model_version(self) -> str:
        """Of the main arm, now."""
        serving = self._models.serving
        return serving.bundles[serving.main].model_version

    @property
    def unusable(self) -> Mapping[str, str]:
        """Versions that an alias means and that cannot be used, by alias."""
        return self._models.unusable

    async def rank(self, wish: Wish) -> Listed:
        """The list."""
        return await self._ranked(wish)

    async def _rank(self, wishes: Sequence[Wish]) -> list[Listed]:
        kinds: defaultdict[tuple[int, bool], list[int]] = defaultdict(list)
        for index, wish in enumerate(wishes):
            kinds[wish.k, wish.exclude_purchased].append(index)
        listed: list[Listed | None] = [None] * len(wishes)
        for (k, exclude), indices in kinds.items():
            ranker = self._rankers[exclude]
            users = [(wishes[index].user_id, wishes[index].state) for index in indices]
            try:
                found = [Listed(served, None) for served in ranker.rank(users, k)]
            except Exception:  # noqa: BLE001  # one of them spoils no other
                found = [_alone(ranker, user, k) for user in users]
            for index, one in zip(indices, found, strict=True):
                listed[index] = one
        return [one for one in listed if one is not None]

    def related(self, item_id: str, k: int) -> tuple[list[RankedItem], str, str | None]:
        """What goes with an item, by the model of the main arm; its version, and what the list lacks."""
        serving = self._models.serving
        bundle = serving.bundles[serving.main]
        found = related(bundle, item_id, k)
        lacks = None
        if item_id not in bundle.catalogue.codes:
            lacks = UNKNOWN_ITEM
        elif all(item.source == POPULAR for item in found):
            lacks = NO_LINKS
        return found, bundle.model_version, lacks


def _alone(ranker: Ranker, user: tuple[str, UserState], k: int) -> Listed:
    try:
        return Listed(ranker.rank([user], k)[0], None)
    except Exception as error:  # noqa: BLE001  # told by the caller, who knows where the state is from
        return Listed(ranker.rank([(user[0], new_state())], k)[0], error)


async def explained(served: Served, state: UserState, exclude_purchased: bool) -> dict[str, Contributions]:
    """Why each item of a list has its score, by item id. In a thread: it takes longer than to rank.

    Empty where popularity ranked.
    """
    ids = [item.id for item in served.ranked.items]
    filters = PURCHASED if exclude_purchased else ()
    trending = served.trend.item_ids if served.trend else ()
    found = await asyncio.to_thread(explain, served.bundle, state, ids, filters, trending)
    return {one.item_id: _contributions(one) for one in found}


def _contributions(one: Explanation) -> Contributions:
    first = [reason for reason in one.reasons[:REASONS_MAX] if reason.contribution]
    return Contributions(
        sources=one.sources,
        bias=one.bias,
        reasons=[
            Reason(reason.feature, None if reason.value == MISSING else reason.value, reason.contribution)
            for reason in first
        ],
        other=sum(reason.contribution for reason in one.reasons[len(first) :]),
    )


def items_of(items: Sequence[RankedItem], why: dict[str, Contributions]) -> list[Item]:
    """As they are answered."""
    return [
        Item(
            one.id,
            one.name,
            one.probability,
            one.rank,
            one.source,
            why.get(one.id),
            one.explored,
            one.propensity if one.propensity != 1 else None,
        )
        for one in items
    ]
