"""The port for projections: copies of the states for readers, such as an API or a person. Never read by the worker."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from streamproc.state import StoredState


class Projection(Protocol):
    """A copy that may be wiped, go back in time or be away: nothing is lost, and readers fall back to the store."""

    def check(self) -> str:
        """One cheap call that shows whether the service can be used; returns a detail for a person, or raises."""
        ...

    def project(self, states: Sequence[StoredState]) -> int:
        """Write each state unless the projected one is later; return for how many it is.

        Raises a transient error where the projection cannot be reached. The worker then goes on and projects the latest
        states when it is back.
        """
        ...

    def read(self, keys: Sequence[str]) -> dict[str, StoredState]:
        """The projected states of these keys, for readers; keys without one are left out."""
        ...

    def forget(self, key: str) -> bool:
        """Erase the projected state of a key; return whether there was one."""
        ...
