"""Leaves a store alone for a moment after it failed, so that nobody waits for what does not answer."""

from __future__ import annotations

from streamproc.clock import Clock, SystemClock
from streamproc.telemetry import Telemetry
from streamproc_consumers.api.facts import StoreAway, StoreBack


class Breaker:
    """*Closed* while the store answers. A failure opens it for ``rest_seconds``; the next question then is a trial."""

    def __init__(self, store: str, rest_seconds: float, telemetry: Telemetry, clock: Clock | None = None) -> None:
        self.store = store
        self._rest_seconds = rest_seconds
        self._telemetry = telemetry
        self._clock = clock or SystemClock()
        self._away_since: float | None = None
        self._rests_until = float("-inf")

    @property
    def answers(self) -> bool:
        """Whether the store answered the last time."""
        return self._away_since is None

    @property
    def may_ask(self) -> bool:
        """Whether to ask now."""
        return self._clock.monotonic() >= self._rests_until

    def failed(self, error: BaseException) -> None:
        """The store did not answer."""
        now = self._clock.monotonic()
        self._rests_until = now + self._rest_seconds
        if self._away_since is None:
            self._away_since = now
            self._telemetry.emit(StoreAway(store=self.store, error=str(error) or type(error).__name__))

    def answered(self) -> None:
        """The store answered."""
        if self._away_since is not None:
            self._telemetry.emit(StoreBack(store=self.store, away_seconds=self._clock.monotonic() - self._away_since))
            self._away_since, self._rests_until = None, float("-inf")
