"""Both that add up the trees, oneDAL and XGBoost, to one contract."""

from collections.abc import Callable

import numpy as np
import pytest
import xgboost
from numpy.typing import NDArray

from streamproc_models.booster import HAS_ONEDAL, Booster

OBJECTIVES = ("binary:logistic", "binary:logitraw", "rank:ndcg")
#: Rows of 20 lists, with whole numbers as most features are, and -1 for missing ones.
LISTS, OF_A_LIST = 20, 97

Fitted = Callable[[str], xgboost.Booster]
Of = Callable[[xgboost.Booster], Booster]


@pytest.fixture(scope="module")
def rows() -> NDArray[np.float32]:
    random = np.random.default_rng(7)
    made = random.integers(-1, 4, size=(LISTS * OF_A_LIST, 6)).astype(np.float32)
    made[:, 5] = random.normal(size=len(made))
    return made


@pytest.fixture(scope="module")
def fitted(rows: NDArray[np.float32]) -> Fitted:
    def fit(objective: str) -> xgboost.Booster:
        ranks = objective.startswith("rank")
        labels = (rows[:, 0] + rows[:, 1] * rows[:, 5] > 2).astype(np.float32)
        data = xgboost.QuantileDMatrix(rows, labels, **({"group": [OF_A_LIST] * LISTS} if ranks else {}))
        parameters = {"objective": objective if ranks else "binary:logistic", "max_depth": 5, "seed": 1, "nthread": 1}
        trained = xgboost.train(parameters, data, 30)
        trained.set_param({"objective": objective})
        # As a bundle has it: written and read again.
        read = xgboost.Booster()
        read.load_model(trained.save_raw("ubj"))
        return read

    return fit


@pytest.fixture(params=["onedal", "xgboost"])
def of(request: pytest.FixtureRequest) -> Of:
    if request.param == "onedal":
        assert HAS_ONEDAL, "the lock installs scikit-learn-intelex on x86-64, where the tests run"
    return lambda trained: Booster(trained, onedal=request.param == "onedal")


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_scores_are_those_that_xgboost_gives(of: Of, fitted: Fitted, rows: NDArray[np.float32], objective: str) -> None:
    trained = fitted(objective)
    scores = of(trained).scores(rows)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, trained.inplace_predict(rows), rtol=0, atol=2e-6)
    assert len(np.unique(scores)) > 100


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_only_the_scores_of_a_logistic_booster_are_probabilities(of: Of, fitted: Fitted, objective: str) -> None:
    assert of(fitted(objective)).gives_probabilities == (objective == "binary:logistic")


def test_a_row_at_a_threshold_goes_where_xgboost_sends_it(of: Of) -> None:
    """XGBoost asks for less than the threshold and oneDAL for no more; 0 has a subnormal number before it."""
    rows = np.array([[-1], [0], [1]], dtype=np.float32).repeat(50, axis=0)
    labels = np.array([5, 1, 3], dtype=np.float32).repeat(50)
    trained = xgboost.train({"eta": 1.0, "lambda": 0, "base_score": 0, "nthread": 1}, xgboost.DMatrix(rows, labels), 1)
    assert "<0]" in trained.get_dump()[0]
    assert "<1]" in trained.get_dump()[0]
    np.testing.assert_array_equal(of(trained).scores(rows), labels)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_score_of_a_row_does_not_depend_on_the_other_rows_of_a_call(
    of: Of, fitted: Fitted, rows: NDArray[np.float32], objective: str
) -> None:
    booster = of(fitted(objective))
    together = booster.scores(rows)
    for size in (1, 7, 64, 100, 1_001):
        parts = [booster.scores(rows[start : start + size]) for start in range(0, len(rows), size)]
        np.testing.assert_array_equal(np.concatenate(parts), together)


def test_no_rows_have_no_scores(of: Of, fitted: Fitted) -> None:
    assert of(fitted("binary:logistic")).scores(np.zeros((0, 6), dtype=np.float32)).shape == (0,)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_first_trees_alone_score_as_xgboosts_range_of_them(
    of: Of, fitted: Fitted, rows: NDArray[np.float32], objective: str
) -> None:
    trained = fitted(objective)
    first = of(trained).first(12)
    assert first.trees == 12
    np.testing.assert_allclose(
        first.scores(rows), trained.inplace_predict(rows, iteration_range=(0, 12)), rtol=0, atol=2e-6
    )


def test_contributions_add_up_to_the_margin(of: Of, fitted: Fitted, rows: NDArray[np.float32]) -> None:
    booster = of(fitted("binary:logitraw"))
    np.testing.assert_allclose(booster.contributions(rows[:50]).sum(axis=1), booster.scores(rows[:50]), atol=1e-5)


def test_margins_of_any_size_give_probabilities_without_a_warning(of: Of) -> None:
    rows = np.array([[0], [1]], dtype=np.float32).repeat(50, axis=0)
    trained = xgboost.train(
        {"objective": "binary:logistic", "eta": 300, "max_delta_step": 0, "lambda": 0, "min_child_weight": 0},
        xgboost.DMatrix(rows, rows[:, 0]),
        2,
    )
    scores = of(trained).scores(rows)
    assert np.isfinite(scores).all()
    assert scores[0] < 1e-6
    assert scores[-1] > 1 - 1e-6
