"""The decisions and the texts of the operator's commands."""

from __future__ import annotations

import dataclasses
import io
from typing import Any

import click
import msgspec
import pytest
from hypothesis import given, strategies as st

from streamproc.errors import SettingsError
from streamproc.lease import SHARD_END, Lease
from streamproc.operations.common import checkpoint_text, confirm, parts
from streamproc.operations.state import Standing, standing
from streamproc.readable import bytes_text, data_text, plain, readable, state_fields
from streamproc.record import Position
from streamproc.state import StoredState

positions = st.builds(Position, st.integers(0, 3), st.integers(0, 3), st.integers(0, 1))
states = st.builds(
    StoredState,
    key=st.just("key"),
    position=positions,
    events_folded=st.integers(0, 1),
    ids_hash=st.just(0),
    window=st.just(b""),
    fold_version=st.just(1),
    state=st.just(b""),
)


@given(states, states)
def test_a_projected_state_stands_as_its_position_does_and_at_the_same_one_its_contents_decide(
    durable: StoredState, projected: StoredState
) -> None:
    found = standing(durable, projected)
    assert (found is Standing.AHEAD) == (projected.position > durable.position)
    assert (found is Standing.BEHIND) == (projected.position < durable.position)
    assert (found is Standing.EQUAL) == (projected == durable)
    assert found is not Standing.MISSING


@given(states)
def test_a_state_without_a_projection_is_missing(durable: StoredState) -> None:
    assert standing(durable, None) is Standing.MISSING


def test_equal_and_ahead_alone_need_nothing_done() -> None:
    assert [each for each in Standing if each.good] == [Standing.EQUAL, Standing.AHEAD]


@given(st.lists(st.integers()), st.integers(1, 5))
def test_parts_are_the_items_in_order_full_but_for_the_last(items: list[int], size: int) -> None:
    found = list(parts(items, size))
    assert [item for part in found for item in part] == items
    assert all(len(part) == size for part in found[:-1])
    assert all(found)


@given(st.text())
def test_plain_text_can_be_printed_and_printable_text_stays_as_it_is(text: str) -> None:
    assert plain(text).isprintable()
    assert not text.isprintable() or plain(text) == text


@given(st.binary())
def test_data_never_steers_the_terminal(data: bytes) -> None:
    assert all(line.isprintable() for line in data_text(data).split("\n"))


def test_bytes_are_shown_by_their_count_and_their_beginning() -> None:
    assert bytes_text(b"") == "<0 bytes>"
    assert bytes_text(b"\x00\xff") == "<2 bytes: 00 ff>"
    assert bytes_text(bytes(17)) == f"<17 bytes: {'00 ' * 16}...>"
    assert data_text(b"\xff\xfe").startswith("<2 bytes: ff fe>")


class Inner(msgspec.Struct, array_like=True):
    count: int
    tiles: bytearray


@dataclasses.dataclass
class Plain:
    name: str
    anything: object


def test_a_state_is_shown_field_by_field_whatever_holds_it() -> None:
    assert state_fields(Inner(2, bytearray(b"\x01"))) == {"count": "2", "tiles": '"<1 bytes: 01>"'}
    assert state_fields(Plain("é", {1: [b"", None]})) == {"name": '"é"', "anything": '{"1": ["<0 bytes>", null]}'}
    assert state_fields({"a": Inner(1, bytearray())}) == {"a": '[1, "<0 bytes>"]'}
    assert state_fields(7) == {"value": "7"}


@given(
    st.recursive(st.none() | st.floats() | st.text() | st.binary(), lambda inner: st.lists(inner) | st.tuples(inner))
)
def test_every_value_is_readable(value: Any) -> None:
    assert readable(value).isprintable()


def test_a_value_that_msgspec_does_not_know_is_shown_as_python_shows_it() -> None:
    assert "object object" in readable([object()])
    assert "object object" in readable({object(): 1})


def test_a_checkpoint_is_a_sequence_number_with_its_sub_sequence_number_or_a_sentinel() -> None:
    assert checkpoint_text(Lease(shard_id="s", checkpoint="123", checkpoint_sub_sequence_number=4)) == "123:4"
    assert checkpoint_text(Lease(shard_id="s", checkpoint=SHARD_END)) == SHARD_END
    assert checkpoint_text(Lease(shard_id="s", checkpoint="LATEST", latest_since=0.0)).startswith("LATEST since 1970")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_is_asked_and_a_no_aborts(monkeypatch: pytest.MonkeyPatch) -> None:
    for unattended in (False, True):
        monkeypatch.setattr("sys.stdin", Terminal("y\n"))
        confirm("Erase?", yes=False, unattended=unattended)
        monkeypatch.setattr("sys.stdin", Terminal("\n"))
        with pytest.raises(click.Abort):
            confirm("Erase?", yes=False, unattended=unattended)


def test_where_nobody_can_be_asked_only_what_is_harmless_goes_on_without_a_yes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    confirm("Drop?", yes=False, unattended=True)
    confirm("Erase?", yes=True, unattended=False)
    with pytest.raises(SettingsError, match="nothing was done"):
        confirm("Erase?", yes=False, unattended=False)
