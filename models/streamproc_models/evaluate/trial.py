"""A trial: the log, the states to be ranked, and what came after, by number and code."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamproc_models.datasets import Dataset
from streamproc_models.features import UserState, fold, new_state
from streamproc_models.features.fold import ORDER_GAP_MAX
from streamproc_models.retrieval.steps import Steps
from streamproc_producers.events import CartEvent, EventType


class Trial(NamedTuple):
    """One data set as arrays. Items are *codes*: the items of log and targets, those on most lines of the log first.

    A *line* is an item in an order, or a view where the log has no purchases. Lines alone are history here: an item
    that was put into the cart and never bought is not.
    """

    dataset: Dataset
    #: By code; and the number of lines that each is on.
    ids: list[str]
    lines: NDArray[np.int64]
    #: The codes below this one are on enough lines to be recommended.
    catalogue: int
    #: The lines of the log, and those of the targets' users before their target; the users of ``own`` are numbers of
    #: targets. Both count all codes as items.
    log: Steps
    own: Steps
    #: int64 [pairs], ascending: target * items + code of what came.
    truth: NDArray[np.int64]
    #: int64 [targets]: how many items came.
    sizes: NDArray[np.int64]
    #: Of each target, all events of its user before it.
    states: list[UserState]
    #: Whether a step is an order, else a view.
    has_orders: bool

    @property
    def items(self) -> int:
        """Number of codes."""
        return len(self.ids)

    @property
    def targets(self) -> int:
        """Number of targets."""
        return len(self.sizes)


class _Rows:
    """Lines in the making, of one kind of event."""

    def __init__(self) -> None:
        self.users, self.steps, self.items, self.at = array("q"), array("q"), array("q"), array("d")

    def append(self, user: int, step: int, item: int, at: float) -> None:
        self.users.append(user)
        self.steps.append(step)
        self.items.append(item)
        self.at.append(at)


class _Orders:
    """Numbers each user's orders as the fold does: by id, and without one by the time between purchases."""

    def __init__(self) -> None:
        self._last: dict[int, tuple[int, str | None, float]] = {}

    def step(self, user: int, event: CartEvent) -> int:
        number, order_id, at = self._last.get(user, (-1, "", 0.0))
        if number < 0 or order_id != event.order_id or (order_id is None and event.at - at > ORDER_GAP_MAX):
            number += 1
        self._last[user] = (number, event.order_id, event.at)
        return number


def prepare(dataset: Dataset) -> Trial:
    """Read a data set and fold the states of its targets. Raises SettingsError as reading does."""
    targets = dataset.targets()
    state_of = {target.user_id: new_state() for target in targets}
    number_of: dict[str, int] = {}
    item_of: dict[str, int] = {}
    orders = _Orders()
    bought, viewed = _Rows(), _Rows()

    def read(events: Iterable[CartEvent]) -> None:
        for event in events:
            if (state := state_of.get(event.user_id)) is not None:
                fold(state, event)
            if event.event_type is EventType.PURCHASE:
                rows = bought
            elif event.event_type is EventType.VIEW:
                rows = viewed
            else:
                continue
            user = number_of.setdefault(event.user_id, len(number_of))
            item = item_of.setdefault(event.item_id, len(item_of))
            step = orders.step(user, event) if rows is bought else len(viewed.users)
            rows.append(user, step, item, event.at)

    read(dataset.events())
    logged = (len(bought.users), len(viewed.users))
    read(dataset.prefixes())
    has_orders = bool(bought.users)
    rows, of_log = (bought, logged[0]) if has_orders else (viewed, logged[1])
    wanted = [[item_of.setdefault(item_id, len(item_of)) for item_id in target.items] for target in targets]

    users, steps, items, at = (np.asarray(column) for column in (rows.users, rows.steps, rows.items, rows.at))
    log = _steps(users[:of_log], steps[:of_log], items[:of_log], at[:of_log], len(item_of))
    lines = np.bincount(log.codes, minlength=len(item_of))
    names = list(item_of)
    # Equally popular items go by id, so that codes depend on the log's content alone.
    by_rank = np.array(sorted(range(len(names)), key=lambda item: (-lines[item], names[item])), dtype=np.int64)
    code_of = np.empty(len(names), dtype=np.int64)
    code_of[by_rank] = np.arange(len(names))
    target_of = np.full(len(number_of), -1, dtype=np.int64)
    for number, target in enumerate(targets):
        if (user := number_of.get(target.user_id)) is not None:
            target_of[user] = number
    of_target = target_of[users]
    inside = of_target >= 0
    own = _steps(of_target[inside], steps[inside], items[inside], at[inside], len(names))
    sizes = np.array([len(some) for some in wanted], dtype=np.int64)
    came = code_of[np.array([item for some in wanted for item in some], dtype=np.int64)]
    lines = lines[by_rank]
    return Trial(
        dataset,
        [names[item] for item in by_rank],
        lines,
        int(np.count_nonzero(lines >= max(dataset.item_lines_min, 1))),
        log._replace(codes=code_of[log.codes]),
        own._replace(codes=code_of[own.codes]),
        np.unique(np.repeat(np.arange(len(sizes)), sizes) * len(names) + came),
        sizes,
        [state_of[target.user_id] for target in targets],
        has_orders,
    )


def _steps(
    users: NDArray[np.int64], steps: NDArray[np.int64], codes: NDArray[np.int64], at: NDArray[np.float64], items: int
) -> Steps:
    """The rows by user and step, an item once a step, the steps of each user numbered from 0."""
    order = np.lexsort((codes, steps, users))
    users, steps, codes, at = users[order], steps[order], codes[order], at[order]
    again = np.zeros(len(users), dtype=bool)
    again[1:] = (users[1:] == users[:-1]) & (steps[1:] == steps[:-1]) & (codes[1:] == codes[:-1])
    users, steps, codes, at = users[~again], steps[~again], codes[~again], at[~again]
    if not len(users):
        return Steps(users, steps, codes, at, items)
    new_user = np.concatenate(([True], users[1:] != users[:-1]))
    new_step = np.concatenate(([True], (steps[1:] != steps[:-1]) | new_user[1:]))
    number = np.cumsum(new_step)
    return Steps(users, number - number[new_user][np.cumsum(new_user) - 1], codes, at, items)
