"""When events are meant to be sent: the rate over the time of a run."""

from __future__ import annotations

import math
from collections.abc import Iterator

import msgspec

from streamproc.errors import SettingsError

SHAPES = ("steady", "spike", "diurnal")
#: In the middle tenth of a run a spike is so many times the rate.
SPIKE_FACTOR = 5.0
_SPIKE_BEGINS, _SPIKE_ENDS = 0.45, 0.55
#: A day's low is this share of its mean; its high is as far above.
_NIGHT = 0.2
#: The rate is taken as constant for so long.
_STEP_SECONDS = 0.01


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    """The rate over a run.

    ``steady`` keeps it. ``spike`` is five times the rate in the middle tenth of the run. ``diurnal`` is one day: it
    begins and ends at the low, a fifth of the rate, and is at 1.8 times of it in the middle; its mean is the rate.
    The *ramp* comes before the run: from nothing to the run's first rate, in a straight line.
    """

    #: Events a second.
    rate: float
    seconds: float
    ramp_seconds: float = 0.0
    kind: str = "steady"

    def __post_init__(self) -> None:
        for name in ("rate", "seconds"):
            value = getattr(self, name)
            if not (value > 0 and math.isfinite(value)):
                raise SettingsError(f"{name} is {value}: it must be above 0, or nothing would be sent")
        if not (self.ramp_seconds >= 0 and math.isfinite(self.ramp_seconds)):
            raise SettingsError(f"ramp_seconds is {self.ramp_seconds}: it must be 0 or more")
        if self.kind not in SHAPES:
            raise SettingsError(f"shape is {self.kind!r}: it must be one of {', '.join(SHAPES)}")

    @property
    def total_seconds(self) -> float:
        """With the ramp."""
        return self.ramp_seconds + self.seconds

    def rate_at(self, seconds: float) -> float:
        """Events a second, so long after the start."""
        if seconds < self.ramp_seconds:
            return self._run_rate(0.0) * seconds / self.ramp_seconds
        return self._run_rate((seconds - self.ramp_seconds) / self.seconds)

    def _run_rate(self, share: float) -> float:
        if self.kind == "spike":
            return self.rate * (SPIKE_FACTOR if _SPIKE_BEGINS <= share < _SPIKE_ENDS else 1.0)
        if self.kind == "diurnal":
            return self.rate * (1.0 - (1.0 - _NIGHT) * math.cos(2 * math.pi * share))
        return self.rate

    @property
    def peak_rate(self) -> float:
        """The highest rate of the run."""
        return self.rate * {"steady": 1.0, "spike": SPIKE_FACTOR, "diurnal": 2.0 - _NIGHT}[self.kind]

    @property
    def events(self) -> int:
        """How many events the run has, ramp included; what :meth:`due_seconds` yields."""
        return sum(1 for _ in self.due_seconds())

    def due_seconds(self) -> Iterator[float]:
        """Seconds after the start at which each event is meant to be sent: evenly at the rate of the moment.

        Within a step of ten milliseconds the rate is constant; what a step lacks to a whole event is the next one's.
        """
        owed, step = 1.0, 0  # the first event is due at once
        while (begins := step * _STEP_SECONDS) < self.total_seconds:
            rate = self.rate_at(begins + _STEP_SECONDS / 2)
            before, owed = owed, owed + rate * _STEP_SECONDS
            while owed >= 1.0:
                # The event is due where the sum of the rate reaches one.
                due = begins + (1.0 - before) / rate
                if due < self.total_seconds - 1e-9:  # the sum of many steps is not exact
                    yield due
                before, owed = before - 1.0, owed - 1.0
            step += 1
