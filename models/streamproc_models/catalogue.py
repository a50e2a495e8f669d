"""What the bundle knows of items: the item table and the neighbour table, both addressed by *item codes*.

A code is an item's place by recent purchases, from 0, so the popular items are the first codes and equal scores go to
the more popular item.
"""

from __future__ import annotations

from functools import cached_property

import msgspec
import numpy as np
from numpy.typing import NDArray

#: The code of an item that the bundle does not know.
UNKNOWN = -1


class Catalogue(msgspec.Struct, frozen=True, dict=True):
    """Items, their features and their neighbours, as of the end of the bundle's log."""

    #: By code. A name may be empty.
    ids: list[str]
    names: list[str]
    #: float32 [items, features of scope ITEM].
    features: NDArray[np.float32]
    #: int32 [items, neighbours], the strongest first, UNKNOWN where there are fewer.
    neighbours: NDArray[np.int32]
    #: float32 of the same shape: the strength of the link, above 0; 0 where there is none.
    links: NDArray[np.float32]

    @cached_property
    def codes(self) -> dict[str, int]:
        """The code of each item id."""
        return {item_id: code for code, item_id in enumerate(self.ids)}

    def __len__(self) -> int:
        return len(self.ids)
