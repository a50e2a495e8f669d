"""Item-to-item links: a pruned, sparse matrix of weights, and the weights with which a user's history enters it."""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from streamproc_models.catalogue import UNKNOWN
from streamproc_models.features.columns import Columns
from streamproc_models.retrieval.base import TABLE_PAIRS_MAX, Scores


class Weighting(enum.StrEnum):
    """How much an item of the history counts. All are above 0 for what counts at all."""

    #: 1 for every item that was bought or is in the cart.
    EACH = "each"
    #: The sum over the orders with it of 0.8 ** (orders since then).
    ORDERS = "orders"
    #: 0.7 ** place of all items, the last touched first, down to the twelfth.
    RECENT = "recent"
    #: 1 for the items of the last order, or in the cart.
    LAST_ORDER = "last_order"
    #: The interest: it halves every 30 days.
    INTEREST = "interest"


#: Stands for UNKNOWN in 16 bits.
_NONE = 0xFFFF
_RECENT_ITEMS = 12
_RECENT_DECAY = 0.7


def weights(columns: Columns, weighting: Weighting) -> NDArray[np.float32]:
    """float32 [records]: what each record of the history counts; 0 for what does not."""
    records = columns.records
    found: NDArray[Any]
    if weighting is Weighting.INTEREST:
        found = columns.interest
    elif weighting is Weighting.ORDERS:
        found = columns.order_decay
    elif weighting is Weighting.EACH:
        found = (records["orders"] > 0) | (records["in_cart"] > 0)
    elif weighting is Weighting.LAST_ORDER:
        orders = columns.orders[columns.record_users]
        found = ((records["last_order"] == orders) & (orders > 0)) | (records["in_cart"] > 0)
    else:
        found = np.where(columns.place < _RECENT_ITEMS, _RECENT_DECAY**columns.place, 0.0)
    return np.where(columns.record_codes != UNKNOWN, found, 0).astype(np.float32)


class Links(msgspec.Struct, frozen=True, dict=True):
    """A generator: the user's weights times the matrix of links."""

    name: str
    weighting: Weighting
    #: int32 [items, links]: codes of the linked items, UNKNOWN where there are fewer.
    neighbours: NDArray[np.int32]
    #: float32 of the same shape: above 0, and 0 where there is none.
    links: NDArray[np.float32]

    KIND: ClassVar[str] = "links"

    def __post_init__(self) -> None:
        linked = self.neighbours != UNKNOWN
        counts = np.concatenate(([0], np.cumsum(linked.sum(axis=1))))
        shape = (len(self.neighbours), len(self.neighbours))
        self.__dict__["matrix"] = sparse.csr_array((self.links[linked], self.neighbours[linked], counts), shape=shape)

    def scored(self, columns: Columns, items: int) -> Scores:
        """One product for all users; each row is added up in the order of the user's history."""
        weight = weights(columns, self.weighting)
        used = np.flatnonzero(weight > 0)
        users = len(columns.now)
        if users * items <= TABLE_PAIRS_MAX:
            return self._scored_densely(columns, weight, used, items)
        counts = np.bincount(columns.record_users[used], minlength=users)
        starts = np.concatenate(([0], np.cumsum(counts)))
        wanted = sparse.csr_array((weight[used], columns.record_codes[used], starts), shape=(users, items))
        product = wanted @ self.__dict__["matrix"]
        product.sort_indices()
        of_users = np.repeat(np.arange(users, dtype=np.int64), np.diff(product.indptr))
        return Scores(of_users * items + product.indices, product.data)

    def _scored_densely(
        self, columns: Columns, weight: NDArray[np.float32], used: NDArray[np.int64], items: int
    ) -> Scores:
        """The same in a table of all pairs, which is faster where that is small."""
        codes = columns.record_codes[used]
        # Where there are fewer links a 0 is added to some other pair.
        keys = (columns.record_users[used] * items)[:, None] + self.neighbours[codes]
        table = np.zeros(len(columns.now) * items, dtype=np.float32)
        np.add.at(table, keys.ravel(), (weight[used][:, None] * self.links[codes]).ravel())
        found = np.flatnonzero(table > 0)
        return Scores(found, table[found])

    def parameters(self) -> Mapping[str, Any]:
        """How the history is weighed, and what the links are multiplied by."""
        return {"weighting": self.weighting, "scale": float(_scale(self.links))}

    def arrays(self) -> Mapping[str, NDArray[Any]]:
        """The two tables, in as few bytes as hold them: 4 a link for up to 65,535 items, else 6."""
        codes = self.neighbours if len(self.neighbours) > _NONE else self.neighbours.astype(np.uint16)
        return {"neighbours": codes, "links": (self.links / _scale(self.links)).astype(np.float16)}

    @classmethod
    def from_arrays(cls, name: str, parameters: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Self:
        """See :class:`~streamproc_models.retrieval.base.Generator`."""
        neighbours = arrays["neighbours"].astype(np.int32)
        if arrays["neighbours"].dtype == np.uint16:
            neighbours[neighbours == _NONE] = UNKNOWN
        links = arrays["links"].astype(np.float32) * np.float32(parameters["scale"])
        return cls(name, Weighting(parameters["weighting"]), neighbours, links)


def rounded(links: NDArray[np.float32]) -> NDArray[np.float32]:
    """The links as the bundle can hold them, in 16 bits each: fitted ones are the same before and after."""
    scale = _scale(links)
    return (links / scale).astype(np.float16).astype(np.float32) * scale


def _scale(links: NDArray[np.float32]) -> np.float32:
    """A power of two, so that dividing by it loses nothing, and so large that the strongest link is 1 at most."""
    largest = float(links.max(initial=0.0))
    return np.float32(2.0 ** math.ceil(math.log2(largest)) if largest > 0 else 1.0)
