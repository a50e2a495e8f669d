"""The recommender's own processor under the schedules of faults that users play with theirs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path

import pytest

from streamproc.testing import Faults, check_exactly_folded
from streamproc_consumers.recommender import Recommender
from streamproc_models.bundle import Bundle, load
from streamproc_models.training import TrainingSettings, train
from streamproc_producers.events import CartEvent, encode
from streamproc_producers.simulate import Shop, simulate

START = datetime(2026, 1, 1, tzinfo=UTC)
DAYS, EVENTS = 60, 4_000


@pytest.fixture(scope="module")
def shop_log() -> list[CartEvent]:
    """Sixty days of a small shop."""
    shop = Shop(users=40, items=60, rate=EVENTS / (DAYS * 86_400), seed=1)
    return list(islice(simulate(shop, START - timedelta(days=DAYS)), EVENTS))


@pytest.fixture(scope="module")
def bundle(shop_log: list[CartEvent], tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder: Path = tmp_path_factory.mktemp("bundle")
    train(shop_log, START, folder, items={}, settings=TrainingSettings(trees_max=10))
    return load(folder)


def test_every_users_features_equal_one_fold_under_every_schedule_of_faults(
    bundle: Bundle, shop_log: list[CartEvent]
) -> None:
    assert bundle.booster is not None
    broken = encode(shop_log[7]).replace(b"event_type", b"no_type")
    events = [(event.user_id, encode(event)) for event in shop_log[:200]]
    events.insert(100, (shop_log[7].user_id, broken))
    checked = check_exactly_folded(lambda: Recommender(bundle), events, faults=Faults.seeded(0, runs=20))
    assert (checked.schedules, checked.events_refused) == (20, 1)
    assert checked.faults["crash"] > 10
