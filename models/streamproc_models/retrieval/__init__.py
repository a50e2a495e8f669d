"""Generators: what proposes items for a user from his history, and says of any item how well it fits.

A generator is fitted on a log (:class:`~streamproc_models.retrieval.steps.Steps`), stored in the bundle as plain
arrays, and asked for a whole batch of users at once. What it says of one user never depends on the others of the batch,
to the last bit: live scoring, replay and training must get the same numbers however users are put into batches.
"""

from __future__ import annotations

from streamproc_models.retrieval.base import Generator, Scored, Scores
from streamproc_models.retrieval.steps import Steps

__all__ = ["Generator", "Scored", "Scores", "Steps"]
