"""The generators that training can fit, by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from streamproc.errors import SettingsError
from streamproc_models.items import Item
from streamproc_models.retrieval.base import Generator
from streamproc_models.retrieval.encoder_fit import fit_encoder
from streamproc_models.retrieval.fits import (
    fit_attribute,
    fit_covisit,
    fit_ease,
    fit_next,
    fit_ridge,
    fit_text,
    fit_together,
)
from streamproc_models.retrieval.links import Weighting
from streamproc_models.retrieval.sessions import fit_sessions
from streamproc_models.retrieval.steps import Steps

#: Fits a generator on a log; what is told of the items is by code.
Fit = Callable[[Steps, Sequence[Item]], Generator]

FITS: dict[str, Fit] = {
    # In one basket, and in one basket and the next: small, and enough for a shop that scores on a stream.
    "covisit": lambda steps, _items: fit_covisit(steps),
    "together": lambda steps, _items: fit_together(steps),
    "together_orders": lambda steps, _items: fit_together(steps, name="together_orders", weighting=Weighting.ORDERS),
    "next_orders": lambda steps, _items: fit_next(
        steps, name="next_orders", weighting=Weighting.ORDERS, backward=0.0, shrinkage=10.0
    ),
    "next_views": lambda steps, _items: fit_next(steps, name="next_views", weighting=Weighting.RECENT, shrinkage=3.0),
    "ridge": lambda steps, _items: fit_ridge(steps),
    "ease": lambda steps, _items: fit_ease(steps),
    "text": lambda _steps, items: fit_text([item.name for item in items]),
    "session_knn": lambda steps, _items: fit_sessions(steps),
    "encoder": lambda steps, _items: fit_encoder(steps),
    # Where the shop tells them.
    "category": lambda steps, items: fit_attribute(steps, [item.category for item in items], name="category"),
    "brand": lambda steps, items: fit_attribute(steps, [item.brand for item in items], name="brand"),
}


def fit_generators(wanted: Sequence[str], steps: Steps, items: Sequence[Item]) -> tuple[Generator, ...]:
    """Fit these, in their order. Raises SettingsError for a name that there is not."""
    if unknown := [name for name in wanted if name not in FITS]:
        raise SettingsError(f"generator {unknown[0]!r} is not known: choose among {', '.join(FITS)}")
    return tuple(FITS[name](steps, items) for name in wanted)
