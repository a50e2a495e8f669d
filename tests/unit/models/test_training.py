from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import msgspec
import numpy as np
import pytest

from streamproc.errors import SettingsError
from streamproc_models.baskets import replay
from streamproc_models.bundle import Bundle, load
from streamproc_models.catalogue import UNKNOWN
from streamproc_models.errors import TrainingDataUnusable
from streamproc_models.evaluation import simulate
from streamproc_models.features import UserState, decode_state, encode_state
from streamproc_models.metrics import measure
from streamproc_models.training import TrainingReport, TrainingSettings, train
from streamproc_models.training.tables import catalogue_of
from streamproc_producers.events import CartEvent, EventType

StatesOf = Callable[[list[CartEvent]], dict[str, UserState]]


def test_equal_logs_give_equal_bytes(
    shop_log: list[CartEvent],
    names: dict[str, str],
    cut: datetime,
    trained: tuple[Path, TrainingReport],
    tmp_path: Path,
) -> None:
    train(shop_log, cut, tmp_path, names=names, settings=TrainingSettings(trees_max=20))
    for path in trained[0].iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes(), path.name


def test_events_from_the_cut_on_change_nothing(
    shop_log: list[CartEvent],
    live_log: list[CartEvent],
    names: dict[str, str],
    cut: datetime,
    trained: tuple[Path, TrainingReport],
    tmp_path: Path,
) -> None:
    report = train([*shop_log, *live_log], cut, tmp_path, names=names, settings=TrainingSettings(trees_max=20))
    assert report.model_version == trained[1].model_version


def test_the_model_beats_both_baselines_on_what_it_has_not_seen(
    shop_log: list[CartEvent], live_log: list[CartEvent], bundle: Bundle, trained: tuple[Path, TrainingReport]
) -> None:
    for judged in (*trained[1].validation.values(), simulate(bundle, live_log, replay(shop_log))):
        assert judged.model.hit_rate_at_10 > judged.popularity.hit_rate_at_10
        assert judged.model.recall_at_10 > judged.popularity.recall_at_10
        assert judged.model.ndcg_at_10 > judged.own_frequency.ndcg_at_10


def test_probabilities_are_calibrated(trained: tuple[Path, TrainingReport]) -> None:
    assert trained[1].calibration == pytest.approx(1, abs=0.2)


def test_too_few_baskets_give_a_bundle_that_ranks_by_popularity(
    shop_log: list[CartEvent], cut: datetime, tmp_path: Path
) -> None:
    report = train(shop_log[-40:], cut, tmp_path, names={})
    assert not report.has_model
    assert report.validation == {}
    assert load(tmp_path).booster is None


@pytest.mark.parametrize("event_type", [EventType.PURCHASE, EventType.VIEW])
def test_a_log_without_an_order_before_the_cut_is_refused(
    shop_log: list[CartEvent], tmp_path: Path, event_type: EventType
) -> None:
    event = msgspec.structs.replace(shop_log[-1], event_type=event_type)
    cut = event.ts + timedelta(days=-1 if event_type is EventType.PURCHASE else 1)
    with pytest.raises(TrainingDataUnusable, match="earlier log"):
        train([event], cut, tmp_path, names={})


def test_settings_that_leave_nothing_to_train_on_are_refused() -> None:
    with pytest.raises(SettingsError, match="nothing is left to train on"):
        TrainingSettings(episodes=1)
    with pytest.raises(SettingsError, match="tree_depth is 0"):
        TrainingSettings(tree_depth=0)


def test_a_basket_comes_with_the_state_before_its_first_event(shop_log: list[CartEvent], folded: StatesOf) -> None:
    baskets = replay(shop_log)
    last = baskets[-1]
    own = [event for event in shop_log if event.user_id == last.user_id]
    before = own[: -2 * len(last.prices)]
    assert last.state == encode_state(folded(before)[last.user_id])
    assert {event.item_id for event in own[len(before) :]} == set(last.prices)


def test_a_users_first_basket_has_no_state(shop_log: list[CartEvent]) -> None:
    seen: set[str] = set()
    for basket in replay(shop_log):
        assert (basket.state is None) == (basket.user_id not in seen)
        seen.add(basket.user_id)


def test_views_before_the_first_addition_are_in_the_state(shop_log: list[CartEvent]) -> None:
    added, bought = shop_log[0], next(event for event in shop_log if event.event_type is EventType.PURCHASE)
    seen = msgspec.structs.replace(added, event_type=EventType.VIEW, item_id="seen")
    state = replay([seen, added, bought])[0].state
    assert state is not None
    assert decode_state(state).item_ids == ["seen"]


def test_interleaved_lines_of_one_order_are_one_basket(shop_log: list[CartEvent]) -> None:
    added, bought = shop_log[0], next(event for event in shop_log if event.event_type is EventType.PURCHASE)
    second = [msgspec.structs.replace(event, item_id="second") for event in (added, bought)]
    baskets = replay([added, bought, *second])
    assert [list(basket.prices) for basket in baskets] == [[bought.item_id, "second"]]


def test_codes_go_by_popularity_and_neighbours_by_strength(shop_log: list[CartEvent], cut: datetime) -> None:
    catalogue = catalogue_of(replay(shop_log), {}, cut.timestamp())
    assert catalogue.features[:, 0].tolist() == list(range(len(catalogue)))
    assert np.all(np.diff(catalogue.links, axis=1) <= 0)
    assert np.all((catalogue.neighbours == UNKNOWN) == (catalogue.links == 0))
    assert np.all(catalogue.neighbours != np.arange(len(catalogue))[:, None])


def test_an_item_that_was_bought_together_is_a_neighbour(shop_log: list[CartEvent], cut: datetime) -> None:
    catalogue = catalogue_of(replay(shop_log), {}, cut.timestamp())
    code = catalogue.codes["i05"]
    neighbours = {catalogue.ids[other] for other in catalogue.neighbours[code] if other != UNKNOWN}
    assert {"i04", "i06"} <= neighbours


def test_metrics_follow_their_definitions() -> None:
    metrics = measure([["a", "b", "c"], ["x"]], [{"b", "z"}, {"y"}])
    assert metrics.hit_rate_at_10 == 0.5
    assert metrics.recall_at_10 == 0.25
    gain, ideal = 1 / np.log2(3), 1 + 1 / np.log2(3)
    assert metrics.ndcg_at_10 == pytest.approx(gain / ideal / 2)


def test_a_perfect_list_has_an_ndcg_of_one_whatever_the_size_of_the_basket() -> None:
    ten = [str(number) for number in range(10)]
    metrics = measure([ten, ten], [{*ten, "more", "and more"}, {"0"}])
    assert metrics.ndcg_at_10 == pytest.approx(1)
