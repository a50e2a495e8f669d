"""The envelope: its encoding, the rolling hash and the duplicate window."""

from __future__ import annotations

from hypothesis import given, strategies as st

from streamproc.record import Position
from streamproc.state import (
    DUPLICATE_WINDOW_EVENTS,
    StoredState,
    decode_stored,
    encode_stored,
    fingerprint,
    is_remembered,
    remember,
    roll,
)

ids = st.lists(st.binary(min_size=1, max_size=16), unique=True, max_size=150)


@given(
    st.text(min_size=1),
    st.integers(0, 10**129 - 1),
    st.integers(0, 2**63),
    st.integers(0, 2**64 - 1),
    st.binary(),
    st.binary(),
)
def test_an_envelope_is_read_back_as_it_was_written(
    key: str, sequence_number: int, count: int, ids_hash: int, window: bytes, state: bytes
) -> None:
    stored = StoredState(key, Position(3, sequence_number, 1), count, ids_hash, window, 2, state)
    assert decode_stored(encode_stored(stored)) == stored


@given(ids)
def test_the_window_remembers_exactly_the_last_ids(event_ids: list[bytes]) -> None:
    window = b""
    for number, event_id in enumerate(event_ids):
        window = remember(window, fingerprint(event_id), Position(0, number))
    recent = event_ids[-DUPLICATE_WINDOW_EVENTS:]
    assert [event_id for event_id in event_ids if is_remembered(window, fingerprint(event_id))] == recent
    assert len(window) <= DUPLICATE_WINDOW_EVENTS * 12


def test_bytes_that_straddle_two_entries_of_the_window_are_not_an_id() -> None:
    window = remember(remember(b"", b"A" * 8, Position(0, 1)), b"B" * 8, Position(0, 2))
    assert not is_remembered(window, window[4:12])
    assert is_remembered(window, b"B" * 8)


@given(ids)
def test_the_rolling_hash_tells_which_events_were_folded_and_in_which_order(event_ids: list[bytes]) -> None:
    def rolled(sequence: list[bytes]) -> int:
        value = 0
        for event_id in sequence:
            value = roll(value, fingerprint(event_id))
        return value

    assert 0 <= rolled(event_ids) < 2**64
    if len(event_ids) > 1:
        assert rolled(event_ids) != rolled(event_ids[:-1])
        assert rolled(event_ids) != rolled(event_ids[::-1])
        assert rolled(event_ids) != rolled([*event_ids, event_ids[-1]])
