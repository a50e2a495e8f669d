"""Metrics by hand, intervals that hold what they promise, and what else is measured of lists."""

from __future__ import annotations

import math

import numpy as np
import pytest

from streamproc_models.evaluate.bootstrap import interval, resampled
from streamproc_models.evaluate.metrics import KS, NOTHING, contains, found, measure, restricted
from streamproc_models.evaluate.quality import calibration

ITEMS = 100


def lists_of(*lists: list[int]) -> np.ndarray:
    padded = np.full((len(lists), 20), NOTHING, dtype=np.int64)
    for row, some in enumerate(lists):
        padded[row, : len(some)] = some
    return padded


def truth_of(*wanted: list[int]) -> tuple[np.ndarray, np.ndarray]:
    pairs = [row * ITEMS + item for row, items in enumerate(wanted) for item in items]
    return np.array(sorted(pairs), dtype=np.int64), np.array([len(items) for items in wanted])


def test_metrics_are_those_worked_out_by_hand() -> None:
    truth, sizes = truth_of([3, 5, 9, 50], [7])
    lists = lists_of([5, 1, 3], [0, *range(20, 30), 7])
    measured = measure(found(lists, truth, ITEMS), sizes)
    assert measured["recall_at_10"].tolist() == [2 / 4, 0]
    assert measured["recall_at_20"].tolist() == [2 / 4, 1]
    assert measured["hr_at_10"].tolist() == [1, 0]
    assert measured["mrr_at_10"].tolist() == [1, 0]
    assert measured["mrr_at_20"].tolist() == [1, 1 / 12]
    ideal = 1 + 1 / math.log2(3) + 1 / math.log2(4) + 1 / math.log2(5)
    assert measured["ndcg_at_10"] == pytest.approx([(1 + 1 / math.log2(4)) / ideal, 0])
    assert measured["ndcg_at_20"] == pytest.approx([(1 + 1 / math.log2(4)) / ideal, 1 / math.log2(13)])


def test_the_ideal_of_ndcg_is_truncated_at_k() -> None:
    truth, sizes = truth_of([*range(30)])
    measured = measure(found(lists_of([*range(10)]), truth, ITEMS), sizes)
    assert measured["ndcg_at_10"].tolist() == pytest.approx([1.0])
    assert measured["recall_at_10"].tolist() == pytest.approx([1 / 3])


def test_with_one_wanted_item_hit_rate_and_recall_are_the_same() -> None:
    rng = np.random.default_rng(0)
    truth, sizes = truth_of(*[[int(item)] for item in rng.integers(ITEMS, size=50)])
    lists = np.stack([rng.permutation(ITEMS)[:20] for _ in range(50)])
    measured = measure(found(lists, truth, ITEMS), sizes)
    for k in KS:
        assert measured[f"recall_at_{k}"].tolist() == measured[f"hr_at_{k}"].tolist()


def test_an_empty_list_is_worth_nothing_and_a_target_without_items_is_not_counted() -> None:
    truth, sizes = truth_of([1], [])
    measured = measure(found(lists_of([], [1]), truth, ITEMS), sizes)
    for values in measured.values():
        assert values[0] == 0
        assert math.isnan(values[1])
    assert set(restricted(found(lists_of([], [1]), truth, ITEMS), sizes)) == {
        "recall_at_10",
        "recall_at_20",
        "hr_at_10",
        "hr_at_20",
    }


def test_an_item_twice_in_a_list_is_refused() -> None:
    truth, _ = truth_of([1])
    with pytest.raises(ValueError, match="names an item twice"):
        found(lists_of([1, 2, 1]), truth, ITEMS)


def test_nothing_is_contained_in_no_keys() -> None:
    assert not contains(np.array([], dtype=np.int64), np.array([1, 2])).any()


def test_an_interval_holds_the_true_mean_in_about_95_of_100_samples() -> None:
    rng = np.random.default_rng(1)
    values = (rng.random((200, 150)) < 0.3).astype(float)  # 150 samples of 200 users
    low, high = interval(resampled(values, seed=5))
    held = np.mean((low <= 0.3) & (high >= 0.3))
    assert 0.90 <= held <= 0.99
    assert np.all((low < values.mean(axis=0)) & (values.mean(axis=0) < high))


def test_an_interval_depends_on_the_seed_alone() -> None:
    values = np.random.default_rng(2).random((50, 2))
    assert resampled(values, seed=3).tobytes() == resampled(values, seed=3).tobytes()
    assert resampled(values, seed=3).tobytes() != resampled(values, seed=4).tobytes()


def test_differences_are_paired_so_a_constant_lead_has_no_width() -> None:
    values = np.random.default_rng(3).random(80)
    draws = resampled(np.stack([values, values + 0.25], axis=1), seed=0)
    low, high = interval(draws[:, 1:] - draws[:, :1])
    assert low == pytest.approx([0.25])
    assert high == pytest.approx([0.25])


def test_users_without_a_value_are_in_no_mean() -> None:
    values = np.full((40, 2), np.nan)
    values[:10, 0] = 0.5
    low, high = interval(resampled(values, seed=0))
    assert (low[0], high[0]) == (0.5, 0.5)
    assert math.isnan(low[1])
    assert math.isnan(high[1])


def test_probabilities_that_say_what_comes_have_no_calibration_error() -> None:
    lists = np.tile(np.arange(20), (100, 1))
    hits = np.zeros(lists.shape, dtype=bool)
    hits[:10, :10] = True  # one in ten of the first ten places, never one of the others
    probabilities = np.where(lists < 10, 0.1, 0.0)
    calibrated = calibration(lists, probabilities, hits)
    assert calibrated is not None
    assert calibrated.predicted_by_observed == pytest.approx(1.0)
    assert sum(each.places for each in calibrated.bins) == lists.size
    doubled = calibration(lists, 2 * probabilities, hits)
    assert doubled is not None
    assert doubled.predicted_by_observed == pytest.approx(2.0)
    assert doubled.ece == pytest.approx(0.05)


def test_empty_lists_have_no_calibration() -> None:
    assert calibration(lists_of([]), np.zeros((1, 20)), np.zeros((1, 20), dtype=bool)) is None
