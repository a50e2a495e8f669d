"""A small shop whose customers have habits, so that a model can learn something in a second."""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from streamproc_models.bundle import Bundle, load
from streamproc_models.features import UserState, fold, new_state
from streamproc_models.items import Item
from streamproc_models.training import TrainingReport, TrainingSettings, train
from streamproc_producers.events import CartEvent, EventType

CUT = datetime(2011, 11, 1, tzinfo=UTC)
_ITEMS = 40


def _shop(start: datetime, end: datetime, seed: int) -> list[CartEvent]:
    rng = random.Random(seed)
    due = {user: start + timedelta(days=rng.uniform(0, 8)) for user in range(60)}
    events: list[CartEvent] = []
    order = 0
    while due:
        user = min(due, key=lambda some: due[some])
        at = due[user]
        if at >= end:
            break
        order += 1
        # Each user buys from twelve items of his own, and their neighbours come along.
        own = [(user * 7 + step * 3) % _ITEMS for step in range(12)]
        items = rng.sample(own, rng.randint(2, 4))
        if rng.random() < 0.5:
            items.append((items[0] + 1) % _ITEMS)
        bought = [f"i{item:02d}" for item in dict.fromkeys(items)]
        for event_type, order_id in ((EventType.ADD_TO_CART, None), (EventType.PURCHASE, f"o{order}")):
            events += [
                CartEvent(
                    event_id=uuid.UUID(int=rng.getrandbits(128)),
                    event_type=event_type,
                    user_id=f"u{user}",
                    item_id=item_id,
                    ts=at,
                    order_id=order_id,
                    quantity=1,
                    price=1.0 + int(item_id[1:]),
                )
                for item_id in bought
            ]
        due[user] = at + timedelta(days=rng.uniform(2, 12))
    return events


@pytest.fixture(scope="session")
def shop_log() -> list[CartEvent]:
    """Seventy days of the shop before the cut."""
    return _shop(CUT - timedelta(days=70), CUT, seed=1)


@pytest.fixture(scope="session")
def live_log() -> list[CartEvent]:
    """Twenty days of the shop from the cut on."""
    return _shop(CUT, CUT + timedelta(days=20), seed=2)


@pytest.fixture(scope="session")
def cut() -> datetime:
    return CUT


@pytest.fixture(scope="session")
def shop_items() -> dict[str, Item]:
    """Two levels of categories, and brands of which most items have none."""
    return {
        f"i{item:02d}": Item(f"Item {item}", f"Half {item % 2} > Eighth {item % 8}", "" if item % 3 else f"B{item % 5}")
        for item in range(_ITEMS)
    }


@pytest.fixture(scope="session")
def trained(
    shop_log: list[CartEvent], shop_items: dict[str, Item], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, TrainingReport]:
    """A bundle's folder, and the report of its training. Not to be written to."""
    out = tmp_path_factory.mktemp("bundle")
    return out, train(shop_log, CUT, out, items=shop_items, settings=TrainingSettings(trees_max=20))


@pytest.fixture(scope="session")
def bundle(trained: tuple[Path, TrainingReport]) -> Bundle:
    return load(trained[0])


@pytest.fixture(scope="session")
def folded() -> Callable[[list[CartEvent]], dict[str, UserState]]:
    """The states of all users of a log."""

    def states_of(events: list[CartEvent]) -> dict[str, UserState]:
        states: dict[str, UserState] = {}
        for event in events:
            states[event.user_id] = fold(states.get(event.user_id) or new_state(), event)
        return states

    return states_of
