"""When a metric is worse beyond noise, from what manifests tell: means over held-out baskets, and how many baskets.

A metric of one basket lies between 0 and 1, so the variance of one with mean p is at most p (1 - p): the binomial
error is never too small. Two models are taken as measured on baskets of their own; where they share them the
difference is surer than it looks here, so noise is never taken for worse.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import msgspec

MODEL = "model"
BASKETS = "baskets"
#: Standard errors that a difference must exceed: by chance one comparison in a hundred does, one-sided.
BEYOND_NOISE = 2.33

#: Slice -> ranking -> metric -> value, as in a manifest.
Metrics = Mapping[str, Mapping[str, Mapping[str, float]]]


class Difference(msgspec.Struct, frozen=True):
    """One metric of a ranking beside another ranking's."""

    #: Of which slice of the validation baskets: cold or warm states.
    slice: str
    metric: str
    value: float
    other: float
    #: Half the width of what chance explains; 0 where the number of baskets is not told, so that any loss counts.
    noise: float

    @property
    def worse(self) -> bool:
        """Whether the value is lower by more than chance explains."""
        return self.value < self.other - self.noise

    @property
    def better(self) -> bool:
        """Whether it is higher by more than that."""
        return self.value > self.other + self.noise


def baskets_of(metrics: Metrics, slice_: str) -> int | None:
    """How many baskets a slice was judged on, None where the manifest does not tell."""
    for values in metrics.get(slice_, {}).values():
        if values.get(BASKETS, 0) >= 1:
            return int(values[BASKETS])
    return None


def names_of(values: Mapping[str, float]) -> list[str]:
    """The metrics proper."""
    return [name for name, value in values.items() if name != BASKETS and 0 <= value <= 1]


def differences(metrics: Metrics, ranking: str, others: Metrics, other: str) -> list[Difference]:
    """What both rankings have, slice by slice and metric by metric."""
    found = []
    for slice_, rankings in metrics.items():
        ours, theirs = rankings.get(ranking, {}), others.get(slice_, {}).get(other, {})
        baskets, other_baskets = baskets_of(metrics, slice_), baskets_of(others, slice_)
        for metric in names_of(ours):
            if metric in theirs:
                noise = 0.0
                if baskets is not None and other_baskets is not None:
                    noise = BEYOND_NOISE * math.hypot(
                        _error(ours[metric], baskets), _error(theirs[metric], other_baskets)
                    )
                found.append(Difference(slice_, metric, ours[metric], theirs[metric], noise))
    return found


def _error(share: float, baskets: int) -> float:
    return math.sqrt(share * (1 - share) / baskets)
