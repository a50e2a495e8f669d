"""What is compared within a user: the order of their lists, events without a list, and what they did after a list."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import polars as pl

from streamproc.landed import Landed
from streamproc_consumers.audit import places
from streamproc_consumers.audit.answers import Answers
from streamproc_consumers.audit.codes import Names
from streamproc_consumers.audit.figures import lag_from, lag_of
from streamproc_consumers.audit.report import Answered, Findings, Lag
from streamproc_consumers.audit.spill import Spill

_LISTS = ["user", "shard", places.COLUMNS, "known", "event", "published", "id", "object", "line", "group", "items"]
_EVENTS = ["user", "shard", places.COLUMNS, "id", "item", "type", "at", "arrived", "object", "line"]
#: Behind every place.
END = "~"


class Users:
    """Lists and events go to partitions by their user; each partition is then judged.

    *Covered* is an event with a list of its user at its position or beyond. *Due* is one that the library promises to
    have covered: at or before the checkpoint of its shard. Without checkpoints the last published position of its
    shard stands for it. ``checkpoints`` are places by shard number (12 digits), END where the shard was read to its
    end.
    """

    def __init__(
        self,
        folder: Path,
        partitions: int,
        names: Names,
        *,
        window_seconds: float,
        checkpoints: Mapping[str, str] | None,
        put_aside: Collection[str],
        landed_before: int,
    ) -> None:
        self._lists = Spill(folder / "lists", "user", partitions)
        self._events = Spill(folder / "events", "user", partitions)
        self._names = names
        self._window_seconds = window_seconds
        self._checkpoints = checkpoints
        self._put_aside = list(put_aside)
        self._landed_before = landed_before
        #: The last position of each shard.
        self._published_up_to: pl.DataFrame | None = None
        self.events = self.count = 0
        #: By the code of the version and arm.
        self.of_group: Counter[int] = Counter()
        self.answered: list[Answered] = []
        self.arrival_to_published: Lag | None = None

    def add_lists(self, frame: pl.DataFrame) -> None:
        """Note the lists of a frame."""
        self._lists.add(frame.select(_LISTS))
        last = [places.last_of_shards(frame)]
        if self._published_up_to is not None:
            last.append(self._published_up_to)
        self._published_up_to = places.last_of_shards(pl.concat(last, how="diagonal"))

    def add_events(self, frame: pl.DataFrame) -> None:
        """Note archived events."""
        self._events.add(frame.select(_EVENTS))
        self.events += frame.height

    def judge(self, objects: Sequence[Landed], archived: Sequence[Landed], findings: Findings) -> None:
        """Tell the findings, and count."""
        answers, arrivals = Answers(self._names, self._window_seconds), []
        for lists, events in zip(self._lists.read(), self._events.read(), strict=True):
            lists, events = _ordered(lists, events)
            if lists is not None:
                self._order(lists, objects, findings)
                self.count += lists["user"].n_unique()
                for group, users in lists.group_by("group").agg(pl.col("user").n_unique()).iter_rows():
                    self.of_group[group] += users
            if events is not None:
                # Archived twice is one event, and a producer's duplicate changes nothing: no list is of it.
                events = events.sort("order").unique("order", keep="first", maintain_order=True)
                events = events.unique(["user", "id"], keep="first", maintain_order=True)
                self._gaps(lists, events, archived, findings)
                if lists is not None:
                    if lists["id"].is_duplicated().any():
                        lists = lists.sort("published").unique("id", keep="first", maintain_order=True)
                    answers.add(lists, events)
                    both = lists.select("user", "order", "published").join(events, on=["user", "order"])
                    if both.height:
                        arrivals.append(lag_of(both["published"] - both["arrived"]))
        self.answered = answers.told()
        self.arrival_to_published = lag_from(arrivals)

    def _order(self, lists: pl.DataFrame, objects: Sequence[Landed], findings: Findings) -> None:
        # Most users' lists are in order as they landed: comparing neighbours is much cheaper than sorting.
        there = lists.select("user", "order", "known", "object", "line").sort("user", maintain_order=True)
        same = pl.col("user") == pl.col("user").shift()
        back = there.filter(same & (pl.col("order") < pl.col("order").shift()))
        inside = there.filter(
            same & (pl.col("object") == pl.col("object").shift()) & (pl.col("order") < pl.col("order").shift())
        )
        findings.add("rewind", inside.height, _where(inside.head(findings.wanted("rewind")), objects))
        if back.height:
            moved = there.join(back.select("user"), on="user", how="semi").sort("user", "order")
            there = pl.concat([there.join(back.select("user"), on="user", how="anti"), moved])
        forgets = there.filter(same & (pl.col("known") < pl.col("known").shift()))
        findings.add(
            "features_backwards", forgets.height, _where(forgets.head(findings.wanted("features_backwards")), objects)
        )

    def _gaps(
        self, lists: pl.DataFrame | None, events: pl.DataFrame, archived: Sequence[Landed], findings: Findings
    ) -> None:
        open_ = events
        if lists is not None:
            # What is behind another event of its user goes with it: only the last ones can be beyond every list.
            last = lists.group_by("user").agg(pl.col("order").max().alias("last"))
            open_ = open_.join(last, on="user", how="left").filter(
                pl.col("last").is_null() | (pl.col("order") > pl.col("last"))
            )
        open_ = open_.with_columns(place=pl.Series(places.texts_of(open_), dtype=pl.String))
        open_ = open_.filter(~pl.col("place").is_in(self._put_aside))
        if not open_.height:
            return
        limits = self._limits(open_["place"].str.head(12).unique().to_list())
        up_to = pl.col("place").str.head(12).replace_strict(limits, return_dtype=pl.String)
        due = (pl.col("place") <= up_to) & (pl.col("arrived") <= self._landed_before)
        missing = open_.filter(due).sort("place")
        findings.add("not_judged_yet", open_.height - missing.height, [])
        findings.add(
            "missing_position",
            missing.height,
            [
                f"{places.position_of(place)}: {archived[at].name}, line {line}"
                for place, at, line in missing.head(findings.wanted("missing_position"))
                .select("place", "object", "line")
                .iter_rows()
            ],
        )

    def _limits(self, shards: Sequence[str]) -> dict[str, str]:
        """The last place of each shard that is due."""
        if self._checkpoints is None:
            last = [] if self._published_up_to is None else places.texts_of(self._published_up_to)
            return dict.fromkeys(shards, "") | {place[:12]: place for place in last}
        # A lease that is gone was read to its end, and its children's are there: no other is deleted.
        first = min(self._checkpoints, default="")
        return {shard: self._checkpoints.get(shard, END if shard < first else "") for shard in shards}


def _ordered(*frames: pl.DataFrame | None) -> tuple[pl.DataFrame | None, ...]:
    """The frames with the ``order`` of their positions, in all of them together."""
    there = [frame for frame in frames if frame is not None]
    if not there:
        return frames
    orders = places.orders_of(pl.concat([frame.select("shard", places.COLUMNS) for frame in there], how="diagonal"))
    first, ordered = 0, []
    for frame in frames:
        if frame is not None:
            frame = frame.with_columns(orders.slice(first, frame.height))
            first += frame.height
        ordered.append(frame)
    return tuple(ordered)


def _where(lines: pl.DataFrame, objects: Sequence[Landed]) -> list[str]:
    found: defaultdict[str, list[str]] = defaultdict(list)
    for at, line in lines.select("object", "line").iter_rows():
        found[objects[at].name].append(str(line))
    return [f"{name}, line {line}" for name, of_object in found.items() for line in of_object]
