"""The shop that never was."""

import itertools
from collections import Counter
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings, strategies as st

from streamproc.errors import SettingsError
from streamproc_producers import CartEvent, EventType, decode, encode, new_event_id
from streamproc_producers.simulate import Shop, simulate

START = datetime(2026, 1, 1, tzinfo=UTC)


def first(count: int, shop: Shop) -> list[CartEvent]:
    return list(itertools.islice(simulate(shop, START), count))


@pytest.fixture(scope="module")
def events() -> list[CartEvent]:
    return first(30_000, Shop(rate=100, seed=1))


def test_one_seed_gives_one_history_and_another_seed_another() -> None:
    assert first(500, Shop(seed=7)) == first(500, Shop(seed=7))
    assert first(500, Shop(seed=7)) != first(500, Shop(seed=8))


def test_other_ids_do_not_change_the_history() -> None:
    mine = list(itertools.islice(simulate(Shop(seed=7), START, new_event_id), 500))
    assert [(e.ts, e.user_id, e.item_id) for e in mine] == [
        (e.ts, e.user_id, e.item_id) for e in first(500, Shop(seed=7))
    ]


@given(st.integers(1, 50), st.integers(1, 50), st.floats(0.1, 50), st.integers())
@settings(max_examples=20, deadline=None)
def test_any_shop_gives_valid_events_in_order_of_time(users: int, items: int, rate: float, seed: int) -> None:
    events = first(200, Shop(users=users, items=items, rate=rate, seed=seed))
    times = [event.ts for event in events]
    assert times == sorted(times)
    assert times[0] >= START
    assert all(decode(encode(event)) == event for event in events)
    assert len({event.event_id for event in events}) == len(events)


def test_the_rate_holds_from_the_start(events: list[CartEvent]) -> None:
    for part in (events[:10_000], events[10_000:20_000], events[20_000:]):
        assert len(part) / (part[-1].at - part[0].at) == pytest.approx(100, rel=0.1)


def test_every_kind_of_event_happens_and_only_what_is_in_the_cart_is_bought_or_taken_out(
    events: list[CartEvent],
) -> None:
    carts: dict[str | None, set[str]] = {}
    for event in events:
        cart = carts.setdefault(event.session_id, set())
        if event.event_type is EventType.ADD_TO_CART:
            cart.add(event.item_id)
        elif event.event_type is not EventType.VIEW:
            assert event.item_id in cart
    assert set(Counter(event.event_type for event in events)) == set(EventType)


def test_few_items_and_few_users_make_most_of_the_traffic(events: list[CartEvent]) -> None:
    for counted in (Counter(e.item_id for e in events), Counter(e.user_id for e in events)):
        ten = sum(count for _, count in counted.most_common(10))
        assert ten > 0.2 * len(events)


@pytest.mark.parametrize("wrong", [{"users": 0}, {"items": -1}, {"rate": 0}])
def test_an_empty_shop_is_refused_by_name(wrong: dict[str, int]) -> None:
    with pytest.raises(SettingsError, match=next(iter(wrong))):
        Shop(**wrong)
