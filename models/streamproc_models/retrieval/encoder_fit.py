"""Learn the encoder: a user before a step shall be nearer to the items of that step than to others, drawn at random."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from streamproc_models.retrieval.encoder import NORM, RECENT_ITEMS, Encoder, whole
from streamproc_models.retrieval.steps import Steps

_DIMENSIONS = 128
_EPOCHS = 5
_BATCH = 1024
_NEGATIVES = 2048
_NEGATIVE_POWER = 0.75
_TEMPERATURE = 0.07
_DROPOUT = 0.25
_RATE = 0.02
#: For the map of the last item, relative to that.
_LAST_RATE = 0.3
#: Pairs of an epoch at most, drawn anew for each.
_PAIRS = 800_000
#: Rows before a step that are searched for RECENT_ITEMS different items.
_LOOK_BACK = 40

Floats = NDArray[np.float32]


class _Pairs(NamedTuple):
    """What is learned from: users before a step, and an item of that step each."""

    #: int32 [queries, RECENT_ITEMS]: items by place, the last touched first; the rest is 0.
    histories: NDArray[np.int32]
    #: int64 [queries]: how many they are, at least 1.
    lengths: NDArray[np.int64]
    #: int64 [pairs]: query and item.
    queries: NDArray[np.int64]
    targets: NDArray[np.int64]


def _pairs(steps: Steps) -> _Pairs:
    rows = len(steps.codes)
    if not rows:
        none = np.empty(0, dtype=np.int64)
        return _Pairs(np.empty((0, RECENT_ITEMS), dtype=np.int32), none, none, none)
    new_user = np.concatenate(([True], steps.users[1:] != steps.users[:-1]))
    new_step = new_user | np.concatenate(([True], steps.steps[1:] != steps.steps[:-1]))
    user_start = np.flatnonzero(new_user)[np.cumsum(new_user) - 1]
    # The row at which the same user touches the same item next: until then this row is his last touch of it.
    order = np.lexsort((np.arange(rows), steps.codes, steps.users))
    until = np.full(rows, rows)
    same = (steps.users[order[1:]] == steps.users[order[:-1]]) & (steps.codes[order[1:]] == steps.codes[order[:-1]])
    until[order[:-1][same]] = order[1:][same]
    at = np.flatnonzero(new_step & ~new_user)
    histories = np.zeros((len(at), RECENT_ITEMS), dtype=np.int32)
    lengths = np.zeros(len(at), dtype=np.int64)
    for back in range(1, _LOOK_BACK + 1):
        row = np.maximum(at - back, 0)
        used = np.flatnonzero((at - back >= user_start[at]) & (until[row] >= at) & (lengths < RECENT_ITEMS))
        histories[used, lengths[used]] = steps.codes[row[used]]
        lengths[used] += 1
    of_row = np.cumsum(new_step & ~new_user) - 1
    targets = np.flatnonzero(steps.steps > steps.steps[user_start])
    return _Pairs(histories, lengths, of_row[targets], steps.codes[targets])


class _Adam:
    """Adam for the rows of a matrix; a row without a gradient stays as it is."""

    def __init__(self, values: Floats) -> None:
        self.values = values
        self._mean = np.zeros_like(values)
        self._square = np.zeros_like(values)
        self._moves = 0

    def move(self, rows: NDArray[np.int64] | slice, gradient: Floats, rate: float) -> None:
        self._moves += 1
        mean = self._mean[rows] * np.float32(0.9) + gradient * np.float32(0.1)
        square = self._square[rows] * np.float32(0.999) + gradient * gradient * np.float32(0.001)
        self._mean[rows], self._square[rows] = mean, square
        rate *= (1 - 0.999**self._moves) ** 0.5 / (1 - 0.9**self._moves)
        self.values[rows] -= np.float32(rate) * mean / (np.sqrt(square) + np.float32(1e-8))


class _Model:
    """What is learned, and one step of learning."""

    def __init__(self, popularity: NDArray[np.int64], rng: np.random.Generator) -> None:
        self._rng = rng
        vectors = rng.standard_normal((len(popularity), _DIMENSIONS), dtype=np.float32)
        self.vectors = _Adam(vectors * np.float32(_DIMENSIONS**-0.5))
        self.mix = _Adam(np.tile((0.7 ** np.arange(RECENT_ITEMS)).astype(np.float32), (RECENT_ITEMS + 1, 1)))
        self.last = _Adam(np.zeros((_DIMENSIONS, _DIMENSIONS), dtype=np.float32))
        share = popularity**_NEGATIVE_POWER
        share /= share.sum()
        self._upto = np.cumsum(share)
        # The chance to be drawn at all. Without its logarithm in the softmax, popular items sink.
        chance = -np.expm1(_NEGATIVES * np.log1p(-np.minimum(share, 0.5)))
        self._log_chance = np.log(np.maximum(chance, 1e-12)).astype(np.float32)

    def learn(
        self, histories: NDArray[np.int32], lengths: NDArray[np.int64], targets: NDArray[np.int64], rate: float
    ) -> float:
        """Move all that is learned against the gradient of the batch's mean loss, and return that loss."""
        n = len(targets)
        negatives = self._negatives()
        inside = np.arange(RECENT_ITEMS) < lengths[:, None]
        items = histories[inside].astype(np.int64)
        rows, index = np.unique(np.concatenate((items, targets, negatives)), return_inverse=True)
        of_items, of_targets, of_negatives = np.split(index, [len(items), len(items) + n])
        vectors = self.vectors.values[rows]
        norms = _norms(vectors)
        units = vectors / norms
        # Forward.
        starts = np.concatenate(([0], np.cumsum(lengths)))
        own = sparse.csr_array((self.mix.values[lengths][inside], of_items, starts), shape=(n, len(rows)))
        last_of = _pick(of_items[starts[:-1]], len(rows))
        lasts = last_of @ vectors
        kept = (self._rng.random((n, _DIMENSIONS), dtype=np.float32) >= _DROPOUT) * np.float32(1 / (1 - _DROPOUT))
        raw = (own @ vectors + lasts @ self.last.values) * kept
        user_norms = _norms(raw)
        users = raw / user_norms
        target_of = _pick(of_targets, len(rows))
        loss, to_users, to_wanted, to_others = self._contrast(
            users, units[of_targets], units[of_negatives], targets, negatives
        )
        # Backward.
        to_raw = _through_norm(to_users, users, user_norms) * kept
        to_units = target_of.T @ to_wanted
        to_units[of_negatives] += to_others
        to_vectors = _through_norm(to_units, units, norms) + own.T @ to_raw + last_of.T @ (to_raw @ self.last.values.T)
        user_of, place = np.nonzero(inside)
        cells = lengths[user_of] * RECENT_ITEMS + place
        to_mix = np.bincount(cells, _dots(vectors[of_items], to_raw[user_of]), self.mix.values.size)
        self.vectors.move(rows, to_vectors, rate)
        self.last.move(slice(None), lasts.T @ to_raw, rate * _LAST_RATE)
        self.mix.move(slice(None), to_mix.astype(np.float32).reshape(self.mix.values.shape), rate)
        return loss

    def _negatives(self) -> NDArray[np.int64]:
        """Items by popularity, ascending, each once."""
        drawn = np.searchsorted(self._upto, self._rng.random(_NEGATIVES), side="right")
        return np.unique(np.minimum(drawn, len(self._upto) - 1))

    def _contrast(
        self,
        users: Floats,
        wanted: Floats,
        others: Floats,
        targets: NDArray[np.int64],
        negatives: NDArray[np.int64],
    ) -> tuple[float, Floats, Floats, Floats]:
        """Loss of the softmax over the target and the negatives, and its gradients for the first three."""
        heat = np.float32(1 / _TEMPERATURE)
        true = np.exp(_dots(users, wanted) * heat - self._log_chance[targets])
        # No maximum is taken out: cosines are bounded, and so are these exponentials.
        other = users @ (others * heat).T
        other -= self._log_chance[negatives]
        np.exp(other, out=other)
        place = np.minimum(np.searchsorted(negatives, targets), len(negatives) - 1)
        drawn = np.flatnonzero(negatives[place] == targets)
        other[drawn, place[drawn]] = 0
        total = true + other.sum(axis=1)
        other *= (heat / (len(users) * total))[:, None]
        missing = ((true / total - 1) * (heat / len(users)))[:, None].astype(np.float32)
        loss = float(np.log(total / true).mean())
        return loss, other @ others + missing * wanted, missing * users, other.T @ users


def _dots(a: Floats, b: Floats) -> Floats:
    products: Floats = np.einsum("ij,ij->i", a, b)
    return products


def _norms(vectors: Floats) -> Floats:
    norms: Floats = np.sqrt(_dots(vectors, vectors))[:, None] + np.float32(1e-8)
    return norms


def _through_norm(to_units: Floats, units: Floats, norms: Floats) -> Any:
    """The gradient for vectors from the one for their units."""
    return (to_units - units * _dots(to_units, units)[:, None]) / norms


def _pick(index: NDArray[np.int64], rows: int) -> Any:
    """A sparse matrix that picks a row for each of these."""
    ones = np.ones(len(index), dtype=np.float32)
    return sparse.csr_array((ones, index, np.arange(len(index) + 1)), shape=(len(index), rows))


def fit_encoder(
    steps: Steps,
    name: str = "encoder",
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Encoder:
    """Learn from every step that follows another of its user.

    The same bytes come out for one seed on one machine with one number of BLAS threads. ``progress`` is told how many
    batches are done, of how many.
    """
    rng = np.random.default_rng(seed)
    pairs = _pairs(steps)
    model = _Model(np.bincount(steps.codes, minlength=steps.items), rng)
    per_epoch = min(len(pairs.targets), _PAIRS)
    total = _EPOCHS * -(-per_epoch // _BATCH)
    done = 0
    for _epoch in range(_EPOCHS):
        chosen = rng.permutation(len(pairs.targets))[:per_epoch]
        for start in range(0, per_epoch, _BATCH):
            pair = chosen[start : start + _BATCH]
            query = pairs.queries[pair]
            model.learn(pairs.histories[query], pairs.lengths[query], pairs.targets[pair], _RATE * (1 - done / total))
            done += 1
            progress(done, total)
    return _encoder(name, model)


def _encoder(name: str, model: _Model) -> Encoder:
    vectors = model.vectors.values
    return Encoder(
        name,
        whole(vectors).astype(np.int16),
        (vectors @ model.last.values).astype(np.float16),
        (np.sqrt(_dots(vectors, vectors)) / np.float32(NORM)).astype(np.float32),
        model.mix.values,
    )
