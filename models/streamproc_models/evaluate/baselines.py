"""Rankings that need no learning, computed on the same targets every time: what a model must beat.

All of them name codes of the catalogue. Their few settings are stated here; they were chosen on inner splits and are
the same for every data set.

- *popularity*: the items on most lines of the log; *recent popularity*: on most lines of its last 14 days.
- *own frequency*: the items of most of the user's steps, of equals the last one; then recent popularity.
- *item-kNN*: the items most often together with the user's, by cosine. Together are the items of one order, and of one
  session where there are no orders.
- *co-visit*: the items that most often come next after the user's. With orders the next is the user's next order, by
  cosine; with views it is any of the next ten, the nearer the more, and half as much any of those before.
- *hand blend*: own history, co-visit and a little recent popularity, each relative to the user's best, weighted and
  added. *popular blend*: the same with as much popularity as own history, which suits shops where baskets are short.

In item-kNN, co-visit and the blends a step counts less the longer ago it is, and recent popularity fills what is left.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from streamproc_models.datasets.base import DAY
from streamproc_models.evaluate.metrics import K_MAX, NOTHING, contains, pairs
from streamproc_models.evaluate.segments import Lists
from streamproc_models.evaluate.trial import Trial
from streamproc_models.retrieval.steps import Steps

POPULARITY, RECENT, OWN = "popularity", "recent_popularity", "own_frequency"
ITEM_KNN, CO_VISIT, BLEND, POPULAR_BLEND = "item_knn", "co_visit", "hand_blend", "popular_blend"

_NAMES = (POPULARITY, RECENT, OWN, ITEM_KNN, CO_VISIT, BLEND, POPULAR_BLEND)
_RECENT_DAYS = 14
#: What a step counts against the one after it, in a history of orders and of views.
_ORDER_DECAY, _VIEW_DECAY = 0.9, 0.7
_NEXT_VIEWS = 10
_BACKWARD = 0.5
#: Weights in the blends, beside 1 for the own history.
_BLEND_CO_VISIT = 0.4
_HAND_BLEND_RECENT, _POPULAR_BLEND_POPULARITY = 0.1, 1.0
#: Of a larger order or session so many items are linked: links grow with the square.
_STEP_ITEMS_MAX = 150
_TARGETS_AT_ONCE = 1_024


def baselines(trial: Trial) -> dict[str, Lists]:
    """The lists of every baseline, by its name."""
    popularity = _in_catalogue(trial, trial.lines)
    since = trial.log.at >= trial.dataset.ends_at - _RECENT_DAYS * DAY
    recent = _in_catalogue(trial, np.bincount(trial.log.codes[since], minlength=trial.items))
    decay = _ORDER_DECAY if trial.has_orders else _VIEW_DECAY
    steps, history = _history(trial, None), _history(trial, decay)
    together, next_to = _together(trial), _co_visit(trial)
    parts: dict[str, list[Lists]] = {name: [] for name in _NAMES}
    for start in range(0, trial.targets, _TARGETS_AT_ONCE):
        some = slice(start, min(start + _TARGETS_AT_ONCE, trial.targets))
        own = steps[some]
        visited = history[some] @ next_to
        by_popularity, by_recent = _Filler(popularity, own), _Filler(recent, own)
        parts[POPULARITY].append(by_popularity.lists)
        parts[RECENT].append(by_recent.lists)
        parts[OWN].append(by_recent.filled(own))
        parts[ITEM_KNN].append(by_recent.filled(history[some] @ together))
        parts[CO_VISIT].append(by_recent.filled(visited))
        linked = _relative(history[some]) + _BLEND_CO_VISIT * _relative(visited)
        parts[BLEND].append(by_recent.filled(_popularised(linked, recent, _HAND_BLEND_RECENT)))
        parts[POPULAR_BLEND].append(by_recent.filled(_popularised(linked, popularity, _POPULAR_BLEND_POPULARITY)))
    none = Lists(*[np.empty((0, K_MAX), dtype=np.int64)] * 2)
    return {name: Lists(*map(np.concatenate, zip(none, *some, strict=True))) for name, some in parts.items()}


class _Filler:
    """The items by popularity, for some targets; and what fills the places that a ranking leaves empty."""

    def __init__(self, popularity: NDArray[np.float64], own: sparse.csr_array) -> None:
        #: [targets, catalogue]: a look-up of millions of pairs takes longer than a table of the few targets at once.
        self._is_own = np.zeros(own.shape, dtype=bool)
        self._is_own[_rows(own), own.indices] = True
        best = np.argsort(-popularity, kind="stable")
        best = best[popularity[best] > 0]
        # Of 2 K_MAX fillers at least K_MAX are not in a list; and of so many more, so many are not the user's.
        self._best = np.tile(best[: 2 * K_MAX], (own.shape[0], 1))
        most_owned = int(np.diff(own.indptr).max(initial=0))
        more = best[: 2 * K_MAX + most_owned]
        self._new = _moved_up(np.where(self._is_own[:, more], NOTHING, more))[:, : 2 * K_MAX]
        self.lists = Lists(*(_padded(some[:, :K_MAX]) for some in (self._best, self._new)))

    def filled(self, scores: sparse.csr_array) -> Lists:
        """The lists by these scores, and by popularity where there are none."""
        new = scores.copy()
        new.data[self._is_own[_rows(new), new.indices]] = 0
        return Lists(filled(top(scores, K_MAX), self._best), filled(top(new, K_MAX), self._new))


def top(scores: sparse.csr_array, k: int) -> NDArray[np.int64]:
    """int64 [rows, k]: the columns of each row's best scores above 0, best first; of equals the smaller column."""
    rows, columns = scores.shape
    column_bits = max(columns, 2).bit_length()
    lists = np.full((rows, k), NOTHING, dtype=np.int64)
    data = scores.data.astype(np.float32)
    above = data > 0
    bounds = scores.indptr.tolist()
    for start, end in pairwise(bounds):
        if end - start > k:
            # Sorting costs more than finding the k-th best first.
            above[start:end] &= data[start:end] >= np.partition(data[start:end], end - start - k)[end - start - k]
    of_rows = _rows(scores)[above]
    # The bits of floats above 0 sort as the floats do. 31 of them leave 32 for the row and the column.
    descending = 0x7FFFFFFF - data[above].view(np.int32).astype(np.int64)
    key = (((of_rows << 31) | descending) << column_bits) | scores.indices[above]
    key.sort()
    counts = np.bincount(of_rows, minlength=rows)
    place = np.arange(len(key)) - np.repeat(np.cumsum(counts) - counts, counts)
    best = place < k
    lists[np.repeat(np.arange(rows), counts)[best], place[best]] = key[best] & ((1 << column_bits) - 1)
    return lists


def filled(lists: NDArray[np.int64], filler: NDArray[np.int64]) -> NDArray[np.int64]:
    """The lists with their empty places filled from the same row of ``filler``, in its order and nothing twice."""
    wide = np.concatenate([lists, filler], axis=1)
    order = np.argsort(wide, axis=1, kind="stable")
    ordered = np.take_along_axis(wide, order, axis=1)
    again = np.zeros(wide.shape, dtype=bool)
    np.put_along_axis(again, order[:, 1:], ordered[:, 1:] == ordered[:, :-1], axis=1)
    return _moved_up(np.where(again, NOTHING, wide))[:, : lists.shape[1]]


def without(lists: NDArray[np.int64], owned: NDArray[np.int64], items: int) -> NDArray[np.int64]:
    """The lists without these pairs (ascending, row * items + code), the rest moved up."""
    return _moved_up(np.where(contains(owned, pairs(lists, items)), NOTHING, lists))


def _rows(matrix: sparse.csr_array) -> NDArray[np.int64]:
    """int64: the row of each thing that a matrix has."""
    return np.repeat(np.arange(matrix.shape[0], dtype=np.int64), np.diff(matrix.indptr))


def _moved_up(lists: NDArray[np.int64]) -> NDArray[np.int64]:
    """What is empty comes after all else."""
    return np.asarray(np.take_along_axis(lists, np.argsort(lists == NOTHING, axis=1, kind="stable"), axis=1))


def _padded(lists: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.pad(lists, ((0, 0), (0, K_MAX - lists.shape[1])), constant_values=NOTHING)


def _in_catalogue(trial: Trial, counts: NDArray[np.int64]) -> NDArray[np.float64]:
    return counts[: trial.catalogue].astype(np.float64)


def _history(trial: Trial, decay: float | None) -> sparse.csr_array:
    """[targets, catalogue]: ``decay`` ** (steps since then), added up over the steps with the item.

    Without a decay it is the number of steps, plus less than 1 for how late the last one was.
    """
    own = trial.own
    last = np.zeros(trial.targets, dtype=np.int64)
    np.maximum.at(last, own.users, own.steps)
    since = (last[own.users] - own.steps).astype(np.float64)
    # 0.5 + 0.25 + ... stays below 1.
    values = decay**since if decay is not None else 1 + 0.5 ** (since + 1)
    known = own.codes < trial.catalogue
    shape = (trial.targets, trial.catalogue)
    return sparse.csr_array((values[known], (own.users[known], own.codes[known])), shape=shape)


def _popularised(scores: sparse.csr_array, popularity: NDArray[np.float64], weight: float) -> sparse.csr_array:
    """The scores plus ``weight`` times the popularity, relative to the most popular item."""
    share = weight * popularity / max(popularity.max(initial=0.0), 1.0)
    # What has no score can only come in among the most popular items.
    rows, most = scores.shape[0], np.argsort(-popularity, kind="stable")[: 2 * K_MAX]
    most = np.sort(most[share[most] > 0])
    everybody = sparse.csr_array(
        (np.tile(share[most], rows), np.tile(most, rows), np.arange(rows + 1) * len(most)), shape=scores.shape
    )
    share[most] = 0
    others = scores.copy()
    others.data += share[others.indices]
    return sparse.csr_array(others + everybody)


def _relative(scores: sparse.csr_array) -> sparse.csr_array:
    """Each row divided by its largest score."""
    most = scores.max(axis=1).toarray().ravel()
    return sparse.csr_array(sparse.diags_array(1 / np.where(most > 0, most, 1.0)) @ scores)


def _incidence(trial: Trial, groups: NDArray[np.int64]) -> sparse.csr_array:
    """[groups, catalogue]: 1 where the group has the item; so many items of each group as are linked."""
    log = trial.log
    starts = np.flatnonzero(np.concatenate(([True], groups[1:] != groups[:-1]))) if len(groups) else groups
    place = np.arange(len(groups)) - np.repeat(starts, np.diff(np.append(starts, len(groups))))
    used = (place < _STEP_ITEMS_MAX) & (log.codes < trial.catalogue)
    shape = (int(groups[-1]) + 1 if len(groups) else 0, trial.catalogue)
    matrix = sparse.csr_array((np.ones(int(used.sum())), (groups[used], log.codes[used])), shape=shape)
    matrix.data[:] = 1.0
    return matrix


def _orders(log: Steps) -> NDArray[np.int64]:
    """int64 [rows], ascending: a number for each step of each user."""
    if not len(log.users):
        return log.users
    begins = (log.users[1:] != log.users[:-1]) | (log.steps[1:] != log.steps[:-1])
    return np.concatenate(([0], np.cumsum(begins)))


def _together(trial: Trial) -> sparse.csr_array:
    """[catalogue, catalogue]: the cosine of how often two items are in one order, or in one session."""
    groups = _orders(trial.log) if trial.has_orders else np.unique(trial.log.users, return_inverse=True)[1]
    matrix = _incidence(trial, groups)
    links = sparse.csr_array(matrix.T @ matrix)
    links.setdiag(0)
    return _cosine(links, trial)


def _co_visit(trial: Trial) -> sparse.csr_array:
    """[catalogue, catalogue]: how often the second item comes next after the first; see the module."""
    log, shape = trial.log, (trial.catalogue, trial.catalogue)
    if trial.has_orders:
        orders = _orders(log)
        matrix = _incidence(trial, orders)
        user_of = log.users[np.searchsorted(orders, np.arange(matrix.shape[0]))]
        before = np.flatnonzero(user_of[1:] == user_of[:-1])
        return _cosine(sparse.csr_array(matrix[before].T @ matrix[before + 1]), trial)
    links = sparse.csr_array(shape)
    for distance, (left, right) in enumerate(_followers(log), 1):
        known = (log.codes[left] < trial.catalogue) & (log.codes[right] < trial.catalogue)
        left, right = log.codes[left[known]], log.codes[right[known]]
        weight = np.full(len(left), _VIEW_DECAY ** (distance - 1))
        links = links + sparse.csr_array((weight, (left, right)), shape=shape)
        links = links + sparse.csr_array((_BACKWARD * weight, (right, left)), shape=shape)
    links.setdiag(0)
    return sparse.csr_array(links)


def _followers(log: Steps) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """For each distance the rows that have one of the same user so many rows later, and those."""
    for distance in range(1, _NEXT_VIEWS + 1):
        left = np.flatnonzero(log.users[distance:] == log.users[:-distance])
        yield left, left + distance


def _cosine(links: sparse.csr_array, trial: Trial) -> sparse.csr_array:
    scale = sparse.diags_array(1 / np.sqrt(np.maximum(trial.lines[: trial.catalogue], 1)))
    return sparse.csr_array(scale @ links @ scale)
