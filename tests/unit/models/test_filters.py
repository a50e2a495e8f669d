from __future__ import annotations

from collections.abc import Callable

import msgspec
import numpy as np

from streamproc_models.bundle import Bundle
from streamproc_models.features import UserState, new_state
from streamproc_models.features.state import ITEM_DTYPE
from streamproc_models.filters import Bought, Only
from streamproc_models.scorer import Scorer
from streamproc_producers.events import CartEvent

StatesOf = Callable[[list[CartEvent]], dict[str, UserState]]


def bought_by(state: UserState) -> set[str]:
    orders = np.frombuffer(bytes(state.items), ITEM_DTYPE)["orders"]
    return {item_id for item_id, times in zip(state.item_ids, orders, strict=True) if times}


def test_what_a_user_has_bought_is_not_recommended_and_others_take_its_place(
    shop_log: list[CartEvent], folded: StatesOf, bundle: Bundle
) -> None:
    states = folded(shop_log)
    for ranked in Scorer(bundle, [Bought()]).rank(list(states.items()), 10):
        assert not {item.item_id for item in ranked.items} & bought_by(states[ranked.user_id])
        assert len(ranked.items) == 10


def test_what_is_out_of_stock_is_shown_to_nobody_on_no_rung(
    shop_log: list[CartEvent], folded: StatesOf, bundle: Bundle
) -> None:
    gone = set(bundle.catalogue.ids[:3])
    users = [*folded(shop_log).items(), ("new", new_state())]
    for model in (bundle, msgspec.structs.replace(bundle, booster=None)):
        for ranked in Scorer(model, [Only.in_stock(gone)]).rank(users, 10):
            assert len(ranked.items) == 10
            assert not {item.item_id for item in ranked.items} & gone


def test_a_rule_of_the_shop_is_asked_once_an_item(shop_log: list[CartEvent], folded: StatesOf, bundle: Bundle) -> None:
    asked: list[str] = []

    def even(item_id: str) -> bool:
        asked.append(item_id)
        return int(item_id[1:]) % 2 == 0

    scorer = Scorer(bundle, [Only(even), Bought()])
    users = list(folded(shop_log).items())
    for _ in range(2):
        for ranked in scorer.rank(users, 5):
            assert all(int(item.item_id[1:]) % 2 == 0 for item in ranked.items)
    assert sorted(asked) == sorted(bundle.catalogue.ids)


def test_a_filter_changes_nothing_of_what_it_keeps(shop_log: list[CartEvent], folded: StatesOf, bundle: Bundle) -> None:
    users = list(folded(shop_log).items())
    wide = msgspec.structs.replace(bundle, catalogue=msgspec.structs.replace(bundle.catalogue, candidates_max=1_000))
    free = Scorer(wide).rank(users, 40)
    kept = Scorer(wide, [Bought()]).rank(users, 5)
    for every, some in zip(free, kept, strict=True):
        allowed = [item.item_id for item in every.items if item.item_id not in bought_by(dict(users)[every.user_id])]
        assert [item.item_id for item in some.items] == allowed[:5]
