"""Records from text: all lines of a piece at once, and line by line where one of them is no record.

msgspec decodes and checks a line of a list in a third of the time that Polars' NDJSON reader takes, and tells for a bad
one what is wrong with it; a bad line ends Polars' scan. So msgspec reads, Polars computes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Annotated, Any, Generic, NamedTuple, TypeVar

import msgspec
import numpy as np

from streamproc.landed import Landed
from streamproc.readable import plain
from streamproc_consumers.audit.codes import Names, array_of
from streamproc_consumers.audit.objects import Piece, of_object, pieces
from streamproc_consumers.audit.places import DIGITS_MAX, SHARD

Aware = Annotated[datetime, msgspec.Meta(tz=True)]
#: What is decoded to codes; see :mod:`streamproc_consumers.audit.codes`.
ItemId = TypeVar("ItemId")
Label = TypeVar("Label")
ShardId = TypeVar("ShardId")


class Item(msgspec.Struct, Generic[ItemId], gc=False):
    """What is read of a place in a list. Names and sources are for people: nothing is computed of them."""

    id: ItemId
    probability: float


class PositionRead(msgspec.Struct, Generic[ShardId], gc=False):
    """See :class:`streamproc_consumers.recommendation.LogPosition`. The text is checked by the :class:`Reader`."""

    shard_id: ShardId
    sequence_number: str
    sub_sequence_number: Annotated[int, msgspec.Meta(ge=0, le=999_999_999)]


class ListRead(msgspec.Struct, Generic[ItemId, Label, ShardId], kw_only=True, gc=False):
    """A :class:`streamproc_consumers.recommendation.Recommendation`, as it is read in bulk: the same fields."""

    recommendation_id: str
    user_id: str
    items: list[Item[ItemId]]
    model_version: Label
    arm: Label
    propensity: float = 1.0
    features_as_of: Aware
    position: PositionRead[ShardId]
    event_ts: Aware
    published_ts: Aware
    item_snapshot: str
    fallback: Label | None


class Done(msgspec.Struct, Generic[ItemId, Label], gc=False):
    """What is read of an event."""

    event_id: str
    event_type: Label
    user_id: str
    item_id: ItemId
    ts: Aware


class EventRead(msgspec.Struct, Generic[ItemId, Label, ShardId], gc=False):
    """A line of the archive; see :class:`streamproc_consumers.archive.ArchivedEvent`."""

    position: PositionRead[ShardId]
    arrived_at: Aware
    event: Done[ItemId, Label]


AList = ListRead[bytes, bytes, bytes]
AnEvent = EventRead[bytes, bytes, bytes]
T = TypeVar("T", bound=AList | AnEvent)


class Form(NamedTuple, Generic[T]):
    """What a place holds: one type of record, and the field that its line begins with."""

    #: Generic over what items, labels and shards are decoded to.
    type: Any
    first_field: str

    @property
    def separator(self) -> bytes:
        """Begins a record. No string of JSON has it inside: there the quotes are behind backslashes."""
        return b'{"' + self.first_field.encode() + b'":'

    def apart(self, text: bytes) -> bytes:
        """The text with a newline between all records."""
        return text.replace(b"}" + self.separator, b"}\n" + self.separator)


LISTS: Form[AList] = Form(ListRead, "recommendation_id")
EVENTS: Form[AnEvent] = Form(EventRead, "position")


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
    lines: np.ndarray
    bad: list[Bad]


TRUNCATED, FOREIGN, NOT_JSON, SCHEMA = "truncated_object", "foreign_object", "unreadable_line", "unknown_schema"
_NO_LINES = np.empty(0, np.uint32)
_MISSING = re.compile(r"missing required field `[^`]+`( - at `[^`]+`)?")


class Reader(Generic[T]):
    """Reads all objects of a place."""

    def __init__(self, form: Form[T], names: Names) -> None:
        self._form = form
        self._names = names
        #: Codes of what are ids of shards.
        self._shards: set[bytes] = set()

    def read(self, objects: Sequence[Landed]) -> Iterator[Read[T]]:
        """Piece by piece, in the order of the objects. A foreign object is passed over after its first piece."""
        line, foreign = 1, -1
        self._decoder: msgspec.json.Decoder[T] = msgspec.json.Decoder(self._form.type[self._names.types()])
        for piece in pieces(objects, self._form.separator):
            if self._names.outgrown:
                self._decoder = msgspec.json.Decoder(self._form.type[self._names.types()])
            if piece.is_first:
                line = 1
            elif piece.number == foreign:
                yield Read(piece._replace(text=b""), [], _NO_LINES, [])
                continue
            read, line = self._piece(piece, line)
            if read.bad and read.bad[0].kind == FOREIGN:
                foreign = piece.number
            yield read

    def _piece(self, piece: Piece, line: int) -> tuple[Read[T], int]:
        text = piece.text
        if piece.is_first and piece.is_last and not text and not piece.cut:
            return Read(piece, [], _NO_LINES, [Bad(TRUNCATED, piece.number, 0, "the object is empty")]), line
        if piece.cut is None and (read := self._at_once(piece, text, line)) is not None:
            return read, line + len(read.records)
        # Firehose puts nothing between records: where the sender did not, neither is there anything here.
        joined = self._form.apart(text)
        if len(joined) > len(text) and piece.cut is None and (read := self._at_once(piece, joined, line)) is not None:
            return read, line + len(read.records)
        return self._one_by_one(piece, joined, line), line + _lines_in(joined)

    def _at_once(self, piece: Piece, text: bytes, line: int) -> Read[T] | None:
        """All lines of the text; None where one is bad or empty."""
        try:
            records = self._decoder.decode_lines(text)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None
        if len(records) != _lines_in(text) or not self._are_positions([each.position for each in records]):
            return None
        return Read(piece, records, np.arange(line, line + len(records), dtype=np.uint32), [])

    def _one_by_one(self, piece: Piece, text: bytes, line: int) -> Read[T]:
        records: list[T] = []
        numbers: list[int] = []
        bad: list[Bad] = []
        lines = _split(text)
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
                if self._are_positions([record.position]):
                    records.append(record)
                    numbers.append(number)
                else:
                    bad.append(Bad(SCHEMA, piece.number, number, "no shard id or no sequence number - at `$.position`"))
        if piece.is_first and not records and self._form.first_field.encode() not in text[:65536] and text:
            why = f"no line of it has a {self._form.first_field}; it begins with {plain(repr(text[:40])[2:-1])}"
            return Read(piece, [], _NO_LINES, [Bad(FOREIGN, piece.number, 0, why)])
        if piece.cut is not None:
            bad.append(Bad(TRUNCATED, piece.number, 0, piece.cut))
        return Read(piece, records, np.array(numbers, np.uint32), bad)

    def _are_positions(self, positions: list[PositionRead[bytes]]) -> bool:
        """Whether the text of each is of the contract. As patterns of msgspec this is a third of the decoding."""
        if new := {each.shard_id for each in positions} - self._shards:
            texts = list(self._names.shards)
            if not all(SHARD.fullmatch(texts[number]) for number in array_of(list(new))):
                return False
            self._shards |= new
        numbers = [each.sequence_number for each in positions]
        lengths = {*map(len, numbers)}
        return "".join(numbers).encode().isdigit() and min(lengths) > 0 and max(lengths) <= DIGITS_MAX

    def _judged(self, piece: Piece, number: int, text: bytes, error: Exception, *, ends_here: bool) -> Bad:
        if isinstance(error, msgspec.ValidationError) and _is_json(text):
            found = _MISSING.search(str(error))
            return Bad(SCHEMA, piece.number, number, found[0] if found else str(error))
        if ends_here:
            return Bad(TRUNCATED, piece.number, number, "the last line is cut")
        return Bad(NOT_JSON, piece.number, number, f"not JSON: {plain(str(error))}")


def lines_of(form: Form[Any], number: int, landed: Landed, wanted: Sequence[int]) -> Iterator[bytes]:
    """These lines of one object again; the numbers ascend."""
    first, at = 1, 0
    for piece in of_object(number, landed, form.separator):
        text = form.apart(piece.text)
        behind = first + _lines_in(text)
        if at < len(wanted) and wanted[at] < behind:
            lines = _split(text)
            while at < len(wanted) and wanted[at] < behind:
                yield lines[wanted[at] - first]
                at += 1
        if at == len(wanted):
            return
        first = behind


def _split(text: bytes) -> list[bytes]:
    lines = text.split(b"\n")
    return lines[:-1] if not lines[-1] else lines


def _lines_in(text: bytes) -> int:
    # Records are long: to find one end after the other is faster than bytes.count and NumPy, which look at each byte.
    ends, at = 0, text.find(b"\n")
    while at >= 0:
        ends, at = ends + 1, text.find(b"\n", at + 1)
    return ends + (not text.endswith(b"\n") and bool(text))


def _is_json(text: bytes) -> bool:
    """Whether it is JSON to its end: msgspec tells the first fault that it meets, and that may come before the cut."""
    try:
        json.loads(text)
    except ValueError:
        return False
    return True
