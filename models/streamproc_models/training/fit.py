"""Trains the ranker and writes the bundle."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from itertools import accumulate
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import xgboost
from numpy.typing import NDArray

from streamproc.errors import SettingsError
from streamproc_models import bundle
from streamproc_models.baskets import Basket, replay
from streamproc_models.catalogue import Catalogue
from streamproc_models.errors import TrainingDataUnusable
from streamproc_models.evaluation import Judgement, judge
from streamproc_models.training.examples import Examples, examples
from streamproc_models.training.tables import catalogue_of
from streamproc_producers.events import CartEvent, utc

_DAY = 86_400.0
#: Rows kept in the bundle to prove a loaded model.
_GOLDEN_ROWS = 64

#: Told what is being done, how many of its steps are done, and how many there are.
Progress = Callable[[str, int, int], None]


class TrainingSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How the ranker is trained."""

    #: The log before the cut is divided into so many episodes, counted back from it; the last one validates.
    episodes: int = 5
    episode_days: int = 10
    #: States that start empty are followed for so long: two episodes give users time for a second basket.
    cold_days: int = 20
    #: Negatives kept a basket. At 100 candidates a user it keeps all of them.
    negatives_max: int = 100
    #: Fewer labelled baskets than this train no model: the bundle then ranks by popularity.
    baskets_min: int = 50
    #: Deeper or more trees take longer to score and ranked no better on four cuts of Online Retail.
    trees_max: int = 80
    tree_depth: int = 4
    #: Training stops where so many trees in a row bring nothing on the validation episode.
    patience_trees: int = 15
    learning_rate: float = 0.15
    #: Threads of training alone. Another number adds up in another order and gives other bytes.
    threads: int = 2
    seed: int = 7

    def __post_init__(self) -> None:
        if self.episodes < 2:
            raise SettingsError(f"episodes is {self.episodes}: with fewer than 2 nothing is left to train on")
        for name in ("episode_days", "cold_days", "negatives_max", "trees_max", "tree_depth", "threads"):
            if getattr(self, name) < 1:
                raise SettingsError(f"{name} is {getattr(self, name)}: it must be 1 or more")


class TrainingReport(msgspec.Struct, frozen=True, kw_only=True):
    """What was trained, on how much, and what it is worth."""

    model_version: str
    #: False where there were too few baskets for a model.
    has_model: bool
    events: int
    baskets: int
    #: Labelled baskets and rows that the final model learned from.
    labelled_baskets: int
    rows: int
    trees: int
    #: On the validation episode, by a model that did not see it: for cold and for warm states. Empty without a model.
    validation: dict[str, Judgement]
    #: Sum of probabilities by number of positives, on the validation rows; 1 is calibrated.
    calibration: float


class _Episode(msgspec.Struct):
    """A span of days with the catalogue of its first moment, as a bundle of that day would have it.

    Its baskets come twice: from states that start empty with it (*cold*), as after a deployment, and from states that
    know the log from its beginning (*warm*).
    """

    catalogue: Catalogue
    #: The baskets of the log before it.
    before: Sequence[Basket]
    cold: list[Basket]
    warm: list[Basket]

    def examples(self, settings: TrainingSettings, random: np.random.Generator) -> list[Examples]:
        return [
            examples(baskets, self.catalogue, negatives_max=settings.negatives_max, random=random)
            for baskets in (self.cold, self.warm)
        ]

    def judge(self, booster: xgboost.Booster) -> dict[str, Judgement]:
        model = _InTheMaking(self.catalogue, booster)
        judged = {"cold": judge(model, self.cold, self.before), "warm": judge(model, self.warm, self.before)}
        return {states: judgement for states, judgement in judged.items() if judgement.baskets}

    @property
    def labelled(self) -> int:
        return sum(basket.state is not None for basket in (*self.cold, *self.warm))


class _InTheMaking(msgspec.Struct, frozen=True):
    """A model before it is a bundle."""

    catalogue: Catalogue
    booster: xgboost.Booster


def train(
    events: Iterable[CartEvent],
    cut: datetime,
    out: Path,
    *,
    names: Mapping[str, str],
    settings: TrainingSettings | None = None,
    progress: Progress = lambda _what, _done, _total: None,
) -> TrainingReport:
    """Train on the events before ``cut``, which must be in the order of the log, and write a bundle to ``out``.

    Equal events, settings and XGBoost give equal bytes. The model of the report's metrics has not seen the validation
    episode; the one in the bundle has, with as many trees. ``names`` maps item ids to names.

    Raises TrainingDataUnusable where there is no order before the cut.
    """
    settings = settings or TrainingSettings()
    progress("reading events", 0, 1)
    log = [event for event in events if event.ts < cut]
    if not log:
        raise TrainingDataUnusable(f"no event is before the cut, {cut:%Y-%m-%d}: give an earlier log or a later cut")
    progress("replaying the log", 0, 1)
    baskets = replay(log)
    catalogue = catalogue_of(baskets, names, cut.timestamp())
    episodes = _episodes(log, baskets, cut.timestamp(), settings, progress)
    random = np.random.default_rng(settings.seed)
    parts = [episode.examples(settings, random) for episode in episodes]
    training, validation = _joined(parts[:-1]), _joined(parts[-1:])

    booster, calibration, everything = None, 1.0, _joined(parts)
    validated: dict[str, Judgement] = {}
    labelled = sum(episode.labelled for episode in episodes)
    if labelled >= settings.baskets_min and _learnable(training) and _learnable(validation):
        progress("training", 0, 2)
        judged = _fit(training, validation, settings)
        validated = episodes[-1].judge(judged)
        predicted = bundle.predict(judged, validation.rows)
        calibration = float(predicted @ validation.weights / (validation.labels @ validation.weights))
        progress("training", 1, 2)
        booster = _fit(everything, None, settings, trees=judged.num_boosted_rounds())
    manifest = bundle.write(
        out,
        catalogue,
        booster,
        golden_rows=_golden(everything.rows),
        trained_from=utc(log[0].at).isoformat(),
        trained_until=utc(log[-1].at).isoformat(),
        metrics={states: judgement.asdict() for states, judgement in validated.items()},
    )
    return TrainingReport(
        model_version=manifest.model_version,
        has_model=booster is not None,
        events=len(log),
        baskets=len(baskets),
        labelled_baskets=labelled,
        rows=len(everything.labels),
        trees=0 if booster is None else booster.num_boosted_rounds(),
        validation=validated,
        calibration=calibration,
    )


def _episodes(
    log: Sequence[CartEvent], baskets: Sequence[Basket], cut: float, settings: TrainingSettings, progress: Progress
) -> list[_Episode]:
    """The episodes that have baskets before them, in time order."""
    # The latest time so far: a late event belongs to the episode in which it came.
    event_times = list(accumulate((event.at for event in log), max))
    basket_times = list(accumulate((basket.at for basket in baskets), max))
    found: list[_Episode] = []
    for number in range(settings.episodes, 0, -1):
        progress("preparing episodes", settings.episodes - number, settings.episodes)
        start = cut - number * settings.episode_days * _DAY
        first = bisect_left(basket_times, start)
        if not first:
            continue
        warm_end = bisect_left(basket_times, start + settings.episode_days * _DAY)
        cold_end = bisect_left(event_times, start + settings.cold_days * _DAY)
        found.append(
            _Episode(
                catalogue_of(baskets[:first], {}, start),
                baskets[:first],
                replay(log[bisect_left(event_times, start) : cold_end]),
                list(baskets[first:warm_end]),
            )
        )
    return found


def _fit(
    training: Examples, validation: Examples | None, settings: TrainingSettings, trees: int | None = None
) -> xgboost.Booster:
    """A booster of ``trees`` trees; without a number, of as many as help on the validation rows."""
    parameters: dict[str, Any] = {
        "objective": "binary:logistic",
        "eval_metric": "logloss",
        "tree_method": "hist",
        "max_depth": settings.tree_depth,
        "eta": settings.learning_rate,
        "min_child_weight": 10,
        "subsample": 0.8,
        "colsample_bytree": 0.7,
        "nthread": settings.threads,
        "seed": settings.seed,
    }
    data = xgboost.QuantileDMatrix(training.rows, training.labels, weight=training.weights, nthread=settings.threads)
    if validation is None:
        return xgboost.train(parameters, data, trees)
    held_out = xgboost.QuantileDMatrix(
        validation.rows, validation.labels, weight=validation.weights, ref=data, nthread=settings.threads
    )
    booster = xgboost.train(
        parameters,
        data,
        settings.trees_max,
        evals=[(held_out, "validation")],
        early_stopping_rounds=settings.patience_trees,
        verbose_eval=False,
    )
    # inplace_predict uses all trees, so those after the best are cut off.
    return booster[: booster.best_iteration + 1]


def _joined(parts: Iterable[Sequence[Examples]]) -> Examples:
    flat = [part for pair in parts for part in pair]
    if not flat:
        return Examples(*(np.empty(0, np.float32) for _ in Examples._fields))
    return Examples(*(np.concatenate(column) for column in zip(*flat, strict=True)))


def _learnable(rows: Examples) -> bool:
    """Whether there are positives and negatives."""
    return bool(len(rows.labels)) and 0 < rows.labels.sum() < len(rows.labels)


def _golden(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows from all over the training set."""
    chosen = np.linspace(0, len(rows) - 1, min(_GOLDEN_ROWS, len(rows))).astype(int)
    return np.ascontiguousarray(rows[chosen])
