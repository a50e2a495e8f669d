"""Exploration: the last place of some lists goes to a candidate behind them, drawn the same way in every replay."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from streamproc.errors import SettingsError
from streamproc.processor import Changed, Received
from streamproc.record import Position, Record
from streamproc_consumers.api.ranking import Rankings, Wish, items_of
from streamproc_consumers.archive import Archive
from streamproc_consumers.arms import EXPLORED_AMONG, Experiment, Ranker, read_experiment
from streamproc_consumers.experiment import LandedEvent, report
from streamproc_consumers.explain import ArchivedLine, Explained, explain, read_log
from streamproc_consumers.recommendation import LogPosition, Recommendation
from streamproc_consumers.recommender import ITEMS_PER_LIST, Recommender
from streamproc_consumers.reload import FixedModels
from streamproc_models.bundle import Bundle
from streamproc_models.features import UserState, fold, new_state
from streamproc_models.filters import Only
from streamproc_models.scorer import Cascade, Ranked, Scorer
from streamproc_producers.events import CartEvent, encode

MakeEvent = Callable[..., CartEvent]
ALWAYS = Experiment("autumn", exploration=1.0)
K = ITEMS_PER_LIST


@pytest.fixture
def state(make_event: MakeEvent) -> UserState:
    """A user of whom the model knows enough."""
    found = new_state()
    for number in range(4):
        found = fold(found, make_event(number, item=f"item-{number}", kind="purchase"))
    return found


def ranked(
    bundle: Bundle, experiment: Experiment | None, users: Sequence[tuple[str, UserState]], k: int = K
) -> list[Ranked]:
    return [served.ranked for served in Ranker(FixedModels(bundle), experiment).rank(users, k)]


def same_for(state: UserState, users: int) -> list[tuple[str, UserState]]:
    return [(f"user-{number}", state) for number in range(users)]


def behind(bundle: Bundle, state: UserState, k: int = K) -> list[str]:
    """The candidates that may be drawn."""
    (best,) = Scorer(bundle).best_candidates([("", state)], k + EXPLORED_AMONG)
    return [item.id for item in best[k:]]


def test_switched_off_a_list_is_published_as_without_an_experiment_to_the_byte(
    bundle: Bundle, shop_log: list[CartEvent]
) -> None:
    users = [Changed(event.user_id, fold(new_state(), event), Position(0, 1), event.at, 1) for event in shop_log[:40]]
    without, off = Recommender(bundle), Recommender(bundle, experiment=Experiment("autumn"))
    for one, other in zip(without.emit(users), off.emit(users), strict=True):
        line = without.encode(one)
        assert off.encode(msgspec.structs.replace(other, published_ts=one.published_ts)) == line
        assert b"explored" not in line
        assert line.count(b"propensity") == 1


def test_an_explored_list_is_the_same_but_for_its_last_place_which_a_candidate_behind_it_has(
    bundle: Bundle, state: UserState
) -> None:
    (plain,), possible = ranked(bundle, None, [("ann", state)]), behind(bundle, state)
    scores = {item.id: item for item in Scorer(bundle).best_candidates([("", state)], 100)[0]}
    assert len(possible) == min(EXPLORED_AMONG, plain.behind) > 10
    for found in ranked(bundle, ALWAYS, same_for(state, 50)):
        *before, last = found.items
        assert before == plain.items[:-1]
        assert last.id in possible
        assert (last.rank, last.explored) == (K, True)
        assert last.propensity == 1 / len(possible)
        assert (last.probability, last.source) == (scores[last.id].probability, scores[last.id].source)


def test_each_candidate_behind_the_list_is_drawn_as_often_as_the_others(bundle: Bundle, state: UserState) -> None:
    lists, possible = ranked(bundle, ALWAYS, same_for(state, 4000)), behind(bundle, state)
    drawn = Counter(one.items[-1].id for one in lists)
    expected = len(lists) / len(possible)
    assert set(drawn) == set(possible)
    assert sum((drawn[item] - expected) ** 2 / expected for item in possible) < 2 * len(possible)


def test_so_many_lists_are_explored_as_the_share_says_and_the_propensities_of_a_place_add_up_to_one(
    bundle: Bundle, state: UserState
) -> None:
    lists = ranked(bundle, Experiment("autumn", exploration=0.25), same_for(state, 2000))
    explored = [one.items[-1] for one in lists if one.items[-1].explored]
    kept = [one.items[-1] for one in lists if not one.items[-1].explored]
    assert abs(len(explored) - 500) < 4 * (2000 * 0.25 * 0.75) ** 0.5
    assert {item.propensity for item in kept} == {0.75}
    (propensity,) = {item.propensity for item in explored}
    assert kept[0].propensity + propensity * len(behind(bundle, state)) == pytest.approx(1.0)
    assert all(item.propensity == 1 and not item.explored for one in lists for item in one.items[:-1])


def test_a_replay_draws_the_same_item_and_another_salt_user_or_later_event_another(
    bundle: Bundle, state: UserState
) -> None:
    users = same_for(state, 100)

    def last(experiment: Experiment, of: Sequence[tuple[str, UserState]]) -> list[str]:
        return [one.items[-1].id for one in ranked(bundle, experiment, of)]

    first = last(ALWAYS, users)
    assert last(ALWAYS, users) == first
    later = msgspec.structs.replace(state, last_at=state.last_at + 1e-3)
    for other in (
        last(Experiment("spring", exploration=1.0), users),
        last(ALWAYS, [(f"{user}x", same) for user, same in users]),
        last(ALWAYS, [(user, later) for user, _ in users]),
    ):
        assert sum(one == another for one, another in zip(first, other, strict=True)) < 20


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kept=st.sets(st.integers(0, 29), min_size=1))
def test_what_is_drawn_does_not_depend_on_the_other_users_of_the_batch(
    bundle: Bundle, shop_log: list[CartEvent], kept: set[int]
) -> None:
    users = [(event.user_id, fold(new_state(), event)) for event in shop_log[:30]]
    experiment = Experiment("autumn", exploration=0.5)
    together = ranked(bundle, experiment, users)
    assert ranked(bundle, experiment, [users[index] for index in kept]) == [together[index] for index in kept]


def test_what_popularity_ranks_or_fills_up_and_lists_of_one_place_are_left_as_they_are(
    bundle: Bundle, bundle_without_model: Bundle, state: UserState
) -> None:
    for model, user, k in (
        (bundle, new_state(), K),  # no_candidates
        (bundle_without_model, state, K),  # no_model
        (bundle, state, 60),  # few_candidates, or all of them
        (bundle, state, 1),
    ):
        assert ranked(model, ALWAYS, [("ann", user)], k) == ranked(model, None, [("ann", user)], k)


def test_filters_hold_for_what_is_explored(bundle: Bundle, state: UserState) -> None:
    allowed = {*behind(bundle, state)[:3], *(item.id for item in ranked(bundle, None, [("", state)])[0].items)}
    ranker = Ranker(FixedModels(bundle), ALWAYS, filters=[Only(allowed.__contains__)])
    found = [served.ranked.items[-1] for served in ranker.rank(same_for(state, 50), K)]
    assert {item.id for item in found} == {*behind(bundle, state)[:3]}
    assert {item.propensity for item in found} == {1 / 3}


def test_with_a_cascade_the_other_places_are_the_cascades_and_nothing_is_there_twice(
    bundle: Bundle, state: UserState
) -> None:
    cascade = Cascade(first_trees=1, keep=K)
    (plain,) = Ranker(FixedModels(bundle), None, cascade=cascade).rank([("", state)], K)
    for served in Ranker(FixedModels(bundle), ALWAYS, cascade=cascade).rank(same_for(state, 30), K):
        items = served.ranked.items
        assert items[:-1] == plain.ranked.items[:-1]
        assert len({item.id for item in [*items, plain.ranked.items[-1]]}) == K + 1


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_a_share_that_is_none_is_refused_by_name(share: float) -> None:
    with pytest.raises(SettingsError, match="STREAMPROC_EXPERIMENT cannot be used: the experiment's exploration is"):
        read_experiment(f'{{"exploration": {share}}}')


def test_an_experiment_of_exploration_alone_leaves_everybody_in_the_main_arm() -> None:
    found = read_experiment('{"salt": "2026-11", "exploration": 0.05}')
    assert found is not None
    assert (found.weights, found.aliases(), found.exploration) == ({"champion": 1.0}, ["champion"], 0.05)


def test_the_api_draws_what_the_recommender_draws_and_says_so(bundle: Bundle, state: UserState) -> None:
    (published,) = Recommender(bundle, experiment=ALWAYS).emit([Changed("ann", state, Position(0, 1), 0.0, 4)])
    rankings = Rankings(FixedModels(bundle), ALWAYS)
    served = asyncio.run(rankings.rank(Wish("ann", state, K, False))).served
    assert served.ranked.items == published.items
    *_, last = msgspec.to_builtins(items_of(served.ranked.items, {}))
    assert (last["explored"], last["propensity"]) == (True, published.items[-1].propensity)


# Explained.


@pytest.fixture
def log(make_event: MakeEvent) -> list[CartEvent]:
    return [make_event(number, item=f"item-{number}", kind="purchase") for number in range(4)]


def explained(bundle: Bundle, of: Recommendation, log: Sequence[CartEvent]) -> Explained:
    archive = Archive()
    received = [
        Received(event, Record(encode(event), event.user_id, Position(0, number), event.at))
        for number, event in enumerate(log)
    ]
    lines = [msgspec.json.decode(archive.encode(line), type=ArchivedLine) for line in archive.process(received)]
    return explain(of, read_log(lines, of, "the archive"), bundle)


def published(bundle: Bundle, state: UserState, experiment: Experiment) -> Recommendation:
    processor = Recommender(bundle, experiment=experiment)
    (one,) = processor.emit([Changed("ann", state, Position(0, 3), state.last_at, 4)])
    return msgspec.json.decode(processor.encode(one), type=Recommendation)


@pytest.mark.parametrize("share", [1.0, 1e-9])
def test_a_list_with_an_explored_place_is_the_same_again_without_knowing_the_experiment(
    bundle: Bundle, state: UserState, log: list[CartEvent], share: float
) -> None:
    one = published(bundle, state, Experiment("autumn", exploration=share))
    found = explained(bundle, one, log)
    assert (found.same, found.differences) == (True, [])
    assert one.items[-1].explored == (share == 1)
    last = found.items[-1]
    assert last.explanation is not None
    assert (last.explanation.rank > K) == one.items[-1].explored


def test_an_explored_item_that_could_not_have_been_drawn_is_told(
    bundle: Bundle, state: UserState, log: list[CartEvent]
) -> None:
    one = published(bundle, state, ALWAYS)
    last = msgspec.structs.replace(one.items[-1], id="no-such-item")
    found = explained(bundle, msgspec.structs.replace(one, items=[*one.items[:-1], last]), log)
    assert not found.same
    assert "the explored item no-such-item is none of the 40 candidates behind the list" in found.differences[0]


# The report.


def test_the_report_counts_what_explored_places_are_worth_apart(bundle: Bundle, state: UserState) -> None:
    one = published(bundle, state, ALWAYS)
    start = datetime(2026, 11, 1, tzinfo=UTC)
    lists, events = [], []
    for number in range(200):
        user, explored = f"u{number}", number % 2 == 0
        last = one.items[-1] if explored else msgspec.structs.replace(one.items[-1], explored=False)
        lists.append(
            msgspec.structs.replace(
                one,
                recommendation_id=str(number),
                user_id=user,
                items=[*one.items[:-1], last],
                position=LogPosition.of(Position(0, 2 * number)),
                event_ts=start,
                published_ts=start + timedelta(seconds=1),
            )
        )
        # One in four takes the last item, and all others the first.
        taken = one.items[-1 if number % 4 < 1 else 0].id
        events.append(
            msgspec.convert(
                {
                    "position": msgspec.to_builtins(LogPosition.of(Position(0, 2 * number + 1))),
                    "event": {
                        "event_id": f"00000000-0000-7000-8000-{number:012d}",
                        "event_type": "view",
                        "user_id": user,
                        "item_id": taken,
                        "ts": (start + timedelta(minutes=1)).isoformat(),
                    },
                },
                LandedEvent,
            )
        )
    (arm,) = report(lists, events, window_seconds=3600.0).arms
    assert (arm.hit_rate.value, arm.explored_lists, arm.explored_hit_rate.value) == (1.0, 100, 0.5)
    assert arm.explored_hit_rate.low is not None
    assert 0.35 < arm.explored_hit_rate.low < 0.5


def test_without_explored_places_the_report_says_nothing_of_them(bundle: Bundle, state: UserState) -> None:
    one = published(bundle, state, Experiment())
    (arm,) = report([one], [], window_seconds=3600.0).arms
    assert (arm.explored_lists, arm.explored_hit_rate.value) == (0, None)
