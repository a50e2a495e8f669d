"""Which faults a schedule has, and the dice that say when one strikes."""

from __future__ import annotations

import random
from collections import Counter

#: Every kind of fault, and the share of schedules in which it may strike.
KINDS = {
    "crash": 0.5,  # the process dies before or after the effect of a call
    "throttle": 0.4,  # a call is refused before it has an effect
    "lost_reply": 0.4,  # a call has its effect, and its reply never arrives
    "late_request": 0.4,  # a call to the store or the projection takes effect (again) later
    "zombie": 0.4,  # a worker goes on after another one took its lease
    "redis_loss": 0.4,  # the projection is emptied, set back to an older copy, or away for a while
    "partial_sink": 0.4,  # the sink accepts some outputs of a call
    "refused_output": 0.3,  # the sink will never accept an output
    "duplicate": 0.4,  # the producer sent an event twice
    "poison": 0.4,  # a record that cannot be decoded, folded or emitted
    "reshard": 0.35,  # shards are split or merged
    "reread": 0.3,  # a read returns records that were read before
}
CRASHES_MAX = 5


class Crash(BaseException):
    """The process dies here. Not an Exception: nothing in the product may catch it."""


class Dice:
    """Say when a fault of one schedule strikes. Count those that did, by kind."""

    def __init__(self, rng: random.Random) -> None:
        self.active = True
        self.counts: Counter[str] = Counter()
        self._rng = rng
        self._enabled = {kind for kind, share in KINDS.items() if rng.random() < share}

    def is_enabled(self, kind: str) -> bool:
        """Whether this schedule may have this kind."""
        return kind in self._enabled

    def count(self, kind: str) -> None:
        """One struck."""
        self.counts[kind] += 1

    def strikes(self, kind: str, probability: float) -> bool:
        """Whether one strikes now; it is counted."""
        if not self.active or kind not in self._enabled or self._rng.random() >= probability:
            return False
        if kind == "crash" and self.counts[kind] >= CRASHES_MAX:
            return False
        self.counts[kind] += 1
        return True
