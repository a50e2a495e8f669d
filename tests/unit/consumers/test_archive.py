"""The archive keeps every event as it was sent, a line each, with its position."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, strategies as st

from streamproc.errors import DecodeError, SettingsError
from streamproc.processor import Received
from streamproc.record import Position, Record
from streamproc_consumers import archive
from streamproc_consumers.archive import Archive
from streamproc_producers.events import CartEvent, decode, encode

POSITION = Position(2, 49590338271490256608559692538361571095921575989136588898, 5)
REQUIRED = {
    "event_id": "00000000-0000-4000-8000-000000000001",
    "event_type": "view",
    "user_id": "ann",
    "item_id": "item-0",
    "ts": "2026-01-01T00:00:00Z",
}
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc"), inner, max_size=3),
    max_leaves=8,
)


def archived(*data: bytes) -> list[bytes]:
    processor = Archive()
    records = [Record(item, "ann", POSITION, 1_767_225_600.25) for item in data]
    outputs = processor.process([Received(processor.decode(record.data), record) for record in records])
    return [processor.encode(output) for output in outputs]


def test_there_is_one_line_an_event_in_log_order(make_event: Callable[..., CartEvent]) -> None:
    events = [make_event(number) for number in range(5)]
    lines = archived(*map(encode, events))
    assert [decode(json.dumps(json.loads(line)["event"]).encode()) for line in lines] == events


def test_position_and_arrival_stand_beside_the_event() -> None:
    line = json.loads(archived(json.dumps(REQUIRED).encode())[0])
    assert line == {
        "position": {
            "shard_id": "shardId-000000000002",
            "sequence_number": "49590338271490256608559692538361571095921575989136588898",
            "sub_sequence_number": 5,
        },
        "arrived_at": "2026-01-01T00:00:00.250000Z",
        "event": REQUIRED,
    }


def test_the_bytes_of_an_event_on_one_line_are_kept_as_they_are() -> None:
    data = json.dumps(REQUIRED).encode().replace(b"}", b', "price": 1.50, "new":  [ 1e3 ] }')
    assert archived(data)[0].endswith(b'"event":' + data + b"}")


def test_indented_json_becomes_one_line() -> None:
    event = REQUIRED | {"note": "two\nlines", "more": {"a": [1, 2]}}
    data = b"\n" + json.dumps(event, indent=4).replace("\n", "\r\n").encode() + b"\n"
    (line,) = archived(data)
    assert len(line.splitlines()) == 1
    assert json.loads(line)["event"] == event


def test_json_broken_by_carriage_returns_alone_becomes_one_line() -> None:
    data = json.dumps(REQUIRED, indent=1).replace("\n", "\r").encode()
    assert len(archived(data)[0].splitlines()) == 1


def test_what_is_archived_is_utf_8() -> None:
    data = json.dumps(REQUIRED).encode().replace(b"}", b', "note": "\xff"}')
    try:
        (line,) = archived(data)
    except DecodeError:
        return  # dead-lettered, which keeps it too
    line.decode()


@given(st.dictionaries(st.text("xyz", min_size=1), json_values, max_size=4), st.sampled_from([None, 0, 2]))
def test_unknown_fields_are_kept_however_the_event_is_written(more: dict[str, Any], indent: int | None) -> None:
    event = REQUIRED | more
    (line,) = archived(json.dumps(event, indent=indent, ensure_ascii=False).encode())
    assert b"\n" not in line
    assert json.loads(line)["event"] == event


def test_what_is_no_event_is_refused_by_field() -> None:
    with pytest.raises(DecodeError) as caught:
        Archive().decode(json.dumps(REQUIRED | {"ts": "yesterday"}).encode())
    assert caught.value.field == "ts"


def test_the_application_is_told_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMPROC_BUCKET", "bucket")
    monkeypatch.setenv("STREAMPROC_STREAM", "clicks")
    application = archive.app()
    assert (application.name, application.stream) == ("archive", "clicks")


def test_a_missing_bucket_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STREAMPROC_BUCKET", raising=False)
    with pytest.raises(SettingsError, match="STREAMPROC_BUCKET"):
        archive.app()
