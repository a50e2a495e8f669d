"""Records as columns: what is compared and counted of lists, and of events."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from io import BytesIO
from itertools import chain
from typing import Any, TypeVar

import numpy as np
import polars as pl

from streamproc_consumers.audit.lines import EventRead, ListRead, PositionRead, Read
from streamproc_consumers.audit.objects import Landed

T = TypeVar("T")

#: Text whose records become one frame: small objects share one, so that their number costs little.
_FRAME_BYTES = 8 * 1024 * 1024
#: Replays write the time anew; the rest of a list's line is the same again.
_PUBLISHED = r'"published_ts":"[^"]*"'
TIME = pl.Datetime("us", "UTC")


def frames(
    reads: Iterable[Read[T]],
    frame_of: Callable[[Sequence[Read[T]], Sequence[Landed]], pl.DataFrame],
    objects: Sequence[Landed],
    seen: Callable[[Read[T]], None],
) -> Iterator[pl.DataFrame]:
    """The records in frames of some megabytes of text; ``seen`` is told of every piece."""
    held: list[Read[T]] = []
    held_bytes = 0
    for read in reads:
        seen(read)
        if read.records:
            held.append(read)
            held_bytes += len(read.text)
            if held_bytes >= _FRAME_BYTES:
                yield frame_of(held, objects)
                held, held_bytes = [], 0
    if held:
        yield frame_of(held, objects)


def lists_frame(
    reads: Sequence[Read[ListRead]], objects: Sequence[Landed], *, whole: bool = False
) -> pl.DataFrame:
    """One row a list.

    ``object`` and ``line``: where; ``id``, ``user``: hashes; ``content``: of the line without the time of publication;
    ``place``: the position as text that sorts; ``known``, ``event``, ``published``: microseconds since the epoch, the
    first of features_as_of; ``landed``: of the object; ``items``: hashes in the order of the ranks; ``top``: the
    probability of the first item. ``whole`` adds what only a table of the lists needs.
    """
    records = list(chain.from_iterable(read.records for read in reads))
    items = [record.items for record in records]
    frame = pl.DataFrame(
        {
            **_where(reads),
            "id": pl.Series([each.recommendation_id for each in records], dtype=pl.String).hash(),
            "content": _content(reads, len(records)),
            "user": pl.Series([each.user_id for each in records], dtype=pl.String).hash(),
            **_position([each.position for each in records]),
            "known": _micros([each.features_as_of.timestamp() for each in records]),
            "event": _micros([each.event_ts.timestamp() for each in records]),
            "published": _micros([each.published_ts.timestamp() for each in records]),
            "landed": _landed(reads, objects),
            "version": pl.Series([each.model_version for each in records], dtype=pl.String),
            "arm": pl.Series([each.arm for each in records], dtype=pl.String),
            "propensity": pl.Series([each.propensity for each in records], dtype=pl.Float64),
            "fallback": pl.Series([each.fallback for each in records], dtype=pl.String),
            "top": pl.Series([each[0].probability if each else None for each in items], dtype=pl.Float64),
            "items": _hashes([len(each) for each in items], [item.id for each in items for item in each]),
        }
    ).with_columns(
        _placed(), pl.col("published").cast(TIME).dt.date().alias("day"), pl.col("items").list.len().alias("places")
    )
    if not whole:
        return frame
    return frame.with_columns(
        pl.Series("recommendation_id", [each.recommendation_id for each in records], dtype=pl.String),
        pl.Series("user_id", [each.user_id for each in records], dtype=pl.String),
        pl.Series("item_ids", [[item.id for item in each] for each in items], dtype=pl.List(pl.String)),
        pl.Series("probabilities", [[item.probability for item in each] for each in items], dtype=pl.List(pl.Float64)),
    )


def events_frame(reads: Sequence[Read[EventRead]], objects: Sequence[Landed]) -> pl.DataFrame:
    """One row an archived event; columns as of :func:`lists_frame`. ``id`` is of the event, ``at`` its time."""
    del objects
    records = list(chain.from_iterable(read.records for read in reads))
    return pl.DataFrame(
        {
            **_where(reads),
            "id": pl.Series([each.event.event_id for each in records], dtype=pl.String).hash(),
            "user": pl.Series([each.event.user_id for each in records], dtype=pl.String).hash(),
            "item": pl.Series([each.event.item_id for each in records], dtype=pl.String).hash(),
            "type": pl.Series([each.event.event_type for each in records], dtype=pl.String),
            **_position([each.position for each in records]),
            "at": _micros([each.event.ts.timestamp() for each in records]),
            "arrived": _micros([each.arrived_at.timestamp() for each in records]),
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


def _position(positions: list[PositionRead]) -> dict[str, pl.Series]:
    return {
        "shard": pl.Series([each.shard_id for each in positions], dtype=pl.String).str.slice(8).str.zfill(12),
        "sequence": pl.Series([each.sequence_number for each in positions], dtype=pl.String),
        "sub": pl.Series([each.sub_sequence_number for each in positions], dtype=pl.Int64),
    }


def _where(reads: Sequence[Read[Any]]) -> dict[str, pl.Series]:
    objects = [pl.repeat(read.piece.number, len(read.records), dtype=pl.UInt32, eager=True) for read in reads]
    lines = [
        pl.int_range(read.lines, read.lines + len(read.records), dtype=pl.UInt32, eager=True)
        if isinstance(read.lines, int)
        else pl.Series(read.lines, dtype=pl.UInt32)
        for read in reads
    ]
    return {"object": pl.concat(objects), "line": pl.concat(lines)}


def _landed(reads: Sequence[Read[Any]], objects: Sequence[Landed]) -> pl.Series:
    return pl.concat(
        [
            pl.repeat(
                round(objects[read.piece.number].modified.timestamp() * 1e6), len(read.records), dtype=pl.Int64, eager=True
            )
            for read in reads
        ]
    )


def _micros(seconds: list[float]) -> pl.Series:
    return (pl.Series(seconds, dtype=pl.Float64) * 1e6).round().cast(pl.Int64)


def _content(reads: Sequence[Read[Any]], records: int) -> pl.Series:
    text = b"".join(read.text if read.text.endswith(b"\n") else read.text + b"\n" for read in reads)
    # JSON has no control character inside a line, so none of them is split, and a quote means nothing.
    options: dict[str, Any] = {"has_header": False, "separator": "\x01", "quote_char": None}
    try:
        lines = pl.read_csv(BytesIO(text), schema={"line": pl.String}, **options)["line"]
    except pl.exceptions.PolarsError:  # what msgspec passes over may be no UTF-8
        lines = pl.Series(text.decode(errors="backslashreplace").split("\n")[:-1])
    if len(lines) != records:
        raise AssertionError(f"{len(lines)} lines of {records} records")
    return lines.str.replace(_PUBLISHED, "").hash()


def _hashes(lengths: list[int], ids: list[str]) -> pl.Series:
    hashes = pl.Series(ids, dtype=pl.String).hash()
    if lengths and lengths[0] and lengths.count(lengths[0]) == len(lengths):
        return hashes.reshape((len(lengths), lengths[0])).cast(pl.List(pl.UInt64))
    rows = np.arange(len(lengths), dtype=np.uint32)
    places = pl.DataFrame({"row": np.repeat(rows, lengths), "items": hashes})
    lists = places.group_by("row", maintain_order=True).agg("items")
    every = pl.DataFrame({"row": rows}).join(lists, on="row", how="left", maintain_order="left")
    return every["items"].fill_null([])
