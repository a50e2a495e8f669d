"""Trains the ranker and writes the bundle."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from streamproc_models import bundle
from streamproc_models.baskets import has_purchases, replay
from streamproc_models.booster import Booster
from streamproc_models.catalogue import Catalogue
from streamproc_models.errors import TrainingDataUnusable
from streamproc_models.evaluation import Judgement
from streamproc_models.items import Item
from streamproc_models.training.boosting import fit_booster, fit_calibration
from streamproc_models.training.episodes import InTheMaking, Progress, episodes_of, first_state_needed
from streamproc_models.training.examples import Examples, joined
from streamproc_models.training.settings import TrainingSettings
from streamproc_models.training.tables import catalogue_of
from streamproc_producers.events import CartEvent, utc

#: Rows kept in the bundle to prove a loaded model.
_GOLDEN_ROWS = 64


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


class Trained(msgspec.Struct, frozen=True):
    """A trained model in memory, and what is written beside it."""

    catalogue: Catalogue
    #: None where there were too few baskets.
    booster: Booster | None
    calibration: tuple[float, float] | None
    golden_rows: NDArray[np.float32]
    report: TrainingReport
    trained_from: str
    trained_until: str

    @property
    def model(self) -> InTheMaking:
        """What ranks."""
        return InTheMaking(self.catalogue, self.booster, self.calibration)

    def write(self, out: Path) -> TrainingReport:
        """Write the bundle, and return the report with its version."""
        manifest = bundle.write(
            out,
            self.catalogue,
            self.booster,
            calibration=self.calibration,
            golden_rows=self.golden_rows,
            trained_from=self.trained_from,
            trained_until=self.trained_until,
            metrics={
                states: {
                    ranking: {**values, "baskets": float(judgement.baskets)}
                    for ranking, values in judgement.asdict().items()
                }
                for states, judgement in self.report.validation.items()
            },
        )
        return msgspec.structs.replace(self.report, model_version=manifest.model_version)


def train(
    events: Iterable[CartEvent],
    cut: datetime,
    out: Path,
    *,
    items: Mapping[str, Item],
    settings: TrainingSettings | None = None,
    progress: Progress = lambda _what, _done, _total: None,
) -> TrainingReport:
    """Train on the events before ``cut``, which must be in the order of the log, and write a bundle to ``out``.

    Equal events, settings and XGBoost give equal bytes. The model of the report's metrics has not seen the validation
    episode; the one in the bundle has, with as many trees. ``items`` is what is told of items, by id.

    Raises TrainingDataUnusable where there is no order before the cut.
    """
    return learn(events, cut, items=items, settings=settings, progress=progress).write(out)


def learn(
    events: Iterable[CartEvent],
    cut: datetime,
    *,
    items: Mapping[str, Item],
    settings: TrainingSettings | None = None,
    progress: Progress = lambda _what, _done, _total: None,
) -> Trained:
    """As :func:`train`, but the model stays in memory."""
    settings = settings or TrainingSettings()
    progress("reading events", 0, 1)
    log = [event for event in events if event.ts < cut]
    if not log:
        raise TrainingDataUnusable(f"no event is before the cut, {cut:%Y-%m-%d}: give an earlier log or a later cut")
    at, orders = cut.timestamp(), has_purchases(log)
    progress("replaying the log", 0, 1)
    baskets = replay(log, states_from=first_state_needed(at, settings), orders=orders)
    episodes = episodes_of(log, baskets, at, settings, progress, items=items, orders=orders)
    random = np.random.default_rng(settings.seed)
    parts = [joined(episode.examples(settings, random)) for episode in episodes]
    held_out = len(parts[-1].labels) if parts else 0
    everything = joined(parts)
    del parts
    # Views, not copies: the rows are what training needs most memory for.
    first_held_out = len(everything.labels) - held_out
    training, validation = everything.part(0, first_held_out), everything.part(first_held_out)
    labelled = sum(episode.labelled for episode in episodes)
    booster, calibration, observed = None, None, 1.0
    validated: dict[str, Judgement] = {}
    if labelled >= settings.baskets_min and _learnable(training) and _learnable(validation):
        progress("training", 0, 2)
        judged = fit_booster(training, validation, settings)
        validated = episodes[-1].judge(judged)
        scores = judged.scores(validation.rows)
        if not settings.gives_probabilities:
            calibration = fit_calibration(scores, validation)
        predicted = bundle.calibrated(scores, calibration)
        observed = float(predicted @ validation.weights / (validation.labels @ validation.weights))
        progress("training", 1, 2)
        booster = fit_booster(everything, None, settings, trees=judged.trees)
    del episodes
    progress("fitting the generators", 0, 1)
    report = TrainingReport(
        model_version="",
        has_model=booster is not None,
        events=len(log),
        baskets=len(baskets),
        labelled_baskets=labelled,
        rows=len(everything.labels),
        trees=0 if booster is None else booster.trees,
        validation=validated,
        calibration=observed,
    )
    return Trained(
        catalogue_of(baskets, items, at, settings),
        booster,
        calibration,
        _golden(everything.rows),
        report,
        utc(log[0].at).isoformat(),
        utc(log[-1].at).isoformat(),
    )


def _learnable(rows: Examples) -> bool:
    """Whether there are positives and negatives."""
    return bool(len(rows.labels)) and 0 < rows.labels.sum() < len(rows.labels)


def _golden(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows from all over the training set."""
    chosen = np.linspace(0, len(rows) - 1, min(_GOLDEN_ROWS, len(rows))).astype(int)
    return np.ascontiguousarray(rows[chosen])
