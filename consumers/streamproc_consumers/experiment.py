"""What an experiment says: its arms beside each other, from the lists and the events that landed.

Users are what was dealt, so users are what is counted: every interval is over users, and a user who was seen in two
arms is in neither.

A list is *answered* by what its user does after it (by position in the log) and within the window (by event time):

- *hit rate*: of the lists, the share after which the user viewed, added or bought an item of the list
- *conversion*: of the users, the share who bought an item of a list of theirs
- *explored hit rate*: of the lists with an explored place, the share after which the user viewed, added or bought the
  item in it. Hit rate and conversion count these items with the others: they were shown

Neither says that the list was the cause; the difference between two arms does.
"""

from __future__ import annotations

import math
import statistics
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from sys import intern
from typing import NamedTuple

import msgspec

from streamproc.record import Position
from streamproc_consumers.arms import arm_of
from streamproc_consumers.interval import Interval as Interval
from streamproc_consumers.recommendation import LogPosition, Recommendation
from streamproc_producers.events import CartEvent, EventType

#: Standard errors on each side of a 95 % interval.
_Z = 1.96
#: Below it the users were not dealt as the weights say, and no figure of the report means anything.
SAMPLE_RATIO_P_MIN = 0.001
#: Arms with fewer users get a warning: intervals are for many.
_USERS_MIN = 100

_ANSWERS = frozenset({EventType.VIEW, EventType.ADD_TO_CART, EventType.PURCHASE})


class LandedEvent(msgspec.Struct, frozen=True, gc=False):
    """What the report reads of a line of the archive; see :mod:`streamproc_consumers.archive`."""

    position: LogPosition
    event: CartEvent


class ArmReport(msgspec.Struct, frozen=True):
    """One arm. Shares are from 0 to 1."""

    arm: str
    #: The share of the users that it was to have, as its records say.
    propensity: float
    model_versions: list[str]
    users: int
    lists: int
    hit_rate: Interval
    conversion: Interval
    fallback_share: float
    empty_share: float
    events_per_user: float
    #: From the last event in a list to its publication.
    latency_ms_p50: float
    latency_ms_p99: float
    #: Lists with an explored place; see :class:`streamproc_consumers.arms.Experiment`.
    explored_lists: int
    explored_hit_rate: Interval


class Comparison(msgspec.Struct, frozen=True):
    """An arm less the base arm."""

    arm: str
    base: str
    hit_rate: Interval
    conversion: Interval


class Report(msgspec.Struct, frozen=True):
    """Everything that the report says."""

    window_seconds: float
    arms: list[ArmReport]
    comparisons: list[Comparison]
    #: They were in several arms, as when an arm's model was away for a while, and are in none here.
    users_in_several_arms: int
    #: Whom the salt deals to another arm than their lists say, None where no salt was given. They are in none here.
    users_in_wrong_arm: int | None
    #: How probable it is that users dealt by these weights are spread as unevenly as they are.
    sample_ratio_p: float | None
    warnings: list[str]


class _List(NamedTuple):
    place: Position
    at: float
    items: tuple[str, ...]
    fallback: bool
    latency_ms: float
    #: The items in explored places.
    explored: tuple[str, ...]


class _Event(NamedTuple):
    place: Position
    at: float
    item: str
    type: EventType


class _User:
    def __init__(self) -> None:
        self.arms: set[str] = set()
        self.lists: dict[str, _List] = {}
        self.events: dict[bytes, _Event] = {}


class _Counts(NamedTuple):
    """Of one user."""

    lists: int
    hits: int
    converted: bool
    explored_lists: int
    explored_hits: int


def report(
    recommendations: Iterable[Recommendation],
    events: Iterable[LandedEvent],
    *,
    window_seconds: float,
    since: datetime | None = None,
    until: datetime | None = None,
    base: str = "champion",
    salt: str | None = None,
) -> Report:
    """Compare the arms of the lists published from ``since`` on and before ``until``; repeated lines count once.

    With a ``salt`` every user's arm is computed anew and compared with the records'.
    """
    users: defaultdict[str, _User] = defaultdict(_User)
    propensities: defaultdict[str, Counter[float]] = defaultdict(Counter)
    versions: defaultdict[str, set[str]] = defaultdict(set)
    for line in recommendations:
        if (since is None or line.published_ts >= since) and (until is None or line.published_ts < until):
            _add_list(users[line.user_id], line)
            propensities[line.arm][line.propensity] += 1
            versions[line.arm].add(line.model_version)
    for landed in events:
        if (user := users.get(landed.event.user_id)) is not None:
            event = landed.event
            user.events[event.event_id.bytes] = _Event(
                landed.position.position(), event.at, intern(event.item_id), event.event_type
            )
    weights = {arm: counted.most_common(1)[0][0] for arm, counted in sorted(propensities.items())}
    members, several, wrong = _members(users, weights, salt)
    counts = {arm: [_counted(user, window_seconds) for user in of_arm] for arm, of_arm in members.items()}
    arms = [_arm(arm, weights[arm], versions[arm], of_arm, counts[arm]) for arm, of_arm in members.items()]
    p = _sample_ratio_p({arm.arm: arm.users for arm in arms}, weights)
    comparisons = [
        Comparison(
            arm,
            base,
            _difference_of_rates(*(_rate([(each.hits, each.lists) for each in counts[name]]) for name in (arm, base))),
            _difference_of_shares(counts[arm], counts[base]),
        )
        for arm in members
        if arm != base and base in members
    ]
    return Report(
        window_seconds=window_seconds,
        arms=arms,
        comparisons=comparisons,
        users_in_several_arms=several,
        users_in_wrong_arm=wrong,
        sample_ratio_p=p,
        warnings=_warnings(arms, base, several, wrong, p),
    )


def _add_list(user: _User, line: Recommendation) -> None:
    user.arms.add(line.arm)
    user.lists[line.recommendation_id] = _List(
        line.position.position(),
        line.event_ts.timestamp(),
        tuple(intern(item.id) for item in line.items),
        line.fallback is not None,
        (line.published_ts - line.event_ts).total_seconds() * 1000,
        tuple(intern(item.id) for item in line.items if item.explored),
    )


def _members(
    users: Mapping[str, _User], weights: Mapping[str, float], salt: str | None
) -> tuple[dict[str, list[_User]], int, int | None]:
    """The users of each arm; how many were in several, and how many the salt deals to another one."""
    members: dict[str, list[_User]] = {arm: [] for arm in weights}
    several = wrong = 0
    for user_id, user in users.items():
        if len(user.arms) != 1:
            several += 1
            continue
        (arm,) = user.arms
        if salt is not None and arm_of(salt, user_id, weights) != arm:
            wrong += 1
            continue
        members[arm].append(user)
    return members, several, None if salt is None else wrong


def _counted(user: _User, window_seconds: float) -> _Counts:
    lists = sorted(user.lists.values())
    events = sorted(user.events.values())
    answers = [event for event in events if event.type in _ANSWERS]
    hits = _answered(lists, answers, window_seconds)
    bought = _answered(lists, [event for event in events if event.type is EventType.PURCHASE], window_seconds)
    explored = [seen._replace(items=seen.explored) for seen in lists if seen.explored]
    explored_hits = _answered(explored, answers, window_seconds) if explored else 0
    return _Counts(len(lists), hits, bought > 0, len(explored), explored_hits)


def _answered(lists: Sequence[_List], events: Sequence[_Event], window_seconds: float) -> int:
    """How many lists had one of their items in a later event within the window. Both in the order of the log."""
    waiting: defaultdict[str, list[int]] = defaultdict(list)
    answered: set[int] = set()
    places = [seen.place for seen in lists]
    begun = 0
    for event in events:
        before = bisect_left(places, event.place)
        for index in range(begun, before):
            for item in lists[index].items:
                waiting[item].append(index)
        begun = before
        # Those that this event does not answer are too old for any later one, too.
        answered.update(index for index in waiting.pop(event.item, ()) if event.at - lists[index].at <= window_seconds)
    return len(answered)


def _arm(
    arm: str, propensity: float, versions: set[str], users: Sequence[_User], counts: Sequence[_Counts]
) -> ArmReport:
    lists = [seen for user in users for seen in user.lists.values()]
    latencies = sorted(seen.latency_ms for seen in lists)
    explored = [(count.explored_hits, count.explored_lists) for count in counts if count.explored_lists]
    return ArmReport(
        arm=arm,
        propensity=propensity,
        model_versions=sorted(versions),
        users=len(users),
        lists=len(lists),
        hit_rate=_interval(*_rate([(count.hits, count.lists) for count in counts])),
        conversion=_wilson(sum(count.converted for count in counts), len(counts)),
        fallback_share=_share(sum(seen.fallback for seen in lists), len(lists)),
        empty_share=_share(sum(not seen.items for seen in lists), len(lists)),
        events_per_user=_share(sum(len(user.events) for user in users), len(users)),
        latency_ms_p50=statistics.median(latencies) if latencies else 0.0,
        latency_ms_p99=latencies[math.ceil(0.99 * len(latencies)) - 1] if latencies else 0.0,
        explored_lists=sum(lists for _, lists in explored),
        explored_hit_rate=_interval(*_rate(explored)),
    )


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _rate(counts: Sequence[tuple[int, int]]) -> tuple[float | None, float]:
    """Hits by lists, and its variance by the delta method over users: lists of one user are not independent.

    ``counts`` has the hits and the lists of each user.
    """
    users, lists = len(counts), sum(of_user for _, of_user in counts)
    if not lists:
        return None, 0.0
    rate = sum(hits for hits, _ in counts) / lists
    if users < 2:
        return rate, math.inf
    residuals = math.fsum((hits - rate * of_user) ** 2 for hits, of_user in counts)
    return rate, residuals * users / (users - 1) / lists**2


def _interval(value: float | None, variance: float) -> Interval:
    if value is None or math.isinf(variance):
        return Interval(value, None, None)
    half = _Z * math.sqrt(variance)
    return Interval(value, max(0.0, value - half), min(1.0, value + half))


def _difference_of_rates(ours: tuple[float | None, float], theirs: tuple[float | None, float]) -> Interval:
    if ours[0] is None or theirs[0] is None:
        return Interval(None, None, None)
    value, variance = ours[0] - theirs[0], ours[1] + theirs[1]
    if math.isinf(variance):
        return Interval(value, None, None)
    half = _Z * math.sqrt(variance)
    return Interval(value, value - half, value + half)


def _wilson(successes: int, trials: int) -> Interval:
    """Wilson's score interval: right for few trials and for shares near 0, where the normal one is not."""
    if not trials:
        return Interval(None, None, None)
    share, z2 = successes / trials, _Z * _Z
    middle = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = _Z * math.sqrt(share * (1 - share) / trials + z2 / (4 * trials**2)) / (1 + z2 / trials)
    return Interval(share, max(0.0, middle - half), min(1.0, middle + half))


def _difference_of_shares(ours: Sequence[_Counts], theirs: Sequence[_Counts]) -> Interval:
    """Newcombe's interval for the difference of two shares, from the Wilson intervals of both (his method 10)."""
    a, b = (_wilson(sum(count.converted for count in counts), len(counts)) for counts in (ours, theirs))
    if a.value is None or a.low is None or a.high is None or b.value is None or b.low is None or b.high is None:
        return Interval(None, None, None)
    value = a.value - b.value
    return Interval(
        value,
        value - math.hypot(a.value - a.low, b.high - b.value),
        value + math.hypot(a.high - a.value, b.value - b.low),
    )


def _sample_ratio_p(users: Mapping[str, int], weights: Mapping[str, float]) -> float | None:
    """Pearson's chi-squared test of the users of each arm against the weights; None for one arm."""
    total, weight = sum(users.values()), math.fsum(weights.values())
    if not 2 <= len(users) <= 3 or not total or not all(weights.values()):
        return None
    expected = {arm: total * weights[arm] / weight for arm in users}
    chi2 = math.fsum((users[arm] - expected[arm]) ** 2 / expected[arm] for arm in users)
    # Its tail in closed form, for one and two degrees of freedom.
    return math.erfc(math.sqrt(chi2 / 2)) if len(users) == 2 else math.exp(-chi2 / 2)


def _warnings(arms: Sequence[ArmReport], base: str, several: int, wrong: int | None, p: float | None) -> list[str]:
    found = []
    if base not in {arm.arm for arm in arms}:
        found.append(f"no list is of the arm {base}, so nothing is compared")
    if p is not None and p < SAMPLE_RATIO_P_MIN:
        found.append(f"the users are not spread over the arms as the weights say (p = {p:.1e}): trust no figure here")
    if several:
        found.append(
            f"{several} users were in several arms and are left out: was an arm's model away, or the salt changed?"
        )
    if wrong:
        found.append(f"{wrong} users are in another arm than the salt deals them to and are left out: is it the salt?")
    found += [f"{arm.arm} has {arm.users} users: too few to tell anything" for arm in arms if arm.users < _USERS_MIN]
    return found
