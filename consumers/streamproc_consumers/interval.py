"""Shares and other figures with what is uncertain about them."""

from __future__ import annotations

import msgspec


class Interval(msgspec.Struct, frozen=True):
    """A figure and its 95 % interval; None where nothing was counted."""

    value: float | None
    low: float | None
    high: float | None

    @property
    def excludes_zero(self) -> bool:
        """Whether a difference is beyond noise."""
        return self.low is not None and self.high is not None and not self.low <= 0 <= self.high
