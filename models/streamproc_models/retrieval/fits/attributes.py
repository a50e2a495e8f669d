"""Links by attribute: from an item to what is bought most of its category, or of its brand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import sparse

from streamproc_models.retrieval.fits.prune import prune
from streamproc_models.retrieval.links import Links, Weighting
from streamproc_models.retrieval.steps import Steps

_DAY = 86_400.0


def fit_attribute(
    steps: Steps,
    values: Sequence[str],
    *,
    name: str,
    weighting: Weighting = Weighting.RECENT,
    width: int = 20,
    half_life_days: float = 30.0,
) -> Links:
    """Links from each item to the ``width`` others with its value that are bought most.

    ``values`` has the attribute of each item, by code; an item without one has no links. A link is the other item's
    share of what is bought of the value, where a purchase halves with every ``half_life_days`` before the log's end.
    Memory: ``width`` links an item.
    """
    age = (steps.at.max(initial=0.0) - steps.at) / _DAY
    bought = np.bincount(steps.codes, np.exp2(-age / half_life_days), steps.items)
    groups: dict[str, list[int]] = {}
    for code, value in enumerate(values):
        if value:
            groups.setdefault(value, []).append(code)
    rows, columns, shares = [np.zeros(0, int)], [np.zeros(0, int)], [np.zeros(0)]
    for codes in groups.values():
        members = np.array(codes)
        # One more than wanted: the item itself may be among them. Of equals the smaller code is the more popular.
        most = members[np.argsort(-bought[members], kind="stable")[: width + 1]]
        rows.append(np.repeat(members, len(most)))
        columns.append(np.tile(most, len(members)))
        shares.append(np.tile(bought[most] / max(bought[members].sum(), 1e-30), len(members)))
    row, column, share = (np.concatenate(parts) for parts in (rows, columns, shares))
    others = row != column
    links = (share[others].astype(np.float32), (row[others], column[others]))
    table = sparse.csr_array(links, shape=(steps.items, steps.items))
    return prune(name, weighting, [(0, table)], items=steps.items, width=width)
