"""Records as columns: what is compared and counted of lists, and of events."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Generic, TypeVar

import msgspec
import numpy as np
import polars as pl

from streamproc.landed import Landed
from streamproc_consumers.audit.codes import Names, array_of, group_of
from streamproc_consumers.audit.lines import AList, AnEvent, PositionRead, Read
from streamproc_consumers.audit.places import columns_of, digits_of

T = TypeVar("T", AList, AnEvent)

#: Text whose records become one frame: with fewer, what each call of Polars costs is more than what it computes.
_FRAME_BYTES = 64 * 1024 * 1024
TIME = pl.Datetime("us", "UTC")
#: MessagePack's timestamps: of nanoseconds in the upper bits and seconds in the lower ones, and of seconds alone.
_TIMESTAMPS = {
    0xD7FF: np.dtype([("form", ">u2"), ("value", ">u8")]),
    0xD6FF: np.dtype([("form", ">u2"), ("value", ">u4")]),
}
_SECONDS_BITS = 34
_SECONDS = 2**_SECONDS_BITS - 1
#: Instead of a code where there is no text.
_NONE = b"\xff" * 4
_DAY_MICROS = 86_400_000_000


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
                "line": read.lines,
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
            # Their memory is in the caches still: the next ones go there.
            read.records.clear()
        return self.rest() if self._text_bytes >= _FRAME_BYTES else None

    def rest(self) -> pl.DataFrame | None:
        """The frame of what was added since the last one."""
        if not self._parts:
            return None
        digits = self._parts.pop("digits")
        columns = {
            name: pl.Series(np.concatenate(parts) if isinstance(parts[0], np.ndarray) else parts)
            for name, parts in self._parts.items()
        }
        columns["shard"] = self._names.shard_numbers().gather(columns["shard"])
        columns |= columns_of(digits, columns["sub"].to_numpy())
        self._parts, self._text_bytes = {}, 0
        return self._frame(columns)

    def _position(self, positions: list[PositionRead[bytes]]) -> dict[str, Any]:
        return {
            "shard": array_of([each.shard_id for each in positions]),
            "digits": digits_of([each.sequence_number for each in positions]),
            "sub": np.array([each.sub_sequence_number for each in positions], np.uint32),
        }

    def _taken(self, records: list[T]) -> dict[str, Any]:
        """The columns of some records: arrays, or text."""
        raise NotImplementedError

    def _frame(self, columns: dict[str, pl.Series]) -> pl.DataFrame:
        raise NotImplementedError


class ListRows(Rows[AList]):
    """One row a list.

    ``object`` and ``line``: where; ``id``, ``user``: hashes; ``position0`` and so on: see places.py; ``known``,
    ``event``, ``published``: microseconds since the epoch, the first of features_as_of; ``landed``: of the object;
    ``group``, ``fallback``, ``items`` in the order of the ranks: codes of the names; ``top``: the probability of the
    first item. ``whole`` adds what only a table of the lists needs.
    """

    def __init__(self, objects: Sequence[Landed], names: Names, *, whole: bool = False) -> None:
        super().__init__(objects, names)
        self._whole = whole

    def _taken(self, records: list[AList]) -> dict[str, Any]:
        lists = [each.items for each in records]
        columns: dict[str, Any] = {
            "id": _hashes([each.recommendation_id for each in records]),
            "user": _hashes([each.user_id for each in records]),
            "known": _micros([each.features_as_of for each in records]),
            "event": _micros([each.event_ts for each in records]),
            "published": _micros([each.published_ts for each in records]),
            "group": group_of(
                array_of([each.model_version for each in records]), array_of([each.arm for each in records])
            ),
            "fallback": array_of([each.fallback or _NONE for each in records]),
            "propensity": np.array([each.propensity for each in records]),
            "top": np.array([each[0].probability if each else None for each in lists], np.float64),
            "places": np.array([len(each) for each in lists], np.uint32),
            "items": array_of([item.id for each in lists for item in each]),
        }
        if self._whole:
            columns["recommendation_id"] = [each.recommendation_id for each in records]
            columns["sequence"] = [each.position.sequence_number for each in records]
            columns["user_id"] = [each.user_id for each in records]
            columns["probabilities"] = np.array([item.probability for each in lists for item in each], np.float64)
        return columns

    def _frame(self, columns: dict[str, pl.Series]) -> pl.DataFrame:
        items, places = columns.pop("items"), columns["places"]
        probabilities = columns.pop("probabilities", None)
        frame = pl.DataFrame(columns).with_columns(
            pl.col("top").fill_nan(None),
            fallback=pl.when(pl.col("fallback") < 2**32 - 1).then("fallback"),
            landed=self._modified[columns["object"].to_numpy()],
            day=(pl.col("published") // _DAY_MICROS).cast(pl.Int32).cast(pl.Date),
            items=_in_lists(places, items),
        )
        if probabilities is None:
            return frame
        names, labels = (pl.Series(list(each), dtype=pl.String) for each in (self._names.items, self._names.labels))
        return self._names.labelled(frame).with_columns(
            label=labels.gather(frame["fallback"]),
            item_ids=_in_lists(places, names.gather(items)),
            probabilities=_in_lists(places, probabilities),
        )


class EventRows(Rows[AnEvent]):
    """One row an archived event; columns as of :class:`ListRows`. ``id`` is of the event, ``at`` its time."""

    def _taken(self, records: list[AnEvent]) -> dict[str, Any]:
        events = [each.event for each in records]
        return {
            "id": _hashes([each.event_id for each in events]),
            "user": _hashes([each.user_id for each in events]),
            "item": array_of([each.item_id for each in events]),
            "type": array_of([each.event_type for each in events]),
            "at": _micros([each.ts for each in events]),
            "arrived": _micros([each.arrived_at for each in records]),
        }

    def _frame(self, columns: dict[str, pl.Series]) -> pl.DataFrame:
        return pl.DataFrame(columns)


def _hashes(texts: list[str]) -> np.ndarray:
    """64 bits of each, equal for equal text within this process."""
    return np.fromiter(map(hash, texts), np.int64, len(texts)).view(np.uint64)


def _micros(times: list[datetime]) -> np.ndarray:
    """Microseconds since the epoch. By way of MessagePack in a fifth of the time of timestamp()."""
    packed = msgspec.msgpack.encode(times)
    for form, rows_are in _TIMESTAMPS.items():
        head = len(packed) - len(times) * rows_are.itemsize
        if head in (1, 3, 5):  # of an array
            rows = np.frombuffer(packed, rows_are, offset=head)
            if (rows["form"] == form).all():
                value = rows["value"].astype(np.uint64)
                micros: np.ndarray = (value & _SECONDS) * 1_000_000 + (value >> _SECONDS_BITS) // 1000
                return micros.view(np.int64)
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
