"""Counts of lists by day, model version and arm. They add up, so that no list need be kept."""

from __future__ import annotations

import math
from collections import defaultdict
from itertools import pairwise

import numpy as np
import polars as pl

from streamproc_consumers.audit.codes import Names
from streamproc_consumers.audit.report import Day, Drift, Group, Lag

_BY = ["day", "group"]
_TOLD_BY = ["day", "version", "arm"]
#: Bins of lags are 5 % wide, from a millisecond on.
_WIDTH = math.log(1.05)
_SCORE_BINS = 10_000
#: Frames that are held before they are added up.
_FRAMES_MAX = 32


class Counts:
    """Rows of (keys, n), added up now and then."""

    def __init__(self) -> None:
        self._frames: list[pl.DataFrame] = []

    def add(self, frame: pl.DataFrame) -> None:
        """``frame`` has a column ``n``, and the same keys as those before."""
        self._frames.append(frame.select(pl.exclude("n"), "n"))
        if len(self._frames) > _FRAMES_MAX:
            self._frames = [self.sums()]

    def sums(self) -> pl.DataFrame:
        """One row for each key."""
        frame = pl.concat(self._frames)
        return frame.group_by(pl.exclude("n")).agg(pl.col("n").sum())


class Figures:
    """What is told of the lists as they landed, repeats included."""

    def __init__(self, names: Names) -> None:
        self._names = names
        self._fallbacks, self._bins, self._scores = Counts(), Counts(), Counts()
        #: Whether an item, by its code, is in a list of the group; of None, in an event.
        self._there: defaultdict[int | None, np.ndarray] = defaultdict(lambda: np.zeros(0, np.bool_))
        self._propensities: dict[int, tuple[float, float]] = {}
        self.lists = self.empty = self.early = 0
        self.published: tuple[int, int] | None = None

    def add(self, frame: pl.DataFrame) -> None:
        """Count the lists of a frame; see :class:`streamproc_consumers.audit.columns.ListRows`."""
        self.lists += frame.height
        self.early += int((frame["published"] < frame["event"]).sum())
        low, high = int(frame["published"].min()), int(frame["published"].max())  # type: ignore[arg-type] # no null
        self.published = (min(low, (self.published or (low,))[0]), max(high, (self.published or (0, high))[1]))
        empty = pl.col("places") == 0
        self.empty += int((frame["places"] == 0).sum())
        self._fallbacks.add(frame.group_by(*_BY, "fallback", empty.alias("empty")).agg(n=pl.len().cast(pl.Int64)))
        for name, lag in (
            ("published", pl.col("published") - pl.col("event")),
            ("landed", pl.col("landed") - pl.col("published")),
        ):
            self._bins.add(
                frame.group_by("group", _bin(lag)).agg(n=pl.len().cast(pl.Int64)).with_columns(lag=pl.lit(name))
            )
        score = (pl.col("top").clip(0, 1) * _SCORE_BINS).floor().cast(pl.Int32).alias("bin")
        scored = frame.filter(pl.col("top").is_not_null())
        self._scores.add(scored.group_by(*_BY, score).agg(n=pl.len().cast(pl.Int64)))
        bounds = frame.group_by("group").agg(pl.col("propensity").min().alias("low"), pl.col("propensity").max())
        for group, least, most in bounds.iter_rows():
            lists = frame["items"].filter(frame["group"] == group)
            self._note(group, lists.explode().drop_nulls().to_numpy())
            known = self._propensities.get(group, (least, most))
            self._propensities[group] = (min(least, known[0]), max(most, known[1]))

    def add_events(self, frame: pl.DataFrame) -> None:
        """Note the items of archived events."""
        self._note(None, frame["item"].to_numpy())

    def _note(self, group: int | None, items: np.ndarray) -> None:
        there = self._there[group]
        self._there[group] = there = np.pad(there, (0, len(self._names.items) - len(there)))
        there[items] = True

    def groups(self, users: dict[int, int]) -> list[Group]:
        """One for each version and arm; ``users`` are counted elsewhere."""
        if not self.lists:
            return []
        fallbacks, bins, scores = (counts.sums() for counts in (self._fallbacks, self._bins, self._scores))
        labels = list(self._names.labels)
        known = len(np.unique(np.concatenate([np.flatnonzero(there) for there in self._there.values()])))
        found = []
        told = self._names.labelled(pl.DataFrame({"group": list(self._propensities)}, {"group": pl.UInt64}))
        for code, version, arm in told.sort("version", "arm").iter_rows():
            mine = pl.col("group") == code
            of_group, lags = fallbacks.filter(mine), bins.filter(mine)
            lists, items = int(of_group["n"].sum()), int(self._there[code].sum())
            fallen = dict(of_group.drop_nulls("fallback").group_by("fallback").agg(pl.col("n").sum()).iter_rows())
            found.append(
                Group(
                    model_version=version,
                    arm=arm,
                    lists=lists,
                    users=users.get(code, 0),
                    propensity_min=self._propensities[code][0],
                    propensity_max=self._propensities[code][1],
                    fallbacks={labels[each]: fallen[each] / lists for each in sorted(fallen, key=labels.__getitem__)},
                    empty_share=int(of_group.filter("empty")["n"].sum()) / lists,
                    items=items,
                    coverage=items / known if items else 0.0,
                    published=_lag(lags.filter(pl.col("lag") == "published")),
                    landed=_lag(lags.filter(pl.col("lag") == "landed")),
                    score=_mean(scores.filter(mine)),
                )
            )
        return found

    def days(self) -> list[Day]:
        """One for each day, version and arm."""
        if not self.lists:
            return []
        scores = self._scores.sums()
        fallen = pl.col("n").filter(pl.col("fallback").is_not_null())
        rows = self._fallbacks.sums().group_by(_BY).agg(lists=pl.col("n").sum(), fallen=fallen.sum())
        return [
            Day(
                str(day),
                version,
                arm,
                lists,
                fallen / lists,
                _mean(scores.filter((pl.col("day") == day) & (pl.col("group") == group))),
            )
            for day, group, lists, fallen, version, arm in self._names.labelled(rows).sort(_TOLD_BY).iter_rows()
        ]

    def drift(self) -> list[Drift]:
        """The first day beside the last one, and each model version beside the one that came before it."""
        if not self.lists:
            return []
        scores = self._names.labelled(self._scores.sums())
        found = []
        days = sorted(scores["day"].unique().to_list())
        if len(days) > 1:
            first, last = (_histogram(scores.filter(pl.col("day") == day)) for day in (days[0], days[-1]))
            found.append(drift_of(f"{days[0]}", f"{days[-1]}", first, last))
        begun = scores.group_by("version").agg(pl.col("day").min()).sort("day", "version")["version"].to_list()
        for base, other in pairwise(begun):
            histograms = (_histogram(scores.filter(pl.col("version") == version)) for version in (base, other))
            found.append(drift_of(base, other, *histograms))
        return found


def drift_of(base: str, other: str, p: np.ndarray, q: np.ndarray) -> Drift:
    """PSI over the tenths of the base, half a list added to each, and the Kolmogorov-Smirnov distance."""
    ks = float(np.abs(np.cumsum(p) / p.sum() - np.cumsum(q) / q.sum()).max())
    # A bin goes to the tenth in which its middle lies.
    tenth = np.minimum(9, ((np.cumsum(p) - p / 2) / p.sum() * 10).astype(np.int64))
    shares = []
    for counts in (p, q):
        held = np.bincount(tenth, weights=counts, minlength=10)[np.bincount(tenth, weights=p, minlength=10) > 0] + 0.5
        shares.append(held / held.sum())
    return Drift(base, other, float(((shares[1] - shares[0]) * np.log(shares[1] / shares[0])).sum()), ks)


def lag_of(micros: pl.Series) -> pl.DataFrame:
    """The histogram of some lags, in the bins of all."""
    return micros.to_frame("lag").group_by(_bin(pl.col("lag"))).agg(n=pl.len().cast(pl.Int64))


def _bin(micros: pl.Expr) -> pl.Expr:
    return ((micros / 1000).clip(1.0).log() / _WIDTH).floor().cast(pl.Int32).alias("bin")


def lag_from(histograms: list[pl.DataFrame]) -> Lag | None:
    """Percentiles of histograms together; None of none."""
    return _lag(pl.concat(histograms)) if histograms else None


def _lag(bins: pl.DataFrame) -> Lag:
    ordered = bins.group_by("bin").agg(pl.col("n").sum()).sort("bin")
    upto = ordered["n"].cum_sum().to_numpy()
    at = [int(np.searchsorted(upto, share * upto[-1])) for share in (0.5, 0.95, 0.99)]
    # The middle of a bin, in seconds.
    return Lag(*(round(math.exp((ordered["bin"][index] + 0.5) * _WIDTH) / 1000, 6) for index in at))


def _histogram(scores: pl.DataFrame) -> np.ndarray:
    bins = scores.group_by("bin").agg(pl.col("n").sum())
    return np.bincount(bins["bin"].to_numpy(), weights=bins["n"].to_numpy(), minlength=_SCORE_BINS + 1)


def _mean(scores: pl.DataFrame) -> float | None:
    total = int(scores["n"].sum())
    return float(((scores["bin"] + 0.5) * scores["n"]).sum()) / _SCORE_BINS / total if total else None
