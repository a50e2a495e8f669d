"""The report: one data set, one model, every baseline, on the same targets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from streamproc_models.datasets import Dataset
from streamproc_models.evaluate.baselines import baselines, without
from streamproc_models.evaluate.bootstrap import interval, resampled
from streamproc_models.evaluate.metrics import ELSEWHERE, K_MAX, KS, NOTHING, RANKED_MAX, found
from streamproc_models.evaluate.quality import (
    Calibration,
    CandidateRecall,
    Spread,
    calibration,
    candidate_recall,
    spread,
)
from streamproc_models.evaluate.ranking import Rank, Ranking
from streamproc_models.evaluate.segments import ALL, NEW_ONLY, Lists, by_segment
from streamproc_models.evaluate.trial import Trial, prepare

MODEL = "model"


class Estimate(msgspec.Struct, frozen=True):
    """A mean over targets, and its 95 % bootstrap interval over users."""

    value: float
    low: float
    high: float


class Judged(msgspec.Struct, frozen=True):
    """One ranking."""

    #: Segment -> metric -> estimate. Without a target in a segment there is none of it.
    segments: dict[str, dict[str, Estimate]]
    #: The model less this ranking, on all targets, from paired resamples; empty for the model and without one.
    behind: dict[str, Estimate]
    spread: Spread


class Report(msgspec.Struct, frozen=True):
    """What was measured. Equal data, model and seed give an equal report."""

    dataset: str
    protocol: str
    inner: bool
    seed: int
    targets: int
    #: Items that can be recommended, and lines of the log.
    items: int
    lines: int
    #: Share of the wanted items that are in the catalogue: no ranking can have more of them.
    known: float
    #: Segment -> targets in it.
    sizes: dict[str, int]
    #: By name, the model first where there is one.
    rankings: dict[str, Judged]
    candidates: dict[str, CandidateRecall]
    calibration: Calibration | None

    def value(self, ranking: str, metric: str, segment: str = ALL) -> float:
        """A mean, NaN where the segment is empty."""
        estimate = self.rankings[ranking].segments.get(segment, {}).get(metric)
        return math.nan if estimate is None else estimate.value

    def best_baseline(self, metric: str, segment: str = ALL) -> str:
        """The name of the baseline with the largest mean."""
        names = [name for name in self.rankings if name != MODEL]
        return max(names, key=lambda name: np.nan_to_num(self.value(name, metric, segment), nan=-1.0))


class Figure(NamedTuple):
    """A headline: its name after the data set's, where it comes from, and its unit."""

    name: str
    metric: str
    segment: str = ALL
    #: The literature on sessions counts in percent.
    scale: float = 1.0


_FIGURES = {
    "tafeng": (
        Figure("recall_at_10", "recall_at_10"),
        Figure("hr_at_20", "hr_at_20"),
        Figure("ndcg_at_10", "ndcg_at_10"),
    ),
    "diginetica": (Figure("p_at_20", "hr_at_20", scale=100.0), Figure("mrr_at_20", "mrr_at_20", scale=100.0)),
}
_BASKET_FIGURES = (Figure("recall_at_10", "recall_at_10"), Figure("new_items_recall_at_10", "recall_at_10", NEW_ONLY))


def headlines(report: Report) -> tuple[Figure, ...]:
    """The figures of this data set that are watched."""
    return _FIGURES.get(report.dataset, _BASKET_FIGURES)


def figures(report: Report) -> dict[str, float]:
    """Flat: ``tafeng_recall_at_10`` of the model, and ``tafeng_recall_at_10_best_baseline`` beside it.

    An inner split's are ``tafeng_inner_...``. What a segment without targets cannot tell is left out.
    """
    flat: dict[str, float] = {}
    prefix = report.dataset.replace("-", "_") + ("_inner" if report.inner else "")
    for figure in headlines(report):
        key = f"{prefix}_{figure.name}"
        best = report.best_baseline(figure.metric, figure.segment)
        for name, ranking in ((key, MODEL), (f"{key}_best_baseline", best)):
            if ranking in report.rankings:
                value = figure.scale * report.value(ranking, figure.metric, figure.segment)
                if not math.isnan(value):
                    flat[name] = value
    return flat


def evaluate(dataset: Dataset, rank: Rank | None, *, seed: int = 0) -> Report:
    """Read the data set, rank its targets and judge the lists; without ``rank``, the baselines alone.

    Raises SettingsError as reading does.
    """
    trial = prepare(dataset)
    ranking = None if rank is None else rank(trial.states, RANKED_MAX)
    return judge(trial, ranking, seed=seed)


def judge(trial: Trial, ranking: Ranking | None, *, seed: int = 0) -> Report:
    """Judge the lists of a model, one a target, and every baseline on the same targets.

    The lists should be RANKED_MAX long or hold all candidates: lists of new items are made from them.

    Raises ValueError for lists of another number of targets, or with an item twice.
    """
    lists: dict[str, Lists] = {}
    calibrated, recalls = None, {}
    if ranking is not None:
        if len(ranking.codes) != trial.targets:
            raise ValueError(f"{len(ranking.codes)} lists for {trial.targets} targets: there must be one for each")
        recode = _recode(trial, ranking.ids)
        ranked = recode[ranking.codes]
        owned = np.unique(trial.own.users * trial.items + trial.own.codes)
        lists[MODEL] = Lists(ranked[:, :K_MAX], without(ranked, owned, trial.items)[:, :K_MAX])
        if ranking.probabilities is not None:
            hits = found(lists[MODEL].best, trial.truth, trial.items)
            calibrated = calibration(lists[MODEL].best, ranking.probabilities[:, :K_MAX], hits)
        recalls = candidate_recall(trial, {source: recode[codes] for source, codes in ranking.candidates.items()})
    lists |= baselines(trial)
    sizes, rankings = _estimates(trial, lists, seed)
    return Report(
        dataset=trial.dataset.name,
        protocol=trial.dataset.protocol,
        inner=trial.dataset.inner,
        seed=seed,
        targets=trial.targets,
        items=trial.catalogue,
        lines=len(trial.log.users),
        known=float(np.mean(trial.truth % trial.items < trial.catalogue)),
        sizes=sizes,
        rankings=rankings,
        candidates=recalls,
        calibration=calibrated,
    )


def _recode(trial: Trial, ids: Sequence[str]) -> NDArray[np.int64]:
    """The trial's code of each of the model's; the last one, which an empty place reads, is an empty place.

    Items that neither the log nor a target has are ELSEWHERE: a place that can be no hit.
    """
    code_of = {item_id: code for code, item_id in enumerate(trial.ids)}
    return np.array([*(code_of.get(item_id, ELSEWHERE) for item_id in ids), NOTHING], dtype=np.int64)


def _estimates(trial: Trial, lists: dict[str, Lists], seed: int) -> tuple[dict[str, int], dict[str, Judged]]:
    measured = {name: by_segment(trial, some) for name, some in lists.items()}
    values = {name: np.stack([each.values for each in columns], axis=1) for name, columns in measured.items()}
    means = {name: _means(some) for name, some in values.items()}
    # The same seed gives all rankings the same draws. One after the other they take an eighth of the memory.
    draws = {name: resampled(some, seed=seed) for name, some in values.items()}
    sizes: dict[str, int] = {}
    rankings: dict[str, Judged] = {}
    for name, columns in measured.items():
        segments: dict[str, dict[str, Estimate]] = {}
        for each, estimate in zip(columns, _with_interval(means[name], draws[name]), strict=True):
            sizes[each.segment] = int(np.count_nonzero(~np.isnan(each.values)))
            if not math.isnan(estimate.value):
                segments.setdefault(each.segment, {})[each.metric] = estimate
        behind: dict[str, Estimate] = {}
        if MODEL in lists and name != MODEL:
            less = _with_interval(means[MODEL] - means[name], draws[MODEL] - draws[name])
            behind = {each.metric: some for each, some in zip(columns, less, strict=True) if each.segment == ALL}
        rankings[name] = Judged(segments, behind, spread(trial, lists[name].best[:, : KS[0]]))
    return sizes, rankings


def _means(values: NDArray[np.float64]) -> NDArray[np.float64]:
    present = ~np.isnan(values)
    counts = present.sum(axis=0)
    sums = np.where(present, values, 0.0).sum(axis=0)
    means: NDArray[np.float64] = np.divide(sums, counts, out=np.full(len(sums), np.nan), where=counts > 0)
    return means


def _with_interval(values: NDArray[np.float64], draws: NDArray[np.float64]) -> list[Estimate]:
    return [Estimate(*map(float, each)) for each in zip(values, *interval(draws), strict=True)]
