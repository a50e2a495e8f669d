"""Features: one fold from events to a user's state, and the columns that are read from it.

The live stream, training and replay all go through :func:`fold`, so a feature has one definition.
"""

from __future__ import annotations

from streamproc_models.features.fold import FOLD_VERSION, fold
from streamproc_models.features.schema import FEATURES, Feature, features_of, schema_hash
from streamproc_models.features.state import UserState, decode_state, encode_state, new_state

__all__ = [
    "FEATURES",
    "FOLD_VERSION",
    "Feature",
    "UserState",
    "decode_state",
    "encode_state",
    "features_of",
    "fold",
    "new_state",
    "schema_hash",
]
