from __future__ import annotations

import random
import uuid
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from streamproc_models.features import UserState, decode_state, encode_state, fold, new_state
from streamproc_models.features.columns import gather
from streamproc_models.features.fold import DAY, FIVE_MINUTES, HOUR
from streamproc_models.features.schema import FEATURES
from streamproc_models.features.state import ADD, DECAYED, HALF_LIVES, ITEM_DTYPE, ITEMS_MAX, PURCHASE
from streamproc_producers.events import CartEvent, EventType, utc

START = datetime(2011, 11, 1, tzinfo=UTC)


def event(
    event_type: EventType,
    item_id: str = "a",
    at: float = 0.0,
    order_id: str | None = None,
    quantity: int | None = None,
    price: float | None = None,
) -> CartEvent:
    """An event so many seconds after the start."""
    return CartEvent(
        event_id=uuid.UUID(int=1),
        event_type=event_type,
        user_id="u",
        item_id=item_id,
        ts=START + timedelta(seconds=at),
        order_id=order_id,
        quantity=quantity,
        price=price,
    )


def state_of(*events: CartEvent) -> UserState:
    state = new_state()
    for one in events:
        state = fold(state, one)
    return state


def record(state: UserState, item_id: str, field: str) -> float:
    return float(np.frombuffer(bytes(state.items), ITEM_DTYPE)[field][state.item_ids.index(item_id)])


def feature(state: UserState, name: str) -> float:
    return float(gather([state], {}).user_features[0, [feature.name for feature in FEATURES].index(name)])


VIEW, CART, UNCART, BUY = EventType.VIEW, EventType.ADD_TO_CART, EventType.REMOVE_FROM_CART, EventType.PURCHASE

any_event = st.builds(
    event,
    st.sampled_from(EventType),
    st.one_of(st.sampled_from("abc"), st.text(min_size=1, max_size=256)),
    st.one_of(st.floats(-3 * DAY, 40 * DAY), st.sampled_from([0.0, 60.0, HOUR])),
    st.one_of(st.none(), st.sampled_from(["o1", "o2"]), st.text(max_size=2_000)),
    st.one_of(st.none(), st.integers(1, 10**12)),
    st.one_of(st.none(), st.floats(0, 1e300)),
)


@given(st.lists(any_event, max_size=40))
def test_a_log_gives_the_same_state_with_storing_between_its_events(log: list[CartEvent]) -> None:
    live, stored = new_state(), encode_state(new_state())
    for one in log:
        live = fold(live, one)
        stored = encode_state(fold(decode_state(stored), one))
    assert encode_state(live) == stored


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32), st.integers(200, 500), st.integers(1, 256))
def test_a_state_never_exceeds_sixteen_kilobytes(seed: int, count: int, id_characters: int) -> None:
    rng = random.Random(seed)
    state = new_state()
    for number in range(count):
        # Four bytes a character are the most that UTF-8 has.
        item_id = f"{rng.randrange(1_000):04d}" + "\U0001f6d2" * max(id_characters - 4, 0)
        at = number * rng.choice([1, 600, 7_200])
        fold(state, event(rng.choice(list(EventType)), item_id, at, f"order {number}" * 50, 9, 1e300))
        assert len(state.item_ids) <= ITEMS_MAX
    assert len(encode_state(state)) <= 16 * 1024


@given(st.lists(st.tuples(st.sampled_from([CART, BUY]), st.floats(0, 45 * DAY)), min_size=1, max_size=60))
def test_a_sawtooth_window_reaches_back_to_a_whole_tile(log: list[tuple[EventType, float]]) -> None:
    log = sorted(log, key=lambda one: one[1])
    state = state_of(*(event(event_type, at=at) for event_type, at in log))
    start = START.timestamp()
    now = int(start + log[-1][1])
    for name, event_type, window, tile in (
        ("user_carted_1h", CART, HOUR, FIVE_MINUTES),
        ("user_purchased_1h", BUY, HOUR, FIVE_MINUTES),
        ("user_purchased_24h", BUY, DAY, HOUR),
        ("user_purchased_7d", BUY, 7 * DAY, DAY),
        ("user_purchased_30d", BUY, 30 * DAY, DAY),
    ):
        tail = (now // tile - window // tile) * tile
        expected = sum(one is event_type and start + at >= tail for one, at in log)
        assert feature(state, name) == expected


@given(st.permutations([0.0, 100.0, 5_000.0, 90_000.0, 2_000_000.0]))
def test_windows_and_decayed_counters_do_not_depend_on_the_order_of_arrival(times: list[float]) -> None:
    state = state_of(*(event(CART, at=at) for at in times))
    in_time = state_of(*(event(CART, at=at) for at in sorted(times)))
    assert (state.last_at, state.tiles_1d) == (in_time.last_at, in_time.tiles_1d)
    assert feature(state, "user_carted_1h") == feature(in_time, "user_carted_1h")
    assert DECAYED.unpack(state.decayed) == pytest.approx(DECAYED.unpack(in_time.decayed), rel=1e-5)


def test_a_counter_halves_every_half_life() -> None:
    state = state_of(event(CART), event(VIEW, at=HALF_LIVES[1]))
    assert DECAYED.unpack(state.decayed)[ADD * len(HALF_LIVES) + 1] == 0.5


def test_late_events_are_counted_and_leave_the_clock_alone() -> None:
    state = state_of(event(VIEW, at=100), event(VIEW, "b", at=40), event(VIEW, at=100))
    assert state.late_events == 1
    assert state.last_at == START.timestamp() + 100


def test_an_event_older_than_every_window_counts_for_its_item_alone() -> None:
    state = state_of(event(VIEW, at=40 * DAY), event(VIEW, at=0))
    assert feature(state, "user_viewed_24h") == 1
    assert record(state, "a", "views") == 2


def test_removing_undoes_the_cart_and_not_the_interest() -> None:
    added = state_of(event(CART, quantity=3))
    interest = record(added, "a", "interest")
    removed = fold(added, event(UNCART, at=5, quantity=2))
    assert removed.cart() == {"a": 1}
    assert fold(removed, event(UNCART, at=5)).cart() == {}
    assert record(removed, "a", "interest") == pytest.approx(interest, rel=1e-4)


def test_removing_what_is_not_in_the_cart_changes_no_cart() -> None:
    assert state_of(event(UNCART, quantity=5), event(CART, at=1)).cart() == {"a": 1}


def test_a_purchase_empties_its_item_from_the_cart() -> None:
    state = state_of(event(CART, "a"), event(CART, "b", quantity=2), event(BUY, "a", order_id="o"))
    assert state.cart() == {"b": 2}


def test_a_late_addition_does_not_put_a_bought_item_back_into_the_cart() -> None:
    state = state_of(event(BUY, at=100, order_id="o"), event(CART, at=50))
    assert state.cart() == {}
    assert record(state, "a", "adds") == 1


def test_orders_are_told_by_their_ids() -> None:
    state = state_of(
        event(BUY, "a", 0, "o1", price=2.0),
        event(BUY, "b", 0, "o1", price=4.0),
        event(BUY, "a", DAY, "o2"),
        event(BUY, "c", 3 * DAY, "o3"),
    )
    assert (state.orders, state.order_lines) == (3, 4)
    assert feature(state, "user_order_gap_days") == 1.5
    assert (record(state, "a", "orders"), record(state, "a", "first_order"), record(state, "a", "last_order")) == (
        2,
        1,
        2,
    )
    assert (state.price_sum, state.priced_lines) == (6.0, 2)


def test_two_lines_of_one_item_in_an_order_are_one_order_with_it() -> None:
    state = state_of(event(BUY, "a", 0, "o1"), event(BUY, "b", 0, "o1"), event(BUY, "a", 0, "o1"))
    assert (record(state, "a", "orders"), record(state, "a", "purchases")) == (1, 2)


def test_without_order_ids_purchases_half_an_hour_apart_are_two_orders() -> None:
    assert state_of(event(BUY), event(BUY, "b", 1_800)).orders == 1
    assert state_of(event(BUY), event(BUY, "b", 1_801)).orders == 2


def test_a_late_purchase_of_an_earlier_order_is_a_line_and_not_an_order() -> None:
    state = state_of(event(BUY, at=0, order_id="o1"), event(BUY, at=DAY, order_id="o2"), event(BUY, "b", 0, "o1"))
    assert (state.orders, state.order_lines) == (2, 3)


def test_a_full_history_keeps_the_cart_and_the_most_interesting_items() -> None:
    log = [event(BUY, "loyal", at, f"o{at}") for at in (0, 1, 2)]
    log += [event(CART, "carted", 3)]
    log += [event(VIEW, f"seen {number}", 4 + number) for number in range(200)]
    state = state_of(*log)
    assert {"loyal", "carted", "seen 199"} <= set(state.item_ids)
    assert "seen 0" not in state.item_ids
    assert len(state.items) == len(state.item_ids) * ITEM_DTYPE.itemsize


@pytest.mark.parametrize("seconds", [-1e9, 4.2e9, 1e10])
def test_times_outside_of_32_bits_are_clamped(seconds: float) -> None:
    far = event(BUY, order_id="o")
    state = fold(new_state(), CartEvent(**{f: getattr(far, f) for f in far.__struct_fields__} | {"ts": utc(seconds)}))
    assert 0 <= state.last_at < 2**32
    assert decode_state(encode_state(state)) == state
    assert DECAYED.unpack(state.decayed)[PURCHASE * len(HALF_LIVES)] == 1


def test_the_event_that_cuts_a_history_is_in_it() -> None:
    state = new_state()
    for number in range(3 * ITEMS_MAX):
        state = fold(state, event(EventType.VIEW, f"item-{number:05d}", at=number))
        assert state.item_ids[-1] == f"item-{number:05d}"
        assert len(state.items) == len(state.item_ids) * ITEM_DTYPE.itemsize
        assert state.id_bytes == sum(len(item_id) for item_id in state.item_ids)
