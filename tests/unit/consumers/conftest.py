"""Small bundles of a simulated shop, and the events that the tests are told in."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path

import pytest

from streamproc_models.bundle import Bundle, load
from streamproc_models.items import Item
from streamproc_models.training import TrainingSettings, train
from streamproc_producers.events import CartEvent, EventType
from streamproc_producers.simulate import Shop, simulate

START = datetime(2026, 1, 1, tzinfo=UTC)
_DAYS, _EVENTS = 60, 4_000


@pytest.fixture(scope="session")
def shop_log() -> list[CartEvent]:
    """Sixty days of the shop before the start."""
    shop = Shop(users=40, items=60, rate=_EVENTS / (_DAYS * 86_400), seed=1)
    return list(islice(simulate(shop, START - timedelta(days=_DAYS)), _EVENTS))


@pytest.fixture(scope="session")
def bundle_folder(shop_log: list[CartEvent], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with a booster. Not to be written to."""
    folder = tmp_path_factory.mktemp("bundle")
    items = {"item-0": Item("The first", "Kitchen > Mugs > Large")}
    train(shop_log, START, folder, items=items, settings=TrainingSettings(trees_max=10))
    return folder


@pytest.fixture(scope="session")
def bundle(bundle_folder: Path) -> Bundle:
    loaded = load(bundle_folder)
    assert loaded.booster is not None
    return loaded


@pytest.fixture(scope="session")
def bundle_without_model(shop_log: list[CartEvent], tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle of an afternoon: too little to train a booster on."""
    folder = tmp_path_factory.mktemp("bundle_without_model")
    train(shop_log[:200], START, folder, items={})
    return load(folder)


@pytest.fixture(scope="session")
def make_event() -> Callable[..., CartEvent]:
    """An event of a user; its number is its id and its second."""

    def make(number: int, user: str = "ann", item: str = "item-0", kind: str = "view", **more: object) -> CartEvent:
        at = START + timedelta(seconds=number)
        return CartEvent(
            event_id=uuid.UUID(int=number),
            event_type=EventType(kind),
            user_id=user,
            item_id=item,
            ts=at,
            **more,  # type: ignore[arg-type]  # order_id and the like, as the test gives them
        )

    return make
