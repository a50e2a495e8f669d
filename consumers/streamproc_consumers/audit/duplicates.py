"""Lines of one recommendation_id: repeats, or lists that contradict each other."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import msgspec
import polars as pl

from streamproc_consumers.audit.lines import LISTS, Reader
from streamproc_consumers.audit.objects import Landed
from streamproc_consumers.audit.report import Findings
from streamproc_consumers.audit.spill import Spill
from streamproc_consumers.recommendation import Recommendation

_COLUMNS = ["id", "content", "object", "line"]


class Ids:
    """Every line's id and content, as hashes; where they differ, the lines are read again and compared as they are."""

    def __init__(self, folder: Path, partitions: int) -> None:
        self._lines = Spill(folder / "ids", "id", partitions)

    def add(self, frame: pl.DataFrame) -> None:
        """Note the lines of a frame."""
        self._lines.add(frame.select(_COLUMNS))

    def judge(self, objects: Sequence[Landed], findings: Findings) -> int:
        """Tell the findings; how many distinct ids there are."""
        distinct, suspects, repeats = 0, [], 0
        for lines in self._lines.read():
            if lines is None:
                continue
            ids = lines.group_by("id").agg(
                pl.len(), pl.col("content").n_unique().alias("contents"), pl.col("object", "line").first()
            )
            distinct += ids.height
            again = ids.filter(pl.col("len") > 1)
            same = again.filter(pl.col("contents") == 1)
            if same.height:
                first = same.sort("object", "line").head(findings.wanted("repeat"))
                examples = [
                    f"{objects[at].name}, line {line}, {count} times in all"
                    for at, line, count in first.select("object", "line", "len").iter_rows()
                ]
                repeated = int((same["len"] - 1).sum())
                repeats += repeated
                findings.add("repeat", repeated, examples)
            suspects.append(lines.join(again.filter(pl.col("contents") > 1).select("id"), on="id", how="semi"))
        found = pl.concat(suspects) if suspects else None
        return distinct + (self._compare(found, objects, findings) if found is not None and found.height else 0)

    def _compare(self, lines: pl.DataFrame, objects: Sequence[Landed], findings: Findings) -> int:
        """Read the lines again; how many distinct ids there are beyond the distinct hashes."""
        reader = Reader(LISTS)
        # Id and cross-user values -> what is said under them -> how often, and where first. A replay may find a later
        # snapshot of what is trending in force, and then say something else.
        said: defaultdict[tuple[str, str], dict[int, tuple[int, str]]] = defaultdict(dict)
        for (number,), rows in lines.sort("object").group_by("object", maintain_order=True):
            at = int(number)
            for line, text in reader.lines_of(at, objects[at], set(rows["line"])):
                again = msgspec.json.decode(text, type=Recommendation)
                contents = said[again.recommendation_id, again.item_snapshot]
                content = hash(_said(again))
                times, where = contents.get(content, (0, f"{objects[at].name}, line {line}"))
                contents[content] = (times + 1, where)
        seen: set[str] = set()
        for (id_, _), contents in sorted(said.items()):
            # The one that is there most often is taken for the right one, and others for contradicting it.
            (times, first), *others = sorted(contents.values(), key=lambda each: -each[0])
            findings.add("repeat", times - (id_ not in seen), [f"{first}, {times} times in all"])
            seen.add(id_)
            for times_other, where in others:
                findings.add("conflicting_id", times_other, [f"{id_}: {where}, contradicts {first}"])
        return len(seen) - lines["id"].n_unique()


def _said(line: Recommendation) -> bytes:
    """What a replay says again. The alias of a model can have moved meanwhile, and with it arm and propensity."""
    fields = msgspec.structs.asdict(line)
    for name in ("published_ts", "arm", "propensity"):
        del fields[name]
    return msgspec.json.encode(fields)
