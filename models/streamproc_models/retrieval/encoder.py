"""A small encoder: a vector for each item, and one for a user from his last items; what is near fits well.

The user's vector is ``sum over places of mix[length, place] * item vector + a vector of the last item``, a linear map
of its own; the score is the cosine. :mod:`~streamproc_models.retrieval.encoder_fit` learns all of it.

A product of matrices adds up in an order that depends on their shapes, so floats would give a user other bits in
another batch. Here both sides are whole numbers of a length of at most 4,095: every product, and by Cauchy-Schwarz
every sum of some of them, is a whole number below 2 ** 24, which float32 holds exactly. The order no longer matters.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple, Self

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from streamproc_models.features.columns import Columns
from streamproc_models.retrieval.base import Scores
from streamproc_models.retrieval.sessions import recent

#: Items by which a user is encoded.
RECENT_ITEMS = 10
#: Length of the vectors of whole numbers.
NORM = 4095
#: Users whose scores of all items are held at once, and pairs whose vectors are.
_BLOCK_USERS = 128
_BLOCK_PAIRS = 1 << 14


def whole(vectors: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """These vectors as whole numbers, of a length of at most NORM; a zero vector stays.

    The largest component and the sum of squares of whole numbers depend on no order either.
    """
    largest = np.abs(vectors).max(axis=1, keepdims=True).astype(np.float64)
    fine = np.rint(vectors / np.where(largest > 0, largest, 1) * (1 << 20))
    length = np.sqrt((fine.astype(np.int64) ** 2).sum(axis=1, keepdims=True))
    numbers: NDArray[np.float32] = np.trunc(fine * (NORM / np.maximum(length, 1))).astype(np.float32)
    return numbers


def _score(product: NDArray[np.float32]) -> NDArray[np.float32]:
    """(1 + cosine) / 2, halved to 24 bits, which float32 holds: above 0, and in the order of the products."""
    shifted = (product.astype(np.int32) + NORM**2) >> 1
    scores: NDArray[np.float32] = np.maximum(shifted, 1).astype(np.float32) * np.float32(2.0**-24)
    return scores


class Encoded(NamedTuple):
    """The vectors of a batch of users, ready to be compared with items."""

    #: float32 [users, dimensions]: whole numbers.
    users: NDArray[np.float32]
    #: bool [users]: whether the user has a known item.
    known: NDArray[np.bool_]
    #: float32 [items, dimensions]: whole numbers.
    vectors: NDArray[np.float32]

    def top(self, items: int, n: int) -> Scores:
        """See :class:`~streamproc_models.retrieval.base.Scored`."""
        known = np.flatnonzero(self.known)[: None if n > 0 else 0]
        blocks = [
            self._top(known[start : start + _BLOCK_USERS], items, n) for start in range(0, len(known), _BLOCK_USERS)
        ]
        if not blocks:
            return Scores(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32))
        return Scores(np.concatenate([block.keys for block in blocks]), np.concatenate([b.values for b in blocks]))

    def _top(self, users: NDArray[np.int64], items: int, n: int) -> Scores:
        products = self.users[users] @ self.vectors.T
        rows, codes = np.divmod(np.flatnonzero(products >= _bound(products, n)), items)
        scores = _score(products[rows, codes])
        order = np.lexsort((codes, -scores, rows))
        counts = np.bincount(rows, minlength=len(users))
        rank = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
        best = order[rank < n]
        return Scores(users[rows[best]] * items + codes[best], scores[best])

    def at(self, keys: NDArray[np.int64]) -> NDArray[np.float32]:
        """See :class:`~streamproc_models.retrieval.base.Scored`."""
        users, codes = np.divmod(keys, len(self.vectors))
        product = np.empty(len(keys), dtype=np.float32)
        for start in range(0, len(keys), _BLOCK_PAIRS):
            block = slice(start, start + _BLOCK_PAIRS)
            product[block] = np.einsum("ij,ij->i", self.users[users[block]], self.vectors[codes[block]])
        return np.where(self.known[users], _score(product), np.float32(0))


def _bound(products: NDArray[np.float32], n: int) -> NDArray[np.float32]:
    """[users, 1]: a number that at least ``n`` of each user's products reach, and few more.

    With the items in some more than ``n`` groups, the n-th largest of the groups' largest products is one.
    """
    items = products.shape[1]
    size = max(1, items // (8 * n))
    groups = items // size
    if groups <= n:
        return np.full((len(products), 1), -np.inf, dtype=np.float32)
    largest = products[:, : size * groups].reshape(len(products), size, groups).max(axis=1)
    # Halving keeps the order but makes some equal; what is equal after that belongs in, too.
    bound: NDArray[np.float32] = np.partition(largest, groups - n, axis=1)[:, groups - n, None] - 1
    return bound


class Encoder(msgspec.Struct, frozen=True, dict=True):
    """A generator: the items nearest to a user; see the module for the algorithm."""

    name: str
    #: int16 [items, dimensions]: vectors of whole numbers.
    vectors: NDArray[np.int16]
    #: float16 [items, dimensions]: what the last touched item adds to a user's vector.
    lasts: NDArray[np.float16]
    #: float32 [items]: what an item counts in a user's vector.
    scales: NDArray[np.float32]
    #: float32 [RECENT_ITEMS + 1, RECENT_ITEMS]: by number of items and place, what an item counts there.
    mix: NDArray[np.float32]

    KIND: ClassVar[str] = "encoder"

    def __post_init__(self) -> None:
        self.__dict__["table"] = self.vectors.astype(np.float32)

    def scored(self, columns: Columns, items: int) -> Encoded:  # noqa: ARG002
        """Encode the users; each one's vector is added up in the order of his items."""
        found = recent(columns, RECENT_ITEMS)
        users = len(columns.now)
        lengths = np.bincount(found.users, minlength=users)
        weights = self.mix[lengths[found.users], found.places] * self.scales[found.codes]
        bounds = np.concatenate(([0], np.cumsum(lengths)))
        own = sparse.csr_array((weights, np.arange(len(weights)), bounds), shape=(users, len(weights)))
        table: NDArray[np.float32] = self.__dict__["table"]
        vectors = own @ table[found.codes]
        last = found.places == 0
        vectors[found.users[last]] += self.lasts[found.codes[last]]
        return Encoded(whole(vectors), lengths > 0, table)

    def parameters(self) -> Mapping[str, Any]:
        """Nothing: all is in the arrays."""
        return {}

    def arrays(self) -> Mapping[str, NDArray[Any]]:
        """What was learned."""
        return {"vectors": self.vectors, "lasts": self.lasts, "scales": self.scales, "mix": self.mix}

    @classmethod
    def from_arrays(cls, name: str, parameters: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Self:  # noqa: ARG003
        """See :class:`~streamproc_models.retrieval.base.Generator`."""
        return cls(name, **arrays)
