"""Arms: a user's arm is a hash, each arm is one call of its own model, and a shadow shows nobody anything."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given, strategies as st

from streamproc.clock import SystemClock
from streamproc.errors import SettingsError
from streamproc.processor import Changed
from streamproc.record import Position
from streamproc.telemetry import Telemetry, TelemetryEvent
from streamproc_consumers.arms import SHADOW_SECONDS, Experiment, Ranker, arm_of, read_cascade, read_experiment, uniform
from streamproc_consumers.facts import ShadowCompared
from streamproc_consumers.recommendation import recommendation_id
from streamproc_consumers.recommender import Recommender
from streamproc_consumers.reload import FixedModels, Serving
from streamproc_models.bundle import Bundle
from streamproc_models.features import UserState, new_state
from streamproc_models.scorer import Cascade, Ranked, Scorer

USERS = [f"user-{number}" for number in range(400)]
HALVES = Experiment("autumn", {"champion": 0.5, "challenger": 0.5})


class FakeModels(FixedModels):
    """Bundles by alias, one before each of some, and what was rejected."""

    def __init__(self, bundles: dict[str, Bundle], previous: dict[str, Bundle] | None = None) -> None:
        self.serving = Serving("champion", bundles)
        self._previous = previous or {}
        self.rejected: list[tuple[str, str]] = []

    def without(self, serving: Serving, alias: str) -> Serving | None:
        rest = {name: bundle for name, bundle in serving.bundles.items() if name != alias}
        if alias in self._previous:
            return Serving("champion", rest | {alias: self._previous[alias]})
        return Serving("champion", rest) if alias != "champion" else None

    def reject(self, serving: Serving, alias: str, reason: str) -> None:
        self.rejected.append((alias, reason))
        after = self.without(serving, alias)
        assert after is not None
        self.serving = after


class Moving(SystemClock):
    """Time goes when the test says so."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def bundles(bundle_without_model: Bundle) -> dict[str, Bundle]:
    """Three versions that rank by a popularity of their own; each next one tells shares that are higher by 0.25."""
    catalogue = bundle_without_model.catalogue
    found = {}
    for turn, alias in enumerate(("champion", "challenger", "shadow")):
        ids = [*catalogue.ids[turn:], *catalogue.ids[:turn]]
        found[alias] = msgspec.structs.replace(
            bundle_without_model,
            manifest=msgspec.structs.replace(bundle_without_model.manifest, model_version=f"v-{alias}"),
            catalogue=msgspec.structs.replace(catalogue, ids=ids, features=catalogue.features + turn / 4),
        )
    return found


def users(*names: str) -> list[tuple[str, UserState]]:
    return [(name, new_state()) for name in names]


def changed(*names: str) -> list[Changed[UserState]]:
    return [Changed(name, new_state(), Position(0, number), 0.0, 1) for number, name in enumerate(names)]


def first_items(bundle: Bundle) -> list[str]:
    return bundle.catalogue.ids[:10]


@given(st.text(), st.text(), st.floats(0, 1))
def test_an_arm_depends_on_the_salt_the_user_and_the_weights_alone(salt: str, user: str, weight: float) -> None:
    weights = {"champion": weight, "challenger": 1 - weight}
    other_order = {"challenger": 1 - weight, "champion": weight}
    assert arm_of(salt, user, weights) == arm_of(salt, user, other_order)
    assert 0 <= uniform(salt, user) < 1


def test_users_are_spread_as_the_weights_say_and_each_salt_deals_anew() -> None:
    names = [f"user-{number}" for number in range(20_000)]
    for salt in ("spring", "autumn"):
        found = Counter(arm_of(salt, name, {"champion": 0.9, "challenger": 0.1}) for name in names)
        assert abs(found["challenger"] - 2000) < 4 * (20_000 * 0.09) ** 0.5
    both = [arm_of("spring", name, HALVES.weights) == arm_of("autumn", name, HALVES.weights) for name in names]
    assert abs(sum(both) - 10_000) < 4 * (20_000 * 0.25) ** 0.5


def test_an_arms_hash_stays_what_it_was_so_that_records_can_be_checked_later() -> None:
    assert uniform("2026-11", "user-1") == pytest.approx(UNIFORM_OF_USER_1, abs=0)


UNIFORM_OF_USER_1 = 0.17645694432567574


def test_a_larger_challenger_keeps_the_users_that_it_has() -> None:
    small, large = ({"champion": 1 - share, "challenger": share} for share in (0.1, 0.3))
    kept = [name for name in USERS if arm_of("s", name, small) == "challenger"]
    assert kept
    assert all(arm_of("s", name, large) == "challenger" for name in kept)


def test_every_user_gets_the_list_of_their_arms_model_in_their_own_place(bundles: dict[str, Bundle]) -> None:
    models = FakeModels({alias: bundles[alias] for alias in ("champion", "challenger")})
    served = Ranker(models, HALVES).rank(users(*USERS), 10)
    assert [each.ranked.user_id for each in served] == USERS
    for each in served:
        assert each.arm == arm_of("autumn", each.ranked.user_id, HALVES.weights)
        assert [item.item_id for item in each.ranked.items] == first_items(bundles[each.arm])
        assert (each.propensity, each.bundle) == (0.5, bundles[each.arm])


def test_each_arm_is_one_call(bundles: dict[str, Bundle], monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    honest = Scorer.rank

    def rank(scorer: Scorer, some: Sequence[tuple[str, UserState]], k: int = 10) -> list[Ranked]:
        calls.append(len(some))
        return honest(scorer, some, k)

    monkeypatch.setattr(Scorer, "rank", rank)
    models = FakeModels({alias: bundles[alias] for alias in ("champion", "challenger")})
    Ranker(models, HALVES).rank(users(*USERS), 10)
    assert len(calls) == 2
    assert sum(calls) == len(USERS)


def test_records_tell_arm_propensity_and_the_arms_own_model(bundles: dict[str, Bundle]) -> None:
    models = FakeModels({alias: bundles[alias] for alias in ("champion", "challenger")})
    processor = Recommender(models, experiment=Experiment("autumn", {"champion": 0.75, "challenger": 0.25}))
    found = processor.emit(changed(*USERS))
    assert {(each.arm, each.propensity, each.model_version) for each in found} == {
        ("champion", 0.75, "v-champion"),
        ("challenger", 0.25, "v-challenger"),
    }
    for number, each in enumerate(found):
        assert each.recommendation_id == recommendation_id(each.user_id, Position(0, number), each.model_version)
        assert each.item_snapshot == f"bundle:{each.model_version}"
    assert processor.model_version() == "v-champion,v-challenger"


def test_a_replay_deals_the_same_arms_and_the_same_ids(bundles: dict[str, Bundle]) -> None:
    models = FakeModels({alias: bundles[alias] for alias in ("champion", "challenger")})
    first, again = (Recommender(models, experiment=HALVES).emit(changed(*USERS)) for _ in range(2))
    assert [(each.recommendation_id, each.arm) for each in first] == [
        (each.recommendation_id, each.arm) for each in again
    ]


def test_without_a_challenger_everybody_gets_the_champions_list_and_the_record_says_so(
    bundles: dict[str, Bundle],
) -> None:
    served = Ranker(FakeModels({"champion": bundles["champion"]}), HALVES).rank(users(*USERS), 10)
    assert {(each.arm, each.propensity) for each in served} == {("champion", 1.0)}


def test_a_reload_is_taken_by_the_next_batch(bundles: dict[str, Bundle]) -> None:
    models = FakeModels({"champion": bundles["champion"]})
    processor = Recommender(models)
    assert processor.emit(changed("ann"))[0].model_version == processor.model_version() == "v-champion"
    models.serving = Serving("champion", {"champion": bundles["challenger"]})
    assert processor.model_version() == "v-champion", "it tells what the last batch was ranked with"
    assert processor.emit(changed("ann"))[0].model_version == processor.model_version() == "v-challenger"


class Failing:
    """Scorers of these versions, or on these users, fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.versions: set[str] = set()
        self.users: set[str] = set()
        honest = Scorer.rank

        def rank(scorer: Scorer, some: Sequence[tuple[str, UserState]], k: int = 10) -> list[Ranked]:
            assert isinstance(scorer.model, Bundle)
            if scorer.model.model_version in self.versions or self.users & {name for name, _ in some}:
                raise ValueError("cannot rank")
            return honest(scorer, some, k)

        monkeypatch.setattr(Scorer, "rank", rank)


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Failing:
    return Failing(monkeypatch)


def test_a_model_that_fails_where_the_one_before_does_not_is_rejected_and_the_batch_is_the_others(
    bundles: dict[str, Bundle], failing: Failing
) -> None:
    models = FakeModels({"champion": bundles["challenger"]}, {"champion": bundles["champion"]})
    failing.versions = {"v-challenger"}
    ranker = Ranker(models)
    assert {each.bundle.model_version for each in ranker.rank(users("ann", "bob"), 10)} == {"v-champion"}
    assert models.rejected == [("champion", "it cannot rank: ValueError: cannot rank")]
    assert ranker.model_version() == "v-champion"


def test_users_on_whom_both_models_fail_reject_neither(bundles: dict[str, Bundle], failing: Failing) -> None:
    models = FakeModels({"champion": bundles["challenger"]}, {"champion": bundles["champion"]})
    failing.users = {"ann"}
    ranker = Ranker(models)
    with pytest.raises(ValueError, match="cannot rank"):
        ranker.rank(users("ann", "bob"), 10)
    assert models.rejected == []
    assert ranker.rank(users("bob"), 10)[0].bundle is bundles["challenger"]


def test_without_a_model_before_the_error_is_the_callers(bundles: dict[str, Bundle], failing: Failing) -> None:
    models = FakeModels({"champion": bundles["champion"]})
    failing.versions = {"v-champion"}
    with pytest.raises(ValueError, match="cannot rank"):
        Ranker(models).rank(users("ann"), 10)
    assert models.rejected == []


def test_a_challenger_that_fails_costs_its_users_no_list(bundles: dict[str, Bundle], failing: Failing) -> None:
    models = FakeModels({alias: bundles[alias] for alias in ("champion", "challenger")})
    failing.versions = {"v-challenger"}
    served = Ranker(models, HALVES).rank(users(*USERS), 10)
    assert {(each.arm, each.propensity) for each in served} == {("champion", 1.0)}
    assert [alias for alias, _ in models.rejected] == ["challenger"]


def test_the_shadow_changes_no_list_and_tells_overlap_and_drift(bundles: dict[str, Bundle]) -> None:
    told: list[TelemetryEvent] = []
    clock = Moving()
    models = FakeModels({"champion": bundles["champion"], "shadow": bundles["shadow"]})
    ranker = Ranker(models, Experiment("s", {"champion": 1.0}, shadow=1.0), clock)
    ranker.observe(Telemetry(told.append))
    alone = Ranker(FakeModels({"champion": bundles["champion"]})).rank(users(*USERS), 10)
    assert ranker.rank(users(*USERS), 10) == alone
    assert told == [], "a line a batch would be too many"
    clock.now += SHADOW_SECONDS
    ranker.rank(users("ann"), 10)
    (found,) = told
    assert isinstance(found, ShadowCompared)
    assert (found.model_version, found.users) == ("v-shadow", len(USERS) + 1)
    assert found.overlap_at_10 == pytest.approx(0.8)  # its ten begin two items later
    assert found.score_drift == pytest.approx(0.5, abs=0.1)  # its shares are higher by as much
    ranker.rank(users("ann"), 10)
    assert len(told) == 1


def test_the_shadow_scores_its_share_of_the_users(bundles: dict[str, Bundle], monkeypatch: pytest.MonkeyPatch) -> None:
    calls: Counter[str] = Counter()
    honest = Scorer.rank

    def rank(scorer: Scorer, some: Sequence[tuple[str, UserState]], k: int = 10) -> list[Ranked]:
        assert isinstance(scorer.model, Bundle)
        calls[scorer.model.model_version] += len(some)
        return honest(scorer, some, k)

    monkeypatch.setattr(Scorer, "rank", rank)
    models = FakeModels({"champion": bundles["champion"], "shadow": bundles["shadow"]})
    Ranker(models, Experiment("s", {"champion": 1.0}, shadow=0.25)).rank(users(*USERS), 10)
    assert calls["v-champion"] == len(USERS)
    assert 60 < calls["v-shadow"] < 140


def test_a_shadow_that_fails_is_rejected_and_costs_no_list(bundles: dict[str, Bundle], failing: Failing) -> None:
    models = FakeModels({"champion": bundles["champion"], "shadow": bundles["shadow"]})
    failing.versions = {"v-shadow"}
    ranker = Ranker(models, Experiment("s", {"champion": 1.0}, shadow=1.0))
    assert len(ranker.rank(users(*USERS), 10)) == len(USERS)
    assert [alias for alias, _ in models.rejected] == ["shadow"]
    assert len(ranker.rank(users(*USERS), 10)) == len(USERS)


def test_nobody_is_ranked_for_nobody(bundles: dict[str, Bundle]) -> None:
    assert Ranker(FakeModels(bundles), HALVES).rank([], 10) == []


def test_the_setting_is_read() -> None:
    assert read_experiment("") is None
    text = '{"salt": "2026-11", "weights": {"champion": 0.9, "challenger": 0.1}, "shadow": 0.2}'
    found = read_experiment(text)
    assert found == Experiment("2026-11", {"champion": 0.9, "challenger": 0.1}, 0.2)
    assert found is not None
    assert found.aliases() == ["champion", "challenger", "shadow"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "STREAMPROC_EXPERIMENT cannot be used"),
        ('{"weights": {"champion": 0.9}}', "shares from 0 to 1 that add up to 1"),
        ('{"weights": {"champion": 1.5, "challenger": -0.5}}', "shares from 0 to 1 that add up to 1"),
        ('{"weights": {}}', "an arm is one of champion, challenger, shadow"),
        ('{"weights": {"latest": 1.0}}', "are of latest: an arm is one of"),
        ('{"shadow": 2}', "it is a share of the users"),
        ('{"weights": {"shadow": 1.0}, "shadow": 0.5}', "is no shadow"),
        ('{"seed": 1}', "seed"),
    ],
)
def test_a_setting_that_cannot_be_used_is_refused_with_the_reason(text: str, why: str) -> None:
    with pytest.raises(SettingsError, match=rf"STREAMPROC_EXPERIMENT cannot be used: .*{why}|{why}: "):
        read_experiment(text)


def test_the_alias_that_is_followed_must_have_a_weight(bundles: dict[str, Bundle]) -> None:
    with pytest.raises(SettingsError, match="gives champion no weight"):
        Ranker(FakeModels(bundles), Experiment(weights={"challenger": 1.0}))


def test_the_cascade_is_a_setting_and_off_by_default() -> None:
    assert read_cascade("") is None
    assert read_cascade('{"first_trees": 30, "keep": 20}') == Cascade(first_trees=30, keep=20)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("40", "Expected `object`"),
        ('{"keep": 0}', "keep 0: both must be 1 or more"),
        ('{"keeps": 25}', "unknown field `keeps`"),
    ],
)
def test_a_cascade_that_cannot_be_is_refused_with_what_to_write(text: str, why: str) -> None:
    with pytest.raises(SettingsError, match="STREAMPROC_CASCADE cannot be used") as refused:
        read_cascade(text)
    assert why in str(refused.value)
    assert 'write it as {"first_trees": 40, "keep": 25}' in str(refused.value)
