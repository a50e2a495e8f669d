"""The registry: versions of one model, and the aliases that say which of them serves.

    <registry>/<version>/model.ubj, extra/...    a bundle; see :mod:`streamproc_models.bundle`
    <registry>/aliases/champion.json             and challenger.json, shadow.json

A registry is the folder, or the prefix in S3, of one model: ``s3://bucket/models/next-basket``. A version is written
once and never changed. An alias is moved by compare-and-swap, so of two who move it at once one is told.
"""

from __future__ import annotations

from streamproc_models.registry.base import (
    ALIASES,
    CHALLENGER,
    CHAMPION,
    SHADOW,
    Alias,
    AliasMoved,
    Held,
    PromotionRefused,
    Registry,
    VersionUnknown,
)
from streamproc_models.registry.location import open_registry, split_alias

__all__ = [
    "ALIASES",
    "CHALLENGER",
    "CHAMPION",
    "SHADOW",
    "Alias",
    "AliasMoved",
    "Held",
    "PromotionRefused",
    "Registry",
    "VersionUnknown",
    "open_registry",
    "split_alias",
]
