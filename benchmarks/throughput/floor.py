"""The floor: the booster alone, on the rows that the scorer gives it for the same batches, in the same calls.

What makes the rows runs before the first mark, on a booster that keeps them and scores nothing.
"""

from __future__ import annotations

from typing import cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from benchmarks.throughput.job import ITEMS_PER_LIST, booster_of, bundle_of, log_lines, mark, task, wait_for_start
from streamproc_models.booster import Booster
from streamproc_models.features import UserState, fold, new_state
from streamproc_models.scorer import Scorer
from streamproc_producers.events import decode


class _Keeps:
    def __init__(self) -> None:
        self.matrices: list[NDArray[np.float32]] = []

    def scores(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        self.matrices.append(rows.copy())
        return np.zeros(len(rows), dtype=np.float32)


def main() -> None:
    of = task()
    bundle, keeps = bundle_of(of), _Keeps()
    scorer = Scorer(msgspec.structs.replace(bundle, booster=cast("Booster", keeps)))
    booster = booster_of(of, bundle)
    events = [decode(line) for line in log_lines(of)]
    states: dict[str, UserState] = {}
    for start in range(0, len(events), of.batch):
        touched = {}
        for event in events[start : start + of.batch]:
            state = states[event.user_id] = fold(states.get(event.user_id) or new_state(), event)
            touched[event.user_id] = state
        scorer.rank(list(touched.items()), ITEMS_PER_LIST)
    del scorer, states, events
    wait_for_start(of)
    for rows in keeps.matrices:
        booster.scores(rows)
    mark("done")


if __name__ == "__main__":
    main()
