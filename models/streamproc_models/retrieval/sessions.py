"""Session kNN: users who touched the same items not long ago, and what they touched next to them.

A *session* is what one user of the log did of late. An item leads to the sessions with it (its *postings*); the
sessions that share the most with a user's recent items are his *neighbours*, and a neighbour proposes his items by
their distance, in steps, from the item that he shares with the user. There is no search over users: a user costs as
many entries as his recent items have postings, and both they and the items of a session are bounded.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple, Self

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from streamproc_models.catalogue import UNKNOWN
from streamproc_models.features.columns import Columns
from streamproc_models.retrieval.base import Scores
from streamproc_models.retrieval.steps import Steps

#: Last touched items by which a user is compared, and bits that hold the place of one.
_RECENT_ITEMS = 12
_PLACE_BITS = 4
#: Latest items that are kept of a session, and bits that hold the place of one.
_SESSION_ITEMS = 50
_OFFSET_BITS = 6
#: Latest sessions that an item leads to, and touches of the latest sessions that are kept at all, 10 bytes each.
_ITEM_SESSIONS = 500
_TOUCHES = 4_000_000
_NEIGHBOURS = 200
#: Touches before and after the shared one that a neighbour proposes.
_REACH = 12
#: Users that are compared at once: the memory is bounded by their postings.
_BLOCK = 128
#: Bits that hold a session, and a pair of a user and a session of a block.
_SESSION_BITS = 31
_PAIR_BITS = 25

#: An item counts so much less for each that was touched after it; an item of a neighbour, for each step away.
_PLACE_DECAY = 0.6
_STEP_DECAY = 0.8
#: What items of a neighbour count: touched before the shared one, in one step with it, the shared one itself.
_BEFORE = 0.7
_TOGETHER = 0.5
_SHARED = 2.0
#: The oldest session counts exp(-_AGE) of what the latest does; long ones and popular items count a little less.
_AGE = 1.8
_LENGTH_POWER = -0.25
_POPULARITY_POWER = -0.15


class Recent(NamedTuple):
    """The last touched known items of a batch of users: one user after the other, the last touched of each last."""

    #: int64 [rows].
    users: NDArray[np.int64]
    codes: NDArray[np.int64]
    #: int64 [rows]: how many known items the user touched later.
    places: NDArray[np.int64]


def recent(columns: Columns, n: int) -> Recent:
    """Each user's last ``n`` items, those that the catalogue does not know left out."""
    known = np.flatnonzero(columns.record_codes != UNKNOWN)
    users = columns.record_users[known]
    ends = np.cumsum(np.bincount(users, minlength=len(columns.now)))
    places = ends[users] - 1 - np.arange(len(users))
    last = places < n
    return Recent(users[last], columns.record_codes[known[last]], places[last])


def _powers(base: float, n: int) -> NDArray[np.float64]:
    """``base ** 0 ... base ** (n - 1)`` by products, which are the same on every machine; powers are not."""
    return np.concatenate(([1.0], np.cumprod(np.full(n - 1, base))))


_PLACE_WEIGHTS = _powers(_PLACE_DECAY, _RECENT_ITEMS)
_AFTER_WEIGHTS = _powers(_STEP_DECAY, _SESSION_ITEMS)
#: By the distance from the shared item plus _SESSION_ITEMS; steps further away count as the furthest.
_STEP_WEIGHTS = np.concatenate((_BEFORE * _AFTER_WEIGHTS[::-1], [_TOGETHER], _AFTER_WEIGHTS)).astype(np.float32)


class SessionKnn(msgspec.Struct, frozen=True, dict=True):
    """A generator: an index of sessions; see the module for the algorithm."""

    name: str
    #: int32 [touches]: item codes, one session after the other, the latest session last.
    touched: NDArray[np.int32]
    #: int16 [touches]: number of the step within what is kept of the session.
    steps: NDArray[np.int16]
    #: int32 [sessions + 1]: where each session's touches start.
    offsets: NDArray[np.int32]
    #: float32 [sessions]: what a session counts for its age and length.
    weights: NDArray[np.float32]
    #: int32 [postings]: touches of each item, of a session the last one; one item after the other.
    postings: NDArray[np.int32]
    #: int32 [items + 1]: where each item's postings start.
    item_offsets: NDArray[np.int32]
    #: float32 [items]: what an item counts that is shared, by its rarity.
    rarity: NDArray[np.float32]
    #: float32 [items]: what an item counts that is proposed, by its popularity.
    damping: NDArray[np.float32]

    KIND: ClassVar[str] = "sessions"

    def __post_init__(self) -> None:
        lengths = np.diff(self.offsets)
        self.__dict__["session_of"] = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)

    def scored(self, columns: Columns, items: int) -> Scores:
        """Score in blocks of users; each user's sums are added up in an order of his own."""
        found = recent(columns, _RECENT_ITEMS)
        starts = range(0, len(columns.now), _BLOCK)
        cuts = np.searchsorted(found.users, [*starts, len(columns.now)])
        blocks = [
            self._block(Recent(found.users[a:b] - start, found.codes[a:b], found.places[a:b]), start, items)
            for start, a, b in zip(starts, cuts[:-1], cuts[1:], strict=True)
            if a < b
        ]
        if not blocks:
            return Scores(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32))
        return Scores(np.concatenate([block.keys for block in blocks]), np.concatenate([b.values for b in blocks]))

    def _block(self, found: Recent, first_user: int, items: int) -> Scores:
        users, shared, similarity = self._neighbours(found)
        # One row for each neighbour with his items, and one for each user with his neighbours.
        sessions = self.__dict__["session_of"][shared]
        starts = np.maximum(self.offsets[sessions], shared - _REACH).astype(np.int64)
        rows, touches = _expand(starts, np.minimum(self.offsets[sessions + 1], shared + _REACH + 1) - starts)
        distance = self.steps[touches].astype(np.int64) - self.steps[shared][rows]
        weights = _STEP_WEIGHTS[distance + _SESSION_ITEMS]
        codes = self.touched[touches]
        weights[codes == self.touched[shared][rows]] = _SHARED
        bounds = np.searchsorted(rows, np.arange(len(shared) + 1))
        theirs = sparse.csr_array((weights, codes, bounds), shape=(len(shared), items))
        user_bounds = np.searchsorted(users, np.arange(_BLOCK + 1))
        own = sparse.csr_array((similarity, np.arange(len(users)), user_bounds), shape=(_BLOCK, len(users)))
        product = own @ theirs
        product.sort_indices()
        of_users = np.repeat(np.arange(_BLOCK, dtype=np.int64), np.diff(product.indptr))
        keys = of_users * items + product.indices
        return Scores(keys + first_user * items, product.data * self.damping[product.indices])

    def _neighbours(self, found: Recent) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
        """The users' neighbours: the user, the touch of the shared item that he touched last, and the similarity."""
        starts = self.item_offsets[found.codes].astype(np.int64)
        rows, index = _expand(starts, self.item_offsets[found.codes + 1] - starts)
        touches = self.postings[index]
        sessions = self.__dict__["session_of"][touches]
        # Sorting numbers is many times as fast as sorting by keys, so all that is needed later is in the number.
        packed = found.users[rows] << _SESSION_BITS | sessions
        packed = (packed << _PLACE_BITS | found.places[rows]) << _OFFSET_BITS | (touches - self.offsets[sessions])
        packed.sort()
        pairs = packed >> (_PLACE_BITS + _OFFSET_BITS)
        touches = self.offsets[pairs & _mask(_SESSION_BITS)] + (packed & _mask(_OFFSET_BITS))
        parts = _PLACE_WEIGHTS[packed >> _OFFSET_BITS & _mask(_PLACE_BITS)] * self.rarity[self.touched[touches]]
        is_first = np.concatenate(([True], pairs[1:] != pairs[:-1]))[: len(pairs)]
        first = np.flatnonzero(is_first)
        users, sessions = pairs[first] >> _SESSION_BITS, pairs[first] & _mask(_SESSION_BITS)
        similarity = np.bincount(np.cumsum(is_first) - 1, parts, len(first)) * self.weights[sessions]
        similarity = np.sqrt(similarity * np.sqrt(similarity)).astype(np.float32)
        # The best of each user; of equal ones the latest. The bits of floats above 0 sort as the floats do.
        bits = similarity.view(np.int32).astype(np.int64)
        backwards = np.arange(len(first))[::-1]
        packed = (users << 31 | _mask(31) - bits) << _PAIR_BITS | backwards
        packed.sort()
        counts = np.bincount(users, minlength=_BLOCK)
        rank = np.arange(len(first)) - np.repeat(np.cumsum(counts) - counts, counts)
        best = len(first) - 1 - (packed[rank < _NEIGHBOURS] & _mask(_PAIR_BITS))
        return users[best], touches[first[best]], similarity[best]

    def parameters(self) -> Mapping[str, Any]:
        """Nothing: all is in the arrays."""
        return {}

    def arrays(self) -> Mapping[str, NDArray[Any]]:
        """The index."""
        return {
            "touched": self.touched,
            "steps": self.steps,
            "offsets": self.offsets,
            "weights": self.weights,
            "postings": self.postings,
            "item_offsets": self.item_offsets,
            "rarity": self.rarity,
            "damping": self.damping,
        }

    @classmethod
    def from_arrays(cls, name: str, parameters: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Self:  # noqa: ARG003
        """See :class:`~streamproc_models.retrieval.base.Generator`."""
        return cls(name, **arrays)


def _mask(bits: int) -> int:
    return (1 << bits) - 1


def _expand(starts: NDArray[np.int64], counts: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Ranges ``starts[i] ... starts[i] + counts[i] - 1``, one after the other, and of each number its ``i``."""
    rows = np.repeat(np.arange(len(starts)), counts)
    begin = np.cumsum(counts) - counts
    return rows, np.arange(len(rows)) + (starts - begin)[rows]


def fit_sessions(steps: Steps, name: str = "session_knn") -> SessionKnn:
    """Index the latest touches of the latest users with at least two items: at most 40 MB, and 12 bytes an item."""
    users = int(steps.users[-1]) + 1 if len(steps.users) else 0
    # The last touches of each user, the user whose last event is the latest last.
    counts = np.bincount(steps.users, minlength=users)
    ends = np.cumsum(counts)
    latest = np.argsort(steps.at[ends - 1], kind="stable") if users else ends
    kept = np.minimum(counts, _SESSION_ITEMS)[latest]
    rows, index = _expand(ends[latest] - kept, kept)
    codes = steps.codes[index]
    keep = np.bincount(rows, weights=codes != codes[(np.cumsum(kept) - kept)[rows]], minlength=users) > 0
    keep &= np.cumsum((kept * keep)[::-1])[::-1] <= _TOUCHES
    used = keep[rows]
    rows, index, codes = (np.cumsum(keep) - 1)[rows[used]], index[used], codes[used]
    lengths = kept[keep]
    sessions = len(lengths)
    starts = np.cumsum(lengths) - lengths
    # Number the steps that are left from 0, however many steps the user has.
    step = steps.steps[index]
    changes = np.concatenate(([0], np.cumsum(step[1:] != step[:-1])))
    number = changes - changes[starts[rows]]
    popularity = np.bincount(steps.codes, minlength=steps.items)
    # Each item's sessions, of each the last touch, at most the latest so many.
    order = np.lexsort((np.arange(len(codes)), codes))
    item, session = codes[order], rows[order]
    last = np.ones(len(order), dtype=bool)
    last[:-1] = (item[1:] != item[:-1]) | (session[1:] != session[:-1])
    order, item = order[last], item[last]
    per_item = np.bincount(item, minlength=steps.items)
    bounded = np.cumsum(per_item)[item] - np.arange(len(item)) <= _ITEM_SESSIONS
    postings = order[bounded]
    rarity = np.log1p(sessions / np.maximum(per_item, 1)) ** 2
    age = np.arange(sessions, 0, -1) / max(sessions, 1)
    return SessionKnn(
        name,
        codes.astype(np.int32),
        number.astype(np.int16),
        np.append(starts, len(codes)).astype(np.int32),
        (np.exp(-_AGE * age) * lengths**_LENGTH_POWER).astype(np.float32),
        postings.astype(np.int32),
        np.concatenate(([0], np.cumsum(np.minimum(per_item, _ITEM_SESSIONS)))).astype(np.int32),
        rarity.astype(np.float32),
        (np.maximum(popularity, 1) ** _POPULARITY_POWER).astype(np.float32),
    )
