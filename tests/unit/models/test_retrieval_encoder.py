"""The encoder: what it learns from a small log, and exact scores however users and items are put into blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from streamproc_models.catalogue import UNKNOWN
from streamproc_models.features.columns import Columns
from streamproc_models.retrieval import Steps
from streamproc_models.retrieval.encoder import NORM, RECENT_ITEMS, Encoder, whole
from streamproc_models.retrieval.encoder_fit import fit_encoder

ITEMS = 40
DIMENSIONS = 128


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


def walks(users: int = 800) -> Steps:
    """Users who go from an item to the next or the one after it; every tenth step has a second item."""
    rng = np.random.default_rng(5)
    rows = []
    for user in range(users):
        place = int(rng.integers(ITEMS))
        for step in range(int(rng.integers(2, 8))):
            rows.append((user, step, place))
            if rng.random() < 0.1:
                rows.append((user, step, (place + 1) % ITEMS))
            place = (place + int(rng.integers(1, 3))) % ITEMS
    users_, steps_, codes_ = np.array(rows, dtype=np.int64).T
    return Steps(users_, steps_, codes_, np.arange(len(rows), dtype=np.float64), ITEMS)


def random_encoder(items: int = 3000) -> Encoder:
    rng = np.random.default_rng(1)
    vectors = rng.standard_normal((items, DIMENSIONS), dtype=np.float32)
    return Encoder(
        "encoder",
        whole(vectors).astype(np.int16),
        (vectors * 0.3).astype(np.float16),
        rng.uniform(0.5, 2, items).astype(np.float32) / np.float32(NORM),
        rng.uniform(0.1, 1, (RECENT_ITEMS + 1, RECENT_ITEMS)).astype(np.float32),
    )


def random_histories(users: int, items: int) -> list[list[int]]:
    """Some are empty, some unknown in part."""
    rng = np.random.default_rng(2)
    return [
        [int(code) if rng.random() < 0.9 else UNKNOWN for code in rng.choice(items, rng.integers(0, 15), replace=False)]
        for _user in range(users)
    ]


@pytest.fixture(scope="module")
def learned() -> Encoder:
    return fit_encoder(walks(), seed=3)


def test_it_learns_what_comes_next(learned: Encoder) -> None:
    histories = [[(start + step) % ITEMS for step in range(3)] for start in range(ITEMS)]
    best = learned.scored(columns(*histories), ITEMS).top(ITEMS, 4)
    found = (best.keys % ITEMS).reshape(ITEMS, 4)
    following = [{(start + 3) % ITEMS, (start + 4) % ITEMS} for start in range(ITEMS)]
    assert np.mean([len(wanted & set(row)) for wanted, row in zip(following, found.tolist(), strict=True)]) > 1.8


def test_a_fit_gives_the_same_bytes_for_one_seed_and_others_for_another(learned: Encoder) -> None:
    again, other = fit_encoder(walks(), seed=3).arrays(), fit_encoder(walks(), seed=4).arrays()
    assert all(array.tobytes() == again[name].tobytes() for name, array in learned.arrays().items())
    assert other["vectors"].tobytes() != again["vectors"].tobytes()


def test_progress_counts_the_batches_up_to_the_last() -> None:
    told: list[tuple[int, int]] = []
    fit_encoder(walks(users=50), progress=lambda done, total: told.append((done, total)))
    assert told == [(done, len(told)) for done in range(1, len(told) + 1)]


def test_a_log_without_a_second_step_gives_an_encoder_that_answers() -> None:
    one_step = Steps(np.arange(3), np.zeros(3, dtype=np.int64), np.arange(3), np.arange(3, dtype=np.float64), 5)
    assert len(fit_encoder(one_step).scored(columns([1]), 5).top(5, 3).keys) == 3


def test_whole_vectors_keep_their_direction_and_never_exceed_the_norm() -> None:
    vectors = np.random.default_rng(0).standard_normal((500, DIMENSIONS)).astype(np.float32)
    vectors[0] = 0
    vectors[1] = np.eye(DIMENSIONS)[0]
    vectors[2] = 1e-20
    numbers = whole(vectors)
    assert ((numbers.astype(np.int64) ** 2).sum(axis=1) <= NORM**2).all()
    assert not numbers[0].any()
    assert numbers[1].tolist() == [NORM] + [0] * (DIMENSIONS - 1)
    cosine = (vectors[3:] * numbers[3:]).sum(axis=1) / np.linalg.norm(vectors[3:], axis=1) / NORM
    assert cosine.min() > 0.998
    assert NORM**2 < 2**24


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_scores_of_a_user_are_the_same_to_the_last_bit_whatever_else_is_in_the_batch(size: int) -> None:
    encoder, items = random_encoder(), 3000
    histories = random_histories(1000, items)
    whole_batch = encoder.scored(columns(*histories), items)
    best = whole_batch.top(items, 20)
    asked = np.sort(np.random.default_rng(4).choice(1000 * items, 20_000, replace=False))
    wanted = whole_batch.at(asked)
    keys, values, at = [], [], []
    for start in range(0, 1000, size):
        part = encoder.scored(columns(*histories[start : start + size]), items)
        mine = part.top(items, 20)
        keys.append(mine.keys + start * items)
        values.append(mine.values)
        of_part = asked[(asked >= start * items) & (asked < (start + size) * items)]
        at.append(part.at(of_part - start * items))
    assert np.array_equal(np.concatenate(keys), best.keys)
    assert np.concatenate(values).tobytes() == best.values.tobytes()
    assert np.concatenate(at).tobytes() == wanted.tobytes()


def test_the_best_are_those_of_all_scores_and_of_equal_scores_the_smaller_codes() -> None:
    encoder, items = random_encoder(), 3000
    # Many items have a twin, so that scores are equal.
    encoder = Encoder(
        "encoder", encoder.vectors[np.arange(items) // 2], encoder.lasts, encoder.scales[:items], encoder.mix
    )
    scored = encoder.scored(columns(*random_histories(30, items)), items)
    every = scored.at(np.arange(30 * items)).reshape(30, items)
    for n in (1, 5, 150, items):
        best = scored.top(items, n)
        for user in np.flatnonzero(scored.known):
            mine = best.keys // items == user
            order = np.lexsort((np.arange(items), -every[user]))[:n]
            assert np.array_equal(best.keys[mine] % items, order)
            assert best.values[mine].tobytes() == every[user][order].tobytes()


def test_users_without_known_items_get_nothing_and_the_others_scores_above_zero() -> None:
    encoder, items = random_encoder(), 3000
    scored = encoder.scored(columns([], [UNKNOWN], [UNKNOWN, 5]), items)
    assert (scored.top(items, 10).keys // items).tolist() == [2] * 10
    assert not len(scored.top(items, 0).keys)
    assert not scored.at(np.array([7, items + 7])).any()
    assert scored.at(np.arange(2 * items, 3 * items)).min() > 0
    assert not len(encoder.scored(columns(), items).top(items, 10).keys)


def test_an_unknown_item_in_between_changes_nothing() -> None:
    encoder, items = random_encoder(), 3000
    scored = encoder.scored(columns([5, 6, 7], [5, UNKNOWN, 6, 7, UNKNOWN]), items)
    assert scored.users[0].tobytes() == scored.users[1].tobytes()


def test_arrays_and_parameters_make_the_same_generator_again(learned: Encoder) -> None:
    again = Encoder.from_arrays("encoder_a", learned.parameters(), learned.arrays())
    batch = columns([1, 2], [3], [4, 5, 6])
    assert again.name == "encoder_a"
    assert again.scored(batch, ITEMS).users.tobytes() == learned.scored(batch, ITEMS).users.tobytes()
    assert {array.dtype for array in learned.arrays().values()} <= {
        np.dtype(t) for t in ("int16", "float16", "float32")
    }
