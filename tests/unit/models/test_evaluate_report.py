"""A small shop judged from its log to the page."""

from __future__ import annotations

import math
import re
import uuid
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta

import msgspec
import numpy as np
import pytest

from streamproc_models.datasets import Target, Task, TemporalSplit
from streamproc_models.evaluate import Ranking, Trial, evaluate, figures, judge, prepare
from streamproc_models.evaluate.baselines import (
    BLEND,
    CO_VISIT,
    ITEM_KNN,
    OWN,
    POPULAR_BLEND,
    POPULARITY,
    RECENT,
    baselines,
    filled,
    without,
)
from streamproc_models.evaluate.metrics import K_MAX, NOTHING
from streamproc_models.evaluate.page import render
from streamproc_models.evaluate.quality import TOGETHER
from streamproc_models.evaluate.report import MODEL
from streamproc_models.evaluate.segments import ALL, COLD_ITEMS, NEW, NEW_ONLY, REPEAT, by_segment, history_names
from streamproc_models.features import UserState
from streamproc_models.items import Item
from streamproc_producers.events import CartEvent, EventType

_NOON = datetime(2011, 11, 1, 12, tzinfo=UTC)


class Written:
    """A data set written down: per user the orders, or the views, of which the last is the target."""

    name = "written"
    protocol = "as written"
    ends_at = _NOON.timestamp()
    item_lines_min = 1

    def __init__(
        self, users: dict[str, list[list[str]]], *, views: bool = False, item_lines_min: int = 1, inner: bool = False
    ) -> None:
        self._users = users
        self._views = views
        self.task = Task.NEXT_ITEM if views else Task.NEXT_BASKET
        self.item_lines_min = item_lines_min
        self.inner = inner

    def items(self) -> dict[str, Item]:
        return {}

    def events(self) -> Iterator[CartEvent]:
        longest = max(map(len, self._users.values()))
        for ago in range(longest, 1, -1):
            for user_id, steps in self._users.items():
                for item_id in steps[-ago] if ago <= len(steps) else []:
                    yield CartEvent(
                        event_id=uuid.uuid4(),
                        event_type=EventType.VIEW if self._views else EventType.PURCHASE,
                        user_id=user_id,
                        item_id=item_id,
                        ts=_NOON - timedelta(days=ago),
                        order_id=None if self._views else f"{user_id}/{ago}",
                    )

    def prefixes(self) -> Iterator[CartEvent]:
        yield from ()

    def targets(self) -> list[Target]:
        return [Target(user_id, tuple(steps[-1])) for user_id, steps in self._users.items()]


SHOP = Written(
    {
        "u1": [["bread", "milk"], ["bread", "jam"], ["bread", "milk", "tea"]],
        "u2": [["bread", "milk"], ["milk", "tea"], ["bread"]],
        "u3": [["tea"], ["cake", "never seen"]],
        "u4": [["bread", "milk"], ["tea"], ["milk"], ["bread"], ["jam"], ["milk", "jam"]],
    }
)


@pytest.fixture(scope="module")
def trial() -> Trial:
    return prepare(SHOP)


def ids_of(trial: Trial, codes: Sequence[int]) -> list[str]:
    return [trial.ids[code] for code in codes if code != NOTHING]


def perfect(trial: Trial) -> Ranking:
    """Lists of exactly what came, and all of it as candidates of one source."""
    lists = np.full((trial.targets, K_MAX), NOTHING, dtype=np.int64)
    for row in range(trial.targets):
        came = trial.truth[trial.truth // trial.items == row] % trial.items
        lists[row, : len(came)] = came
    probabilities = np.where(lists >= 0, 1.0, 0.0).astype(np.float32)
    return Ranking(trial.ids, lists, probabilities, {"oracle": lists, "nobody": np.full((trial.targets, 3), NOTHING)})


def test_items_are_coded_by_popularity_and_what_came_counts_also_where_the_log_lacks_it(trial: Trial) -> None:
    assert trial.ids[:2] == ["bread", "milk"]
    assert trial.lines.tolist() == sorted(trial.lines.tolist(), reverse=True)
    assert set(trial.ids[trial.catalogue :]) == {"cake", "never seen"}
    assert trial.sizes.tolist() == [3, 1, 2, 2]
    assert len(trial.truth) == 8


def test_the_state_of_a_target_is_the_fold_of_the_events_before_it(trial: Trial) -> None:
    assert [state.orders for state in trial.states] == [2, 2, 1, 5]
    assert trial.states[0].item_ids == ["milk", "bread", "jam"]


def test_too_rare_items_are_in_no_catalogue_and_still_wanted() -> None:
    rare = prepare(Written(SHOP._users, item_lines_min=3))
    assert set(rare.ids[: rare.catalogue]) == {"bread", "milk", "tea"}
    assert rare.sizes.tolist() == [3, 1, 2, 2]
    for lists in baselines(rare).values():
        assert max(lists.best.max(), lists.new.max()) < rare.catalogue


def test_prefixes_are_folded_into_states_and_are_not_in_the_log() -> None:
    class WithPrefixes(Written):
        def prefixes(self) -> Iterator[CartEvent]:
            for event in self.events():
                yield msgspec.structs.replace(event, user_id="guest", item_id="lemon")

        def targets(self) -> list[Target]:
            return [Target("guest", ("tea",))]

    found = prepare(WithPrefixes({"u1": [["tea"], ["milk"], ["tea"]]}, views=True))
    assert found.states[0].item_ids == ["lemon"]
    assert ids_of(found, found.log.codes.tolist()) == ["tea", "milk"]
    assert ids_of(found, found.own.codes.tolist()) == ["lemon", "lemon"]
    assert found.catalogue == 2


def test_orders_without_an_id_are_told_apart_by_time_as_the_fold_does() -> None:
    def read() -> Iterator[CartEvent]:
        for minute in (0, 20, 40, 100):
            yield CartEvent(
                event_id=uuid.uuid4(),
                event_type=EventType.PURCHASE,
                user_id="u",
                item_id=f"i{minute}",
                ts=_NOON + timedelta(minutes=minute),
            )

    found = prepare(TemporalSplit("shop", read, _NOON + timedelta(minutes=60)))
    assert found.own.steps.tolist() == [0, 0, 0]
    assert found.states[0].orders == 1


def test_baselines_are_those_worked_out_by_hand(trial: Trial) -> None:
    ranked = {name: lists.best for name, lists in baselines(trial).items()}
    assert [*ranked] == [POPULARITY, RECENT, OWN, ITEM_KNN, CO_VISIT, BLEND, POPULAR_BLEND]
    assert ids_of(trial, ranked[POPULARITY][0]) == ["bread", "milk", "tea", "jam"]
    # bread twice, then jam, which is later than milk; tea fills.
    assert ids_of(trial, ranked[OWN][0]) == ["bread", "jam", "milk", "tea"]
    assert ids_of(trial, ranked[OWN][2]) == ["tea", "bread", "milk", "jam"]
    # Tea is followed by milk alone, in u4's orders.
    assert ids_of(trial, ranked[CO_VISIT][2])[0] == "milk"
    # Tea stands together with milk alone.
    assert ids_of(trial, ranked[ITEM_KNN][2])[0] == "milk"
    for lists in ranked.values():
        assert all(len(set(row)) == len(row) for row in ([*map(int, some[some >= 0])] for some in lists))


def test_views_are_followed_by_what_was_viewed_next() -> None:
    sessions = {f"s{n}": [["a"], ["b"], ["c"], ["d"]] for n in range(5)} | {"last": [["a"], ["b"]]}
    found = prepare(Written(sessions, views=True))
    ranked = {name: lists.best for name, lists in baselines(found).items()}
    assert ids_of(found, ranked[CO_VISIT][5])[0] == "b"
    assert ids_of(found, ranked[OWN][0])[:3] == ["c", "b", "a"]


def test_empty_places_are_filled_in_order_and_nothing_comes_twice() -> None:
    lists = np.array([[5, 2, NOTHING, NOTHING], [NOTHING] * 4], dtype=np.int64)
    assert filled(lists, np.array([[2, 7, 5, 9, 1], [3, 1, 2, 7, 6]])).tolist() == [[5, 2, 7, 9], [3, 1, 2, 7]]
    few = filled(lists, np.array([[2], [2]]))
    assert few.tolist() == [[5, 2, NOTHING, NOTHING], [2, NOTHING, NOTHING, NOTHING]]


def test_lists_of_new_items_have_none_of_the_users_own_and_go_on_where_those_stood(trial: Trial) -> None:
    lists = np.array([[5, 2, 7, NOTHING], [2, 5, NOTHING, NOTHING]])
    moved = without(lists, np.array([5, 10 + 2]), 10)
    assert moved.tolist() == [[2, 7, NOTHING, NOTHING], [5, NOTHING, NOTHING, NOTHING]]
    for ranked in baselines(trial).values():
        assert ids_of(trial, ranked.new[0]) == ["tea"]
        assert ids_of(trial, ranked.new[3]) == []
        assert set(ids_of(trial, ranked.new[2])) == {"bread", "milk", "jam"}


def test_perfect_lists_are_worth_one_everywhere(trial: Trial) -> None:
    report = judge(trial, perfect(trial))
    for segment, metrics in report.rankings[MODEL].segments.items():
        for metric, estimate in metrics.items():
            assert (estimate.value, estimate.low, estimate.high) == (1.0, 1.0, 1.0), (segment, metric)
    assert report.candidates["oracle"].recall == 1.0
    assert report.candidates["nobody"].recall == 0.0
    assert report.candidates[TOGETHER].a_user == 2.0
    assert report.calibration is not None
    assert report.calibration.ece == 0.0
    assert report.known == 6 / 8


def test_segments_add_up(trial: Trial) -> None:
    for lists in baselines(trial).values():
        measured = {(each.segment, each.metric): each.values for each in by_segment(trial, lists)}
        overall = measured[ALL, "recall_at_10"]
        classes = np.stack([measured[name, "recall_at_10"] for name in history_names()])
        # Each target is in one class of users, with the value it has overall.
        assert np.count_nonzero(~np.isnan(classes), axis=0).tolist() == [1] * trial.targets
        assert np.nansum(classes, axis=0).tolist() == overall.tolist()
        owned = {*(trial.own.users * trial.items + trial.own.codes).tolist()}
        repeats = np.bincount([pair // trial.items for pair in trial.truth.tolist() if pair in owned], minlength=4)
        hits = np.nan_to_num(measured[REPEAT, "recall_at_10"]) * repeats + np.nan_to_num(
            measured[NEW, "recall_at_10"]
        ) * (trial.sizes - repeats)
        assert hits.tolist() == pytest.approx((overall * trial.sizes).tolist())


def test_users_with_fewer_than_two_orders_are_cold_and_rare_items_too(trial: Trial) -> None:
    report = judge(trial, None)
    assert {segment: size for segment, size in report.sizes.items() if size} == {
        "all": 4,
        REPEAT: 3,
        NEW: 2,
        NEW_ONLY: 2,
        COLD_ITEMS: 3,
        "cold_users": 1,
        "history_2": 2,
        "history_5_to_8": 1,
    }


def test_the_model_is_compared_with_each_baseline_on_the_same_draws(trial: Trial) -> None:
    own = baselines(trial)[OWN].best
    report = judge(trial, Ranking(trial.ids, own))
    behind = report.rankings[OWN].behind["recall_at_10"]
    assert (behind.value, behind.low, behind.high) == (0.0, 0.0, 0.0)
    assert report.rankings[POPULARITY].behind["recall_at_10"].value == pytest.approx(
        report.value(MODEL, "recall_at_10") - report.value(POPULARITY, "recall_at_10")
    )
    assert report.calibration is None
    assert report.candidates == {}


def test_codes_of_the_models_catalogue_are_translated_and_items_beyond_the_log_are_misses(trial: Trial) -> None:
    ids = ["not in the log", *reversed(trial.ids)]
    codes = np.full((trial.targets, K_MAX), NOTHING)
    codes[:, 0] = 0
    codes[:, 1] = ids.index("bread")
    report = judge(trial, Ranking(ids, codes, np.where(codes >= 0, 0.5, 0.0)))
    assert report.value(MODEL, "hr_at_10") == 2 / 4
    assert report.value(MODEL, "mrr_at_10") == 1 / 4
    assert report.calibration is not None
    assert report.calibration.bins[0].places == 2 * trial.targets


def test_lists_for_another_number_of_targets_are_refused(trial: Trial) -> None:
    with pytest.raises(ValueError, match="3 lists for 4 targets"):
        judge(trial, Ranking(trial.ids, np.zeros((3, 20), dtype=np.int64)))


def test_states_reach_the_ranking_in_the_order_of_the_targets() -> None:
    seen: list[UserState] = []

    def rank(states: Sequence[UserState], k: int) -> Ranking:
        seen.extend(states)
        return Ranking([], np.full((len(states), k), NOTHING))

    report = evaluate(SHOP, rank, seed=3)
    assert [state.orders for state in seen] == [2, 2, 1, 5]
    assert report.value(MODEL, "recall_at_20") == 0.0
    assert report == evaluate(SHOP, lambda states, k: Ranking([], np.full((len(states), k), NOTHING)), seed=3)


def test_figures_are_flat_and_stand_beside_the_best_baseline(trial: Trial) -> None:
    report = judge(trial, perfect(trial))
    best = max(report.value(name, "recall_at_10") for name in report.rankings if name != MODEL)
    flat = figures(msgspec.structs.replace(report, dataset="online-retail"))
    assert flat["online_retail_recall_at_10"] == 1.0
    assert flat["online_retail_recall_at_10_best_baseline"] == best
    assert set(flat) == {
        f"online_retail_{name}{beside}"
        for name in ("recall_at_10", "new_items_recall_at_10")
        for beside in ("", "_best_baseline")
    }
    assert set(figures(msgspec.structs.replace(report, dataset="tafeng"))) == {
        f"tafeng_{name}{beside}"
        for name in ("recall_at_10", "hr_at_20", "ndcg_at_10")
        for beside in ("", "_best_baseline")
    }
    sessions = figures(msgspec.structs.replace(report, dataset="diginetica"))
    assert sessions["diginetica_p_at_20"] == 100.0
    assert sessions["diginetica_mrr_at_20"] == 100.0
    assert all(math.isfinite(value) for value in flat.values())


@pytest.mark.parametrize("with_model", [True, False])
def test_the_page_refers_to_nothing_outside_of_it(trial: Trial, with_model: bool) -> None:
    page = render(
        [
            judge(trial, perfect(trial) if with_model else None),
            judge(trial._replace(dataset=Written(SHOP._users, inner=True)), None),
        ]
    )
    assert not re.search(
        r"""https?:|//\w|\b(?:src|href|xlink:href|srcset|action)\s*=|@import|url\(|<script|<link""", page
    )
    assert "prefers-color-scheme: dark" in page
    assert "default-src 'none'" in page
    for text in ("own frequency", "Recall@10", "cold users", "inner split", *(["Calibration"] if with_model else [])):
        assert text in page


def test_names_are_escaped_in_the_page(trial: Trial) -> None:
    report = msgspec.structs.replace(judge(trial, None), dataset="<script>x</script>")
    assert "<script>" not in render([report])
