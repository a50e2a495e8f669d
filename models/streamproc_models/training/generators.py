"""The generators that training can fit, by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from streamproc.errors import SettingsError
from streamproc_models.retrieval.base import Generator
from streamproc_models.retrieval.steps import Steps
from streamproc_models.training.covisit import fit_covisit

#: Fits a generator on a log; the names of the items are by code.
Fit = Callable[[Steps, Sequence[str]], Generator]

FITS: dict[str, Fit] = {
    "covisit": lambda steps, _names: fit_covisit(steps),
}


def fit_generators(wanted: Sequence[str], steps: Steps, names: Sequence[str]) -> tuple[Generator, ...]:
    """Fit these, in their order. Raises SettingsError for a name that there is not."""
    if unknown := [name for name in wanted if name not in FITS]:
        raise SettingsError(f"generator {unknown[0]!r} is not known: choose among {', '.join(FITS)}")
    return tuple(FITS[name](steps, names) for name in wanted)
