"""What the bundle knows of items: the item table and the generators, all addressed by *item codes*.

A code is an item's place by recent popularity, from 0, so the popular items are the first codes and equal scores go to
the more popular item.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from streamproc_models.retrieval.base import Generator

#: The code of an item that the bundle does not know.
UNKNOWN = -1


class Catalogue(msgspec.Struct, frozen=True, dict=True):
    """Items, their features, and what proposes them, as of the end of the bundle's log."""

    #: By code. A name may be empty.
    ids: list[str]
    names: list[str]
    #: float32 [items, features of scope ITEM].
    features: NDArray[np.float32]
    generators: tuple[Generator, ...] = ()
    #: Candidates of a user at most, and what each source but the history proposes at most.
    candidates_max: int = 100
    proposed_max: int = 40
    #: Event time of the end of that log, seconds since the epoch; infinite where it is now, as in training.
    as_of: float = math.inf
    #: By code, where the shop tells them: paths, and "" of an item without one. Empty where none of any item is known.
    categories: list[str] = []
    brands: list[str] = []

    def category_of(self, item_id: str) -> str:
        """The path of the item's category; "" where it is not known."""
        return self.categories[self.codes[item_id]] if self.categories and item_id in self.codes else ""

    @cached_property
    def codes(self) -> dict[str, int]:
        """The code of each item id."""
        return {item_id: code for code, item_id in enumerate(self.ids)}

    @property
    def generator_names(self) -> tuple[str, ...]:
        """In the order of their columns."""
        return tuple(generator.name for generator in self.generators)

    def __len__(self) -> int:
        return len(self.ids)
