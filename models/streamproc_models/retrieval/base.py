"""What every generator offers, and sparse scores: the form in which they answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from streamproc_models.features.columns import Columns

#: A table of all (user, item) pairs of a batch that is larger takes longer to go through than it saves.
TABLE_PAIRS_MAX = 1 << 20


class Scores(NamedTuple):
    """Scores of some (user, item) pairs of a batch; of each pair one, all above 0."""

    #: int64 [pairs], ascending: ``user * items + code``.
    keys: NDArray[np.int64]
    #: float32 [pairs].
    values: NDArray[np.float32]

    def top(self, items: int, n: int) -> Scores:
        """The ``n`` best of each user, the best first; of equal scores the smaller code, which is the more popular.

        The keys are then in the order of the users, not ascending.
        """
        users = self.keys // items
        counts = np.bincount(users)
        width = int(counts.max(initial=0))
        bits = width.bit_length()
        # One short row a user: sorting those takes a tenth of sorting all at once. The bits of floats above 0 sort as
        # the floats do; the place in the row decides between equals.
        filled = np.arange(width) < counts[:, None]
        key = np.full(filled.shape, np.iinfo(np.int64).max)
        key[filled] = (0x7FFFFFFF - self.values.view(np.int32).astype(np.int64)) << bits
        key |= np.arange(width)
        key.sort(axis=1)
        best = (key[:, :n] & ((1 << bits) - 1)) + (np.cumsum(counts) - counts)[:, None]
        best = best[filled[:, :n]]
        return Scores(self.keys[best], self.values[best])

    def at(self, keys: NDArray[np.int64]) -> NDArray[np.float32]:
        """float32 [len(keys)]: the score of each of these pairs, 0 where there is none."""
        found = np.zeros(len(keys), dtype=np.float32)
        if not len(self.keys):
            return found
        index = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        same = self.keys[index] == keys
        found[same] = self.values[index[same]]
        return found


class Scored(Protocol):
    """What a generator says of a batch of users."""

    def top(self, items: int, n: int) -> Scores:
        """The ``n`` best items of each user with a score above 0; see :meth:`Scores.top`."""
        ...

    def at(self, keys: NDArray[np.int64]) -> NDArray[np.float32]:
        """The score of each of these pairs; 0 for what the generator has nothing to say of."""
        ...


class Generator(Protocol):
    """Proposes items for users; immutable, and safe for many threads at once.

    ``KIND`` names the class in the bundle; ``from_arrays(name, parameters, arrays)`` is the other way of
    :meth:`parameters` and :meth:`arrays`.
    """

    KIND: ClassVar[str]

    @property
    def name(self) -> str:
        """The source's name as it is published, and the beginning of its features' names."""
        ...

    def scored(self, columns: Columns, items: int) -> Scored:
        """Score for all users of a batch. ``items`` is the number of items of the catalogue."""
        ...

    def parameters(self) -> Mapping[str, Any]:
        """What is not an array, for msgpack."""
        ...

    def arrays(self) -> Mapping[str, NDArray[Any]]:
        """What it is made of: int32, int16, float32 or float16 arrays."""
        ...

    @classmethod
    def from_arrays(cls, name: str, parameters: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Make it of what :meth:`parameters` and :meth:`arrays` gave."""
        ...
