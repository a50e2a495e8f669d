"""What must not be recommended: bought already, out of stock, or against the shop's own rules."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from streamproc_models.catalogue import Catalogue
from streamproc_models.features.columns import Columns


class Filter(Protocol):
    """A rule over (user, item) pairs; what it drops is not scored, and makes room for other candidates."""

    def keeps(
        self, columns: Columns, catalogue: Catalogue, codes: NDArray[np.int64], records: NDArray[np.int64]
    ) -> NDArray[np.bool_]:
        """bool [pairs]: what stays. ``codes`` are item codes, ``records`` indices into the columns' records, or -1.

        What is said of a pair must not depend on other pairs.
        """
        ...


class Bought:
    """Drops what the user has bought, as far back as the state knows."""

    def keeps(
        self,
        columns: Columns,
        catalogue: Catalogue,  # noqa: ARG002  # of the port
        codes: NDArray[np.int64],
        records: NDArray[np.int64],
    ) -> NDArray[np.bool_]:
        """See :class:`Filter`."""
        bought = np.append(columns.records["orders"] > 0, False)  # the last is that of an item without a record
        dropped: NDArray[np.bool_] = bought[records]
        return ~dropped & (codes >= 0)


class Only:
    """Drops items by id: ``allowed`` says which may be shown, a rule of the shop or its stock, asked once an item.

    Make a new one when the stock changes.
    """

    def __init__(self, allowed: Callable[[str], bool]) -> None:
        self._allowed = allowed
        self._of: Catalogue | None = None
        self._by_code = np.zeros(0, dtype=np.bool_)

    @classmethod
    def in_stock(cls, out_of_stock: Collection[str]) -> Only:
        """All but these."""
        return cls(lambda item_id: item_id not in out_of_stock)

    def keeps(
        self,
        columns: Columns,  # noqa: ARG002  # of the port
        catalogue: Catalogue,
        codes: NDArray[np.int64],
        records: NDArray[np.int64],  # noqa: ARG002
    ) -> NDArray[np.bool_]:
        """See :class:`Filter`."""
        if self._of is not catalogue:
            self._by_code = np.array([self._allowed(item_id) for item_id in catalogue.ids], dtype=np.bool_)
            self._of = catalogue
        kept: NDArray[np.bool_] = self._by_code[codes]
        return kept
