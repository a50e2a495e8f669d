"""What the served demonstration begins with: a shop's history that ends today, and those who shop in it.

The data set ends in 2011. Every time is moved by the same whole weeks, so that the history before the cut ends within
the last week, at the same weekdays and hours, and nothing has to pretend that it is another year.
"""

from __future__ import annotations

import csv
from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from streamproc.errors import SettingsError
from streamproc_consumers.live.catalogue import Catalogue, Shopper, department, products_of
from streamproc_producers.events import CartEvent, EventType, new_event_id
from streamproc_producers.retail import RetailLog, item_names

SHOPPERS = 5
#: A shopper to choose has so many orders, and so many lines in all of them.
_ORDERS = range(3, 16)
_LINES = range(25, 220)
#: So many invoices after the cut are walked through again and again.
_VISITS_MAX = 3000
_WEEK = timedelta(weeks=1)


class Visit(msgspec.Struct, frozen=True):
    """An invoice: who bought what, at which price."""

    user_id: str
    lines: list[CartEvent]


class Wares(msgspec.Struct, frozen=True):
    """A shop, ready to be opened."""

    #: The history as lines of JSON, and the products' names and departments: what `streamproc train` takes.
    history: Path
    items: Path
    cut: datetime
    catalogue: Catalogue
    #: The histories of the shoppers whom a visitor may be, in order.
    past: list[CartEvent]
    #: What others did after the cut.
    visits: list[Visit]


def prepare(data: Path, cut: datetime, folder: Path, now: datetime) -> Wares:
    """Read the data set twice and write what training takes. Raises SettingsError where nothing is before the cut."""
    cut = cut.replace(tzinfo=UTC)
    shift = (now - cut) // _WEEK * _WEEK
    names = item_names(data)
    history, items = folder / "history.jsonl", folder / "items.csv"
    with items.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["item_id", "name", "category"])
        rows.writerows((item, name, department(name)) for item, name in names.items())
    lines: Counter[str] = Counter()
    orders: defaultdict[str, set[str | None]] = defaultdict(set)
    departments: defaultdict[str, Counter[str]] = defaultdict(Counter)
    department_of = {item: department(name) for item, name in names.items()}

    def written() -> Iterator[CartEvent]:
        encode = msgspec.json.Encoder().encode
        with history.open("wb") as file:
            for event in RetailLog(data, until=cut):
                file.write(encode(_moved(event, shift)) + b"\n")
                if event.event_type is EventType.PURCHASE:
                    lines[event.user_id] += 1
                    orders[event.user_id].add(event.order_id)
                    departments[event.user_id][department_of.get(event.item_id, "")] += 1
                yield event

    products = products_of(written(), names)
    if not products:
        raise SettingsError(f"{data} has no purchase before {cut:%Y-%m-%d}: give a later --cut")
    chosen = _chosen(lines, orders, departments)
    past = [_moved(event, shift) for event in RetailLog(data, until=cut) if event.user_id in chosen]
    sold = {product.id for product in products}
    visits = _visits(RetailLog(data, since=cut), sold, without={*chosen})
    return Wares(
        history=history,
        items=items,
        cut=cut + shift,
        catalogue=Catalogue(products, [Shopper(user, note) for user, note in chosen.items()]),
        past=past,
        # A set that ends at the cut: its last customers come again.
        visits=visits or _visits(RetailLog(data, since=cut - _WEEK), sold, without={*chosen}),
    )


def _moved(event: CartEvent, by: timedelta) -> CartEvent:
    return msgspec.structs.replace(event, ts=event.ts + by)


def _chosen(
    lines: Counter[str], orders: dict[str, set[str | None]], departments: dict[str, Counter[str]]
) -> dict[str, str]:
    """A few shoppers with a history, each of another taste, and a note of each."""
    fit = [user for user in sorted(lines) if lines[user] in _LINES and len(orders[user]) in _ORDERS]
    best: dict[str, tuple[float, str]] = {}
    for user in fit or sorted(lines, key=lambda user: -lines[user])[:SHOPPERS]:
        name, count = departments[user].most_common(1)[0]
        # Half of what they buy: a taste, and not one shelf alone.
        best[name] = max(best.get(name, (-1.0, "")), (-abs(count / lines[user] - 0.5), user))
    of_taste = sorted(((fits, user, name) for name, (fits, user) in best.items()), reverse=True)[:SHOPPERS]
    return {user: f"{len(orders[user])} orders, mostly {name.lower()}" for _, user, name in of_taste}


def _visits(log: RetailLog, sold: set[str], without: set[str]) -> list[Visit]:
    by_order: dict[str, list[CartEvent]] = {}
    for event in log:
        if event.event_type is not EventType.PURCHASE or event.user_id in without or event.item_id not in sold:
            continue
        order = str(event.order_id)
        if order not in by_order and len(by_order) == _VISITS_MAX:
            break
        by_order.setdefault(order, []).append(event)
    return [Visit(lines[0].user_id, lines) for lines in by_order.values()]


def walked(visit: Visit, lines_max: int) -> Iterator[CartEvent]:
    """A visit as it happens: look, add, and so on, then buy. Times and ids are those of the moment of asking."""
    order = f"order-{new_event_id()}"
    for line in visit.lines[:lines_max]:
        yield _now(line, EventType.VIEW, None)
        yield _now(line, EventType.ADD_TO_CART, None)
    for line in visit.lines[:lines_max]:
        yield _now(line, EventType.PURCHASE, order)


def _now(line: CartEvent, event_type: EventType, order: str | None) -> CartEvent:
    return msgspec.structs.replace(
        line,
        event_id=new_event_id(),
        event_type=event_type,
        ts=datetime.now(UTC),
        order_id=order,
        quantity=None if event_type is EventType.VIEW else line.quantity,
    )
