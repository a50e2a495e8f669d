"""What is trending: decayed counts that add up over shards, and do not depend on how the log is cut."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given, settings, strategies as st

from streamproc_models.features.trending import (
    HALF_LIFE_SECONDS,
    ITEMS_IN_SNAPSHOT,
    ITEMS_KEPT,
    Trending,
    TrendingItems,
    TrendingSnapshot,
)
from streamproc_producers.events import CartEvent, EventType

DAY = 86_400.0
START = 1_600_000_000.0


def event(item_id: str, at: float, kind: EventType = EventType.ADD_TO_CART) -> CartEvent:
    return CartEvent(
        event_id=uuid.UUID(int=0),
        event_type=kind,
        user_id="user",
        item_id=item_id,
        ts=datetime.fromtimestamp(at, UTC),
    )


def folded(events: list[CartEvent]) -> TrendingItems:
    trending = Trending()
    partial = trending.new_partial()
    for each in events:
        partial = trending.fold(partial, each)
    return partial


def snapshot(*partials: TrendingItems) -> TrendingSnapshot:
    return msgspec.json.decode(Trending().merge(partials), type=TrendingSnapshot)


def test_a_count_halves_in_a_half_life_and_a_view_weighs_less() -> None:
    found = snapshot(
        folded(
            [
                event("old", START),
                event("seen", START + HALF_LIFE_SECONDS, EventType.VIEW),
                event("new", START + HALF_LIFE_SECONDS),
                event("removed", START + HALF_LIFE_SECONDS, EventType.REMOVE_FROM_CART),
            ]
        )
    )
    assert found.item_ids == ["new", "old", "seen"]
    assert found.counts == pytest.approx([1.0, 0.5, 0.25])
    assert found.as_of == START + HALF_LIFE_SECONDS


events = st.lists(
    st.builds(event, st.sampled_from("abcdef"), st.floats(START, START + 100 * DAY), st.sampled_from(EventType))
)


@settings(deadline=None)
@given(events, st.integers(0, 20))
def test_a_partial_that_was_stored_and_read_in_the_middle_goes_on_bit_for_bit(log: list[CartEvent], cut: int) -> None:
    trending = Trending()
    whole = folded(log)
    part = trending.decode(trending.encode(folded(log[:cut])))
    for each in log[cut:]:
        part = trending.fold(part, each)
    assert trending.encode(part) == trending.encode(whole)


@settings(deadline=None)
@given(events, events)
def test_the_counts_of_shards_add_up_whatever_their_order(left: list[CartEvent], right: list[CartEvent]) -> None:
    merged, swapped = snapshot(folded(left), folded(right)), snapshot(folded(right), folded(left))
    assert merged == swapped
    counts = dict(zip(merged.item_ids, merged.counts, strict=True))
    together = snapshot(folded(left + right))
    assert counts == pytest.approx(dict(zip(together.item_ids, together.counts, strict=True)))


def test_a_partial_is_bounded_and_keeps_what_is_counted_most() -> None:
    log = [event("hit", START + n) for n in range(50)] + [event(f"item-{n}", START) for n in range(5 * ITEMS_KEPT)]
    partial = folded(log)
    assert len(partial.counts) <= 2 * ITEMS_KEPT
    assert len(Trending().encode(partial)) < 64 * 1024
    found = snapshot(partial)
    assert (found.item_ids[0], len(found.item_ids)) == ("hit", ITEMS_IN_SNAPSHOT)
