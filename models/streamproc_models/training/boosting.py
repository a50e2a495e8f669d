"""Fits the booster, and the probabilities to its scores."""

from __future__ import annotations

from typing import Any

import numpy as np
import xgboost
from numpy.typing import NDArray

from streamproc_models.booster import Booster
from streamproc_models.bundle import calibrated
from streamproc_models.training.examples import Examples
from streamproc_models.training.settings import Objective, TrainingSettings

_NEWTON_STEPS = 50


def fit_booster(
    training: Examples, validation: Examples | None, settings: TrainingSettings, trees: int | None = None
) -> Booster:
    """A booster of ``trees`` trees; without a number, of as many as help on the validation rows."""
    ranks = settings.objective is Objective.NDCG
    parameters: dict[str, Any] = {
        "objective": settings.objective.value,
        "eval_metric": "ndcg@10" if ranks else "logloss",
        "tree_method": "hist",
        "max_depth": settings.tree_depth,
        "eta": settings.learning_rate,
        "min_child_weight": settings.leaf_weight_min,
        "subsample": 0.8,
        "colsample_bytree": settings.tree_features,
        "nthread": settings.threads,
        "seed": settings.seed,
    }
    if ranks:
        parameters |= {"lambdarank_pair_method": "topk", "lambdarank_num_pair_per_sample": 20}
    data = _matrix(training, settings, None)
    if validation is None:
        return _with_scores(xgboost.train(parameters, data, trees), settings)
    trained = xgboost.train(
        parameters,
        data,
        settings.trees_max,
        evals=[(_matrix(validation, settings, data), "validation")],
        early_stopping_rounds=settings.patience_trees,
        verbose_eval=False,
    )
    # What scores uses all trees, so those after the best are cut off.
    return _with_scores(trained[: trained.best_iteration + 1], settings)


def _with_scores(trained: xgboost.Booster, settings: TrainingSettings) -> Booster:
    """Where its probabilities are not those of the rows it gives their logits, but for a constant."""
    if settings.objective is Objective.LOGISTIC and not settings.gives_probabilities:
        trained.set_param({"objective": "binary:logitraw"})
    return Booster(trained)


def _matrix(
    examples: Examples, settings: TrainingSettings, reference: xgboost.QuantileDMatrix | None
) -> xgboost.QuantileDMatrix:
    # A list that is ranked needs its rows together, and weighs as a whole.
    of_rows = (
        {"qid": examples.groups} if settings.objective is Objective.NDCG else {"weight": _weights(examples, settings)}
    )
    return xgboost.QuantileDMatrix(examples.rows, examples.labels, ref=reference, nthread=settings.threads, **of_rows)


def _weights(examples: Examples, settings: TrainingSettings) -> NDArray[np.float32]:
    """1 a row on average, so that a leaf needs as many rows whatever the baskets' sizes."""
    if not settings.size_power:
        return examples.weights
    of_sizes = examples.sizes**-settings.size_power
    weights: NDArray[np.float32] = (examples.weights * of_sizes / of_sizes.mean()).astype(np.float32)
    return weights


def fit_calibration(scores: NDArray[np.float32], examples: Examples) -> tuple[float, float]:
    """Scale and shift such that 1 / (1 + exp(-(scale * score + shift))) is the probability of a row (Platt, 1999).

    Weighted logistic regression by Newton's method; the prior of one positive and one negative keeps it finite.
    """
    columns = np.stack([scores.astype(np.float64), np.ones(len(scores))], axis=1)
    target = examples.labels.astype(np.float64)
    weights = examples.weights.astype(np.float64)
    share = (target @ weights + 1) / (weights.sum() + 2)
    found = np.array([1.0, np.log(share / (1 - share))])
    for _ in range(_NEWTON_STEPS):
        probability = 1 / (1 + np.exp(-columns @ found))
        gradient = columns.T @ (weights * (probability - target)) + 1e-6 * found
        curvature = columns.T @ (columns * (weights * probability * (1 - probability))[:, None]) + 1e-6 * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        found = found - step
        if np.abs(step).max() < 1e-9:
            break
    return float(max(found[0], 1e-6)), float(found[1])


def probabilities(
    booster: Booster, rows: NDArray[np.float32], calibration: tuple[float, float] | None
) -> NDArray[np.float32]:
    """The probability of each row."""
    return calibrated(booster.scores(rows), calibration)
