from __future__ import annotations

import math
from collections.abc import Callable

import msgspec
import pytest

from streamproc_models.bundle import Bundle
from streamproc_models.explain import explain
from streamproc_models.features import UserState
from streamproc_models.scorer import Scorer
from streamproc_producers.events import CartEvent

StatesOf = Callable[[list[CartEvent]], dict[str, UserState]]


def test_the_contributions_and_the_bias_make_the_probability_of_the_list(
    shop_log: list[CartEvent], folded: StatesOf, bundle: Bundle
) -> None:
    user_id, state = next(iter(folded(shop_log).items()))
    listed = Scorer(bundle).rank([(user_id, state)], 5)[0].items
    explained = explain(bundle, state, [item.item_id for item in listed])
    assert [(one.item_id, one.rank, one.name) for one in explained] == [
        (item.item_id, item.rank, item.name) for item in listed
    ]
    for one, item in zip(explained, listed, strict=True):
        assert one.probability == item.probability
        assert one.sources[0] == item.source
        margin = one.bias + sum(reason.contribution for reason in one.reasons)
        assert 1 / (1 + math.exp(-margin)) == pytest.approx(one.probability, abs=1e-5)
        assert [reason.feature for reason in one.reasons[:3]] != sorted(bundle.manifest.features)[:3]
        assert {reason.feature for reason in one.reasons} == set(bundle.manifest.features)
        sizes = [abs(reason.contribution) for reason in one.reasons]
        assert sizes == sorted(sizes, reverse=True)


def test_what_is_no_candidate_is_left_out(shop_log: list[CartEvent], folded: StatesOf, bundle: Bundle) -> None:
    state = next(iter(folded(shop_log).values()))
    assert explain(bundle, state, ["unknown"]) == []
    assert explain(msgspec.structs.replace(bundle, booster=None), state, [state.item_ids[0]]) == []
