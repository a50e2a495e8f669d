"""What a ranking is worth, and the two baselines that it must beat."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import msgspec
import numpy as np

K = 10


class Metrics(msgspec.Struct, frozen=True):
    """Means over baskets of lists of ten. Every item of the basket counts, whether it was a candidate or not."""

    #: Baskets with at least one item of the list.
    hit_rate_at_10: float
    #: Share of the basket's items that are in the list.
    recall_at_10: float
    #: Discounted gain by rank, 1 / log2(1 + rank), over the best possible for min(10, basket size) items.
    ndcg_at_10: float

    def asdict(self) -> dict[str, float]:
        """Metric -> value."""
        return {name: float(getattr(self, name)) for name in self.__struct_fields__}


def measure(lists: Sequence[Sequence[str]], baskets: Sequence[Collection[str]]) -> Metrics:
    """The metrics of one list of item ids a basket. NaN without baskets."""
    discount = 1 / np.log2(np.arange(2, K + 2))
    hits = np.zeros((len(lists), K))
    for row, (ranked, basket) in enumerate(zip(lists, baskets, strict=True)):
        hits[row, : min(K, len(ranked))] = [item_id in basket for item_id in ranked[:K]]
    sizes = np.array([len(basket) for basket in baskets], dtype=np.float64)
    if not len(sizes):
        return Metrics(*[float("nan")] * 3)
    ideal = np.cumsum(discount)[np.minimum(sizes.astype(int), K) - 1]
    return Metrics(
        float(np.mean(hits.any(axis=1))),
        float(np.mean(hits.sum(axis=1) / sizes)),
        float(np.mean(hits @ discount / ideal)),
    )
