"""Item-to-item links from small logs that can be added up by hand."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from streamproc.errors import SettingsError
from streamproc_models.catalogue import UNKNOWN
from streamproc_models.features.columns import Columns
from streamproc_models.retrieval import links as links_module
from streamproc_models.retrieval.fits import fit_ease, fit_next, fit_ridge, fit_text, fit_together
from streamproc_models.retrieval.fits.baskets import BASKET_ITEMS_MAX, baskets
from streamproc_models.retrieval.links import Links, Weighting
from streamproc_models.retrieval.steps import Steps

DAY = 86_400.0
#: So long that no step of a test is older than another.
NEVER = math.inf

FITS: list[Callable[[Steps], Links]] = [fit_ridge, fit_ease, fit_next, fit_together]


def close(value: object) -> Any:
    """Links are kept in 16 bits: eleven of them for the value."""
    return pytest.approx(value, rel=2**-11)


def steps(users: Sequence[Sequence[Sequence[int]]], items: int, at: Sequence[Sequence[float]] | None = None) -> Steps:
    """Each user's steps, each with its items; a day between two steps unless ``at`` tells their days."""
    rows = [
        (user, step, code, (at[user][step] if at else step) * DAY)
        for user, of_user in enumerate(users)
        for step, codes in enumerate(of_user)
        for code in codes
    ]
    columns = np.array(rows, dtype=np.float64).reshape(len(rows), 4)
    whole = columns[:, :3].astype(np.int64)
    return Steps(whole[:, 0], whole[:, 1], whole[:, 2], columns[:, 3], items)


def random_log(items: int = 60, seed: int = 3) -> Steps:
    random = np.random.default_rng(seed)
    return steps(
        [
            [random.integers(0, items, random.integers(1, 6)).tolist() for _ in range(random.integers(1, 8))]
            for _ in range(80)
        ],
        items,
    )


def table(links: Links) -> dict[int, dict[int, float]]:
    """The links of each item that has some, the strongest first."""
    return {
        code: {int(to): float(link) for to, link in zip(row, values, strict=True) if to != UNKNOWN}
        for code, (row, values) in enumerate(zip(links.neighbours, links.links, strict=True))
        if row[0] != UNKNOWN
    }


def same(left: Links, right: Links) -> bool:
    return bool(np.array_equal(left.neighbours, right.neighbours) and np.array_equal(left.links, right.links))


def test_what_followed_an_item_is_a_share_of_its_steps_and_less_at_a_distance() -> None:
    log = steps([[[0], [1], [2]], [[0], [1]], [[0]]], 3)
    found = fit_next(log, decay=0.5, backward=0, popularity=0, shrinkage=0, half_life_days=NEVER)
    assert table(found) == {0: {1: close(2 / 3), 2: close(0.5 / 3)}, 1: {2: close(1 / 2)}}


def test_the_way_back_counts_as_told() -> None:
    found = fit_next(steps([[[0], [1]]], 2), backward=0.5, popularity=0, shrinkage=0, half_life_days=NEVER)
    assert table(found) == {0: {1: 1.0}, 1: {0: 0.5}}


def test_an_old_step_counts_half_after_a_half_life() -> None:
    log = steps([[[0], [1]], [[0], [2]]], 3, at=[[0, 0], [30, 30]])
    found = fit_next(log, backward=0, popularity=0, shrinkage=0, half_life_days=30)
    assert table(found) == {0: {2: close(1 / 1.5), 1: close(0.5 / 1.5)}}


def test_items_of_one_step_are_linked_by_cosine_and_never_with_themselves() -> None:
    log = steps([[[0, 1], [0, 1]], [[0, 2]], [[0]]], 3)
    found = fit_together(log, shrinkage=0, half_life_days=NEVER)
    assert table(found) == {
        0: {1: close(2 / np.sqrt(4 * 2)), 2: close(1 / np.sqrt(4))},
        1: {0: close(2 / np.sqrt(4 * 2))},
        2: {0: close(1 / np.sqrt(4))},
    }


def test_shrinkage_takes_the_lead_from_a_pair_seen_once() -> None:
    log = steps([[[0, 1]], [[2, 3]], [[2, 3]], [[0, 2]], [[0, 2]], [[0, 2]]], 4)
    assert list(table(fit_together(log, shrinkage=0, half_life_days=NEVER))[3]) == [2]
    assert list(table(fit_together(log, shrinkage=0, half_life_days=NEVER))[0]) == [2, 1]
    alone, seen = (
        table(fit_together(log, shrinkage=5, half_life_days=NEVER))[1][0],
        table(fit_together(log, shrinkage=5, half_life_days=NEVER))[3][2],
    )
    assert alone < seen


def test_ridge_is_the_shrunk_share_of_what_followed() -> None:
    # Two users went from 0 to 1 and one to the step {1, 2}, whose items count 1 / sqrt(2).
    log = steps([[[0], [1]], [[0], [1]], [[0], [1, 2]]], 3)
    found = fit_ridge(log, penalty=2, half_life_days=NEVER)
    half = 1 / np.sqrt(2)
    assert table(found) == {0: {1: close((2 + half) / (3 + 2)), 2: close(half / (3 + 2))}}


def test_ridge_credits_the_item_that_made_the_difference() -> None:
    # What comes with 1 and without 2 leads to 3; 2 only was in the same baskets.
    log = steps([[[1, 2], [3]]] * 3 + [[[1], [3]]] * 3 + [[[2], [0]]] * 3, 4)
    before = np.array([[0, 1, 1, 0]] * 3 + [[0, 1, 0, 0]] * 3 + [[0, 0, 1, 0]] * 3)
    bought = np.array([1] * 6 + [0] * 3)
    gram = before.T @ before + 0.1 * np.eye(4)
    expected = np.linalg.solve(gram, before.T @ bought)
    found = fit_ridge(log, penalty=0.1, half_life_days=NEVER)
    assert table(found)[1][3] == close(expected[1])
    assert table(found)[2][3] == close(expected[2])
    assert expected[1] > 5 * expected[2]


def test_beyond_its_sources_an_item_gets_what_they_leave() -> None:
    # 0 is solved for; 1 was never with it and gets half of its own share, 3 was and gets half of what is left.
    log = steps([[[0, 3], [2]], [[0], [2]], [[1], [2]]], 4)
    found = table(fit_ridge(log, penalty=1, sources=1, half_life_days=NEVER))
    assert found[0][2] == close(2 / 3)
    assert found[1][2] == close(1 / 2 / 2)
    assert found[3][2] == close((1 - 2 / 3) / 2 / 2)


def test_ease_is_the_closed_form_without_the_diagonal() -> None:
    log = random_log()
    bought = np.zeros((80, 60))
    bought[log.users, log.codes] = 1
    inverse = np.linalg.inv(bought.T @ bought + 5 * np.eye(60))
    expected = -inverse / np.diag(inverse)
    np.fill_diagonal(expected, 0)
    for code, linked in table(fit_ease(log, penalty=5, width=60, half_life_days=NEVER)).items():
        assert linked == {
            int(to): pytest.approx(expected[code, to], rel=1e-3, abs=1e-5) for to in np.flatnonzero(expected[code] > 0)
        }


def test_ease_in_blocks_is_the_same_as_in_one() -> None:
    assert same(fit_ease(random_log(), block_items=7), fit_ease(random_log(), block_items=1_000))


def test_ease_links_only_the_most_frequent_items() -> None:
    log = steps([[[5, 7]], [[5, 7]], [[5, 1]]], 9)
    assert set(table(fit_ease(log, items_max=2, penalty=1))) == {5, 7}


@pytest.mark.parametrize("fit", [fit_ridge, fit_ease])
def test_a_penalty_that_leaves_no_solution_is_refused(fit: Callable[..., Links]) -> None:
    with pytest.raises(SettingsError, match=r"penalty is -100\.0: .* give a larger one"):
        fit(random_log(), penalty=-100.0)


def test_names_that_share_words_are_linked_and_those_without_a_name_are_not() -> None:
    found = table(fit_text(["red paper lantern", "blue paper lantern", "", "steel kettle", "red paper lanterns"]))
    assert set(found) == {0, 1, 4}
    assert list(found[0]) == [4, 1]
    assert found[0][4] == close(found[4][0])


def test_names_are_alike_by_parts_of_words_too() -> None:
    assert list(table(fit_text(["lantern", "lanterns", "kettle"]))[0]) == [1]


def test_no_names_are_no_links() -> None:
    assert fit_text([]).neighbours.shape[0] == 0
    assert table(fit_text(["", ""])) == {}


def test_pruning_keeps_the_strongest_and_of_equals_the_smaller_codes() -> None:
    log = steps([[[0], [3]], [[0], [3]], [[0], [1]], [[0], [2]]], 4)
    found = fit_next(log, width=2, backward=0, popularity=0, half_life_days=NEVER)
    assert found.neighbours[0].tolist() == [3, 1]
    wide = fit_next(log, width=3, backward=0, popularity=0, half_life_days=NEVER)
    assert wide.neighbours[0].tolist() == [3, 1, 2]


@pytest.mark.parametrize("fit", FITS)
def test_a_log_without_rows_has_no_links(fit: Callable[[Steps], Links]) -> None:
    assert table(fit(steps([], 5))) == {}
    assert fit(steps([], 5)).neighbours.shape[0] == 5


@pytest.mark.parametrize("fit", FITS)
def test_one_item_bought_once_has_no_links(fit: Callable[[Steps], Links]) -> None:
    assert table(fit(steps([[[0]]], 1))) == {}


@pytest.mark.parametrize("fit", FITS)
def test_the_same_log_gives_the_same_bytes(fit: Callable[[Steps], Links]) -> None:
    assert same(fit(random_log()), fit(random_log()))
    assert len(table(fit(random_log()))) > 50


@pytest.mark.parametrize("fit", [fit_next, fit_together])
def test_blocks_of_items_give_the_same_as_one_block(fit: Callable[..., Links]) -> None:
    assert same(fit(random_log(), block_items=7), fit(random_log(), block_items=1_000))


def test_of_a_huge_basket_the_first_items_are_read() -> None:
    log = steps([[list(range(1_000))], [[999, 998]]], 1_000)
    found = table(fit_together(log, width=10))
    assert found[999].keys() == {998}
    assert set(found) == {*range(BASKET_ITEMS_MAX), 998, 999}


def test_an_item_twice_in_a_step_counts_once() -> None:
    assert baskets(steps([[[0, 0, 1]]], 2)).items.toarray().tolist() == [[1, 1]]


def test_a_history_ends_where_it_would_count_less_than_a_hundredth() -> None:
    log = steps([[[0], *[[1]] * 20]], 2)
    history = baskets(log).histories(0.5).toarray()
    assert history[:8, 0].tolist() == [0, 1, 0.5, 0.25, 0.125, 0.0625, 0.03125, 0.015625]
    assert not history[8:, 0].any()


@pytest.mark.parametrize("items", [40, 70_000])
def test_links_are_the_same_before_they_are_written_and_after_and_take_few_bytes(items: int) -> None:
    rng = np.random.default_rng(3)
    codes = rng.choice(items, (40, 12))
    found = fit_together(steps([[codes[row].tolist()] for row in range(40)], items))
    stored = found.arrays()
    again = Links.from_arrays(found.name, found.parameters(), stored)
    assert np.array_equal(again.neighbours, found.neighbours)
    assert again.links.tobytes() == found.links.tobytes()
    assert sum(array.itemsize for array in stored.values()) == (4 if items < 65_536 else 6)


def test_links_add_up_to_the_same_bits_in_a_table_and_without_one(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(7)
    users, items = 40, 60
    neighbours = rng.integers(UNKNOWN, items, (items, 8), dtype=np.int32)
    strengths = np.where(neighbours == UNKNOWN, 0, rng.random(neighbours.shape)).astype(np.float32)
    generator = Links("linked", Weighting.INTEREST, neighbours, strengths)
    histories = [rng.permutation(items)[: rng.integers(0, 15)] for _ in range(users)]
    lengths = [len(history) for history in histories]
    fields: dict[str, Any] = dict.fromkeys(Columns._fields)
    fields |= {
        "now": np.zeros(users),
        "record_users": np.repeat(np.arange(users), lengths),
        "record_codes": np.where(rng.random(sum(lengths)) < 0.9, np.concatenate(histories), UNKNOWN),
        # From what is soon forgotten to what vanishes when it is multiplied.
        "interest": (rng.random(sum(lengths)) * 10.0 ** -rng.integers(0, 46, sum(lengths))).astype(np.float32),
    }
    columns = Columns(**fields)
    in_a_table = generator.scored(columns, items)
    monkeypatch.setattr(links_module, "TABLE_PAIRS_MAX", 0)
    without = generator.scored(columns, items)
    assert len(without.keys) > 1_000
    assert np.array_equal(in_a_table.keys, without.keys)
    assert in_a_table.values.tobytes() == without.values.tobytes()
    assert (without.values > 0).all()
