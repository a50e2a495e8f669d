"""What every way must have written: lists by a plain fold, scored at the last event of each user and batch.

A way that makes a list an event is compared where the batches of 1,000 end, one with larger batches where its own do.
XGBoost and oneDAL round differently, so that items whose scores are equal but for rounding may stand in either order,
or one in the last place and the other behind it: a list is equal where each item has its score, and each place too.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from uuid import UUID

import msgspec

from benchmarks.throughput.inputs import FIRST_SEQUENCE_NUMBER
from benchmarks.throughput.job import ITEMS_PER_LIST, Task, bundle_of
from streamproc_models.features import UserState, fold, new_state
from streamproc_models.scorer import RankedItem, Scorer
from streamproc_producers.events import CartEvent

TOLERANCE = 1e-6
#: So many items more are known of each list than it has places.
_BEHIND = 5
#: Number of the event -> items and scores of the list, and of some items behind it.
_Ranked = tuple[tuple[str, ...], tuple[float, ...]]
Lists = dict[int, _Ranked]


class _Position(msgspec.Struct):
    sequence_number: str


class _Written(msgspec.Struct):
    """Of our lists and of the peers': those name the position, these the event."""

    items: list[RankedItem]
    user_id: str = ""
    published_ts: datetime | None = None
    position: _Position | None = None
    event_id: UUID | None = None


class Unequal(Exception):
    """A way wrote something else than the others."""


def expected(of: Task, events: Sequence[CartEvent]) -> Lists:
    """The lists of a log at the task's batches and candidates."""
    scorer, states, lists = Scorer(bundle_of(of)), dict[str, UserState](), Lists()
    for start in range(0, len(events), of.batch):
        last: dict[str, int] = {}
        for number, event in enumerate(events[start : start + of.batch], start):
            states[event.user_id] = fold(states.get(event.user_id) or new_state(), event)
            last[event.user_id] = number
        ranked = scorer.rank([(user_id, states[user_id]) for user_id in last], ITEMS_PER_LIST + _BEHIND)
        for number, one in zip(last.values(), ranked, strict=True):
            lists[number] = _key(one.items)
    return lists


def compare(out: Path, wanted: Lists, numbers: dict[UUID, int], events: int) -> int:
    """Compare what a way wrote in this folder with these lists, of so many events; return how many lists it wrote.

    Raises Unequal with the first difference.
    """
    decode = msgspec.json.Decoder(_Written).decode
    written, missing = 0, {number for number in wanted if number < events}
    for line in _lines(out):
        one = decode(line)
        written += 1
        if one.position is not None:
            number = int(one.position.sequence_number) - FIRST_SEQUENCE_NUMBER
        else:
            number = numbers[one.event_id] if one.event_id is not None else -1
        if number not in wanted:
            continue
        missing.discard(number)
        found, known = _key(one.items), wanted[number]
        if not _equal(found, known):
            raise Unequal(
                f"the list after event {number} is {list(zip(*found, strict=True))} and not"
                f" {list(zip(*known, strict=True))[:ITEMS_PER_LIST]}"
            )
    if missing:
        raise Unequal(f"{len(missing)} lists are missing, the first one after event {min(missing)}")
    return written


def overlap(out: Path, wanted: Lists, events: Sequence[CartEvent], batch: int) -> tuple[int, float]:
    """How many lists a way wrote that leaves some out, and what its users see instead.

    That is the share of the items of each wanted list, at the moment of its batch, that are in the last list that the
    user had then.
    """
    decode = msgspec.json.Decoder(_Written).decode
    had: dict[str, list[tuple[datetime, set[str]]]] = {}
    for line in _lines(out):
        one = decode(line)
        if one.published_ts is not None:
            had.setdefault(one.user_id, []).append((one.published_ts, {item.id for item in one.items}))
    shares = []
    for number, (ids, _) in wanted.items():
        at = events[min(len(events), (number // batch + 1) * batch) - 1].ts
        lists = had.get(events[number].user_id, [])
        last = bisect.bisect_right(lists, at, key=lambda item: item[0])
        listed = ids[:ITEMS_PER_LIST]
        shares.append(len(lists[last - 1][1].intersection(listed)) / max(1, len(listed)) if last else 0.0)
    return sum(map(len, had.values())), sum(shares) / len(shares)


def _equal(found: _Ranked, known: _Ranked) -> bool:
    (ids, scores), score_of = found, dict(zip(*known, strict=True))
    return len({*ids}) == min(ITEMS_PER_LIST, len(known[0])) == len(ids) and all(
        max(abs(score - score_of.get(item_id, math.inf)), abs(score - at_place)) <= TOLERANCE
        for item_id, score, at_place in zip(ids, scores, known[1], strict=False)
    )


def _key(items: Iterable[RankedItem]) -> _Ranked:
    return tuple(item.id for item in items), tuple(item.probability for item in items)


def _lines(out: Path) -> Iterator[bytes]:
    """Of the file, or of the folder in which Flink and Spark make files."""
    single, folder = out / "lists.ndjson", out / "lists"
    paths = [single] if single.exists() else [path for path in folder.rglob("*part-*") if ".crc" not in path.name]
    for path in paths:
        with path.open("rb") as lines:
            yield from lines
