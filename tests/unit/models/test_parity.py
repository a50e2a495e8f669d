"""A row is the same bit for bit: in training, live, after the bundle was written, and in whatever batch."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest

from streamproc_models.baskets import replay
from streamproc_models.bundle import Bundle, load
from streamproc_models.candidates import candidates
from streamproc_models.catalogue import Catalogue
from streamproc_models.features import UserState, decode_state, new_state
from streamproc_models.features.columns import gather
from streamproc_models.features.schema import MISSING
from streamproc_models.items import Item
from streamproc_models.matrix import Matrix
from streamproc_models.training import Trained, TrainingSettings, learn
from streamproc_models.training.examples import examples
from streamproc_models.training.generators import FITS
from streamproc_producers.events import CartEvent

StatesOf = Callable[[list[CartEvent]], dict[str, UserState]]


@pytest.fixture(scope="module")
def everything(shop_log: list[CartEvent], cut: datetime, shop_items: dict[str, Item]) -> Trained:
    """A model with every generator that there is."""
    return learn(
        shop_log, cut, items=shop_items, settings=TrainingSettings(generators=tuple(FITS), trees_max=5, episodes=2)
    )


@pytest.fixture(scope="module")
def written(everything: Trained, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("everything")
    everything.write(folder)
    return load(folder)


def rows_of(states: list[UserState], catalogue: Catalogue) -> list[tuple[list[int], bytes]]:
    found = gather(states, catalogue.codes)
    proposed = candidates(found, catalogue)
    matrix = Matrix().build(found, proposed, catalogue)
    return [
        (proposed.codes[start:end].tolist(), matrix[start:end].tobytes())
        for start, end in zip(proposed.offsets[:-1], proposed.offsets[1:], strict=True)
    ]


def test_a_bundle_gives_the_rows_that_the_model_gave_before_it_was_written(
    shop_log: list[CartEvent], folded: StatesOf, everything: Trained, written: Bundle
) -> None:
    states = [*folded(shop_log).values(), new_state()]
    assert written.catalogue.generator_names == tuple(generator.name for generator in everything.catalogue.generators)
    assert rows_of(states, written.catalogue) == rows_of(states, everything.catalogue)


def test_no_generator_says_of_a_user_what_depends_on_the_batch(
    shop_log: list[CartEvent], folded: StatesOf, written: Bundle
) -> None:
    states = list(folded(shop_log).values())
    together = rows_of(states, written.catalogue)
    for start in range(0, len(states), 7):
        assert rows_of(states[start : start + 7], written.catalogue) == together[start : start + 7]


def test_a_training_row_is_the_live_row_with_every_generator(shop_log: list[CartEvent], written: Bundle) -> None:
    baskets = [basket for basket in replay(shop_log) if basket.state is not None][-30:]
    trained = examples(baskets, written.catalogue, negatives_max=1_000, random=np.random.default_rng(1))
    live = rows_of([decode_state(basket.state or b"") for basket in baskets], written.catalogue)
    assert trained.rows.tobytes() == b"".join(rows for _, rows in live)
    assert np.all(trained.rows >= MISSING)
    assert np.all(np.isfinite(trained.rows))


def test_a_bundle_can_be_written_again_byte_for_byte(
    everything: Trained, shop_log: list[CartEvent], cut: datetime, shop_items: dict[str, Item], tmp_path: Path
) -> None:
    settings = TrainingSettings(generators=tuple(FITS), trees_max=5, episodes=2)
    again = learn(shop_log, cut, items=shop_items, settings=settings)
    assert again.write(tmp_path / "one").model_version == everything.write(tmp_path / "two").model_version
