from __future__ import annotations

from collections.abc import Callable

import msgspec
import numpy as np

from streamproc_models.bundle import Bundle
from streamproc_models.candidates import USERS_MAX, candidates
from streamproc_models.features import UserState, encode_state, new_state
from streamproc_models.features.columns import gather
from streamproc_models.scorer import NO_CANDIDATES, NO_MODEL, Cascade, Scorer, best_rows
from streamproc_producers.events import CartEvent

StatesOf = Callable[[list[CartEvent]], dict[str, UserState]]


def test_a_list_has_k_items_of_falling_probability(shop_log: list[CartEvent], folded: StatesOf, bundle: Bundle) -> None:
    users = list(folded(shop_log).items())
    ranked = Scorer(bundle).rank(users, k=7)
    assert [one.user_id for one in ranked] == [user_id for user_id, _ in users]
    for one in ranked:
        assert one.fallback is None
        assert [item.rank for item in one.items] == list(range(1, 8))
        probabilities = [item.probability for item in one.items]
        assert probabilities == sorted(probabilities, reverse=True)
        assert all(0 < probability < 1 for probability in probabilities)
        assert len({item.item_id for item in one.items}) == 7
        assert all(item.name == f"Item {int(item.item_id[1:])}" for item in one.items)


def test_ranking_changes_no_state(shop_log: list[CartEvent], folded: StatesOf, bundle: Bundle) -> None:
    states = folded(shop_log)
    before = {user_id: encode_state(state) for user_id, state in states.items()}
    Scorer(bundle).rank(list(states.items()))
    assert {user_id: encode_state(state) for user_id, state in states.items()} == before


def test_equal_scores_go_by_priority(shop_log: list[CartEvent], folded: StatesOf, bundle: Bundle) -> None:
    found = gather(list(folded(shop_log).values()), bundle.catalogue.codes)
    proposed = candidates(found, bundle.catalogue)
    rows, offsets = best_rows(np.full(len(proposed.codes), 0.5, dtype=np.float32), proposed, 10)
    expected = [row for start in proposed.offsets[:-1].tolist() for row in range(start, start + 10)]
    assert rows.tolist() == expected
    assert offsets.tolist() == list(range(0, len(expected) + 1, 10))


def test_a_user_of_unknown_items_gets_the_popular_ones_labelled(
    shop_log: list[CartEvent], folded: StatesOf, bundle: Bundle
) -> None:
    known = next(iter(folded(shop_log).values()))
    unknown = msgspec.structs.replace(known, item_ids=["new " + item_id for item_id in known.item_ids])
    ranked = Scorer(bundle).rank([("new", new_state()), ("known", known), ("unknown", unknown)], k=3)
    assert [one.fallback for one in ranked] == [NO_CANDIDATES, None, NO_CANDIDATES]
    assert [item.item_id for item in ranked[0].items] == bundle.catalogue.ids[:3]
    assert {item.source for item in ranked[0].items} == {"popular"}
    assert [item.rank for item in ranked[2].items] == [1, 2, 3]


def test_without_a_model_popularity_ranks_labelled(shop_log: list[CartEvent], folded: StatesOf, bundle: Bundle) -> None:
    ranked = Scorer(msgspec.structs.replace(bundle, booster=None)).rank(list(folded(shop_log).items()), k=4)
    assert {one.fallback for one in ranked} == {NO_MODEL}
    assert all([item.item_id for item in one.items] == bundle.catalogue.ids[:4] for one in ranked)


def test_no_users_get_no_lists(bundle: Bundle) -> None:
    assert Scorer(bundle).rank([]) == []


def test_more_users_than_one_call_holds_are_all_ranked(
    shop_log: list[CartEvent], folded: StatesOf, bundle: Bundle
) -> None:
    user_id, state = next(iter(folded(shop_log).items()))
    ranked = Scorer(bundle).rank([(user_id, state)] * (USERS_MAX + 1), k=1)
    assert len(ranked) == USERS_MAX + 1
    assert ranked[0] == ranked[-1]


def test_codes_and_lists_agree(shop_log: list[CartEvent], folded: StatesOf, bundle: Bundle) -> None:
    users = list(folded(shop_log).items())
    codes, scores = Scorer(bundle).rank_codes([state for _, state in users], 10)
    for row, ranked in enumerate(Scorer(bundle).rank(users, 10)):
        assert [bundle.catalogue.ids[code] for code in codes[row]] == [item.item_id for item in ranked.items]
        assert scores[row].tolist() == [item.probability for item in ranked.items]


def test_scores_below_zero_sort_as_numbers_do(shop_log: list[CartEvent], folded: StatesOf, bundle: Bundle) -> None:
    proposed = candidates(gather(list(folded(shop_log).values())[:1], bundle.catalogue.codes), bundle.catalogue)
    scores = np.linspace(-2, 2, len(proposed.codes), dtype=np.float32)
    rows, _ = best_rows(scores, proposed, 10)
    assert rows.tolist() == list(range(len(scores) - 1, len(scores) - 11, -1))
    rows, _ = best_rows(-scores, proposed, 10)
    assert rows.tolist() == list(range(10))


def test_what_a_cascade_lists_has_the_score_of_all_trees(
    shop_log: list[CartEvent], folded: StatesOf, bundle: Bundle
) -> None:
    states = list(folded(shop_log).values())
    codes, scores = Scorer(bundle).rank_codes(states, 100)
    for keep in (1, 12):
        listed, found = Scorer(bundle, cascade=Cascade(first_trees=5, keep=keep)).rank_codes(states, 10)
        assert (listed >= 0).all()
        for row, user_codes in enumerate(listed):
            of_all = dict(zip(codes[row].tolist(), scores[row].tolist(), strict=True))
            assert [of_all[code] for code in user_codes.tolist()] == found[row].tolist()
            assert found[row].tolist() == sorted(found[row].tolist(), reverse=True)


def test_a_cascade_that_keeps_every_candidate_or_has_every_tree_first_changes_no_list(
    shop_log: list[CartEvent], folded: StatesOf, bundle: Bundle
) -> None:
    users = list(folded(shop_log).items())
    expected = Scorer(bundle).rank(users)
    for cascade in (Cascade(first_trees=3, keep=100), Cascade(first_trees=10_000, keep=1)):
        assert Scorer(bundle, cascade=cascade).rank(users) == expected


def test_a_users_list_by_a_cascade_does_not_depend_on_the_batch(
    shop_log: list[CartEvent], folded: StatesOf, bundle: Bundle
) -> None:
    users = list(folded(shop_log).items())
    scorer = Scorer(bundle, cascade=Cascade(first_trees=5, keep=12))
    together = scorer.rank(users)
    assert [scorer.rank([user])[0] for user in users[:20]] == together[:20]
