"""What is worth knowing of lists beside their hits: candidates, calibration, coverage and novelty."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import numpy as np
from numpy.typing import NDArray

from streamproc_models.evaluate.metrics import NOTHING, contains, pairs
from streamproc_models.evaluate.trial import Trial

_BINS = 10
TOGETHER = "together"


class CandidateRecall(msgspec.Struct, frozen=True):
    """What a source of candidates could make possible; without a target that has such items, None."""

    #: Distinct candidates a user.
    a_user: float
    #: Mean over the targets of the share of the wanted items among the candidates; and of those new to the user.
    recall: float
    new_items_recall: float | None


class Bin(msgspec.Struct, frozen=True):
    """Places of like probability: their number, the mean of what was foretold, and the share that came."""

    places: int
    predicted: float
    observed: float


class Calibration(msgspec.Struct, frozen=True):
    """Whether probabilities are what they say, over all places of all lists."""

    #: By probability, ascending; of equally many places each but for equal probabilities, which stay together.
    bins: list[Bin]
    #: Expected calibration error: the mean over the places of abs(predicted - observed) of their bins.
    ece: float
    #: Hits that were foretold, by hits that came; None where none came.
    predicted_by_observed: float | None


class Spread(msgspec.Struct, frozen=True):
    """How wide the lists reach."""

    #: Share of the catalogue that is in any list.
    coverage: float
    #: Mean over the places of -log2 of the item's share of all lines of the log: bits; popular items are the low ones.
    novelty: float


def candidate_recall(trial: Trial, candidates: Mapping[str, NDArray[np.int64]]) -> dict[str, CandidateRecall]:
    """By source, and last TOGETHER. The codes are those of the trial."""
    owned = np.unique(trial.own.users * trial.items + trial.own.codes)
    new = ~contains(owned, trial.truth)
    of_target = trial.truth // trial.items
    new_sizes = np.bincount(of_target[new], minlength=trial.targets)

    def recall(keys: NDArray[np.int64]) -> CandidateRecall:
        came = contains(keys, trial.truth)
        hits = np.bincount(of_target[came], minlength=trial.targets)
        new_hits = np.bincount(of_target[came & new], minlength=trial.targets)[new_sizes > 0]
        return CandidateRecall(
            len(keys) / max(trial.targets, 1),
            float(np.mean(hits / trial.sizes)),
            float(np.mean(new_hits / new_sizes[new_sizes > 0])) if len(new_hits) else None,
        )

    by_source = {source: _keys(codes, trial.items) for source, codes in candidates.items()}
    found = {source: recall(keys) for source, keys in by_source.items()}
    return found | {TOGETHER: recall(np.unique(np.concatenate(list(by_source.values()))))} if by_source else {}


def _keys(codes: NDArray[np.int64], items: int) -> NDArray[np.int64]:
    keys = pairs(codes, items)
    return np.unique(keys[keys >= 0])


def calibration(
    lists: NDArray[np.int64], probabilities: NDArray[np.floating], hits: NDArray[np.bool_]
) -> Calibration | None:
    """None for lists without any item."""
    listed = lists != NOTHING
    predicted, observed = probabilities[listed].astype(np.float64), hits[listed].astype(np.float64)
    if not len(predicted):
        return None
    # Equal probabilities are in one bin: that of the first of them.
    of_bin = np.searchsorted(np.sort(predicted), predicted) * _BINS // len(predicted)
    bins = [
        Bin(int(np.count_nonzero(some)), float(predicted[some].mean()), float(observed[some].mean()))
        for some in (of_bin == number for number in np.unique(of_bin))
    ]
    ece = sum(each.places * abs(each.predicted - each.observed) for each in bins) / len(predicted)
    came = observed.sum()
    return Calibration(bins, ece, float(predicted.sum() / came) if came else None)


def spread(trial: Trial, lists: NDArray[np.int64]) -> Spread:
    """Of lists of the trial's codes. An item that the log does not have counts as on one line."""
    codes = lists[lists >= 0]
    share = np.maximum(trial.lines, 1) / max(int(trial.lines.sum()), 1)
    return Spread(
        len(np.unique(codes)) / max(trial.catalogue, 1),
        float(np.mean(-np.log2(share[codes]))) if len(codes) else 0.0,
    )
