"""Why a list is what it is: its features built again from the archived log, ranked again, and compared with it.

What made the list makes it again: the worker's own fold, which leaves out repeated lines, a producer's duplicates and
events on which the fold fails as it did live, and the recommender's own emit, for this one user.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

import msgspec

from streamproc.errors import SettingsError
from streamproc.fold import KeyStates
from streamproc.processor import Changed, Received, Snapshot
from streamproc.record import Record
from streamproc.settings import WorkerSettings
from streamproc_consumers.arms import EXPLORED_AMONG
from streamproc_consumers.recommendation import LogPosition, Recommendation, RecommendedItem
from streamproc_consumers.recommender import Recommender
from streamproc_consumers.trending import trend_named, trend_of
from streamproc_models.booster import scored_by
from streamproc_models.bundle import PROBABILITIES_OFF_MAX, Bundle
from streamproc_models.explain import Explanation, explain as explain_items
from streamproc_models.features import UserState
from streamproc_models.scorer import NO_CANDIDATES, NO_MODEL
from streamproc_producers.events import CartEvent

#: Lists that popularity ranked: no booster had a say in them.
BY_POPULARITY = (NO_MODEL, NO_CANDIDATES)


class ArchivedLine(msgspec.Struct, frozen=True, gc=False):
    """What is read of a line of the archive; see :mod:`streamproc_consumers.archive`."""

    position: LogPosition
    arrived_at: datetime
    event: CartEvent


class Log(msgspec.Struct, frozen=True):
    """What an archive has of a list's user."""

    #: Up to the list's position and in the order of the log, repeated ones included. Never empty.
    events: list[Received[CartEvent]]
    #: Events of the user after the list, repeated ones included.
    later: int
    #: Lines of all users, and when the first of them arrived: what came before is not there.
    lines: int
    begins: datetime


class Features(msgspec.Struct, frozen=True):
    """What the features were built from."""

    #: Events in the state, and those that were left out: in it already, or the fold failed on them.
    events: int
    events_repeated: int
    events_rejected: int
    #: Events of the user after the list.
    events_later: int
    first_event_ts: datetime
    #: Event time up to which these features know the user.
    features_as_of: datetime
    archive_lines: int
    #: When the archive's first line arrived.
    archive_begins: datetime
    #: Items in the user's history, and those of them that the bundle knows.
    history_items: int
    history_items_known: int


class ExplainedItem(msgspec.Struct, frozen=True):
    """An item of the list, or one that was asked for."""

    item_id: str
    #: As published; None where the item is not in the list.
    published: RecommendedItem | None
    #: None where popularity ranked, or where the item is no candidate for these features.
    explanation: Explanation | None


class Explained(msgspec.Struct, frozen=True):
    """A list and why it is as it is."""

    recommendation: Recommendation
    #: Whether ranking again gave the same items with the same probabilities, bit for bit, and the same fallback.
    same: bool
    #: Why it did not, as far as that can be told; empty where it did.
    differences: list[str]
    features: Features
    #: First and last event time of the log that the model was trained on, RFC 3339.
    trained_from: str
    trained_until: str
    ranked_again: list[RecommendedItem]
    fallback_again: str | None
    items: list[ExplainedItem]


def find(lines: Iterable[Recommendation], recommendation_id: str, where: str) -> Recommendation:
    """The first line with this id; what follows is not read. Raises SettingsError where there is none."""
    number = 0
    for number, line in enumerate(lines, 1):  # noqa: B007  # told below
        if line.recommendation_id == recommendation_id:
            return line
    raise SettingsError(
        f"{where} has no list {recommendation_id} among its {number:,} lines: check the prefix; Firehose may also hold"
        " back what was published in the last minutes"
    )


def read_log(lines: Iterable[ArchivedLine], of: Recommendation, where: str) -> Log:
    """The user's events up to the list. All lines are read: they lie by time and shard, not by user.

    Raises SettingsError where there is none.
    """
    until = of.position.position()
    events: list[Received[CartEvent]] = []
    number = later = 0
    begins: datetime | None = None
    for number, line in enumerate(lines, 1):  # noqa: B007  # told below
        if begins is None or line.arrived_at < begins:
            begins = line.arrived_at
        if line.event.user_id != of.user_id:
            continue
        position = line.position.position()
        if position > until:
            later += 1
        else:
            record = Record(b"", of.user_id, position, line.arrived_at.timestamp())
            events.append(Received(line.event, record))
    if not events or begins is None:
        raise SettingsError(
            f"{where} has no event of the user {of.user_id!r} up to the list, among {number:,} lines ({later} of the"
            " user after it): give the archive of the stream that the list was made from, from its beginning"
        )
    events.sort(key=lambda received: received.record.position)
    return Log(events, later, number, begins)


def explain(
    of: Recommendation, log: Log, bundle: Bundle, item_ids: Sequence[str] = (), snapshot: Snapshot | None = None
) -> Explained:
    """Rank again with the bundle of the list's version and compare; explain its items, or those that are asked for.

    ``snapshot`` is the one of what is trending that the list names, where it names one and that is still there. Raises
    SettingsError where no event could be folded.
    """
    named = trend_named(of.item_snapshot)
    trending = named[1] if named and snapshot else 0
    processor = Recommender(bundle, trending=trending)
    if snapshot is not None:
        processor.use_snapshot(snapshot)
    states = KeyStates(processor, WorkerSettings())
    states.admit([of.user_id], {})
    folded = states.fold({of.user_id: log.events})
    if not folded.accepted:
        raise SettingsError(
            f"the fold fails on every event of {of.user_id!r} in the archive: {folded.rejected[0].reason}"
        )
    changed: list[Changed[UserState]] = states.changed()
    (again,) = processor.emit(changed)
    state = changed[0].state
    published = {item.id: item for item in of.items}
    wanted = list(dict.fromkeys(item_ids or published))
    trend = trend_of(snapshot, trending).item_ids if snapshot else ()
    known = [] if of.fallback in BY_POPULARITY else explain_items(bundle, state, wanted, trending=trend)
    explanations = {one.item_id: one for one in known}
    if of.items and of.items[-1].explored:
        again = _explored_again(again, of.items[-1], explain_items(bundle, state, [of.items[-1].id], trending=trend))
    same = _ranking(again) == _ranking(of) and again.fallback == of.fallback
    return Explained(
        recommendation=of,
        same=same,
        differences=[] if same else _differences(of, again, log),
        features=Features(
            events=len(folded.accepted),
            events_repeated=folded.events_skipped,
            events_rejected=len(folded.rejected),
            events_later=log.later,
            first_event_ts=log.events[0].event.ts,
            features_as_of=again.features_as_of,
            archive_lines=log.lines,
            archive_begins=log.begins,
            history_items=len(state.item_ids),
            history_items_known=sum(item_id in bundle.catalogue.codes for item_id in state.item_ids),
        ),
        trained_from=bundle.manifest.trained_from,
        trained_until=bundle.manifest.trained_until,
        ranked_again=again.items,
        fallback_again=again.fallback,
        items=[ExplainedItem(each, published.get(each), explanations.get(each)) for each in wanted],
    )


def _explored_again(
    again: Recommendation, explored: RecommendedItem, explanations: Sequence[Explanation]
) -> Recommendation:
    """The list with the explored item in its last place, as it is scored now; as it is where it cannot stand there."""
    for found in explanations:
        if len(again.items) < found.rank <= len(again.items) + EXPLORED_AMONG:
            item = msgspec.structs.replace(
                explored, name=found.name, probability=found.probability, source=found.sources[0]
            )
            return msgspec.structs.replace(again, items=[*again.items[:-1], item])
    return again


def _ranking(of: Recommendation) -> list[tuple[str, float]]:
    return [(item.id, item.probability) for item in of.items]


def _differences(of: Recommendation, again: Recommendation, log: Log) -> list[str]:
    """What the two lists and the log tell of the cause; the last resort is that events are missing."""
    found = []
    at = of.position.position()
    if all(received.record.position != at for received in log.events):
        found.append(
            f"the archive has no event at the list's position ({at}): it has not landed yet or is missing, or the list"
            " was made of a dead letter that was replayed there"
        )
    if again.features_as_of != of.features_as_of:
        found.append(
            f"the list knows the user up to {of.features_as_of.isoformat()}, the archived events end at"
            f" {again.features_as_of.isoformat()}"
        )
    if again.item_snapshot != of.item_snapshot:
        trending = trend_named(of.item_snapshot)
        found.append(
            f"the list was offered the trending items of snapshot {trending[0]}, which is not here: give the place of"
            " the application's snapshots, where it may have been removed since"
            if trending
            else f"the list used the cross-user values {of.item_snapshot}, and the bundle's own are"
            f" {again.item_snapshot}"
        )
    if found:
        return found
    if of.items and of.items[-1].explored and not again.items[-1].explored:
        return [
            f"the explored item {of.items[-1].id} is none of the {EXPLORED_AMONG} candidates behind the list here: the"
            " features are not those of then, or a filter decided"
        ]
    ours, theirs = dict(_ranking(again)), dict(_ranking(of))
    both = ours.keys() & theirs.keys()
    if again.fallback != of.fallback:
        if ours == theirs:
            return [
                f"items and probabilities are the same, but the fallback was {of.fallback} and is {again.fallback}"
                " here: another version of this code made the list"
            ]
    elif both:
        worst = max(abs(ours[item_id] - theirs[item_id]) for item_id in both)
        if worst == 0 and ours.keys() != theirs.keys():
            return [
                f"what is in both lists has equal probabilities, but here {_told(ours, both)} is ranked and there"
                f" {_told(theirs, both)}: the features are the same, and a filter (bought, out of stock, the shop's"
                " rule) or another length of the list decided"
            ]
        if worst <= PROBABILITIES_OFF_MAX:
            return [
                f"the probabilities differ by {worst:.1e} at most: what adds up the trees here, {scored_by()}, rounds"
                " otherwise"
            ]
    return [
        "the features are not those of then: events of the user are missing in the archive, or were left out live"
        f" (dead letters). Its first line arrived {log.begins.isoformat()}, the user's first event in it is of"
        f" {log.events[0].event.ts.isoformat()}; what was folded before is not there"
    ]


def _told(ranked: dict[str, float], without: Iterable[str]) -> str:
    return ", ".join(item_id for item_id in ranked if item_id not in without) or "nothing else"
