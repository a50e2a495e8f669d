"""Opens a log of cart events, wherever and in whichever of its forms it is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from pathlib import Path

import msgspec

from streamproc.errors import DecodeError, SettingsError
from streamproc.landed import Line, raw_lines
from streamproc_models.items import Item, named
from streamproc_producers.events import CartEvent, decode
from streamproc_producers.retail import RetailLog, default_data_path, item_names

_CSV = (".csv", ".csv.gz", ".csv.xz")


class _Position(msgspec.Struct):
    shard_id: str
    sequence_number: str
    sub_sequence_number: int


class _Archived(msgspec.Struct):
    """A line of the archive, as streamproc_consumers.archive writes it."""

    position: _Position
    arrived_at: datetime
    event: msgspec.Raw


class Log(msgspec.Struct, frozen=True):
    """A log that can be read more than once."""

    read: Callable[[], Iterable[CartEvent]]
    #: What the log itself tells of items, by id.
    items: Callable[[], dict[str, Item]]


def open_log(address: str | None) -> Log:
    """The log at an address; without one the UCI CSV in STREAMPROC_DATA_DIR, else the sample.

    - a ``.csv`` file (plain, .gz, .xz): the UCI Online Retail invoices;
    - any other file, a folder, or ``s3://bucket/prefix``: lines of JSON, plain or gzip. A line is an event as on the
      stream, or a line of the archive. Events keep the order of the lines; the archive is put into the order in which
      its events arrived, and one that is there twice counts once.

    Reading raises SettingsError with the file and the line for what is neither.
    """
    if address is None or address.endswith(_CSV):
        path = default_data_path(None if address is None else Path(address))
        return Log(lambda: RetailLog(path), lambda: named(item_names(path)))
    return Log(lambda: _events(address), dict)


def _events(address: str) -> Iterator[CartEvent]:
    lines = raw_lines(address)
    first = next(lines)
    if _archived(first) is None:
        yield _event(first, first.data)
        for line in lines:
            yield _event(line, line.data)
        return
    arrived: dict[bytes, tuple[tuple[datetime, str, int, int], CartEvent]] = {}
    for line in (first, *lines):
        archived = _archived(line)
        if archived is None:
            raise SettingsError(f"{line.name}, line {line.number}, is not a line of the archive, as the first one was")
        event = _event(line, bytes(archived.event))
        position = archived.position
        order = (archived.arrived_at, position.shard_id, int(position.sequence_number), position.sub_sequence_number)
        known = arrived.get(event.event_id.bytes)
        if known is None or order < known[0]:
            arrived[event.event_id.bytes] = (order, event)
    for _, event in sorted(arrived.values(), key=lambda item: item[0]):
        yield event


def _archived(line: Line) -> _Archived | None:
    try:
        return msgspec.json.decode(line.data, type=_Archived)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _event(line: Line, data: bytes) -> CartEvent:
    try:
        return decode(data)
    except DecodeError as error:
        raise SettingsError(f"{line.name}, line {line.number}: {error.reason}; mend or remove the line") from error
