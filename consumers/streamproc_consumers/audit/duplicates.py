"""Lines of one recommendation_id: repeats, or lists that contradict each other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import polars as pl

from streamproc.landed import Landed
from streamproc_consumers.audit.lines import LISTS, lines_of
from streamproc_consumers.audit.report import Findings
from streamproc_consumers.audit.spill import Spill


class Ids:
    """Every line's id, as a hash; lines whose id is there again are read again and compared as they are."""

    def __init__(self, folder: Path, partitions: int) -> None:
        self._lines = Spill(folder / "ids", "id", partitions)
        self._again = Spill(folder / "again", "id", partitions)

    def add(self, frame: pl.DataFrame) -> None:
        """Note the lines of a frame."""
        self._lines.add(frame.select("id", "object", "line"))

    def judge(self, objects: Sequence[Landed], findings: Findings) -> int:
        """Tell the findings; how many distinct ids there are."""
        distinct, again = 0, []
        for lines in self._lines.read():
            if lines is not None:
                repeated = lines.filter(lines["id"].is_duplicated())
                distinct += lines.height - repeated.height
                again.append(repeated)
        if not again:
            return 0
        for frame in _contents(pl.concat(again).sort("object", "line"), objects):
            self._again.add(frame)
        for lines in self._again.read():
            if lines is not None:
                distinct += _compare(lines, objects, findings)
        return distinct


def _contents(lines: pl.DataFrame, objects: Sequence[Landed]) -> Iterator[pl.DataFrame]:
    """What the lines say, as a hash, beside their whole id."""
    for (number,), rows in lines.group_by("object", maintain_order=True):
        at = int(number)
        said = [_said(text) for text in lines_of(LISTS, at, objects[at], rows["line"].to_list())]
        yield rows.with_columns(
            name=pl.Series([name for name, *_ in said], dtype=pl.String),
            snapshot=pl.Series([snapshot for _, snapshot, _ in said], dtype=pl.String),
            content=pl.Series([content for *_, content in said], dtype=pl.Int64),
        )


def _said(line: bytes) -> tuple[str, str, int]:
    """The id, the cross-user values in force, and what a replay says again with them.

    The alias of a model can have moved meanwhile, and with it arm and propensity.
    """
    fields = msgspec.json.decode(line)
    for name in ("published_ts", "arm", "propensity"):
        fields.pop(name, None)
    return fields["recommendation_id"], fields["item_snapshot"], hash(msgspec.json.encode(fields, order="sorted"))


def _compare(lines: pl.DataFrame, objects: Sequence[Landed], findings: Findings) -> int:
    """Tell the findings; how many distinct ids there are."""
    contents = (
        lines.sort("object", "line")
        .group_by("name", "snapshot", "content", maintain_order=True)
        .agg(pl.len().alias("times"), pl.col("object", "line").first())
        .sort("times", descending=True, maintain_order=True)
    )
    # The one that is there most often is taken for the right one, and others for contradicting it. A replay may find a
    # later snapshot of what is trending in force, and then say something else.
    right = contents.unique(["name", "snapshot"], keep="first", maintain_order=True).sort("object", "line")
    ids = right.group_by("name", maintain_order=True).agg(pl.col("times").sum(), pl.col("object", "line").first())
    repeated = ids.filter(pl.col("times") > 1)
    findings.add(
        "repeat",
        int((repeated["times"] - 1).sum()),
        [
            f"{objects[at].name}, line {line}, {times} times in all"
            for times, at, line in repeated.head(findings.wanted("repeat"))
            .select("times", "object", "line")
            .iter_rows()
        ],
    )
    other = contents.join(right, on=["name", "snapshot", "content"], how="anti").join(
        right, on=["name", "snapshot"], suffix="_right"
    )
    shown = other.sort("object", "line").head(findings.wanted("conflicting_id"))
    findings.add(
        "conflicting_id",
        int(other["times"].sum()),
        [
            f"{name}: {objects[at].name}, line {line}, contradicts {objects[right_at].name}, line {right_line}"
            for name, at, line, right_at, right_line in shown.select(
                "name", "object", "line", "object_right", "line_right"
            ).iter_rows()
        ],
    )
    return ids.height
