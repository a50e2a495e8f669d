"""What the demonstration proves, computed from what was sent and what landed. Pure: no service is asked here.

*Sent* are the events that Kinesis acknowledged, from the replay's journal, in the order in which they were put. The
*oracle* is one single-threaded fold of them. *Published* is what Firehose's endpoint accepted, and when, as noted there
and not by the consumers.
"""

from __future__ import annotations

import bisect
import threading
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

import msgspec
import numpy as np

from streamproc.record import Position, shard_number_of
from streamproc.state import StoredState, fingerprint, roll
from streamproc_consumers.recommendation import Recommendation
from streamproc_models.features import UserState, encode_state, fold, new_state
from streamproc_producers.events import CartEvent, EventType
from streamproc_producers.replay import JournalLine


class Published(msgspec.Struct, frozen=True):
    """A recommendation and when Firehose accepted it, seconds since the epoch."""

    recommendation: Recommendation
    accepted_at: float

    @property
    def position(self) -> Position:
        """The last event in its features."""
        return self.recommendation.position.position()


class Oracle(msgspec.Struct, frozen=True):
    """What a user's stored state must be."""

    events_folded: int
    ids_hash: int
    state: bytes


class Application(msgspec.Struct, frozen=True):
    """How often the sent events were applied, and whether every state is the oracle's."""

    events_applied: int
    events_lost: int
    events_applied_twice: int
    states_equal_oracle: bool
    #: The first few users whose state differs, for a person to look at.
    different: list[str]


def journal_position(line: JournalLine) -> Position | None:
    """Where an acknowledged event stands, None for one that was not."""
    if line.shard_id is None or line.sequence_number is None:
        return None
    return Position(shard_number_of(line.shard_id), int(line.sequence_number), line.sub_sequence_number or 0)


class Ledger:
    """One fold of what was sent, by user, an event at a time and in each user's order. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._states: dict[str, UserState] = {}
        self._counts: Counter[str] = Counter()
        self._hashes: Counter[str] = Counter()

    def add(self, event: CartEvent) -> None:
        """Fold it."""
        user = event.user_id
        with self._lock:
            self._states[user] = fold(self._states.get(user) or new_state(), event)
            self._counts[user] += 1
            self._hashes[user] = roll(self._hashes[user], fingerprint(event.event_id.bytes))

    def expected(self) -> dict[str, Oracle]:
        """What every user's state must be now."""
        with self._lock:
            return {
                user: Oracle(self._counts[user], self._hashes[user], encode_state(state))
                for user, state in self._states.items()
            }


def oracle(events: Iterable[CartEvent]) -> dict[str, Oracle]:
    """One fold of these events, by user."""
    ledger = Ledger()
    for event in events:
        ledger.add(event)
    return ledger.expected()


def applied(
    expected: Mapping[str, Oracle], durable: Mapping[str, StoredState], projected: Mapping[str, StoredState]
) -> Application:
    """Compare the states in DynamoDB and in Redis with the oracle's, bit for bit.

    The counts say how many events are missing or too many; the hash over the ids and the state itself catch one that
    was lost beside another that was applied twice, or a wrong order.
    """
    lost = twice = 0
    different: list[str] = []
    for user in sorted({*expected, *durable, *projected}):
        wanted = expected.get(user)
        count = wanted.events_folded if wanted else 0
        stored = durable.get(user)
        found = stored.events_folded if stored else 0
        lost += max(0, count - found)
        twice += max(0, found - count)
        if not all(_equal(wanted, copy) for copy in (stored, projected.get(user))):
            different.append(user)
    return Application(
        sum(stored.events_folded for stored in durable.values()), lost, twice, not different, different[:5]
    )


def _equal(wanted: Oracle | None, stored: StoredState | None) -> bool:
    if wanted is None or stored is None:
        return False
    return (stored.events_folded, stored.ids_hash, stored.state) == (
        wanted.events_folded,
        wanted.ids_hash,
        wanted.state,
    )


def latencies_ms(lines: Iterable[JournalLine], published: Iterable[Published]) -> list[float]:
    """For each event, milliseconds from ``put`` until Firehose accepted a recommendation of its user that includes it.

    Events without such a recommendation have no latency; the proof counts them elsewhere.
    """
    by_user: defaultdict[str, list[tuple[Position, float]]] = defaultdict(list)
    for item in published:
        by_user[item.recommendation.user_id].append((item.position, item.accepted_at))
    first_accepted: dict[str, tuple[list[Position], list[float]]] = {}
    for user, items in by_user.items():
        items.sort()
        # A later position includes the earlier events: the earliest acceptance from here on is the one that counts.
        earliest = np.minimum.accumulate([at for _, at in items][::-1])[::-1].tolist()
        first_accepted[user] = ([position for position, _ in items], earliest)
    found = []
    for line in lines:
        position = journal_position(line)
        if position is None or line.user_id not in first_accepted:
            continue
        positions, accepted = first_accepted[line.user_id]
        at = bisect.bisect_left(positions, position)
        if at < len(positions):
            found.append((accepted[at] - (line.due_at or line.put_at)) * 1000)
    return found


class Hits(msgspec.Struct, frozen=True):
    """Of the (user, next basket) pairs, how many lists of ten had an item of the basket."""

    pairs: int
    hits: int
    hits_popularity: int

    @property
    def rate(self) -> float:
        """The share of hits."""
        return self.hits / self.pairs if self.pairs else 0.0

    @property
    def rate_popularity(self) -> float:
        """The share of hits of the ten most popular items of the same moment."""
        return self.hits_popularity / self.pairs if self.pairs else 0.0


def hit_rate(history: Iterable[CartEvent], lines: Sequence[JournalLine], published: Iterable[Published]) -> Hits:
    """Hit rate at 10 of what was last published for a user before a basket, beside global popularity.

    A *basket* is an order's items; it begins with the first ``add_to_cart`` after the user's last purchase (or with its
    first purchase where nothing was added). The list is
    the last one whose features end before that event, so it knows nothing of the basket. A user's first basket after
    the cut has no list, and is no pair. Popularity counts purchases, ``history``'s and those before the basket's begin.
    """
    lists = _lists(published)
    popularity = Counter(event.item_id for event in history if event.event_type is EventType.PURCHASE)
    begins: dict[str, tuple[Position, set[str]]] = {}  # user -> the open basket's begin, and the popular ten then
    baskets: dict[tuple[str, str], tuple[Position, set[str], set[str]]] = {}
    popular_ten: set[str] = set()
    stale = True
    for line in lines:
        event, position = line.event, journal_position(line)
        if position is None:
            continue
        order = (event.user_id, event.order_id or "")
        buys = event.event_type is EventType.PURCHASE
        opens = event.event_type is EventType.ADD_TO_CART or (buys and order not in baskets)
        if opens and event.user_id not in begins:
            if stale:
                popular_ten, stale = {item for item, _ in popularity.most_common(10)}, False
            begins[event.user_id] = (position, popular_ten)
        if buys:
            popularity[event.item_id] += 1
            stale = True
            if order not in baskets:
                baskets[order] = (*begins.pop(event.user_id), set())
            baskets[order][2].add(event.item_id)
    pairs = hits = hits_popularity = 0
    for (user, _), (begin, popular, items) in baskets.items():
        positions, offered = lists.get(user, ([], []))
        at = bisect.bisect_left(positions, begin) - 1
        if at < 0:
            continue
        pairs += 1
        hits += not items.isdisjoint(offered[at])
        hits_popularity += not items.isdisjoint(popular)
    return Hits(pairs, hits, hits_popularity)


def _lists(published: Iterable[Published]) -> dict[str, tuple[list[Position], list[list[str]]]]:
    """By user: the positions of the published lists, ascending, and the items of each."""
    by_user: defaultdict[str, dict[Position, list[str]]] = defaultdict(dict)
    for item in published:
        by_user[item.recommendation.user_id][item.position] = [place.id for place in item.recommendation.items]
    return {user: (sorted(lists), [items for _, items in sorted(lists.items())]) for user, lists in by_user.items()}


def percentile(values: Sequence[float], share: float) -> float | None:
    """A percentile by NumPy's linear interpolation; None without values."""
    return round(float(np.percentile(values, share)), 1) if values else None
