"""What is judged: the lists of a model for many states, and the two ways to get one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamproc.errors import SettingsError
from streamproc_models.bundle import load
from streamproc_models.candidates import USERS_MAX, candidates, source_names
from streamproc_models.datasets import Dataset
from streamproc_models.features import UserState
from streamproc_models.features.columns import gather
from streamproc_models.scorer import Model, Scorer
from streamproc_models.training import TrainingSettings
from streamproc_models.training.episodes import Progress
from streamproc_models.training.fit import learn
from streamproc_producers.events import utc


class Ranking(NamedTuple):
    """The lists for a sequence of states. A place without an item holds -1, and comes after all others.

    They are as long as was asked for, which is longer than what is judged: lists without the user's own items are made
    from them.
    """

    #: What the codes mean: the ids of the model's catalogue, by code.
    ids: Sequence[str]
    #: [users, k], best first, no item twice.
    codes: NDArray[np.integer]
    #: float [users, k]: the probability that the model gives each; None where it gives none.
    probabilities: NDArray[np.floating] | None = None
    #: Source -> [users, n]: what each source of candidates proposed, in any order.
    candidates: Mapping[str, NDArray[np.integer]] = {}


#: Ranks states: gives each the list of its ``k`` best items. All that judging knows of a model.
Rank = Callable[[Sequence[UserState], int], Ranking]


def rank_with(model: Model) -> Rank:
    """Rank with this model as the recommender does, and note what each source proposed."""
    scorer = Scorer(model)

    def rank(states: Sequence[UserState], k: int) -> Ranking:
        codes, probabilities = scorer.rank_codes(states, k)
        return Ranking(model.catalogue.ids, codes, probabilities, _proposed(model, states))

    return rank


def rank_with_bundle(path: Path, cut: datetime) -> Rank:
    """Rank with a bundle.

    Raises BundleInvalid as loading it does, and SettingsError where it learned from events after ``cut``.
    """
    bundle = load(path)
    if datetime.fromisoformat(bundle.manifest.trained_until) >= cut:
        raise SettingsError(
            f"{path} was trained on events up to {bundle.manifest.trained_until}, after the cut: it knows what it is"
            " asked; train a bundle with the same --cut, or choose a later one"
        )
    return rank_with(bundle)


def rank_with_training(dataset: Dataset, settings: TrainingSettings, progress: Progress) -> Rank:
    """Train on the log of a data set, and rank with what was learned. Raises TrainingDataUnusable."""
    return rank_with(
        learn(dataset.events(), utc(dataset.ends_at), items=dataset.items(), settings=settings, progress=progress).model
    )


def _proposed(model: Model, states: Sequence[UserState]) -> dict[str, NDArray[np.int32]]:
    names = source_names(model.catalogue)
    proposed = {name: np.full((len(states), model.catalogue.candidates_max), -1, dtype=np.int32) for name in names}
    for start in range(0, len(states), USERS_MAX):
        found = candidates(gather(states[start : start + USERS_MAX], model.catalogue.codes), model.catalogue)
        place = np.arange(len(found.users)) - np.repeat(found.offsets[:-1], np.diff(found.offsets))
        for bit, name in enumerate(names):
            some = (found.sources >> bit) & 1 == 1
            proposed[name][start + found.users[some], place[some]] = found.codes[some]
    return proposed
