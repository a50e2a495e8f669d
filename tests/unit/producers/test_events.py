"""The contract on the wire."""

import json
import re
import uuid
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given, strategies as st

from streamproc.errors import DecodeError
from streamproc_producers.events import CartEvent, EventType, decode, encode, new_event_id, utc

WIRE: dict[str, Any] = {
    "event_id": "0190c0de-0000-7000-8000-000000000001",
    "event_type": "add_to_cart",
    "user_id": "u1",
    "item_id": "85123A",
    "ts": "2011-11-01T08:26:00Z",
    "quantity": 6,
    "price": 2.55,
}

texts = st.text(st.characters(codec="utf-8"), min_size=1, max_size=256)
events = st.builds(
    CartEvent,
    event_id=st.uuids(),
    event_type=st.sampled_from(EventType),
    user_id=texts,
    item_id=texts,
    ts=st.datetimes(min_value=datetime(1971, 1, 1), timezones=st.just(UTC)),  # Hypothesis wants it naive
    session_id=st.none() | texts,
    order_id=st.none() | texts,
    quantity=st.none() | st.integers(1, 1_000_000_000),
    price=st.none() | st.floats(0, 1e12),
)


def wire(**changes: Any) -> bytes:
    return json.dumps({name: value for name, value in {**WIRE, **changes}.items() if value is not ...}).encode()


@given(events)
def test_an_event_comes_back_as_it_was_sent(event: CartEvent) -> None:
    assert decode(encode(event)) == event


@given(events)
def test_an_event_is_one_line_of_json_without_absent_fields(event: CartEvent) -> None:
    data = encode(event)
    assert b"\n" not in data
    assert None not in json.loads(data).values()


@pytest.mark.parametrize("field", ["event_id", "event_type", "user_id", "item_id", "ts"])
def test_a_missing_field_is_named(field: str) -> None:
    with pytest.raises(DecodeError, match=field) as raised:
        decode(wire(**{field: ...}))
    assert raised.value.field == field


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("event_id", "not-a-uuid"),
        ("event_id", 7),
        ("event_type", "wish"),
        ("user_id", ""),
        ("user_id", "u" * 257),
        ("user_id", 17850),
        ("user_id", None),
        ("item_id", ""),
        ("item_id", ["85123A"]),
        ("ts", "2011-11-01T08:26:00"),  # no offset: nobody knows when that was
        ("ts", "yesterday"),
        ("ts", 1320135960),
        ("session_id", 1),
        ("order_id", 536365),
        ("quantity", 0),
        ("quantity", 2**70),
        ("quantity", -6),
        ("quantity", 1.5),
        ("quantity", "6"),
        ("price", -0.01),
        ("price", 1e300),
        ("price", "2.55"),
    ],
)
def test_a_wrong_field_is_named(field: str, value: Any) -> None:
    with pytest.raises(DecodeError) as raised:
        decode(wire(**{field: value}))
    assert raised.value.field == field


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"{", "not JSON"),
        (b"\x00\x01", "not JSON"),
        (b'{"user_id": "\xff"}', "not JSON"),
        (b"[]", "object"),
        (b"null", "object"),
        (wire() + b"{}", "not JSON"),
    ],
)
def test_a_record_that_is_no_event_at_all_says_so_without_a_field(data: bytes, reason: str) -> None:
    with pytest.raises(DecodeError, match=reason) as raised:
        decode(data)
    assert raised.value.field is None


@given(st.binary(max_size=100))
def test_whatever_the_bytes_are_the_only_error_is_a_decode_error(data: bytes) -> None:
    with pytest.raises(DecodeError):
        decode(data)


@given(
    st.dictionaries(texts.map("x-{}".format), st.none() | st.integers() | texts | st.lists(st.integers()), max_size=5)
)
def test_unknown_fields_are_ignored_whatever_they_hold(unknown: dict[str, Any]) -> None:
    assert decode(wire(**unknown)) == decode(wire())


def test_a_time_with_another_offset_is_the_same_instant() -> None:
    event = decode(wire(ts="2011-11-01T10:26:00+02:00"))
    assert event == decode(wire())
    assert event.at == datetime(2011, 11, 1, 8, 26, tzinfo=UTC).timestamp()
    assert event.ts.astimezone(timezone(timedelta(hours=2))).hour == 10


def test_a_new_event_id_is_a_uuid_of_version_7_with_the_time_in_it() -> None:
    before = datetime.now(UTC).timestamp()
    made = [new_event_id() for _ in range(1000)]
    after = datetime.now(UTC).timestamp()
    assert len(set(made)) == 1000
    assert {(found.version, found.variant) for found in made} == {(7, uuid.RFC_4122)}
    times = [(found.int >> 80) / 1000 for found in made]
    assert times == sorted(times)
    assert before - 0.002 <= times[0] <= times[-1] <= after
    assert re.fullmatch(r"[0-9a-f-]{36}", str(made[0]))


def test_utc_takes_seconds_since_the_epoch() -> None:
    assert utc(0.5) == datetime(1970, 1, 1, 0, 0, 0, 500000, tzinfo=UTC)
