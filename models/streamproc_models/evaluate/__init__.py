"""Judges rankings on what users did next: full catalogue, intervals, segments, and every baseline beside them."""

from __future__ import annotations

from streamproc_models.evaluate.ranking import Rank, Ranking, rank_with, rank_with_bundle, rank_with_training
from streamproc_models.evaluate.report import Report, evaluate, figures, judge
from streamproc_models.evaluate.trial import Trial, prepare

__all__ = [
    "Rank",
    "Ranking",
    "Report",
    "Trial",
    "evaluate",
    "figures",
    "judge",
    "prepare",
    "rank_with",
    "rank_with_bundle",
    "rank_with_training",
]
