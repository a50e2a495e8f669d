"""The kinds of generators that a bundle can hold."""

from __future__ import annotations

from streamproc_models.retrieval.base import Generator
from streamproc_models.retrieval.encoder import Encoder
from streamproc_models.retrieval.links import Links
from streamproc_models.retrieval.sessions import SessionKnn

KINDS: dict[str, type[Generator]] = {kind.KIND: kind for kind in (Links, SessionKnn, Encoder)}
