"""Fits the item-to-item links of the generators on a log: one function for each kind of link.

All read the log as :class:`~streamproc_models.retrieval.steps.Steps`, keep the strongest links of each item, use no
randomness, and stay within the memory that their docstrings tell, whatever a single user or basket does.
"""

from __future__ import annotations

from streamproc_models.retrieval.fits.attributes import fit_attribute
from streamproc_models.retrieval.fits.covisit import fit_next, fit_together
from streamproc_models.retrieval.fits.light import fit_covisit
from streamproc_models.retrieval.fits.linear import fit_ease, fit_ridge
from streamproc_models.retrieval.fits.text import fit_text

__all__ = ["fit_attribute", "fit_covisit", "fit_ease", "fit_next", "fit_ridge", "fit_text", "fit_together"]
