"""Training: the log replayed through the live code, point in time, and the bundle that comes of it."""

from __future__ import annotations

from streamproc_models.training.fit import TrainingReport, TrainingSettings, train

__all__ = ["TrainingReport", "TrainingSettings", "train"]
