"""The ladder: whatever is missing, there is a list of k items, and it says what it lacks."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, ClassVar, Self

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from streamproc_models.bundle import Bundle, load
from streamproc_models.features import UserState, fold, new_state
from streamproc_models.features.columns import Columns
from streamproc_models.filters import Bought, Filter, Only
from streamproc_models.items import Item
from streamproc_models.retrieval.base import Scores
from streamproc_models.scorer import (
    FEW_CANDIDATES,
    NO_CANDIDATES,
    NO_MODEL,
    NO_NEIGHBOURS,
    STALE_MODEL,
    STALE_SECONDS,
    Ranked,
    Scorer,
)
from streamproc_models.training import TrainingSettings, train
from streamproc_producers.events import CartEvent, EventType

K = 10
StatesOf = Callable[[list[CartEvent]], dict[str, UserState]]


class Silent:
    """A generator that links nothing to anything."""

    KIND: ClassVar[str] = "silent"

    def __init__(self, name: str) -> None:
        self.name = name

    def scored(self, columns: Columns, items: int) -> Scores:
        del columns, items
        return Scores(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32))

    def parameters(self) -> Mapping[str, Any]:
        return {}

    def arrays(self) -> Mapping[str, NDArray[Any]]:
        return {}

    @classmethod
    def from_arrays(cls, name: str, parameters: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Self:
        del parameters, arrays
        return cls(name)


@pytest.fixture
def state_of(cut: datetime) -> Callable[..., UserState]:
    """The state of a user who bought these items, one a minute from the cut on, or some days later."""

    def state_of(*items: str, days: float = 0.0) -> UserState:
        state = new_state()
        for number, item_id in enumerate(items):
            event = CartEvent(
                event_id=uuid.UUID(int=number),
                event_type=EventType.PURCHASE,
                user_id="u",
                item_id=item_id,
                ts=cut + timedelta(days=days, minutes=number),
                order_id="o",
            )
            state = fold(state, event)
        return state

    return state_of


@pytest.fixture(scope="module")
def without_generators(
    shop_log: list[CartEvent], cut: datetime, shop_items: dict[str, Item], tmp_path_factory: pytest.TempPathFactory
) -> Bundle:
    """A bundle that was trained without any generator."""
    out = tmp_path_factory.mktemp("without_generators")
    train(shop_log, cut, out, items=shop_items, settings=TrainingSettings(generators=(), trees_max=20))
    return load(out)


def without_booster(bundle: Bundle) -> Bundle:
    return msgspec.structs.replace(bundle, booster=None)


def unlinked(bundle: Bundle) -> Bundle:
    """The bundle where no generator has a link for anybody."""
    silent = tuple(Silent(name) for name in bundle.catalogue.generator_names)
    return msgspec.structs.replace(bundle, catalogue=msgspec.structs.replace(bundle.catalogue, generators=silent))


def listed(bundle: Bundle, state: UserState, filters: tuple[Filter, ...] = ()) -> Ranked:
    """The user's list, which is as long as was asked for, whatever happened."""
    (ranked,) = Scorer(bundle, filters).rank([("u", state)], K)
    assert [item.rank for item in ranked.items] == list(range(1, K + 1))
    assert len({item.item_id for item in ranked.items}) == K
    assert all(0 <= item.probability <= 1 for item in ranked.items)
    return ranked


def is_popular(ranked: Ranked, bundle: Bundle) -> bool:
    return [item.item_id for item in ranked.items] == bundle.catalogue.ids[:K]


def test_nothing_is_missing_and_the_list_is_the_models(bundle: Bundle, state_of: Callable[..., UserState]) -> None:
    ranked = listed(bundle, state_of("i05", "i08"))
    assert ranked.fallback is None
    assert {"history", "covisit"} <= {item.source for item in ranked.items}


def test_a_new_user_gets_what_is_popular(bundle: Bundle) -> None:
    ranked = listed(bundle, new_state())
    assert ranked.fallback == NO_CANDIDATES
    assert is_popular(ranked, bundle)


def test_a_user_of_unknown_items_gets_what_is_popular(bundle: Bundle, state_of: Callable[..., UserState]) -> None:
    ranked = listed(bundle, state_of("new-1", "new-2"))
    assert ranked.fallback == NO_CANDIDATES
    assert is_popular(ranked, bundle)


def test_a_new_item_in_the_history_takes_no_list_from_the_model(
    bundle: Bundle, state_of: Callable[..., UserState]
) -> None:
    ranked = listed(bundle, state_of("i05", "new-1", "i08", "new-2"))
    assert ranked.fallback is None
    assert "new-1" not in {item.item_id for item in ranked.items}
    assert {item.item_id for item in ranked.items} & {"i05", "i08"}


@pytest.mark.parametrize("items", [(), ("new-1",), ("i05", "i08")], ids=["new user", "unknown items", "known items"])
def test_without_a_booster_everybody_gets_what_is_popular(
    bundle: Bundle, state_of: Callable[..., UserState], items: tuple[str, ...]
) -> None:
    ranked = listed(without_booster(bundle), state_of(*items))
    assert ranked.fallback == NO_MODEL
    assert is_popular(ranked, bundle)


def test_without_generators_the_model_ranks_what_the_user_had_and_what_is_popular(
    without_generators: Bundle, state_of: Callable[..., UserState]
) -> None:
    assert without_generators.booster is not None
    ranked = listed(without_generators, state_of("i05", "i08"))
    assert ranked.fallback == NO_NEIGHBOURS
    assert {item.source for item in ranked.items} <= {"history", "popular"}
    assert {item.item_id for item in ranked.items} & {"i05", "i08"}
    assert listed(without_generators, new_state()).fallback == NO_CANDIDATES


def test_where_nothing_is_linked_to_the_user_the_model_ranks_what_the_user_had_and_what_is_popular(
    bundle: Bundle, state_of: Callable[..., UserState]
) -> None:
    ranked = listed(unlinked(bundle), state_of("i05", "i08"))
    assert ranked.fallback == NO_NEIGHBOURS
    assert {item.source for item in ranked.items} <= {"history", "popular"}
    assert {item.item_id for item in ranked.items} & {"i05", "i08"}


def test_a_bundle_that_is_much_older_than_the_user_still_ranks(
    bundle: Bundle, state_of: Callable[..., UserState]
) -> None:
    ranked = listed(bundle, state_of("i05", "i08", days=365))
    assert ranked.fallback == STALE_MODEL
    assert {item.item_id for item in ranked.items} & {"i05", "i08"}


def test_a_bundle_is_stale_once_no_window_of_an_item_reaches_back_to_its_log(
    bundle: Bundle, state_of: Callable[..., UserState]
) -> None:
    until = datetime.fromisoformat(bundle.manifest.trained_until).timestamp()
    state = state_of("i05", "i08")
    assert bundle.catalogue.as_of == until
    for seconds, fallback in ((STALE_SECONDS, None), (STALE_SECONDS + 1, STALE_MODEL)):
        later = msgspec.structs.replace(state, last_at=until + seconds)
        assert listed(bundle, later).fallback == fallback


def test_of_what_a_list_lacks_the_most_is_told(
    bundle: Bundle, without_generators: Bundle, state_of: Callable[..., UserState]
) -> None:
    known, unknown = state_of("i05", days=365), state_of("new-1", days=365)
    assert listed(without_booster(unlinked(bundle)), known).fallback == NO_MODEL
    assert listed(without_generators, unknown).fallback == NO_CANDIDATES
    assert listed(unlinked(bundle), known).fallback == NO_NEIGHBOURS


def test_where_filters_leave_fewer_candidates_than_places_popular_items_come_after_them(
    bundle: Bundle, state_of: Callable[..., UserState]
) -> None:
    narrow = msgspec.structs.replace(bundle, catalogue=msgspec.structs.replace(bundle.catalogue, proposed_max=3))
    gone = set(bundle.catalogue.ids[:5])
    ranked = listed(unlinked(narrow), state_of("i05", "i08"), (Only.in_stock(gone),))
    assert ranked.fallback == FEW_CANDIDATES
    own = {"i05", "i08"} - gone
    assert {item.item_id for item in ranked.items[: len(own)]} == own
    rest = [item_id for item_id in bundle.catalogue.ids if item_id not in gone | own]
    assert [item.item_id for item in ranked.items[len(own) :]] == rest[: K - len(own)]


@pytest.mark.parametrize("broken", [None, without_booster, unlinked], ids=["whole", "no booster", "nothing linked"])
@pytest.mark.parametrize("items", [(), ("new-1",), ("i05", "i08")], ids=["new user", "unknown items", "known items"])
def test_on_every_rung_filters_hold_and_make_room_for_others(
    bundle: Bundle,
    state_of: Callable[..., UserState],
    items: tuple[str, ...],
    broken: Callable[[Bundle], Bundle] | None,
) -> None:
    gone = set(bundle.catalogue.ids[:5])
    ranked = listed(broken(bundle) if broken else bundle, state_of(*items), (Bought(), Only.in_stock(gone)))
    assert not {item.item_id for item in ranked.items} & (gone | set(items))


def test_users_on_different_rungs_do_not_change_each_others_lists(
    bundle: Bundle, shop_log: list[CartEvent], folded: StatesOf, state_of: Callable[..., UserState]
) -> None:
    users = [
        ("new", new_state()),
        *list(folded(shop_log).items())[:5],
        ("unknown", state_of("new-1")),
        ("late", state_of("i05", days=365)),
    ]
    together = Scorer(bundle).rank(users, K)
    assert together == [Scorer(bundle).rank([user], K)[0] for user in users]
    assert [one.fallback for one in together] == [NO_CANDIDATES, *[None] * 5, NO_CANDIDATES, STALE_MODEL]


def test_a_list_is_as_long_as_the_catalogue_where_that_is_shorter(bundle: Bundle) -> None:
    items = len(bundle.catalogue)
    for model in (bundle, without_booster(bundle)):
        (ranked,) = Scorer(model).rank([("u", new_state())], items + 5)
        assert len(ranked.items) == items
