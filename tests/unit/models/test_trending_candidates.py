"""Trending items as candidates: proposed to everybody, scored like any other, and nothing changes without them."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import numpy as np
import pytest

from streamproc_models.bundle import Bundle
from streamproc_models.candidates import TRENDING, candidates, source_names, trending_codes
from streamproc_models.explain import explain
from streamproc_models.features import UserState, new_state
from streamproc_models.features.columns import gather
from streamproc_models.filters import Only
from streamproc_models.matrix import Matrix
from streamproc_models.scorer import Scorer
from streamproc_producers.events import CartEvent

StatesOf = Callable[[list[CartEvent]], dict[str, UserState]]


@pytest.fixture
def narrow(bundle: Bundle) -> Bundle:
    """Sources that propose little, so that something is left which none of them does."""
    return msgspec.structs.replace(bundle, catalogue=msgspec.structs.replace(bundle.catalogue, proposed_max=5))


@pytest.fixture
def users(shop_log: list[CartEvent], folded: StatesOf) -> list[tuple[str, UserState]]:
    return list(folded(shop_log).items())


def test_what_is_trending_is_proposed_to_everybody_and_its_bit_comes_after_all_others(
    narrow: Bundle, users: list[tuple[str, UserState]]
) -> None:
    offered = narrow.catalogue.ids[-3:]
    codes = trending_codes(narrow.catalogue, offered)
    columns = gather([state for _, state in users], narrow.catalogue.codes)
    without, found = candidates(columns, narrow.catalogue), candidates(columns, narrow.catalogue, (), codes)
    bit = 1 << len(source_names(narrow.catalogue))
    for user in range(len(users)):
        rows = found.users == user
        trending = rows & (found.sources & bit > 0)
        assert set(found.codes[trending].tolist()) == set(codes.tolist())
        rest = {*without.codes[without.users == user].tolist()}
        assert {*found.codes[rows].tolist()} == rest | {*codes.tolist()}
    assert not (without.sources & bit).any()


def test_a_candidates_row_is_the_same_with_and_without_what_is_trending_bit_for_bit(
    narrow: Bundle, users: list[tuple[str, UserState]]
) -> None:
    columns = gather([state for _, state in users], narrow.catalogue.codes)

    def rows(item_ids: list[str]) -> dict[tuple[int, int], bytes]:
        found = candidates(columns, narrow.catalogue, (), trending_codes(narrow.catalogue, item_ids))
        matrix = Matrix().build(columns, found, narrow.catalogue)
        pairs = zip(found.users.tolist(), found.codes.tolist(), strict=True)
        return {pair: row.tobytes() for pair, row in zip(pairs, matrix, strict=True)}

    without, offered = rows([]), rows(narrow.catalogue.ids[-3:])
    assert without.items() < offered.items()


def test_trending_items_are_listed_by_their_score_and_labelled_where_nothing_else_proposed_them(
    narrow: Bundle, users: list[tuple[str, UserState]]
) -> None:
    scorer = Scorer(narrow)
    plain = scorer.rank(users, 40)
    scorer.offer(narrow.catalogue.ids[-10:])
    offered = scorer.rank(users, 40)
    labelled = 0
    for before, after in zip(plain, offered, strict=True):
        scores = {item.id: item.probability for item in before.items if before.fallback is None}
        ranked = [item.probability for item in after.items]
        assert ranked == sorted(ranked, reverse=True) or after.fallback
        assert all(item.probability == scores.get(item.id, item.probability) for item in after.items)
        labelled += sum(item.source == TRENDING for item in after.items)
    assert labelled


def test_with_nothing_offered_and_with_only_unknown_items_the_lists_are_the_same(
    bundle: Bundle, users: list[tuple[str, UserState]]
) -> None:
    expected = Scorer(bundle).rank(users)
    for item_ids in ([], ["no-such-item", "nor-this"]):
        scorer = Scorer(bundle)
        scorer.offer(item_ids)
        assert scorer.rank(users) == expected


def test_the_most_trending_come_first_and_stand_behind_what_a_generator_proposes(bundle: Bundle) -> None:
    catalogue = msgspec.structs.replace(bundle.catalogue, proposed_max=2, candidates_max=3)
    offered = catalogue.ids[-3:]
    found = candidates(
        gather([new_state()], catalogue.codes), catalogue, (), trending_codes(catalogue, ["unknown", *offered])
    )
    # Place 0 of popular and of trending are equal, and the smaller code comes first.
    assert [catalogue.ids[code] for code in found.codes.tolist()] == [catalogue.ids[0], offered[0], catalogue.ids[1]]


def test_filters_drop_trending_items_too(narrow: Bundle, users: list[tuple[str, UserState]]) -> None:
    gone = narrow.catalogue.ids[-1]
    scorer = Scorer(narrow, [Only.in_stock({gone})])
    scorer.offer([gone])
    assert all(item.id != gone for ranked in scorer.rank(users, 40) for item in ranked.items)


def test_a_trending_item_is_explained_like_any_other(narrow: Bundle, users: list[tuple[str, UserState]]) -> None:
    user_id, state = users[0]
    proposed = candidates(gather([state], narrow.catalogue.codes), narrow.catalogue).codes.tolist()
    item_id = next(item for item in reversed(narrow.catalogue.ids) if narrow.catalogue.codes[item] not in proposed)
    assert explain(narrow, state, [item_id]) == []
    (found,) = explain(narrow, state, [item_id], trending=[item_id])
    scorer = Scorer(narrow)
    scorer.offer([item_id])
    place = next(item for item in scorer.rank([(user_id, state)], 40)[0].items if item.id == item_id)
    assert (found.sources, found.probability, found.rank) == ([TRENDING], place.probability, place.rank)


def test_codes_are_in_the_order_of_the_snapshot(bundle: Bundle) -> None:
    ids = bundle.catalogue.ids
    assert np.array_equal(trending_codes(bundle.catalogue, [ids[7], "unknown", ids[2]]), [7, 2])
