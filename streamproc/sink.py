"""The port for sinks: where outputs go."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec


class Delivery(msgspec.Struct, frozen=True):
    """What came of one attempt to publish. An output that is in neither list was acknowledged."""

    #: Indices of outputs to send again: throttled, or failed in a way that passes.
    pending: list[int]
    #: Index and reason of each output that will never be accepted.
    refused: list[tuple[int, str]]
    #: Why outputs are pending; empty where none is.
    error: str = ""


class Sink(Protocol):
    """At-least-once delivery of outputs; a replay publishes some again, under the same id."""

    def check(self) -> str:
        """One cheap call that shows whether the service can be used; returns a detail for a person, or raises."""
        ...

    def publish(self, outputs: Sequence[bytes]) -> Delivery:
        """Send each output once and wait for the acknowledgements.

        Raises a transient error where the service cannot be reached at all, and a permanent one where it refuses the
        call as such (no permission, no such delivery stream).
        """
        ...
