"""Positions: their order, and the text that sorts as they do."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from streamproc.errors import SettingsError
from streamproc.record import Position, shard_id_of, shard_number_of

positions = st.builds(
    Position,
    st.integers(0, 10**6),
    st.integers(0, 10**129 - 1),  # "SequenceNumber" in the Kinesis API Reference: up to 129 digits
    st.integers(0, 10**6),
)


@given(positions, positions)
def test_the_text_of_positions_sorts_as_the_positions_do(one: Position, other: Position) -> None:
    assert (one < other) == (one.sortable() < other.sortable())
    assert (one == other) == (one.sortable() == other.sortable())


@given(positions)
def test_a_position_is_read_back_from_its_text(position: Position) -> None:
    assert Position.parse(position.sortable()) == position


def test_a_text_that_is_no_position_is_refused() -> None:
    with pytest.raises(ValueError, match="is not a position"):
        Position.parse("nonsense")


def test_a_child_shard_comes_after_its_parent_whatever_the_sequence_numbers_say() -> None:
    assert Position(0, 10**56, 3) < Position(2, 10**56, 0)


@given(st.integers(0, 10**12 - 1))
def test_a_shard_id_and_its_number_tell_each_other(number: int) -> None:
    assert shard_number_of(shard_id_of(number)) == number


@pytest.mark.parametrize("shard_id", ["shard-1", "shardId-", "shardId-x", "1"])
def test_a_shard_id_of_another_form_is_refused_since_order_rests_on_it(shard_id: str) -> None:
    with pytest.raises(SettingsError, match="does not have the form"):
        shard_number_of(shard_id)
