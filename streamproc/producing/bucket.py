"""What a shard takes a second. Time is a parameter."""

from __future__ import annotations

#: What may go at once after a pause, in seconds' worth. It comes on top of the rate in the second that begins then,
#: and the service counts by the second: one aggregate, no more.
_BURST_SECONDS = 0.05
#: Rounding must not make anybody wait for no time at all, again and again.
_WAIT_SECONDS_MIN = 0.001


class TokenBucket:
    """Lets records pass at a rate of bytes and of records; None for a rate that is not limited.

    A record may pass as soon as there is anything left for it, and the next ones wait until its debt is paid: so a
    record that is larger than a second's worth passes too.
    """

    __slots__ = ("_at", "_bytes", "_bytes_per_second", "_records", "_records_per_second", "_rests_until")

    def __init__(self, bytes_per_second: float | None = None, records_per_second: float | None = None) -> None:
        self._bytes_per_second = bytes_per_second
        self._records_per_second = records_per_second
        self._bytes = (bytes_per_second or 0.0) * _BURST_SECONDS
        self._records = max(1.0, (records_per_second or 0.0) * _BURST_SECONDS)
        self._at = float("-inf")
        self._rests_until = float("-inf")

    def seconds_to_wait(self, now: float) -> float:
        """Until the next record may pass; 0 for now."""
        wait = self._rests_until - now
        passed, self._at = now - self._at, now
        if (rate := self._bytes_per_second) is not None:
            self._bytes = min(rate * _BURST_SECONDS, self._bytes + passed * rate)
            if self._bytes <= 0:
                wait = max(wait, _WAIT_SECONDS_MIN - self._bytes / rate)
        if (rate := self._records_per_second) is not None:
            self._records = min(max(1.0, rate * _BURST_SECONDS), self._records + passed * rate)
            if self._records < 1:
                wait = max(wait, _WAIT_SECONDS_MIN + (1 - self._records) / rate)
        return max(0.0, wait)

    def spend(self, size: int) -> None:
        """One record of so many bytes passes."""
        self._bytes -= size
        self._records -= 1

    def rest(self, until: float) -> None:
        """The shard said that it had too much: nothing passes before then."""
        self._rests_until = max(self._rests_until, until)
