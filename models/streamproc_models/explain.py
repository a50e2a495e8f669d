"""Why an item is in a list: the features of its row, and what each of them adds to its score."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from streamproc_models.bundle import calibrated
from streamproc_models.candidates import TRENDING, candidates, source_names, trending_codes
from streamproc_models.features import UserState, features_of
from streamproc_models.features.columns import gather
from streamproc_models.filters import Filter
from streamproc_models.matrix import Matrix
from streamproc_models.scorer import Model


class Reason(msgspec.Struct, frozen=True):
    """One feature of a row."""

    feature: str
    #: As the booster saw it; -1 stands for missing.
    value: float
    #: What it adds to the margin: log-odds of a logistic booster, the score of a ranking one (SHAP values).
    contribution: float


class Explanation(msgspec.Struct, frozen=True):
    """Why an item has its score."""

    item_id: str
    name: str
    probability: float
    #: 1 is the first of all candidates of the user.
    rank: int
    #: Every source that proposed it.
    sources: list[str]
    #: The margin of a row of which nothing is known. With all contributions it makes the margin of this one.
    bias: float
    #: Every feature, those that add or take the most first.
    reasons: list[Reason]


def explain(
    model: Model,
    state: UserState,
    item_ids: Sequence[str],
    filters: Sequence[Filter] = (),
    trending: Sequence[str] = (),
) -> list[Explanation]:
    """Explain these items for this user, in their order; those that are no candidates are left out.

    ``filters`` are those that the list was made with: what they drop makes room for other candidates. ``trending`` are
    the items that the scorer was offered then.

    Empty where the model has no booster: popularity needs no explanation.
    """
    booster, catalogue = model.booster, model.catalogue
    if booster is None:
        return []
    columns = gather([state], catalogue.codes)
    proposed = candidates(columns, catalogue, filters, trending_codes(catalogue, trending))
    rows = Matrix().build(columns, proposed, catalogue)
    scores = booster.scores(rows)
    # Equal scores go by priority, which is the order of the rows.
    rank_of = np.empty(len(scores), dtype=np.int64)
    rank_of[np.lexsort((np.arange(len(scores)), -scores))] = np.arange(1, len(scores) + 1)
    row_of = {code: row for row, code in enumerate(proposed.codes.tolist())}
    chosen = [(item_id, row_of[code]) for item_id in item_ids if (code := catalogue.codes.get(item_id, -1)) in row_of]
    if not chosen:
        return []
    picked = [row for _, row in chosen]
    contributions = booster.contributions(rows[picked])
    features = [feature.name for feature in features_of(catalogue.generator_names)]
    sources = (*source_names(catalogue), TRENDING)
    likely = calibrated(scores[picked], model.calibration).tolist()
    return [
        Explanation(
            item_id,
            catalogue.names[catalogue.codes[item_id]],
            probability,
            int(rank_of[row]),
            [name for number, name in enumerate(sources) if int(proposed.sources[row]) >> number & 1],
            float(added[-1]),
            sorted(
                (
                    Reason(name, float(value), float(part))
                    for name, value, part in zip(features, rows[row], added[:-1], strict=True)
                ),
                key=lambda reason: -abs(reason.contribution),
            ),
        )
        for (item_id, row), added, probability in zip(chosen, contributions, likely, strict=True)
    ]
