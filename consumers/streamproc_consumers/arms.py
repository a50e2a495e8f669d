"""Arms: which model a user's lists come from, the shadow that scores beside them, and places that are explored.

A user's arm is a hash of the experiment's salt and the user, so it is the same on every host, in every replay and in
whoever reads the records later. Another salt deals the users anew.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple

import msgspec

from streamproc.clock import Clock, SystemClock
from streamproc.errors import SettingsError
from streamproc.telemetry import Telemetry
from streamproc_consumers.facts import ShadowCompared
from streamproc_consumers.reload import Models, Serving
from streamproc_consumers.trending import Trend
from streamproc_models.bundle import Bundle
from streamproc_models.features import UserState
from streamproc_models.filters import Filter
from streamproc_models.registry import ALIASES, SHADOW
from streamproc_models.scorer import Cascade, Ranked, RankedItem, Scorer

#: How often the shadow's comparison is told.
SHADOW_SECONDS = 10.0
#: An explored place is drawn from so many candidates behind the list.
EXPLORED_AMONG = 40
User = tuple[str, UserState]


class Experiment(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How users are dealt to arms. An arm is the alias whose bundle ranks for its users.

    As a setting: ``{"salt": "2026-11", "weights": {"champion": 0.9, "challenger": 0.1}, "shadow": 0.2}``.
    """

    #: Names the experiment. Change it for the next one: users must not stay with those they were with.
    salt: str = ""
    #: Arm -> share of the users.
    weights: dict[str, float] = msgspec.field(default_factory=lambda: {"champion": 1.0})
    #: The share of the users for whom the shadow scores, too. It costs what their lists cost once more.
    shadow: float = 0.0
    #: The share of the lists whose last place goes to one of the candidates behind the list, drawn at random: what a
    #: model never shows it cannot learn. It costs what these lists cost once more.
    exploration: float = 0.0

    def __post_init__(self) -> None:
        if not self.weights or not {*self.weights} <= {*ALIASES}:
            raise SettingsError(
                f"the experiment's weights are of {', '.join(sorted(self.weights)) or 'nothing'}: an arm is one of"
                f" {', '.join(ALIASES)}"
            )
        if any(not 0 <= weight <= 1 for weight in self.weights.values()) or not math.isclose(
            math.fsum(self.weights.values()), 1.0, abs_tol=1e-9
        ):
            raise SettingsError(f"the experiment's weights are {self.weights}: shares from 0 to 1 that add up to 1")
        if self.shadow and SHADOW in self.weights:
            raise SettingsError("the experiment's shadow is an arm, too: what is shown to users is no shadow")
        if not 0 <= self.shadow <= 1:
            raise SettingsError(f"the experiment's shadow is {self.shadow}: it is a share of the users, from 0 to 1")
        if not 0 <= self.exploration <= 1:
            raise SettingsError(
                f"the experiment's exploration is {self.exploration}: it is a share of the lists, from 0 to 1"
            )

    def aliases(self) -> list[str]:
        """Whose bundles it needs."""
        return [*self.weights, *([SHADOW] if self.shadow else [])]


def read_experiment(text: str) -> Experiment | None:
    """The setting as JSON; None without one: everybody is in the main arm. Raises SettingsError."""
    if not text:
        return None
    try:
        return msgspec.json.decode(text, type=Experiment)
    except (msgspec.DecodeError, UnicodeDecodeError, SettingsError) as error:
        # What __post_init__ raises, msgspec wraps.
        cause = error.__cause__ if isinstance(error.__cause__, SettingsError) else error
        raise SettingsError(
            f"STREAMPROC_EXPERIMENT cannot be used: {cause}; write it as"
            ' {"salt": "2026-11", "weights": {"champion": 0.9, "challenger": 0.1}, "shadow": 0, "exploration": 0}'
        ) from error


def read_cascade(text: str) -> Cascade | None:
    """The setting as JSON; None without one: all trees score every candidate. Raises SettingsError."""
    if not text:
        return None
    try:
        return msgspec.json.decode(text, type=Cascade)
    except (msgspec.DecodeError, UnicodeDecodeError, SettingsError) as error:
        cause = error.__cause__ if isinstance(error.__cause__, SettingsError) else error
        raise SettingsError(
            f'STREAMPROC_CASCADE cannot be used: {cause}; write it as {{"first_trees": 40, "keep": 25}}'
        ) from error


def uniform(salt: str, user_id: str) -> float:
    """A number in [0, 1) for a user: 64 bits of BLAKE2b, so that users are spread evenly whatever their ids are."""
    digest = hashlib.blake2b(f"{salt}\x00{user_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) / 2**64


def arm_of(salt: str, user_id: str, weights: Mapping[str, float]) -> str:
    """The arm of a user. The arms stand in alphabetical order on the unit interval, each as wide as its weight."""
    arms = sorted(weights)
    at = uniform(salt, user_id)
    for arm, end in zip(arms, accumulate(weights[arm] for arm in arms), strict=True):
        if at < end:
            return arm
    return arms[-1]  # the weights may add up to a little less than 1


class Served(NamedTuple):
    """A user's list and where it comes from."""

    ranked: Ranked
    arm: str
    #: The probability with which a user is in this arm.
    propensity: float
    bundle: Bundle
    #: What was offered to every user, None where nothing was.
    trend: Trend | None = None

    @property
    def item_snapshot(self) -> str:
        """Which cross-user values were in force; see :class:`streamproc_consumers.recommendation.Recommendation`."""
        of_bundle = self.bundle.item_snapshot
        return of_bundle if self.trend is None else f"{of_bundle}+{self.trend.name}"


class Ranker:
    """Ranks the users of a batch, each by the model of their arm: one booster call an arm. For one thread.

    The bundles are taken once a batch. Where one fails and the one before it does not, the model is at fault: it is
    rejected, and the batch is the other's. Where both fail it is the users, and the error is the caller's.
    """

    def __init__(
        self,
        models: Models,
        experiment: Experiment | None = None,
        clock: Clock | None = None,
        *,
        filters: Sequence[Filter] = (),
        cascade: Cascade | None = None,
    ) -> None:
        self._models = models
        self._filters = filters
        self._cascade = cascade
        self._experiment = experiment or Experiment(weights={models.serving.main: 1.0})
        self._clock = clock or SystemClock()
        self._scorers: dict[str, Scorer] = {}
        self._versions: list[str] = []
        self._shadowed = _Shadowed()
        self._shadow_told_at = self._clock.monotonic()
        self._telemetry: Telemetry | None = None
        self._trend: Trend | None = None
        if models.serving.main not in self._experiment.weights:
            raise SettingsError(
                f"STREAMPROC_EXPERIMENT gives {models.serving.main} no weight, which STREAMPROC_MODEL follows: give it"
                " one, if only 0"
            )
        self._take(models.serving)

    def observe(self, telemetry: Telemetry) -> None:
        """Where to tell how the shadow compares."""
        self._telemetry = telemetry

    def offer(self, trend: Trend) -> None:
        """Take this for what is trending from the next batch on, in every arm."""
        self._trend = trend
        for scorer in self._scorers.values():
            scorer.offer(trend.item_ids)

    def model_version(self) -> str:
        """The version of the last batch; those of all arms, where there are several."""
        return ",".join(self._versions)

    def rank(self, users: Sequence[User], k: int) -> list[Served]:
        """The lists, in the order of ``users``."""
        serving = self._models.serving
        try:
            served = self._rank(serving, users, k)
        except _ArmFailed as failed:
            without = self._models.without(serving, failed.arm)
            if without is None:
                raise failed.error from None
            try:
                served = self._rank(without, users, k)
            except _ArmFailed:
                raise failed.error from None
            error = failed.error
            self._models.reject(serving, failed.arm, f"it cannot rank: {type(error).__name__}: {error}")
            serving = without
        if SHADOW in serving.bundles and self._experiment.shadow:
            self._shadow(serving, users, served, k)
        return served

    def _rank(self, serving: Serving, users: Sequence[User], k: int) -> list[Served]:
        self._take(serving)
        weights = self._weights(serving)
        if len(weights) == 1:
            return self._rank_arm(serving, serving.main, weights[serving.main], users, k)
        members: dict[str, list[int]] = {arm: [] for arm in weights}
        for index, (user_id, _) in enumerate(users):
            members[arm_of(self._experiment.salt, user_id, weights)].append(index)
        served: list[Served | None] = [None] * len(users)
        for arm, indices in members.items():
            of_arm = self._rank_arm(serving, arm, weights[arm], [users[index] for index in indices], k)
            for index, one in zip(indices, of_arm, strict=True):
                served[index] = one
        return [one for one in served if one is not None]

    def _rank_arm(self, serving: Serving, arm: str, propensity: float, users: Sequence[User], k: int) -> list[Served]:
        try:
            ranked = self._scorers[arm].rank(users, k)
            if self._experiment.exploration:
                ranked = self._explored(self._scorers[arm], users, ranked, k)
        except Exception as error:  # Whose fault it is, the caller finds out.
            raise _ArmFailed(arm, error) from error
        bundle = serving.bundles[arm]
        return [Served(found, arm, propensity, bundle, self._trend) for found in ranked]

    def _explored(self, scorer: Scorer, users: Sequence[User], ranked: Sequence[Ranked], k: int) -> list[Ranked]:
        """The lists, the last place of some given to a candidate behind them; all last places have a propensity.

        Drawn by user and time of the user's last event, so that a replay draws the same. A list of one place, or with
        no candidate behind it, is left as it is.
        """
        salt, share, found = f"{self._experiment.salt}/explored", self._experiment.exploration, list(ranked)
        names = [f"{user_id}\x00{state.last_at!r}" for user_id, state in users]
        open_to = [index for index, one in enumerate(ranked) if one.behind and len(one.items) > 1]
        chosen = [index for index in open_to if uniform(salt, names[index]) < share]
        for index in open_to:
            found[index] = _with_last(ranked[index], propensity=1 - share)
        wide = scorer.best_candidates([users[index] for index in chosen], k + EXPLORED_AMONG)
        for index, best in zip(chosen, wide, strict=True):
            listed, among = {item.item_id for item in ranked[index].items}, min(EXPLORED_AMONG, ranked[index].behind)
            behind = [item for item in best if item.item_id not in listed][:among]
            # The greatest of the hashes is rounded to 1.
            drawn = behind[min(int(uniform(f"{salt}/item", names[index]) * among), among - 1)]
            found[index] = _with_last(ranked[index], drawn, explored=True, propensity=share / among)
        return found

    def _weights(self, serving: Serving) -> dict[str, float]:
        """The shares of the arms that have a bundle; what the others would have is the main one's."""
        weights = {arm: weight for arm, weight in self._experiment.weights.items() if arm in serving.bundles}
        weights[serving.main] += 1.0 - math.fsum(weights.values())
        return weights

    def _take(self, serving: Serving) -> None:
        """Scorers for the bundles; one that is in force already keeps its own."""
        self._scorers = {
            alias: known
            if (known := self._scorers.get(alias)) is not None and known.model is bundle
            else self._scorer(bundle)
            for alias, bundle in serving.bundles.items()
        }
        arms = [serving.main, *sorted(self._experiment.weights)]
        self._versions = list(
            dict.fromkeys(serving.bundles[arm].model_version for arm in arms if arm in serving.bundles)
        )

    def _scorer(self, bundle: Bundle) -> Scorer:
        scorer = Scorer(bundle, self._filters, cascade=self._cascade)
        if self._trend is not None:
            scorer.offer(self._trend.item_ids)
        return scorer

    def _shadow(self, serving: Serving, users: Sequence[User], served: Sequence[Served], k: int) -> None:
        salt, share = f"{self._experiment.salt}/shadow", self._experiment.shadow
        chosen = [index for index, (user_id, _) in enumerate(users) if uniform(salt, user_id) < share]
        try:
            lists = self._scorers[SHADOW].rank([users[index] for index in chosen], k)
        except Exception as error:  # noqa: BLE001  # nobody sees its lists, so nobody may miss one for it
            self._models.reject(serving, SHADOW, f"it cannot rank: {type(error).__name__}: {error}")
            return
        for index, found in zip(chosen, lists, strict=True):
            self._shadowed.add(served[index].ranked, found)
        now = self._clock.monotonic()
        if self._telemetry is not None and now - self._shadow_told_at >= SHADOW_SECONDS and self._shadowed.users:
            self._telemetry.emit(self._shadowed.told(serving.bundles[SHADOW].model_version))
            self._shadowed, self._shadow_told_at = _Shadowed(), now


def _with_last(ranked: Ranked, item: RankedItem | None = None, **fields: object) -> Ranked:
    """The list with another item in its last place, or with other fields of the one that stands there."""
    *before, last = ranked.items
    placed = msgspec.structs.replace(item or last, rank=last.rank, **fields)
    return msgspec.structs.replace(ranked, items=[*before, placed])


class _ArmFailed(Exception):
    """Ranking for an arm failed; internal to this module."""

    def __init__(self, arm: str, error: Exception) -> None:
        super().__init__(arm)
        self.arm = arm
        self.error = error


class _Shadowed:
    """Sums over pairs of lists."""

    def __init__(self) -> None:
        self.users = 0
        self._overlap = 0.0
        self._drift = 0.0
        self._items_in_both = 0

    def add(self, published: Ranked, shadow: Ranked) -> None:
        self.users += 1
        scores = {item.item_id: item.probability for item in published.items}
        both = [item.probability - scores[item.item_id] for item in shadow.items if item.item_id in scores]
        self._overlap += len(both) / max(len(scores), 1)
        self._drift += math.fsum(both)
        self._items_in_both += len(both)

    def told(self, version: str) -> ShadowCompared:
        return ShadowCompared(
            model_version=version,
            users=self.users,
            overlap_at_10=self._overlap / self.users,
            score_drift=self._drift / max(self._items_in_both, 1),
        )
