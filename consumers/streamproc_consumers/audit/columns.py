"""Records as columns: what is compared and counted of lists, and of events."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from datetime import datetime
from operator import itemgetter
from typing import Any, Generic, TypeVar

import msgspec
import numpy as np
import polars as pl

from streamproc.landed import Landed
from streamproc_consumers.audit.lines import EventRead, ListRead, PositionRead, Read

T = TypeVar("T", ListRead, EventRead)
K = TypeVar("K", bound=Hashable)

#: Text whose records become one frame: with fewer, what each call of Polars costs is more than what it computes.
_FRAME_BYTES = 64 * 1024 * 1024
TIME = pl.Datetime("us", "UTC")
_Z = ord("Z")
_DAY_MICROS = 86_400_000_000


class Codes(dict[K, int]):
    """Numbers values as they come, from 0."""

    def __missing__(self, value: K) -> int:
        code = self[value] = len(self)
        return code

    def of(self, values: list[K]) -> np.ndarray:
        """The code of each."""
        # itemgetter looks all of them up in one call, and with one value it gives no tuple.
        found = itemgetter(*values)(self) if len(values) > 1 else [self[value] for value in values]
        return np.fromiter(found, np.uint32, len(values))


class Names:
    """What few values have many rows: the columns hold codes of these."""

    def __init__(self) -> None:
        self.items: Codes[str] = Codes()
        self.shards: Codes[str] = Codes()
        #: Model version and arm.
        self.groups: Codes[tuple[str, str]] = Codes()
        self.fallbacks: Codes[str | None] = Codes()

    def labelled(self, frame: pl.DataFrame) -> pl.DataFrame:
        """The frame with ``version`` and ``arm`` of its ``group``."""
        versions, arms = zip(*self.groups, strict=True)
        code = frame["group"]
        return frame.with_columns(
            version=pl.Series(versions, dtype=pl.String).gather(code),
            arm=pl.Series(arms, dtype=pl.String).gather(code),
        )


class Rows(Generic[T]):
    """Records, taken apart as they come. Objects share a frame, so that many small ones cost little.

    What is read of a piece becomes arrays at once, while a core's caches hold it.
    """

    def __init__(self, objects: Sequence[Landed], names: Names) -> None:
        self._names = names
        self._modified = np.array([round(each.modified.timestamp() * 1e6) for each in objects])
        self._parts: dict[str, list[Any]] = {}
        self._text_bytes = 0

    def add(self, read: Read[T]) -> pl.DataFrame | None:
        """Add the records of a piece; the frame of all since the last one, once there are enough."""
        if read.records:
            columns = {
                "object": np.full(len(read.records), read.piece.number, np.uint32),
                "line": np.array(read.lines, np.uint32),
                **self._position([each.position for each in read.records]),
                **self._taken(read.records),
            }
            for name, values in columns.items():
                parts = self._parts.setdefault(name, [])
                if isinstance(values, list):
                    parts += values
                else:
                    parts.append(values)
            self._text_bytes += len(read.piece.text)
        return self.rest() if self._text_bytes >= _FRAME_BYTES else None

    def rest(self) -> pl.DataFrame | None:
        """The frame of what was added since the last one."""
        if not self._parts:
            return None
        columns = {
            name: pl.Series(np.concatenate(parts) if isinstance(parts[0], np.ndarray) else parts)
            for name, parts in self._parts.items()
        }
        self._parts, self._text_bytes = {}, 0
        columns["shard"] = pl.Series([each[8:].zfill(12) for each in self._names.shards]).gather(columns["shard"])
        return self._frame(columns).with_columns(_PLACE)

    def _position(self, positions: list[PositionRead]) -> dict[str, Any]:
        shards = self._names.shards
        return {
            "shard": shards.of([each.shard_id for each in positions]),
            "sequence": [each.sequence_number for each in positions],
            "sub": np.array([each.sub_sequence_number for each in positions], np.uint32),
        }

    def _taken(self, records: list[T]) -> dict[str, Any]:
        """The columns of some records: arrays, or text."""
        raise NotImplementedError

    def _frame(self, columns: dict[str, pl.Series]) -> pl.DataFrame:
        raise NotImplementedError


class ListRows(Rows[ListRead]):
    """One row a list.

    ``object`` and ``line``: where; ``id``, ``user``: hashes; ``place``: the position as text that sorts; ``known``,
    ``event``, ``published``: microseconds since the epoch, the first of features_as_of; ``landed``: of the object;
    ``group``, ``fallback``, ``items`` in the order of the ranks: codes of the names; ``top``: the probability of the
    first item. ``whole`` adds what only a table of the lists needs.
    """

    def __init__(self, objects: Sequence[Landed], names: Names, *, whole: bool = False) -> None:
        super().__init__(objects, names)
        self._whole = whole

    def _taken(self, records: list[ListRead]) -> dict[str, Any]:
        groups, fallbacks, items = self._names.groups, self._names.fallbacks, self._names.items
        lists = [each.items for each in records]
        columns: dict[str, Any] = {
            "id": _hashes([each.recommendation_id for each in records]),
            "user": _hashes([each.user_id for each in records]),
            "known": _micros([each.features_as_of for each in records]),
            "event": _micros([each.event_ts for each in records]),
            "published": _micros([each.published_ts for each in records]),
            "group": groups.of([(each.model_version, each.arm) for each in records]),
            "fallback": fallbacks.of([each.fallback for each in records]),
            "propensity": np.array([each.propensity for each in records]),
            "top": np.array([each[0].probability if each else None for each in lists], np.float64),
            "places": np.array([len(each) for each in lists], np.uint32),
            "items": items.of([item.id for each in lists for item in each]),
        }
        if self._whole:
            columns["recommendation_id"] = [each.recommendation_id for each in records]
            columns["user_id"] = [each.user_id for each in records]
            columns["probabilities"] = np.array([item.probability for each in lists for item in each], np.float64)
        return columns

    def _frame(self, columns: dict[str, pl.Series]) -> pl.DataFrame:
        items, places = columns.pop("items"), columns["places"]
        probabilities = columns.pop("probabilities", None)
        frame = pl.DataFrame(columns).with_columns(
            pl.col("top").fill_nan(None),
            landed=self._modified[columns["object"].to_numpy()],
            day=(pl.col("published") // _DAY_MICROS).cast(pl.Int32).cast(pl.Date),
            items=_in_lists(places, items),
        )
        if probabilities is None:
            return frame
        names, fallbacks = (
            pl.Series(list(each), dtype=pl.String) for each in (self._names.items, self._names.fallbacks)
        )
        return self._names.labelled(frame).with_columns(
            label=fallbacks.gather(frame["fallback"]),
            item_ids=_in_lists(places, names.gather(items)),
            probabilities=_in_lists(places, probabilities),
        )


class EventRows(Rows[EventRead]):
    """One row an archived event; columns as of :class:`ListRows`. ``id`` is of the event, ``at`` its time."""

    def _taken(self, records: list[EventRead]) -> dict[str, Any]:
        events, items = [each.event for each in records], self._names.items
        return {
            "id": _hashes([each.event_id for each in events]),
            "user": _hashes([each.user_id for each in events]),
            "item": items.of([each.item_id for each in events]),
            "type": [each.event_type for each in events],
            "at": _micros([each.ts for each in events]),
            "arrived": _micros([each.arrived_at for each in records]),
        }

    def _frame(self, columns: dict[str, pl.Series]) -> pl.DataFrame:
        return pl.DataFrame(columns)


def place_of(shard_id: str, sequence_number: str, sub_sequence_number: int) -> str:
    """The ``place`` of a position. -1 is before every record of the sequence number."""
    sub = "" if sub_sequence_number < 0 else f"{sub_sequence_number:09d}"
    return f"{shard_id[8:]:>012}{len(sequence_number):03d}{sequence_number}{sub}"


def position_of(place: str) -> str:
    """The position behind a ``place``, as people write it."""
    digits = int(place[12:15])
    return f"shardId-{place[:12]}:{place[15 : 15 + digits]}:{int(place[15 + digits :])}"


_PLACE = pl.concat_str(
    "shard",
    pl.col("sequence").str.len_bytes().cast(pl.String).str.zfill(3),
    "sequence",
    pl.col("sub").cast(pl.String).str.zfill(9),
).alias("place")


def _hashes(texts: list[str]) -> np.ndarray:
    """64 bits of each, equal for equal text within this process."""
    return np.fromiter(map(hash, texts), np.int64, len(texts)).view(np.uint64)


def _micros(times: list[datetime]) -> np.ndarray:
    """Microseconds since the epoch. To write and read their text takes half of the time of timestamp()."""
    text = msgspec.json.encode(times)
    for length in (26, 19):
        if len(text) == len(times) * (length + 4) + 1:  # quotes, Z and a comma; the brackets
            rows = np.frombuffer(text, np.uint8, offset=1).reshape(len(times), length + 4)
            if (rows[:, length + 1] == _Z).all():
                digits = np.ascontiguousarray(rows[:, 1 : length + 1]).view(f"S{length}")[:, 0]
                return digits.astype("datetime64[us]").astype(np.int64)
    return np.rint(np.array([each.timestamp() for each in times]) * 1e6).astype(np.int64)


def _in_lists(lengths: pl.Series, values: pl.Series) -> pl.Series:
    """The values, so many in each list."""
    longest = int(lengths.max() or 0)  # type: ignore[arg-type] # a count
    if longest and lengths.min() == longest:
        return values.reshape((len(lengths), longest)).cast(pl.List(values.dtype))
    rows = pl.Series(np.repeat(np.arange(len(lengths), dtype=np.uint32), lengths.to_numpy()))
    lists = pl.DataFrame({"row": rows, "values": values}).group_by("row", maintain_order=True).agg("values")
    every = pl.DataFrame({"row": np.arange(len(lengths), dtype=np.uint32)})
    return every.join(lists, on="row", how="left", maintain_order="left")["values"].fill_null([])
