"""Candidates: which items are worth scoring for a user, from three sources."""

from __future__ import annotations

from streamproc_models.candidates.merge import CANDIDATES_MAX, USERS_MAX, Candidates, candidates
from streamproc_models.candidates.sources import Source

__all__ = ["CANDIDATES_MAX", "USERS_MAX", "Candidates", "Source", "candidates"]
