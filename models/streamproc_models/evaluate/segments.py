"""Where a ranking is good: by what the items are to the user, and by how much is known of the user."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamproc_models.evaluate.metrics import contains, found, measure, pairs, restricted
from streamproc_models.evaluate.trial import Trial

#: An item on fewer lines of the log is cold.
COLD_ITEM_LINES = 5
#: The steps (orders, or views of a session) at which a class of users begins. The first class are the cold users.
HISTORY_FROM = (0, 2, 3, 5, 9)

ALL, REPEAT, NEW, COLD_ITEMS = "all", "repeat_items", "new_items", "cold_items"
NEW_ONLY = "lists_of_new_items"
COLD_USERS = "cold_users"


class Lists(NamedTuple):
    """What one ranking recommends: int64 [targets, K_MAX] of the trial's codes, NOTHING at places without an item."""

    #: The best of all items.
    best: NDArray[np.int64]
    #: The best of the items that the user's history does not have.
    new: NDArray[np.int64]


class Measured(NamedTuple):
    """One metric of one segment."""

    segment: str
    metric: str
    #: float64 [targets]; NaN for targets outside of the segment.
    values: NDArray[np.float64]


def history_names() -> list[str]:
    """The classes of users by the steps of their history: ``cold_users`` (fewer than 2), ``history_2`` ..."""
    names = [COLD_USERS]
    for start, end in zip(HISTORY_FROM[1:], (*HISTORY_FROM[2:], None), strict=True):
        names.append(f"history_{start}" + ("_or_more" if end is None else f"_to_{end - 1}" if end - 1 > start else ""))
    return names


def history_classes(trial: Trial) -> NDArray[np.int64]:
    """int64 [targets]: the class of each target's user."""
    steps = np.zeros(trial.targets, dtype=np.int64)
    np.maximum.at(steps, trial.own.users, trial.own.steps + 1)
    return np.searchsorted(np.array(HISTORY_FROM), steps, side="right") - 1


def by_segment(trial: Trial, lists: Lists) -> list[Measured]:
    """Every metric of every segment.

    A *repeat item* is one that the user's history has; the other wanted items are *new* to the user. *Cold items* are
    on fewer than COLD_ITEM_LINES lines of the log. Of each of these three, recall and hit rate count those wanted items
    alone, but at their places in the whole list; targets that want none of them are not counted. NEW_ONLY counts the
    new items, too, in the lists of new items: what a ranking is worth where the user's own items stand elsewhere.
    """
    places = pairs(lists.best, trial.items)
    hits = found(lists.best, trial.truth, trial.items)
    measured = [Measured(ALL, metric, values) for metric, values in measure(hits, trial.sizes).items()]
    owned = np.unique(trial.own.users * trial.items + trial.own.codes)
    repeat_truth, repeat_places = contains(owned, trial.truth), contains(owned, places)
    cold = trial.lines < COLD_ITEM_LINES
    for segment, of_truth, of_places in (
        (REPEAT, repeat_truth, repeat_places),
        (NEW, ~repeat_truth, ~repeat_places),
        (COLD_ITEMS, cold[trial.truth % trial.items], cold[lists.best]),
    ):
        sizes = np.bincount(trial.truth[of_truth] // trial.items, minlength=trial.targets)
        measured += [Measured(segment, *each) for each in restricted(hits & of_places, sizes).items()]
    new_sizes = np.bincount(trial.truth[~repeat_truth] // trial.items, minlength=trial.targets)
    new_hits = found(lists.new, trial.truth, trial.items) & ~contains(owned, pairs(lists.new, trial.items))
    measured += [Measured(NEW_ONLY, *each) for each in measure(new_hits, new_sizes).items()]
    classes = history_classes(trial)
    for number, segment in enumerate(history_names()):
        inside = classes == number
        measured += [
            Measured(segment, each.metric, np.where(inside, each.values, np.nan))
            for each in measured
            if each.segment == ALL
        ]
    return measured
