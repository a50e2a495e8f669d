"""What an audit says."""

from __future__ import annotations

import math

import msgspec

from streamproc_consumers.interval import Interval

#: What makes the data unsound, and what each of these means.
FAULTS = {
    "truncated_object": "the object ends in the middle: a line or the gzip stream is cut",
    "foreign_object": "the object holds something else",
    "unreadable_line": "a line is not JSON",
    "unknown_schema": "a line is JSON, but not of today's contract",
    "conflicting_id": "lines of one recommendation_id say different things",
    "missing_position": "an archived event is in no list of its user, although it is below the checkpoint",
    "features_backwards": "a list of a later position knows less of time than the user's list before it",
    "propensity": "a propensity is not above 0 and at most 1",
}
#: What is told and is sound.
NOTES = {
    "repeat": "a line is there again, as after a restart: the guarantee allows it, readers count ids",
    "rewind": "in an object a user's line stands behind one of a later position, as after a restart",
    "empty_list": "a list has no items",
    "published_early": "a list was published before its event: a producer's clock is ahead",
    "not_judged_yet": "an archived event is beyond the checkpoint, or too young to have landed",
}
#: Standard errors on each side of a 95 % interval.
_Z = 1.96
_Z2 = _Z * _Z
#: The sum of (q - p) ln(q / p) over the tenths of the base.
DRIFT_SHIFTED = 0.25


class Finding(msgspec.Struct, frozen=True):
    """One kind of thing that was found, and the first places where."""

    kind: str
    count: int
    meaning: str
    examples: list[str]


class Lag(msgspec.Struct, frozen=True):
    """Percentiles in seconds, of a histogram whose bins are 5 % wide."""

    p50: float
    p95: float
    p99: float


class Group(msgspec.Struct, frozen=True):
    """The lists of a model version in an arm. Shares are from 0 to 1; a list counts as often as it landed."""

    model_version: str
    arm: str
    lists: int
    users: int
    propensity_min: float
    propensity_max: float
    #: Label, and the share of the lists that has it.
    fallbacks: dict[str, float]
    empty_share: float
    #: Distinct items in the lists, and their share of all that any list or archived event has.
    items: int
    coverage: float
    #: From the event's time to publication, and from there until the object was complete.
    published: Lag
    landed: Lag
    #: Mean probability of the first item.
    score: float | None


class Day(msgspec.Struct, frozen=True):
    """The lists published on a day (UTC)."""

    day: str
    model_version: str
    arm: str
    lists: int
    fallback_share: float
    score: float | None


class Drift(msgspec.Struct, frozen=True):
    """How the first item's probability moved; see docs/audit.md."""

    base: str
    other: str
    psi: float
    #: The largest difference of the two cumulative shares.
    ks: float

    @property
    def shifted(self) -> bool:
        """Whether it is more than days differ."""
        return self.psi > DRIFT_SHIFTED


class Answered(msgspec.Struct, frozen=True):
    """What users did after a list: by the rank of the item, rank 0 for any of them."""

    model_version: str
    arm: str
    rank: int
    lists: int
    #: The share of the lists after which the user viewed, added or bought the item; viewed it; bought it.
    hit_rate: Interval
    click_through: Interval
    conversion: Interval


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that an audit says."""

    address: str
    archive: str | None
    objects: int
    stored_bytes: int
    text_bytes: int
    lists: int
    distinct_lists: int
    users: int
    first_published: str | None
    last_published: str | None
    archived_events: int | None
    #: How far the archived events are judged: the checkpoints of an application, or what was published.
    judged_up_to: str | None
    window_seconds: float
    #: From an event's arrival in the stream to its list's publication.
    arrival_to_published: Lag | None
    faults: list[Finding]
    notes: list[Finding]
    groups: list[Group]
    days: list[Day]
    drift: list[Drift]
    answered: list[Answered]

    @property
    def sound(self) -> bool:
        """Whether there is no fault."""
        return not self.faults


class Findings:
    """Collects what is found, and the first places of each kind."""

    def __init__(self, examples_max: int) -> None:
        self._max = examples_max
        self._counts: dict[str, int] = {}
        self._examples: dict[str, list[str]] = {}

    def add(self, kind: str, count: int, examples: list[str]) -> None:
        """``count`` more of a kind; some places are enough."""
        if count:
            self._counts[kind] = self._counts.get(kind, 0) + count
            shown = self._examples.setdefault(kind, [])
            shown += examples[: self._max - len(shown)]

    def wanted(self, kind: str) -> int:
        """How many more places of a kind are shown."""
        return self._max - len(self._examples.get(kind, ()))

    def of(self, kinds: dict[str, str]) -> list[Finding]:
        """What was found of these kinds."""
        return [
            Finding(kind, self._counts[kind], meaning, self._examples[kind])
            for kind, meaning in kinds.items()
            if kind in self._counts
        ]


def rate_interval(units: float, hits: float, hits2: float, both: float, units2: float, users: int) -> Interval:
    """Hits by units and its 95 % interval by the delta method over users: what one user does is not independent.

    The sums over users: of units and hits, of hits squared, hits times units and units squared.
    """
    if not units:
        return Interval(None, None, None)
    rate = hits / units
    if users < 2:
        return Interval(rate, None, None)
    if hits in (0, units):
        # All the same: the deviations would say that nothing is uncertain. Wilson's bound, with the users as trials.
        far = _Z2 / (users + _Z2)
        return Interval(rate, 0.0 if not hits else 1 - far, far if not hits else 1.0)
    residuals = max(0.0, hits2 - 2 * rate * both + rate * rate * units2)
    half = _Z * math.sqrt(residuals * users / (users - 1)) / units
    return Interval(rate, max(0.0, rate - half), min(1.0, rate + half))
