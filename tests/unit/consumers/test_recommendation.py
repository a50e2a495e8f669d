"""The id of a recommendation, and positions as people read them."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import msgspec
from hypothesis import given, strategies as st

from streamproc.record import Position
from streamproc_consumers.recommendation import LogPosition, Recommendation, RecommendedItem, recommendation_id

users = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
positions = st.builds(Position, st.integers(0, 10**4), st.integers(0, 10**56), st.integers(0, 10**4))
versions = st.text("0123456789abcdef", min_size=1)


@given(users, positions, versions)
def test_ids_are_equal_for_equal_user_position_and_model_version(user: str, position: Position, version: str) -> None:
    again = recommendation_id(str(user), Position(*position), version)
    assert recommendation_id(user, position, version) == again
    assert re.fullmatch("[0-9a-f]{32}", again)


@given(st.tuples(users, positions, versions), st.tuples(users, positions, versions))
def test_ids_differ_where_user_position_or_model_version_differs(
    one: tuple[str, Position, str], other: tuple[str, Position, str]
) -> None:
    assert (recommendation_id(*one) == recommendation_id(*other)) == (one == other)


@given(users, positions, versions)
def test_each_part_alone_changes_the_id(user: str, position: Position, version: str) -> None:
    shard, sequence, sub_sequence = position
    ids = {
        recommendation_id(*parts)
        for parts in (
            (user, position, version),
            (user + "\x00", position, version),
            (user, Position(shard + 1, sequence, sub_sequence), version),
            (user, Position(shard, sequence + 1, sub_sequence), version),
            (user, Position(shard, sequence, sub_sequence + 1), version),
            (user, position, version + "0"),
        )
    }
    assert len(ids) == 6


def test_the_id_is_the_same_in_every_release() -> None:
    # Readers of S3 join and drop repeats by it across deployments.
    position = Position(1, 49590338271490256608559692538361571095921575989136588898, 2)
    assert recommendation_id("u1", position, "0123456789ab") == "29d2f544c3f8023c7f049cbfe8a2f983"


def test_a_position_is_published_as_text_that_no_reader_rounds() -> None:
    position = LogPosition.of(Position(3, 49590338271490256608559692538361571095921575989136588898, 7))
    assert msgspec.to_builtins(position) == {
        "shard_id": "shardId-000000000003",
        "sequence_number": "49590338271490256608559692538361571095921575989136588898",
        "sub_sequence_number": 7,
    }


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_a_recommendation_is_one_line_of_json_whatever_the_items_are_called(name: str) -> None:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    recommendation = Recommendation(
        recommendation_id="id",
        user_id="ann",
        items=[RecommendedItem("i", name, 0.25, "covisit", 1)],
        model_version="m",
        arm="champion",
        features_as_of=at,
        position=LogPosition.of(Position(0, 1)),
        event_ts=at,
        published_ts=at,
        item_snapshot="bundle:m",
        fallback=None,
    )
    line = msgspec.json.encode(recommendation)
    assert len(line.splitlines()) == 1
    assert msgspec.json.decode(line, type=Recommendation) == recommendation
