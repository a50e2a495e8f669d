"""What users did after a list, by the rank of the item: the definitions of ``streamproc experiment report``."""

from __future__ import annotations

import polars as pl

from streamproc_consumers.audit.codes import Names, array_of
from streamproc_consumers.audit.report import Answered, rate_interval
from streamproc_producers.events import EventType

_KINDS = {
    "hit": [EventType.VIEW, EventType.ADD_TO_CART, EventType.PURCHASE],
    "click": [EventType.VIEW],
    "conversion": [EventType.PURCHASE],
}


class Answers:
    """Sums over users, partition by partition.

    A place in a list is *answered* by the first event of its user on its item behind the list's position, where that is
    within the window by event time.
    """

    def __init__(self, names: Names, window_seconds: float) -> None:
        self._names = names
        self._window = int(window_seconds * 1e6)
        self._sums: list[pl.DataFrame] = []

    def add(self, lists: pl.DataFrame, events: pl.DataFrame) -> None:
        """The distinct lists and events of some users, and all of theirs, with the ``order`` of their positions."""
        lists = lists.select("user", "group", "event", "items", "order").with_row_index("list")
        hits = _hits(self._answered(lists, events))
        length = pl.col("items").list.len().cast(pl.Int32).alias("length")
        shown = lists.group_by("group", "user", length).agg(units=pl.len().cast(pl.Float64))
        first = 0
        # Ranks that the same lists have are of the same users.
        for last in shown["length"].unique().sort():
            ranks = pl.DataFrame({"rank": range(first, last + 1)}, {"rank": pl.Int32})
            units = pl.col("units")
            users = shown.filter(pl.col("length") >= last).group_by("group", "user").agg(units.sum())
            sums = users.group_by("group").agg(units.sum(), users=pl.len().cast(pl.Float64), units2=(units**2).sum())
            of_kinds = (
                hits.join(ranks, on="rank", how="semi")
                .join(users, on=["group", "user"])
                .group_by("group", "rank")
                .agg(
                    *(pl.col(kind).sum() for kind in _KINDS),
                    *((pl.col(kind) ** 2).sum().alias(f"{kind}2") for kind in _KINDS),
                    *((pl.col(kind) * units).sum().alias(f"{kind}_units") for kind in _KINDS),
                )
            )
            self._sums.append(
                sums.join(ranks, how="cross")
                .join(of_kinds, on=["group", "rank"], how="left")
                .with_columns(pl.col(pl.Float64).fill_null(0.0))
            )
            first = last + 1

    def told(self) -> list[Answered]:
        """By version, arm and rank; rank 0 is any of the list's items."""
        if not self._sums:
            return []
        rows = self._names.labelled(pl.concat(self._sums).group_by("group", "rank").agg(pl.all().sum()))
        return [
            Answered(
                row["version"],
                row["arm"],
                row["rank"],
                int(row["units"]),
                *(
                    rate_interval(
                        row["units"],
                        row[kind],
                        row[f"{kind}2"],
                        row[f"{kind}_units"],
                        row["units2"],
                        int(row["users"]),
                    )
                    for kind in _KINDS
                ),
            )
            for row in rows.sort("version", "arm", "rank").iter_rows(named=True)
        ]

    def _answered(self, lists: pl.DataFrame, events: pl.DataFrame) -> pl.DataFrame:
        # Most places are of items on which their user did nothing. Sums of a hash and a code are nearly always of one
        # pair; what they let through wrongly finds no event below.
        pair = pl.col("user") + pl.col("item")
        lengths = pl.col("items").list.len()
        shown = (
            lists.select("list", "user", (lengths.cum_sum() - lengths).alias("first"), item="items")
            .filter(pl.col("item").list.len() > 0)
            .explode("item")
            .with_row_index("rank", offset=1)
            .join(events.select(pair=pair).unique(), left_on=pair, right_on="pair", how="semi")
            .select("list", "item", (pl.col("rank") - pl.col("first")).cast(pl.Int32).alias("rank"))
            .join(lists.drop("items"), on="list")
            .sort("order")
        )
        found = []
        for kind, types in _KINDS.items():
            of_kind = events.filter(pl.col("type").is_in(array_of([self._names.labels[each] for each in types]))).sort(
                "order"
            )
            found.append(
                shown.join_asof(
                    of_kind.select("user", "item", "order", "at"),
                    on="order",
                    by=["user", "item"],
                    strategy="forward",
                    allow_exact_matches=False,
                    check_sortedness=False,
                )
                .filter(pl.col("at") - pl.col("event") <= self._window)
                .select("list", "group", "user", "rank", kind=pl.lit(kind))
            )
        return pl.concat(found)


def _hits(answered: pl.DataFrame) -> pl.DataFrame:
    """How many answers of each kind a user's lists have at each rank; rank 0 is any of the list's items."""
    of_list = answered.unique(["list", "kind"]).with_columns(rank=pl.lit(0, pl.Int32))
    return (
        pl.concat([answered, of_list])
        .group_by("group", "user", "rank")
        .agg((pl.col("kind") == kind).sum().cast(pl.Float64).alias(kind) for kind in _KINDS)
    )
