"""Names of metrics, rankings and segments as people read them."""

from __future__ import annotations

_SPELT = {"item_knn": "item-kNN", "co_visit": "co-visit"}
_METRICS = {"recall": "Recall", "hr": "HR", "ndcg": "NDCG", "mrr": "MRR"}


def headed(metric: str) -> str:
    """``recall_at_10`` -> ``Recall@10``."""
    name, k = metric.split("_at_")
    return f"{_METRICS.get(name, name)}@{k}"


def named(name: str) -> str:
    """``own_frequency`` -> ``own frequency``."""
    return _SPELT.get(name, name.replace("_", " "))
