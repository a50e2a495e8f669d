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
from streamproc_models.items import Item
from streamproc_models.metrics import measure
from streamproc_models.training import Objective, TrainingReport, TrainingSettings, train
from streamproc_models.training.episodes import episodes_of
from streamproc_models.training.examples import examples
from streamproc_models.training.leakage import build_episodes
from streamproc_models.training.tables import catalogue_of
from streamproc_producers.events import CartEvent, EventType

StatesOf = Callable[[list[CartEvent]], dict[str, UserState]]


def test_equal_logs_give_equal_bytes(
    shop_log: list[CartEvent],
    shop_items: dict[str, Item],
    cut: datetime,
    trained: tuple[Path, TrainingReport],
    tmp_path: Path,
) -> None:
    train(shop_log, cut, tmp_path, items=shop_items, settings=TrainingSettings(trees_max=20))
    files = [path.relative_to(trained[0]) for path in trained[0].rglob("*") if path.is_file()]
    assert len(files) == 5
    for path in files:
        assert (tmp_path / path).read_bytes() == (trained[0] / path).read_bytes(), path


def test_events_from_the_cut_on_change_nothing(
    shop_log: list[CartEvent],
    live_log: list[CartEvent],
    shop_items: dict[str, Item],
    cut: datetime,
    trained: tuple[Path, TrainingReport],
    tmp_path: Path,
) -> None:
    report = train([*shop_log, *live_log], cut, tmp_path, items=shop_items, settings=TrainingSettings(trees_max=20))
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
    report = train(shop_log[-40:], cut, tmp_path, items={})
    assert not report.has_model
    assert report.validation == {}
    assert load(tmp_path).booster is None


def test_a_log_without_an_event_before_the_cut_is_refused(shop_log: list[CartEvent], tmp_path: Path) -> None:
    event = shop_log[-1]
    with pytest.raises(TrainingDataUnusable, match="earlier log"):
        train([event], event.ts - timedelta(days=1), tmp_path, items={})


def test_a_log_of_removals_alone_is_refused(shop_log: list[CartEvent], tmp_path: Path) -> None:
    event = msgspec.structs.replace(shop_log[-1], event_type=EventType.REMOVE_FROM_CART)
    with pytest.raises(TrainingDataUnusable, match="nothing can be learned"):
        train([event], event.ts + timedelta(days=1), tmp_path, items={})


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


def test_codes_go_by_popularity_and_links_by_strength(shop_log: list[CartEvent], cut: datetime) -> None:
    catalogue = catalogue_of(replay(shop_log), {}, cut.timestamp(), TrainingSettings())
    assert catalogue.features[:, 0].tolist() == list(range(len(catalogue)))
    tables = catalogue.generators[0].arrays()
    assert np.all(np.diff(tables["links"], axis=1) <= 0)
    assert np.all((tables["neighbours"] == UNKNOWN) == (tables["links"] == 0))
    assert np.all(tables["neighbours"] != np.arange(len(catalogue))[:, None])


def test_an_item_that_was_bought_together_is_a_neighbour(shop_log: list[CartEvent], cut: datetime) -> None:
    catalogue = catalogue_of(replay(shop_log), {}, cut.timestamp(), TrainingSettings())
    code = catalogue.codes["i05"]
    neighbours = {catalogue.ids[other] for other in catalogue.generators[0].arrays()["neighbours"][code]}
    assert {"i04", "i06"} <= neighbours


def test_items_in_too_few_baskets_are_not_in_the_catalogue(shop_log: list[CartEvent], cut: datetime) -> None:
    rare = msgspec.structs.replace(shop_log[-1], item_id="rare")
    baskets = replay([*shop_log, rare])
    assert "rare" in catalogue_of(baskets, {}, cut.timestamp(), TrainingSettings()).codes
    few = catalogue_of(baskets, {}, cut.timestamp(), TrainingSettings(item_baskets_min=2))
    assert "rare" not in few.codes
    assert len(few.features) == len(few) == len(few.generators[0].arrays()["links"])


def test_a_generator_that_there_is_not_is_refused_by_name(shop_log: list[CartEvent], cut: datetime) -> None:
    with pytest.raises(SettingsError, match="generator 'magic' is not known: choose among covisit"):
        catalogue_of(replay(shop_log), {}, cut.timestamp(), TrainingSettings(generators=("magic",)))


def test_what_a_model_learns_from_has_the_names_that_it_will_rank_with(
    shop_log: list[CartEvent], cut: datetime
) -> None:
    items = {f"i{item:02d}": Item(f"Lamp{item // 3}") for item in range(30)}
    settings = TrainingSettings(episodes=2, generators=("text",))
    episodes = episodes_of(
        shop_log, replay(shop_log), cut.timestamp(), settings, lambda *_: None, items=items, orders=True
    )
    assert len(episodes) == 2
    for episode in episodes:
        assert np.any(episode.catalogue.generators[0].arrays()["links"] > 0)


def test_in_a_log_without_purchases_each_event_is_a_basket(shop_log: list[CartEvent]) -> None:
    views = [msgspec.structs.replace(event, event_type=EventType.VIEW) for event in shop_log[:50]]
    baskets = replay(views, orders=False)
    assert [list(basket.prices) for basket in baskets] == [[view.item_id] for view in views]
    seen: set[str] = set()
    for basket in baskets:
        assert (basket.state is None) == (basket.user_id not in seen)
        seen.add(basket.user_id)


def test_a_ranking_objective_comes_with_probabilities_that_fit(
    shop_log: list[CartEvent], cut: datetime, tmp_path: Path
) -> None:
    ranked = TrainingSettings(trees_max=20, objective=Objective.NDCG)
    report = train(shop_log, cut, tmp_path, items={}, settings=ranked)
    assert report.calibration == pytest.approx(1, abs=0.05)
    bundle = load(tmp_path)
    assert bundle.calibration is not None
    assert bundle.calibration[0] > 0


def test_baskets_that_weigh_by_their_size_come_with_probabilities_that_fit(
    shop_log: list[CartEvent], cut: datetime, tmp_path: Path
) -> None:
    settings = TrainingSettings(trees_max=20, size_power=0.5)
    report = train(shop_log, cut, tmp_path, items={}, settings=settings)
    assert report.calibration == pytest.approx(1, abs=0.05)
    bundle = load(tmp_path)
    assert bundle.calibration is not None
    assert bundle.calibration[0] == pytest.approx(1, abs=0.3)


def test_of_a_row_the_size_of_its_basket_is_known(shop_log: list[CartEvent], bundle: Bundle) -> None:
    baskets = [basket for basket in replay(shop_log) if basket.state is not None][-50:]
    rows = examples(baskets, bundle.catalogue, negatives_max=5, random=np.random.default_rng(1))
    assert rows.sizes.tolist() == [len(baskets[group].prices) for group in rows.groups.tolist()]


@pytest.mark.parametrize(("name", "value"), [("size_power", -0.5), ("leaf_weight_min", -1.0), ("tree_features", 0.0)])
def test_a_setting_out_of_its_range_is_refused_by_name(name: str, value: float) -> None:
    with pytest.raises(SettingsError, match=f"{name} is {value}: it must be"):
        msgspec.structs.replace(TrainingSettings(), **{name: value})


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


def test_baskets_of_a_whole_episode_are_one_for_each_user_from_the_state_before_the_first(
    shop_log: list[CartEvent], cut: datetime
) -> None:
    settings = TrainingSettings(episodes=2, whole_episodes=True)
    single = build_episodes(shop_log, cut.timestamp(), msgspec.structs.replace(settings, whole_episodes=False))
    for whole, parts in zip(build_episodes(shop_log, cut.timestamp(), settings), single, strict=True):
        users = [basket.user_id for basket in whole.warm]
        assert len(set(users)) == len(users) < len(parts.warm)
        for basket in whole.warm:
            own = [part for part in parts.warm if part.user_id == basket.user_id]
            assert basket.state == own[0].state
            assert basket.prices.keys() == {item_id for part in own for item_id in part.prices}
