"""Records as columns: what is compared and counted of lists, and of events."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
import polars as pl

from streamproc_consumers.audit.lines import EventRead, ListRead, Read
from streamproc_consumers.audit.objects import Landed

T = TypeVar("T")

#: Text whose records become one frame.
_FRAME_BYTES = 16 * 1024 * 1024
#: Text whose lines are hashed at once: a core's caches hold it.
_HASHED_BYTES = 2 * 1024 * 1024
#: Replays write the time anew; the rest of a list's line is the same again.
_PUBLISHED = r'"published_ts":"[^"]*"'
TIME = pl.Datetime("us", "UTC")


class Rows(Generic[T]):
    """Records, taken apart as they come. Objects share a frame, so that many small ones cost little."""

    #: Whether the lines are compared by their hash.
    _hashed: ClassVar[bool] = False

    def __init__(self, objects: Sequence[Landed]) -> None:
        self._objects = objects
        self._columns: list[list[Any]] = []
        self._where: list[Read[T]] = []
        self._texts: list[bytes] = []
        self._contents: list[pl.Series] = []
        self._text_bytes = self._hashed_bytes = 0

    def add(self, read: Read[T]) -> pl.DataFrame | None:
        """Add the records of a piece; the frame of all since the last one, once there are enough."""
        if read.records:
            columns = self._taken(read.records)
            if self._columns:
                for column, more in zip(self._columns, columns, strict=True):
                    column += more
            else:
                self._columns = columns
            self._texts.append(read.text if read.text.endswith(b"\n") else read.text + b"\n")
            self._text_bytes += len(read.text)
            if self._text_bytes - self._hashed_bytes >= _HASHED_BYTES:
                self._hash()
            self._where.append(read._replace(records=[], text=b"", lines_read=len(read.records)))
        return self.rest() if self._text_bytes >= _FRAME_BYTES else None

    def rest(self) -> pl.DataFrame | None:
        """The frame of what was added since the last one."""
        if not self._columns:
            return None
        self._hash()
        frame = self._frame(self._columns)
        self._columns, self._where, self._contents, self._text_bytes, self._hashed_bytes = [], [], [], 0, 0
        return frame

    def _taken(self, records: list[T]) -> list[list[Any]]:
        """The columns of some records."""
        raise NotImplementedError

    def _frame(self, columns: list[list[Any]]) -> pl.DataFrame:
        raise NotImplementedError

    def _places(self) -> dict[str, pl.Series]:
        """``object`` and ``line`` of every record."""
        objects = [pl.repeat(read.piece.number, read.lines_read, dtype=pl.UInt32, eager=True) for read in self._where]
        lines = [
            pl.int_range(read.lines, read.lines + read.lines_read, dtype=pl.UInt32, eager=True)
            if isinstance(read.lines, int)
            else pl.Series(read.lines, dtype=pl.UInt32)
            for read in self._where
        ]
        return {"object": pl.concat(objects), "line": pl.concat(lines)}

    def _landed(self) -> pl.Series:
        times = [round(self._objects[read.piece.number].modified.timestamp() * 1e6) for read in self._where]
        return pl.concat(
            [
                pl.repeat(at, read.lines_read, dtype=pl.Int64, eager=True)
                for at, read in zip(times, self._where, strict=True)
            ]
        )

    def _hash(self) -> None:
        """Hash the lines that came since the last time, and let their text go."""
        if self._hashed and self._texts:
            self._contents.append(_contents(b"".join(self._texts)))
        self._texts, self._hashed_bytes = [], self._text_bytes


class ListRows(Rows[ListRead]):
    """One row a list.

    ``object`` and ``line``: where; ``id``, ``user``: hashes; ``content``: of the line without the time of publication;
    ``place``: the position as text that sorts; ``known``, ``event``, ``published``: microseconds since the epoch, the
    first of features_as_of; ``landed``: of the object; ``items``: hashes in the order of the ranks; ``top``: the
    probability of the first item. ``whole`` adds what only a table of the lists needs.
    """

    _hashed = True

    def __init__(self, objects: Sequence[Landed], *, whole: bool = False) -> None:
        super().__init__(objects)
        self._whole = whole

    def _taken(self, records: list[ListRead]) -> list[list[Any]]:
        items = [each.items for each in records]
        positions = [each.position for each in records]
        return [
            [each.recommendation_id for each in records],
            [each.user_id for each in records],
            [each.shard_id for each in positions],
            [each.sequence_number for each in positions],
            [each.sub_sequence_number for each in positions],
            [each.features_as_of.timestamp() for each in records],
            [each.event_ts.timestamp() for each in records],
            [each.published_ts.timestamp() for each in records],
            [each.model_version for each in records],
            [each.arm for each in records],
            [each.propensity for each in records],
            [each.fallback for each in records],
            [each[0].probability if each else None for each in items],
            [len(each) for each in items],
            [item.id for each in items for item in each],
            [item.probability for each in items for item in each] if self._whole else [],
        ]

    def _frame(self, columns: list[list[Any]]) -> pl.DataFrame:
        id_texts, user_texts, shards, sequences, subs, known, event, published, versions, arms, *more = columns
        propensities, fallbacks, tops, lengths, item_texts, probabilities = more
        ids, users, items = _text(id_texts), _text(user_texts), _text(item_texts)
        frame = pl.DataFrame(
            {
                **self._places(),
                "id": ids.hash(),
                "content": pl.concat(self._contents),
                "user": users.hash(),
                **_position(shards, sequences, subs),
                "known": _micros(known),
                "event": _micros(event),
                "published": _micros(published),
                "landed": self._landed(),
                "version": _text(versions),
                "arm": _text(arms),
                "propensity": pl.Series(propensities, dtype=pl.Float64),
                "fallback": _text(fallbacks),
                "top": pl.Series(tops, dtype=pl.Float64),
                "places": pl.Series(lengths, dtype=pl.UInt32),
                "items": _in_lists(lengths, items.hash()),
            }
        ).with_columns(_placed(), pl.col("published").cast(TIME).dt.date().alias("day"))
        if not self._whole:
            return frame
        return frame.with_columns(
            ids.alias("recommendation_id"),
            users.alias("user_id"),
            _in_lists(lengths, items).alias("item_ids"),
            _in_lists(lengths, pl.Series(probabilities, dtype=pl.Float64)).alias("probabilities"),
        )


class EventRows(Rows[EventRead]):
    """One row an archived event; columns as of :class:`ListRows`. ``id`` is of the event, ``at`` its time."""

    def _taken(self, records: list[EventRead]) -> list[list[Any]]:
        positions, events = [each.position for each in records], [each.event for each in records]
        return [
            [each.shard_id for each in positions],
            [each.sequence_number for each in positions],
            [each.sub_sequence_number for each in positions],
            [each.arrived_at.timestamp() for each in records],
            [each.ts.timestamp() for each in events],
            [each.event_id for each in events],
            [each.user_id for each in events],
            [each.item_id for each in events],
            [each.event_type for each in events],
        ]

    def _frame(self, columns: list[list[Any]]) -> pl.DataFrame:
        shards, sequences, subs, arrived, at, ids, users, items, types = columns
        return pl.DataFrame(
            {
                **self._places(),
                "id": _text(ids).hash(),
                "user": _text(users).hash(),
                "item": _text(items).hash(),
                "type": _text(types),
                **_position(shards, sequences, subs),
                "at": _micros(at),
                "arrived": _micros(arrived),
            }
        ).with_columns(_placed())


def place_of(shard_id: str, sequence_number: str, sub_sequence_number: int) -> str:
    """The ``place`` of a position. -1 is before every record of the sequence number."""
    sub = "" if sub_sequence_number < 0 else f"{sub_sequence_number:09d}"
    return f"{shard_id[8:]:>012}{len(sequence_number):03d}{sequence_number}{sub}"


def position_of(place: str) -> str:
    """The position behind a ``place``, as people write it."""
    digits = int(place[12:15])
    return f"shardId-{place[:12]}:{place[15 : 15 + digits]}:{int(place[15 + digits :])}"


def _placed() -> pl.Expr:
    sequence = pl.col("sequence")
    return (
        pl.col("shard")
        + sequence.str.len_bytes().cast(pl.String).str.zfill(3)
        + sequence
        + pl.col("sub").cast(pl.String).str.zfill(9)
    ).alias("place")


def _contents(text: bytes) -> pl.Series:
    # JSON has no control character inside a line, so none of them is split, and a quote means nothing.
    options: dict[str, Any] = {"has_header": False, "separator": "\x01", "quote_char": None}
    try:
        lines = pl.read_csv(text, schema={"line": pl.String}, **options)["line"]
    except pl.exceptions.PolarsError:  # what msgspec passes over may be no UTF-8
        lines = pl.Series(text.decode(errors="backslashreplace").split("\n")[:-1])
    return lines.str.replace(_PUBLISHED, "").hash()


def _text(values: list[str | None]) -> pl.Series:
    return pl.Series(values, dtype=pl.String)


def _position(shards: list[str], sequences: list[str], subs: list[int]) -> dict[str, pl.Series]:
    return {
        "shard": pl.Series(shards, dtype=pl.String).str.slice(8).str.zfill(12),
        "sequence": pl.Series(sequences, dtype=pl.String),
        "sub": pl.Series(subs, dtype=pl.Int64),
    }


def _micros(seconds: list[float]) -> pl.Series:
    return (pl.Series(seconds, dtype=pl.Float64) * 1e6).round().cast(pl.Int64)


def _in_lists(lengths: list[int], values: pl.Series) -> pl.Series:
    """The values, so many in each list."""
    if lengths and lengths[0] and lengths.count(lengths[0]) == len(lengths):
        return values.reshape((len(lengths), lengths[0])).cast(pl.List(values.dtype))
    rows = np.arange(len(lengths), dtype=np.uint32)
    places = pl.DataFrame({"row": np.repeat(rows, lengths), "values": values})
    lists = places.group_by("row", maintain_order=True).agg("values")
    every = pl.DataFrame({"row": rows}).join(lists, on="row", how="left", maintain_order="left")
    return every["values"].fill_null([])
