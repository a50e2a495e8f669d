from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import Future
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from streamproc.errors import SettingsError
from streamproc.producer import Acknowledged
from streamproc_consumers.demo.load import Load
from streamproc_consumers.demo.wares import Wares, prepare, walked
from streamproc_consumers.demo.worker import scraped
from streamproc_consumers.live.catalogue import department
from streamproc_producers.events import CartEvent, EventType
from streamproc_producers.retail import COLUMNS

CUT = datetime(2011, 11, 1)  # as the command line gives it
NOW = datetime(2026, 3, 4, 5, 6, tzinfo=UTC)


def line(invoice: str, item: str, name: str, when: str, price: float, customer: str) -> str:
    return f"{invoice},{item},{name},1,{when},{price},{customer},United Kingdom"


@pytest.fixture
def wares(tmp_path: Path) -> Callable[..., Wares]:
    def of(*lines: str) -> Wares:
        data = tmp_path / "retail.csv"
        data.write_text("\n".join([",".join(COLUMNS), *lines, ""]))
        return prepare(data, CUT, tmp_path, NOW)

    return of


BEFORE = [
    line("1", "10001", "RED TEA MUG", "2011-10-03 09:00:00", 2.0, "17850"),
    line("1", "10002", "LUNCH BAG", "2011-10-03 09:00:00", 1.5, "17850"),
    line("2", "10002", "LUNCH BAG", "2011-10-04 09:00:00", 1.25, "13047"),
]


def test_the_history_ends_within_the_last_week_at_the_same_weekdays_and_hours(wares: Callable[..., Wares]) -> None:
    opened = wares(*BEFORE)
    assert timedelta(0) <= NOW - opened.cut < timedelta(weeks=1)
    events = [json.loads(written) for written in opened.history.read_text().splitlines()]
    first = datetime.fromisoformat(events[0]["ts"])
    was = datetime(2011, 10, 3, 9, tzinfo=UTC)
    assert (first.weekday(), first.hour) == (was.weekday(), was.hour)
    assert (first - was) % timedelta(weeks=1) == timedelta(0)
    assert [event["event_type"] for event in events] == ["add_to_cart"] * 2 + ["purchase"] * 2 + [
        "add_to_cart",
        "purchase",
    ]
    assert opened.items.read_text() == (
        f"item_id,name,category\n10001,RED TEA MUG,{department('RED TEA MUG')}\n"
        f"10002,LUNCH BAG,{department('LUNCH BAG')}\n"
    )


def test_the_shelf_begins_with_what_is_bought_most_at_its_last_price(wares: Callable[..., Wares]) -> None:
    products = wares(*BEFORE).catalogue.products
    assert [(each.id, each.price, each.group) for each in products] == [
        ("10002", 1.25, "Bags"),
        ("10001", 2.0, "Kitchen & table"),
    ]


def test_others_buy_what_the_shop_sells_and_are_not_those_whom_a_visitor_may_be(wares: Callable[..., Wares]) -> None:
    opened = wares(
        *BEFORE,
        line("3", "10002", "LUNCH BAG", "2011-11-02 09:00:00", 1.25, "15000"),
        line("3", "10003", "A NEW LAMP", "2011-11-02 09:00:00", 9.0, "15000"),
        line("4", "10002", "LUNCH BAG", "2011-11-03 09:00:00", 1.25, "17850"),
    )
    chosen = {shopper.id for shopper in opened.catalogue.shoppers}
    assert "17850" in chosen
    assert {event.user_id for event in opened.past} == chosen
    assert [(visit.user_id, [each.item_id for each in visit.lines]) for visit in opened.visits] == [
        ("15000", ["10002"])
    ]


def test_a_set_without_a_purchase_before_the_cut_is_refused(wares: Callable[..., Wares]) -> None:
    with pytest.raises(SettingsError, match="no purchase before 2011-11-01"):
        wares(line("3", "10002", "LUNCH BAG", "2011-11-02 09:00:00", 1.25, "15000"))


def test_a_visit_looks_adds_and_buys_with_one_order_and_ids_of_its_own(wares: Callable[..., Wares]) -> None:
    visit = wares(*BEFORE, line("3", "10002", "LUNCH BAG", "2011-11-02 09:00:00", 1.25, "15000")).visits[0]
    events = [*walked(visit, 5), *walked(visit, 5)]
    assert [event.event_type for event in events] == [EventType.VIEW, EventType.ADD_TO_CART, EventType.PURCHASE] * 2
    assert len({event.event_id for event in events}) == 6
    assert len({event.order_id for event in events if event.order_id}) == 2
    assert all(abs((datetime.now(UTC) - event.ts).total_seconds()) < 60 for event in events)


def test_the_load_goes_on_for_ever_and_visits_are_mixed(wares: Callable[..., Wares]) -> None:
    after = [line(str(n), "10002", "LUNCH BAG", "2011-11-02 09:00:00", 1.25, str(15000 + n)) for n in range(3, 9)]
    put: list[CartEvent] = []

    def noted(event: CartEvent) -> Future[Acknowledged]:
        put.append(event)
        return Future()

    load = Load(wares(*BEFORE, *after).visits, 1000.0, noted)
    events = [load.next_event() for _ in range(300)]
    assert len({event.user_id for event in events[:20]}) > 2
    by_visit: dict[str, list[EventType]] = {}
    for event in events:
        by_visit.setdefault(event.user_id, []).append(event.event_type)
    assert all(types[0] is EventType.VIEW for types in by_visit.values())
    assert put == []


def test_a_departments_first_word_decides_and_what_has_none_is_elsewhere() -> None:
    assert department("CHRISTMAS TEA MUG") == "Christmas"
    assert department("WHITE HANGING HEART T-LIGHT HOLDER") == "Lights & candles"
    assert department("") == department("REGENCY PARASOLETTE") == "More"


def test_a_scrape_gives_the_oldest_iterators_age_and_sums_over_shards() -> None:
    exposition = """
# TYPE streamproc_iterator_age_seconds gauge
streamproc_iterator_age_seconds{shard_id="a"} 0.1
streamproc_iterator_age_seconds{shard_id="b"} 1.5
# TYPE streamproc_leases_held gauge
streamproc_leases_held 2
# TYPE streamproc_events_folded_total counter
streamproc_events_folded_total{shard_id="a"} 3
streamproc_events_folded_total{shard_id="b"} 4
"""
    worker = scraped(7, exposition)
    assert (worker.pid, worker.iterator_age_ms, worker.leases, worker.events_folded) == (7, 1500.0, 2, 7)
    assert scraped(7, "").leases is None
