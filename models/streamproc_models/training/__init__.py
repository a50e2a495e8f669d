"""Training: the log replayed through the live code, point in time, and the bundle that comes of it."""

from __future__ import annotations

from streamproc_models.training.fit import Trained, TrainingReport, learn, train
from streamproc_models.training.settings import Objective, TrainingSettings

__all__ = ["Objective", "Trained", "TrainingReport", "TrainingSettings", "learn", "train"]
