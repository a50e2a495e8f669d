"""Linear models with a closed form: what a whole history says of an item, each item's part apart from the others'."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, sparse

from streamproc.errors import SettingsError
from streamproc_models.retrieval.fits.baskets import baskets
from streamproc_models.retrieval.fits.prune import prune, strongest
from streamproc_models.retrieval.links import Links, Weighting
from streamproc_models.retrieval.steps import Steps

_DAY = 86_400.0
#: Of a user with more items the last so many are read.
_USER_ITEMS_MAX = 500
_BLOCK_ITEMS = 500
#: What an item beyond the sources gets of what it explains alone: others beyond them explain the same.
_LEFT_SHARE = 0.5


def fit_ridge(
    steps: Steps,
    *,
    name: str = "ridge",
    weighting: Weighting = Weighting.ORDERS,
    width: int = 100,
    decay: float = 0.8,
    penalty: float = 500.0,
    half_life_days: float = 60.0,
    sources: int = 50,
) -> Links:
    """Ridge regression of each item of a step on what came before the step; an item may speak for itself.

    What came ``n`` steps before counts ``decay ** (n - 1)``; a step's items count 1 / sqrt(its size), so that large
    steps do not rule. A step halves with every ``half_life_days`` before the log's end. An item is regressed on the
    ``sources`` items that came before it most, and each other item on what those leave: that ranks as well as the
    dense solution, and its time grows with the pairs of items, not with the cube of the items. Memory: the histories
    of all steps twice, and the pairs of items that were in one history.
    """
    log = baskets(steps)
    fresh = np.exp2((log.at - log.at.max(initial=0.0)) / (_DAY * half_life_days)).astype(np.float32)
    sizes = np.maximum(np.diff(log.items.indptr), 1)
    before = log.histories(decay)
    after = sparse.csr_array(log.items.multiply((fresh / np.sqrt(sizes)).astype(np.float32)[:, None]))
    of_items = sparse.csr_array(before.T)
    gram = of_items @ sparse.csr_array(before.multiply(fresh[:, None]))
    answers = sparse.csc_array(of_items @ after)
    found = _regressed(sparse.csr_array(gram), answers, penalty, sources)
    return prune(name, weighting, [(0, found)], items=steps.items, width=width)


def _regressed(
    gram: sparse.csr_array[Any], answers: sparse.csc_array[Any], penalty: float, sources: int
) -> sparse.csr_array[Any]:
    """Solve (gram + penalty I) w = answer for each column: exactly for its ``sources`` largest answers together.

    Each other item then gets what it explains alone of the answer that those leave; without that a popular item would
    have links from few, and users of rare items none. Only weights above 0 are returned.
    """
    items = len(gram.indptr) - 1
    diagonal = gram.diagonal() + np.float32(penalty)
    place = np.full(items, -1)
    from_items, weights, counts = [], [], np.zeros(items + 1, dtype=np.int64)
    for code in np.flatnonzero(np.diff(answers.indptr)):
        column = slice(answers.indptr[code], answers.indptr[code + 1])
        rows, answer = answers.indices[column], answers.data[column]
        chosen = np.sort(np.argsort(-answer, kind="stable")[:sources])
        asked = rows[chosen]
        # The rows of the chosen items, one after the other, and of them the chosen columns.
        place[asked] = np.arange(len(asked))
        lengths = gram.indptr[asked + 1] - gram.indptr[asked]
        elements = np.arange(lengths.sum()) + np.repeat(gram.indptr[asked] - np.cumsum(lengths) + lengths, lengths)
        columns, values = gram.indices[elements], gram.data[elements]
        inside = place[columns] >= 0
        square = np.zeros((len(asked), len(asked)), dtype=np.float32)
        square[np.repeat(np.arange(len(asked)), lengths)[inside], place[columns[inside]]] = values[inside]
        square[np.diag_indices_from(square)] += np.float32(penalty)
        place[asked] = -1
        _, solution, failed = linalg.lapack.sposv(square, answer[chosen])
        if failed:
            raise _too_small(penalty)
        explained = np.bincount(columns, values * np.repeat(solution, lengths), minlength=items)[rows]
        found = _LEFT_SHARE * (answer - explained) / diagonal[rows]
        found[chosen] = solution
        kept = found > 0
        from_items.append(rows[kept])
        weights.append(found[kept].astype(np.float32))
        counts[code + 1] = len(weights[-1])
    if not weights:
        return sparse.csr_array((items, items), dtype=np.float32)
    by_column = (np.concatenate(weights), np.concatenate(from_items), np.cumsum(counts))
    return sparse.csr_array(sparse.csc_array(by_column, shape=(items, items)))


def fit_ease(
    steps: Steps,
    *,
    name: str = "ease",
    weighting: Weighting = Weighting.EACH,
    width: int = 100,
    penalty: float = 100.0,
    half_life_days: float = 60.0,
    items_max: int = 12_000,
    block_items: int = _BLOCK_ITEMS,
) -> Links:
    """EASE (Steck 2019): each item of a user by the others, none by itself.

    An item counts half as much with every ``half_life_days`` between its last step and the log's end. Only the
    ``items_max`` most frequent items have links: memory is 4 * items_max ** 2 bytes, and the log.
    """
    chosen = _most_frequent(np.bincount(steps.codes, minlength=steps.items), items_max)
    interests = _interests(steps, half_life_days)[:, chosen]
    inverse = _inverse(_product(interests, interests), penalty)
    diagonal = inverse.diagonal().copy()

    def blocks() -> Iterator[NDArray[np.float32]]:
        for start in range(0, len(chosen), block_items):
            block = inverse[start : start + block_items] / -diagonal
            rows = np.arange(len(block))
            block[rows, start + rows] = 0
            yield block

    return _links(name, weighting, blocks(), chosen, steps.items, width)


def _interests(steps: Steps, half_life_days: float) -> sparse.csr_array[Any]:
    """float32 [users, items]: the freshness of each user's items, as of their last step."""
    users = int(steps.users.max(initial=-1)) + 1
    # The last row of each user and item, in the order of the log.
    pairs = (steps.users * steps.items + steps.codes)[::-1]
    last = np.sort(len(pairs) - 1 - np.unique(pairs, return_index=True)[1])
    ends = np.searchsorted(steps.users[last], np.arange(users), side="right")
    last = last[ends[steps.users[last]] - np.arange(len(last)) <= _USER_ITEMS_MAX]
    fresh = np.exp2((steps.at[last] - steps.at.max(initial=0.0)) / (_DAY * half_life_days)).astype(np.float32)
    return sparse.csr_array((fresh, (steps.users[last], steps.codes[last])), shape=(users, steps.items))


def _most_frequent(counts: NDArray[np.int64], items_max: int) -> NDArray[np.int64]:
    """The codes of the most frequent items, ascending; of equally frequent ones the smaller codes."""
    order = np.lexsort((np.arange(len(counts)), -counts))[:items_max]
    return np.sort(order[counts[order] > 0])


def _product(left: sparse.csr_array[Any], right: sparse.csr_array[Any]) -> NDArray[np.float32]:
    """left' right, dense, from a sparse product of some rows at a time."""
    found = np.empty((left.shape[1], right.shape[1]), dtype=np.float32)
    transposed = sparse.csr_array(left.T)
    for start in range(0, len(found), _BLOCK_ITEMS):
        found[start : start + _BLOCK_ITEMS] = (transposed[start : start + _BLOCK_ITEMS] @ right).toarray()
    return found


def _inverse(gram: NDArray[np.float32], penalty: float) -> NDArray[np.float32]:
    """(gram + penalty I) ** -1, in the memory of ``gram``."""
    if not len(gram):
        return gram
    gram[np.diag_indices_from(gram)] += np.float32(penalty)
    # LAPACK counts rows in the other direction: the transposed view, which is equal, saves a copy.
    factor, failed = linalg.lapack.spotrf(gram.T, lower=1, clean=0, overwrite_a=1)
    if failed:
        raise _too_small(penalty)
    inverse: NDArray[np.float32] = linalg.lapack.spotri(factor, lower=1, overwrite_c=1)[0].T
    for start in range(0, len(inverse), _BLOCK_ITEMS):
        rows = slice(start, start + _BLOCK_ITEMS)
        square = inverse[rows, rows]
        square[:] = np.triu(square) + np.triu(square, 1).T
        inverse[start + _BLOCK_ITEMS :, rows] = inverse[rows, start + _BLOCK_ITEMS :].T
    return inverse


def _too_small(penalty: float) -> SettingsError:
    return SettingsError(f"penalty is {penalty}: with so small a penalty there is no solution, give a larger one")


def _links(
    name: str,
    weighting: Weighting,
    blocks: Iterator[NDArray[np.float32]],
    chosen: NDArray[np.int64],
    items: int,
    width: int,
) -> Links:
    """The pruned links of the chosen items, by their codes in the catalogue."""

    def spread() -> Iterator[tuple[int, sparse.csr_array[Any]]]:
        first = 0
        for block in blocks:
            found = strongest(block, width)
            rows = chosen[first : first + len(block)]
            first += len(block)
            starts = np.zeros(rows[-1] - rows[0] + 2, dtype=np.int64)
            starts[rows - rows[0] + 1] = np.diff(found.indptr)
            yield (
                int(rows[0]),
                sparse.csr_array(
                    (found.data, chosen[found.indices], np.cumsum(starts)), shape=(len(starts) - 1, items)
                ),
            )

    return prune(name, weighting, spread(), items=items, width=width)
