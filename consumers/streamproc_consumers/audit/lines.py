"""Records from text: all lines of a piece at once, and line by line where one of them is no record.

msgspec decodes and checks a line of a list in a third of the time that Polars' NDJSON reader takes, and tells for a bad
one what is wrong with it; a bad line ends Polars' scan. So msgspec reads, Polars computes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Annotated, Generic, NamedTuple, TypeVar

import msgspec
import numpy as np

from streamproc.landed import Landed
from streamproc.readable import plain
from streamproc_consumers.audit.objects import Piece, of_object, pieces

Aware = Annotated[datetime, msgspec.Meta(tz=True)]
T = TypeVar("T", bound="ListRead | EventRead")


class Item(msgspec.Struct, gc=False):
    """What is read of a place in a list. Names and sources are for people: nothing is computed of them."""

    id: str
    probability: float


class PositionRead(msgspec.Struct, gc=False):
    """See :class:`streamproc_consumers.recommendation.LogPosition`. The text is checked by :func:`_are_positions`."""

    shard_id: str
    sequence_number: str
    sub_sequence_number: Annotated[int, msgspec.Meta(ge=0, le=999_999_999)]


class ListRead(msgspec.Struct, gc=False):
    """A :class:`streamproc_consumers.recommendation.Recommendation`, as it is read in bulk: the same fields."""

    recommendation_id: str
    user_id: str
    items: list[Item]
    model_version: str
    arm: str
    features_as_of: Aware
    position: PositionRead
    event_ts: Aware
    published_ts: Aware
    item_snapshot: str
    fallback: str | None
    propensity: float = 1.0


class Done(msgspec.Struct, gc=False):
    """What is read of an event."""

    event_id: str
    event_type: str
    user_id: str
    item_id: str
    ts: Aware


class EventRead(msgspec.Struct, gc=False):
    """A line of the archive; see :class:`streamproc_consumers.archive.ArchivedEvent`."""

    position: PositionRead
    arrived_at: Aware
    event: Done


class Form(NamedTuple, Generic[T]):
    """What a place holds: one type of record, and the field that its line begins with."""

    type: type[T]
    first_field: str

    @property
    def separator(self) -> bytes:
        """Begins a record. No string of JSON has it inside: there the quotes are behind backslashes."""
        return b'{"' + self.first_field.encode() + b'":'


LISTS: Form[ListRead] = Form(ListRead, "recommendation_id")
EVENTS: Form[EventRead] = Form(EventRead, "position")


class Bad(NamedTuple):
    """A line that is no record, or an object that is none of these."""

    kind: str
    number: int
    #: From 1; 0 means the whole object.
    line: int
    why: str


class Read(NamedTuple, Generic[T]):
    """The records of a piece."""

    piece: Piece
    records: list[T]
    #: The line of each record.
    lines: Sequence[int]
    bad: list[Bad]


TRUNCATED, FOREIGN, NOT_JSON, SCHEMA = "truncated_object", "foreign_object", "unreadable_line", "unknown_schema"
_NEWLINE = 10
_SHARD = re.compile(r"shardId-[0-9]{1,12}")
_SEQUENCE_DIGITS_MAX = 129
_MISSING = re.compile(r"missing required field `[^`]+`( - at `[^`]+`)?")


class Reader(Generic[T]):
    """Reads all objects of a place."""

    def __init__(self, form: Form[T]) -> None:
        self._form = form
        self._decoder = msgspec.json.Decoder(form.type)
        self._joint = b"}" + form.separator

    def read(self, objects: Sequence[Landed]) -> Iterator[Read[T]]:
        """Piece by piece, in the order of the objects. A foreign object is passed over after its first piece."""
        line, foreign = 1, -1
        for piece in pieces(objects, self._form.separator):
            if piece.is_first:
                line = 1
            elif piece.number == foreign:
                yield Read(piece._replace(text=b""), [], [], [])
                continue
            read, line = self._piece(piece, line)
            if read.bad and read.bad[0].kind == FOREIGN:
                foreign = piece.number
            yield read

    def lines_of(self, number: int, landed: Landed, wanted: Sequence[int]) -> Iterator[bytes]:
        """These lines of one object again; the numbers ascend."""
        first, at = 1, 0
        for piece in of_object(number, landed, self._form.separator):
            text = piece.text.replace(self._joint, b"}\n" + self._form.separator)
            behind = first + _lines_in(text)
            if at < len(wanted) and wanted[at] < behind:
                lines = self._split(text)
                while at < len(wanted) and wanted[at] < behind:
                    yield lines[wanted[at] - first]
                    at += 1
            if at == len(wanted):
                return
            first = behind

    def _split(self, text: bytes) -> list[bytes]:
        if self._joint in text:
            text = text.replace(self._joint, b"}\n" + self._form.separator)
        lines = text.split(b"\n")
        return lines[:-1] if not lines[-1] else lines

    def _piece(self, piece: Piece, line: int) -> tuple[Read[T], int]:
        text = piece.text
        if piece.is_first and piece.is_last and not text and not piece.cut:
            return Read(piece, [], [], [Bad(TRUNCATED, piece.number, 0, "the object is empty")]), line
        if piece.cut is None and (read := self._at_once(piece, text, line)) is not None:
            return read, line + len(read.records)
        # Firehose puts nothing between records: where the sender did not, neither is there anything here.
        joined = text.replace(self._joint, b"}\n" + self._form.separator)
        if len(joined) > len(text) and piece.cut is None and (read := self._at_once(piece, joined, line)) is not None:
            return read, line + len(read.records)
        return self._one_by_one(piece, joined, line), line + _lines_in(joined)

    def _at_once(self, piece: Piece, text: bytes, line: int) -> Read[T] | None:
        """All lines of the text; None where one is bad or empty."""
        try:
            records = self._decoder.decode_lines(text)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None
        if len(records) != _lines_in(text) or not _are_positions([each.position for each in records]):
            return None
        return Read(piece, records, range(line, line + len(records)), [])

    def _one_by_one(self, piece: Piece, text: bytes, line: int) -> Read[T]:
        records: list[T] = []
        numbers: list[int] = []
        bad: list[Bad] = []
        lines = self._split(text)
        for number, each in enumerate(lines, line):
            if not each.strip():
                continue
            try:
                record = self._decoder.decode(each)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                ends_here = piece.is_last and number == line + len(lines) - 1 and not text.endswith(b"\n")
                if not (ends_here and piece.cut):
                    bad.append(self._judged(piece, number, each, error, ends_here=ends_here))
            else:
                if _are_positions([record.position]):
                    records.append(record)
                    numbers.append(number)
                else:
                    bad.append(Bad(SCHEMA, piece.number, number, "no shard id or no sequence number - at `$.position`"))
        if piece.is_first and not records and self._form.first_field.encode() not in text[:65536] and text:
            why = f"no line of it has a {self._form.first_field}; it begins with {plain(repr(text[:40])[2:-1])}"
            return Read(piece, [], [], [Bad(FOREIGN, piece.number, 0, why)])
        if piece.cut is not None:
            bad.append(Bad(TRUNCATED, piece.number, 0, piece.cut))
        return Read(piece, records, numbers, bad)

    def _judged(self, piece: Piece, number: int, text: bytes, error: Exception, *, ends_here: bool) -> Bad:
        if isinstance(error, msgspec.ValidationError) and _is_json(text):
            found = _MISSING.search(str(error))
            return Bad(SCHEMA, piece.number, number, found[0] if found else str(error))
        if ends_here:
            return Bad(TRUNCATED, piece.number, number, "the last line is cut")
        return Bad(NOT_JSON, piece.number, number, f"not JSON: {plain(str(error))}")


def _are_positions(positions: list[PositionRead]) -> bool:
    """Whether the text of each is of the contract. As patterns of msgspec this is a third of the decoding."""
    numbers = [each.sequence_number for each in positions]
    lengths = {*map(len, numbers)}
    return (
        all(map(_SHARD.fullmatch, {each.shard_id for each in positions}))
        and "".join(numbers).encode().isdigit()
        and min(lengths) > 0
        and max(lengths) <= _SEQUENCE_DIGITS_MAX
    )


def _lines_in(text: bytes) -> int:
    # NumPy counts a byte several times faster than bytes.count.
    ends = np.count_nonzero(np.frombuffer(text, np.uint8) == _NEWLINE)
    return int(ends) + (not text.endswith(b"\n") and bool(text))


def _is_json(text: bytes) -> bool:
    """Whether it is JSON to its end: msgspec tells the first fault that it meets, and that may come before the cut."""
    try:
        json.loads(text)
    except ValueError:
        return False
    return True
