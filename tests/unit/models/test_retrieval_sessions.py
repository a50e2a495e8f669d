"""Session kNN: small examples by hand, and the rules that every generator keeps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from streamproc_models.catalogue import UNKNOWN
from streamproc_models.features.columns import Columns
from streamproc_models.retrieval import Scores, Steps
from streamproc_models.retrieval.sessions import SessionKnn, fit_sessions, recent

ITEMS = 60


def columns(*histories: Sequence[int]) -> Columns:
    """Columns of users with these item codes, the last touched last; only what the generators read."""
    counts = [len(history) for history in histories]
    fields: dict[str, Any] = dict.fromkeys(Columns._fields)
    fields |= {
        "now": np.zeros(len(histories)),
        "record_offsets": np.concatenate(([0], np.cumsum(counts, dtype=np.int64))),
        "record_users": np.repeat(np.arange(len(histories)), counts),
        "record_codes": np.array([code for history in histories for code in history], dtype=np.int64),
    }
    return Columns(**fields)


def log(*users: Sequence[Sequence[int]], items: int = ITEMS) -> Steps:
    """The log of users with these steps, in which each user comes after the one before."""
    rows = [
        (user, step, code) for user, steps in enumerate(users) for step, codes in enumerate(steps) for code in codes
    ]
    users_, steps_, codes_ = np.array(rows, dtype=np.int64).reshape(-1, 3).T
    return Steps(users_, steps_, codes_, np.arange(len(rows), dtype=np.float64), items)


def random_log(seed: int, users: int = 300) -> Steps:
    """Walks among neighbouring items; some touch an item again, and some steps have two items."""
    rng = np.random.default_rng(seed)
    walks = []
    for _user in range(users):
        place = int(rng.integers(ITEMS))
        steps = []
        for _step in range(int(rng.integers(1, 9))):
            steps.append([place, (place + 7) % ITEMS] if rng.random() < 0.2 else [place])
            place = (place + int(rng.integers(-2, 4))) % ITEMS
        walks.append(steps)
    return log(*walks)


def random_histories(seed: int, users: int) -> list[list[int]]:
    """Some are empty, some unknown in part."""
    rng = np.random.default_rng(seed)
    return [
        [int(code) if rng.random() < 0.9 else UNKNOWN for code in rng.permutation(ITEMS)[: rng.integers(0, 15)]]
        for _user in range(users)
    ]


def ranked(scores: Scores, user: int = 0) -> list[int]:
    best = scores.top(ITEMS, 10)
    return [int(key) % ITEMS for key in best.keys if key // ITEMS == user]


def test_what_followed_the_shared_item_comes_before_what_preceded_it_and_what_is_further_away() -> None:
    knn = fit_sessions(log([[1], [2], [3], [4]], [[8], [9]]))
    assert ranked(knn.scored(columns([2]), ITEMS)) == [2, 3, 4, 1]


def test_the_session_that_shares_more_and_later_items_counts_more() -> None:
    knn = fit_sessions(log([[1], [20]], [[2], [30]], [[1], [2], [40]], [[50], [51]]))
    found = knn.scored(columns([1, 2]), ITEMS)
    assert [code for code in ranked(found) if code >= 20] == [40, 30, 20]
    earlier = knn.scored(columns([2, 1]), ITEMS)
    assert [code for code in ranked(earlier) if code in {20, 30}] == [20, 30]


def test_of_two_equal_sessions_the_later_one_counts_more() -> None:
    knn = fit_sessions(log([[1], [20]], [[1], [30]], [[50], [51]]))
    assert ranked(knn.scored(columns([1]), ITEMS)) == [1, 30, 20]


def test_items_of_one_order_propose_each_other_and_the_items_of_the_next_order_come_first() -> None:
    knn = fit_sessions(log([[1, 2], [3]], [[50], [51]]))
    assert ranked(knn.scored(columns([1]), ITEMS)) == [1, 3, 2]


def test_users_without_known_items_or_without_a_neighbour_get_nothing() -> None:
    knn = fit_sessions(log([[1], [2]], [[3]], [[4], [4]]))
    found = knn.scored(columns([], [UNKNOWN, UNKNOWN], [3], [4], [UNKNOWN, 2]), ITEMS)
    assert set((found.keys // ITEMS).tolist()) == {4}
    assert not len(knn.scored(columns([]), ITEMS).keys)
    assert not len(knn.scored(columns(), ITEMS).keys)


def test_an_unknown_item_takes_no_place_among_the_recent_ones() -> None:
    found = recent(columns([5, UNKNOWN, 6, 7, UNKNOWN], [UNKNOWN], [8]), 2)
    assert found.users.tolist() == [0, 0, 2]
    assert found.codes.tolist() == [6, 7, 8]
    assert found.places.tolist() == [1, 0, 0]


def test_an_index_of_an_empty_log_answers_nothing() -> None:
    knn = fit_sessions(log())
    assert not len(knn.scored(columns([1, 2]), ITEMS).keys)


def test_an_item_leads_to_its_latest_sessions_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamproc_models.retrieval.sessions._ITEM_SESSIONS", 2)
    knn = fit_sessions(log([[1], [20]], [[1], [30]], [[1], [40]]))
    assert ranked(knn.scored(columns([1]), ITEMS)) == [1, 40, 30]


def test_of_a_long_log_the_latest_sessions_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamproc_models.retrieval.sessions._TOUCHES", 5)
    knn = fit_sessions(log([[1], [20]], [[1], [30]], [[1], [40], [41]]))
    assert knn.touched.tolist() == [1, 30, 1, 40, 41]


def test_a_long_session_is_cut_to_its_latest_touches() -> None:
    knn = fit_sessions(log([[code % 55] for code in range(400)]))
    assert knn.touched.tolist() == [code % 55 for code in range(350, 400)]
    assert knn.steps.tolist() == list(range(50))


def test_a_neighbour_proposes_what_is_within_twelve_touches_of_the_shared_item() -> None:
    knn = fit_sessions(log([[code] for code in range(40)], [[50], [51]]))
    assert knn.scored(columns([20]), ITEMS).keys.tolist() == list(range(8, 33))
    assert knn.scored(columns([35]), ITEMS).keys.tolist() == list(range(23, 40))


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_scores_of_a_user_are_the_same_to_the_last_bit_whatever_else_is_in_the_batch(size: int) -> None:
    knn = fit_sessions(random_log(1))
    histories = random_histories(2, 1000)
    whole = knn.scored(columns(*histories), ITEMS)
    keys, values = [], []
    for start in range(0, 1000, size):
        part = knn.scored(columns(*histories[start : start + size]), ITEMS)
        keys.append(part.keys + start * ITEMS)
        values.append(part.values)
    assert np.array_equal(np.concatenate(keys), whole.keys)
    assert np.concatenate(values).tobytes() == whole.values.tobytes()


def test_scores_are_above_zero_and_their_keys_ascend() -> None:
    found = fit_sessions(random_log(1)).scored(columns(*random_histories(3, 400)), ITEMS)
    assert found.values.dtype == np.float32
    assert found.values.min() > 0
    assert (np.diff(found.keys) > 0).all()


def test_arrays_and_parameters_make_the_same_generator_again() -> None:
    knn = fit_sessions(random_log(1), name="sessions_a")
    again = SessionKnn.from_arrays(knn.name, knn.parameters(), knn.arrays())
    batch = columns(*random_histories(4, 50))
    assert again.name == "sessions_a"
    assert again.scored(batch, ITEMS).values.tobytes() == knn.scored(batch, ITEMS).values.tobytes()


def test_a_fit_gives_the_same_bytes_again() -> None:
    first, again = fit_sessions(random_log(1)).arrays(), fit_sessions(random_log(1)).arrays()
    assert {name: array.tobytes() for name, array in first.items()} == {
        name: array.tobytes() for name, array in again.items()
    }
    assert {array.dtype for array in first.values()} <= {np.dtype(t) for t in ("int32", "int16", "float32")}
