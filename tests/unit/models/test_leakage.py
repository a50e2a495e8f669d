"""No training row knows what came after it; and the check that says so finds leaks that are planted."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import msgspec

from streamproc_models.baskets import Basket, replay
from streamproc_models.features import UserState, encode_state, fold, new_state
from streamproc_models.training import TrainingSettings
from streamproc_models.training.episodes import Episode
from streamproc_models.training.leakage import build_episodes, find_leaks
from streamproc_models.training.tables import catalogue_of
from streamproc_producers.events import CartEvent

SETTINGS = TrainingSettings(episodes=3)


def test_training_rows_know_nothing_of_the_future(shop_log: list[CartEvent], cut: datetime) -> None:
    assert len(build_episodes(shop_log, cut.timestamp(), SETTINGS)) == 3
    assert find_leaks(shop_log, cut.timestamp(), SETTINGS) == []


def test_a_catalogue_of_the_whole_log_is_found_to_leak(shop_log: list[CartEvent], cut: datetime) -> None:
    def leaky(log: Sequence[CartEvent], at: float, settings: TrainingSettings) -> list[Episode]:
        whole = catalogue_of(replay(log), {}, at, settings)
        order = sorted(whole.ids)  # so that the candidates' codes are comparable
        assert len(order) == len(whole)
        episodes = build_episodes(log, at, settings)
        # Only the popularity of each item is taken from the future, code by code.
        for episode in episodes:
            for code, item_id in enumerate(episode.catalogue.ids):
                episode.catalogue.features[code, 1] = whole.features[whole.codes[item_id], 1]
        return episodes

    leaks = find_leaks(shop_log, cut.timestamp(), SETTINGS, leaky)
    assert leaks == ["item_share_7d"]


def test_a_state_that_holds_the_basket_itself_is_found_to_leak(shop_log: list[CartEvent], cut: datetime) -> None:
    def leaky(log: Sequence[CartEvent], at: float, settings: TrainingSettings) -> list[Episode]:
        episodes = build_episodes(log, at, settings)
        final: dict[str, UserState] = {}
        for event in log:
            final[event.user_id] = fold(final.get(event.user_id) or new_state(), event)
        for episode in episodes:
            episode.warm = [
                basket if basket.state is None else _with_state(basket, encode_state(final[basket.user_id]))
                for basket in episode.warm
            ]
        return episodes

    assert find_leaks(shop_log, cut.timestamp(), SETTINGS, leaky) == ["rows"]


def _with_state(basket: Basket, state: bytes) -> Basket:
    return msgspec.structs.replace(basket, state=state)
