from __future__ import annotations

from collections.abc import Callable

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from streamproc_models.baskets import replay
from streamproc_models.bundle import Bundle
from streamproc_models.candidates import USERS_MAX, candidates, source_label, source_names
from streamproc_models.catalogue import Catalogue
from streamproc_models.features import FEATURES, UserState, decode_state, features_of, new_state, schema_hash
from streamproc_models.features.columns import gather
from streamproc_models.features.schema import MISSING, Scope, columns
from streamproc_models.matrix import Matrix
from streamproc_models.scorer import Scorer
from streamproc_models.training.examples import examples
from streamproc_producers.events import CartEvent

StatesOf = Callable[[list[CartEvent]], dict[str, UserState]]


def test_the_columns_of_a_scope_stand_together() -> None:
    for scope in Scope:
        assert all(feature.scope is scope for feature in FEATURES[columns(scope)])
    assert sum(columns(scope).stop - columns(scope).start for scope in Scope) == len(FEATURES)


def test_names_are_unique_and_the_schema_hash_is_stable_within_a_version() -> None:
    names = [feature.name for feature in features_of(["one", "two"])]
    assert len(set(names)) == len(names) == len(FEATURES) + 6
    assert schema_hash(["one"]) == schema_hash(["one"]) != schema_hash(["two"])


def rows_of(states: list[UserState], catalogue: Catalogue) -> list[tuple[list[int], bytes]]:
    """For each user the codes and the bytes of the rows."""
    found = gather(states, catalogue.codes)
    proposed = candidates(found, catalogue)
    matrix = Matrix().build(found, proposed, catalogue)
    return [
        (proposed.codes[start:end].tolist(), matrix[start:end].tobytes())
        for start, end in zip(proposed.offsets[:-1], proposed.offsets[1:], strict=True)
    ]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_the_rows_of_a_user_do_not_depend_on_the_batch(
    data: st.DataObject, shop_log: list[CartEvent], folded: StatesOf, bundle: Bundle
) -> None:
    states = folded(shop_log)
    batch = data.draw(st.lists(st.sampled_from(sorted(states)), min_size=1, max_size=20, unique=True))
    together = rows_of([states[user_id] for user_id in batch], bundle.catalogue)
    assert together == [rows_of([states[user_id]], bundle.catalogue)[0] for user_id in batch]
    scorer = Scorer(bundle)
    ranked = scorer.rank([(user_id, states[user_id]) for user_id in batch])
    assert ranked == [scorer.rank([(user_id, states[user_id])])[0] for user_id in batch]


def test_a_training_row_is_the_live_row_bit_for_bit(shop_log: list[CartEvent], bundle: Bundle) -> None:
    baskets = [basket for basket in replay(shop_log) if basket.state is not None][-50:]
    trained = examples(baskets, bundle.catalogue, negatives_max=1_000, random=np.random.default_rng(1))
    live = rows_of([decode_state(basket.state) for basket in baskets if basket.state is not None], bundle.catalogue)
    assert trained.rows.tobytes() == b"".join(rows for _, rows in live)
    assert set(trained.weights.tolist()) == {1.0}
    bought = [code in {bundle.catalogue.codes.get(item_id) for item_id in basket.prices}
              for basket, (codes, _) in zip(baskets, live, strict=True) for code in codes]  # fmt: skip
    assert trained.labels.tolist() == [float(one) for one in bought]


def test_sampled_negatives_stand_for_all_of_them(shop_log: list[CartEvent], bundle: Bundle) -> None:
    baskets = replay(shop_log)[-50:]
    everything = examples(baskets, bundle.catalogue, negatives_max=1_000, random=np.random.default_rng(1))
    sampled = examples(baskets, bundle.catalogue, negatives_max=5, random=np.random.default_rng(1))
    assert len(sampled.labels) < len(everything.labels)
    assert sampled.labels.sum() == everything.labels.sum()
    assert sampled.weights.sum() == pytest.approx(len(everything.labels), rel=1e-6)


def test_the_matrix_is_built_in_memory_that_is_used_again(
    shop_log: list[CartEvent], folded: StatesOf, bundle: Bundle
) -> None:
    states = list(folded(shop_log).values())
    matrix = Matrix()
    large, small = gather(states, bundle.catalogue.codes), gather(states[:3], bundle.catalogue.codes)
    first = matrix.build(large, candidates(large, bundle.catalogue), bundle.catalogue)
    second = matrix.build(small, candidates(small, bundle.catalogue), bundle.catalogue)
    assert np.shares_memory(first, second)
    assert second.dtype == np.float32
    assert second.flags.c_contiguous


def test_no_value_is_nan_or_below_missing(shop_log: list[CartEvent], folded: StatesOf, bundle: Bundle) -> None:
    states = [*folded(shop_log).values(), new_state()]
    rows = np.frombuffer(b"".join(packed for _, packed in rows_of(states, bundle.catalogue)), np.float32)
    assert np.all(rows >= MISSING)
    assert np.all(np.isfinite(rows))


def test_a_candidate_keeps_all_its_sources(shop_log: list[CartEvent], folded: StatesOf, bundle: Bundle) -> None:
    state = next(iter(folded(shop_log).values()))
    found = gather([state], bundle.catalogue.codes)
    proposed = candidates(found, bundle.catalogue)
    history, covisit, popular = (1 << number for number in range(len(source_names(bundle.catalogue))))
    by_code = dict(zip(proposed.codes.tolist(), proposed.sources.tolist(), strict=True))
    own = {bundle.catalogue.codes[item_id] for item_id in state.item_ids}
    assert {code for code, sources in by_code.items() if sources & history} == own
    assert len(by_code) == len(proposed.codes)
    linked = {code for code, sources in by_code.items() if sources & covisit}
    assert linked <= set(proposed.codes[proposed.scores[0] > 0].tolist())
    assert own & linked
    assert {code for code, sources in by_code.items() if sources & popular} <= set(range(bundle.catalogue.proposed_max))


@pytest.mark.parametrize(("sources", "label"), [(7, "history"), (6, "covisit"), (4, "popular")])
def test_the_published_source_is_the_first_that_holds(sources: int, label: str) -> None:
    assert source_label(sources, ("history", "covisit", "popular")) == label


def test_candidates_are_bounded_by_their_best_place_and_own_items_count_double(
    shop_log: list[CartEvent], folded: StatesOf, bundle: Bundle
) -> None:
    few = msgspec.structs.replace(bundle.catalogue, candidates_max=5)
    proposed = candidates(gather(list(folded(shop_log).values()), few.codes), few)
    assert set(np.diff(proposed.offsets).tolist()) == {5}
    own = proposed.records >= 0
    assert np.all(np.add.reduceat(own, proposed.offsets[:-1]) >= 2)
    assert np.all(proposed.sources[~own] > 1)


def test_a_list_without_history_or_links_is_what_is_popular(bundle: Bundle) -> None:
    proposed = candidates(gather([new_state()], bundle.catalogue.codes), bundle.catalogue)
    assert proposed.codes.tolist() == list(range(bundle.catalogue.proposed_max))
    assert not proposed.scores.any()


def test_items_that_the_bundle_does_not_know_are_no_candidates(
    live_log: list[CartEvent], folded: StatesOf, bundle: Bundle
) -> None:
    state = next(iter(folded(live_log).values()))
    codes = {item_id: code for item_id, code in bundle.catalogue.codes.items() if item_id != state.item_ids[0]}
    proposed = candidates(gather([state], codes), bundle.catalogue)
    assert len(proposed.codes[proposed.records >= 0]) == len(state.item_ids) - 1


def test_more_users_than_the_sort_keys_hold_are_refused(bundle: Bundle) -> None:
    found = gather([new_state()] * (USERS_MAX + 1), bundle.catalogue.codes)
    with pytest.raises(ValueError, match="fit the sort keys"):
        candidates(found, bundle.catalogue)
