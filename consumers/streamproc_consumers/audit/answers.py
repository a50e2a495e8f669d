"""What users did after a list, by the rank of the item: the definitions of ``streamproc experiment report``."""

from __future__ import annotations

import polars as pl

from streamproc_consumers.audit.report import Answered, rate_interval
from streamproc_producers.events import EventType

_GROUP = ["version", "arm", "rank"]
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

    def __init__(self, window_seconds: float) -> None:
        self._window = int(window_seconds * 1e6)
        self._sums: list[pl.DataFrame] = []

    def add(self, lists: pl.DataFrame, events: pl.DataFrame) -> None:
        """The distinct lists and events of some users, and all of theirs."""
        # Positions are long text; within the partition a number orders them as well.
        places = pl.concat([lists["place"], events["place"]]).rank("dense").cast(pl.UInt32)
        lists = lists.select(
            "user", "version", "arm", "event", "items", pl.Series("place", places[: lists.height])
        ).with_row_index("list")
        events = events.select("user", "item", "type", "at", pl.Series("place", places[lists.height :]))
        answered = self._answered(lists, events)
        longest = int(lists["items"].list.len().max() or 0)  # type: ignore[arg-type] # a count
        shown = lists.group_by("version", "arm", "user", pl.col("items").list.len().alias("length")).agg(
            units=pl.len().cast(pl.Float64)
        )
        for rank in range(longest + 1):
            of_rank = answered.filter(pl.col("rank") == rank) if rank else answered.unique(["list", "kind"])
            hits = of_rank.group_by("version", "arm", "user").agg(
                *((pl.col("kind") == kind).sum().cast(pl.Float64).alias(kind) for kind in _KINDS)
            )
            users = (
                shown.filter(pl.col("length") >= rank)
                .group_by("version", "arm", "user")
                .agg(pl.col("units").sum())
                .join(hits, on=["version", "arm", "user"], how="left")
                .with_columns(pl.col(*_KINDS).fill_null(0.0))
            )
            sums = [pl.len().cast(pl.Float64).alias("users"), pl.col("units").sum()]
            sums.append((pl.col("units") ** 2).sum().alias("units2"))
            for kind in _KINDS:
                sums += [
                    pl.col(kind).sum(),
                    (pl.col(kind) ** 2).sum().alias(f"{kind}2"),
                    (pl.col(kind) * pl.col("units")).sum().alias(f"{kind}_units"),
                ]
            self._sums.append(users.group_by("version", "arm").agg(sums).with_columns(rank=pl.lit(rank)))

    def told(self) -> list[Answered]:
        """By version, arm and rank; rank 0 is any of the list's items."""
        if not self._sums:
            return []
        rows = pl.concat(self._sums).group_by(_GROUP).agg(pl.all().sum()).sort(_GROUP)
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
            for row in rows.iter_rows(named=True)
        ]

    def _answered(self, lists: pl.DataFrame, events: pl.DataFrame) -> pl.DataFrame:
        pairs = events.select("user", "item").unique()
        shown = (
            lists.with_columns(pl.int_ranges(1, pl.col("items").list.len() + 1, dtype=pl.Int32).alias("rank"))
            .filter(pl.col("items").list.len() > 0)
            .explode("items", "rank")
            .rename({"items": "item"})
            .join(pairs, on=["user", "item"], how="semi")
            .sort("place")
        )
        found = []
        for kind, types in _KINDS.items():
            of_kind = events.filter(pl.col("type").is_in([str(each) for each in types])).sort("place")
            found.append(
                shown.join_asof(
                    of_kind.select("user", "item", "place", "at"),
                    on="place",
                    by=["user", "item"],
                    strategy="forward",
                    allow_exact_matches=False,
                    check_sortedness=False,
                )
                .filter(pl.col("at") - pl.col("event") <= self._window)
                .select("list", "version", "arm", "user", "rank", kind=pl.lit(kind))
            )
        return pl.concat(found)
