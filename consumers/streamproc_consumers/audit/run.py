"""Runs an audit: reads the lists, then the archive, then compares what is of one id and of one user."""

from __future__ import annotations

import gc
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import polars as pl

from streamproc.aws import aws_client
from streamproc.deadletter import Kind
from streamproc.deadletters.dynamodb import DynamoDBDeadLetters
from streamproc.errors import SettingsError
from streamproc.landed import Landed
from streamproc.leases.dynamodb import DynamoDBLeases
from streamproc.namespace import Namespace
from streamproc.stream import stream_created_at
from streamproc_consumers.audit.codes import Names
from streamproc_consumers.audit.columns import EventRows, ListRows, Rows
from streamproc_consumers.audit.duplicates import Ids
from streamproc_consumers.audit.figures import Figures
from streamproc_consumers.audit.lines import EVENTS, LISTS, NOT_JSON, SCHEMA, Form, Read, Reader
from streamproc_consumers.audit.objects import objects_in
from streamproc_consumers.audit.places import place_of
from streamproc_consumers.audit.report import FAULTS, NOTES, Findings, Report
from streamproc_consumers.audit.tables import Tables
from streamproc_consumers.audit.users import END, Users

#: Text that one partition's rows are of; they are several times smaller.
_PARTITION_BYTES = 256 * 1024 * 1024
#: Lines of JSON compress about so well.
_GZIP_RATIO = 8


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What is audited."""

    address: str
    archive: str | None = None
    #: The application whose leases and dead letters tell what is due, and its stream.
    application: str | None = None
    stream: str | None = None
    #: What arrived later than so long ago can still be in Firehose's buffer.
    settle_seconds: float = 900.0
    #: How long a list can be answered.
    window_seconds: float = 86_400.0
    examples: int = 10
    parquet: Path | None = None


def audit(plan: Plan, begun: Callable[[int], Callable[[int], None]]) -> Report:
    """Read everything once and tell. ``begun`` gets the bytes that are to be read, and gives what counts them.

    Memory is bounded: pieces of the text, counts, and one partition of what is compared. Raises SettingsError where
    there is nothing to read, and what S3 and DynamoDB raise.
    """
    objects = objects_in(plan.address)
    archived = objects_in(plan.archive) if plan.archive is not None else []
    checkpoints, put_aside = _checkpoints(plan)
    findings, names = Findings(plan.examples), Names()
    figures = Figures(names)
    count = begun(sum(each.size for each in [*objects, *archived]))
    text_bytes = 0
    with _uncollected(), tempfile.TemporaryDirectory(prefix="streamproc-audit-") as name:
        partitions = 1 + sum(map(_text_bytes, [*objects, *archived])) // _PARTITION_BYTES
        ids = Ids(Path(name), partitions)
        users = Users(
            Path(name),
            partitions,
            names,
            window_seconds=plan.window_seconds,
            checkpoints=checkpoints,
            put_aside=put_aside,
            landed_before=int((time.time() - plan.settle_seconds) * 1e6),
        )
        tables = Tables(plan.parquet) if plan.parquet is not None else None

        def read(form: Form[Any], rows: Rows[Any], place: list[Landed]) -> Iterator[pl.DataFrame]:
            nonlocal text_bytes
            bad = _BadLines(place, findings)
            for part in Reader(form, names).read(place):
                text_bytes += len(part.piece.text)
                count(part.piece.stored_bytes)
                bad.add(part)
                if (frame := rows.add(part)) is not None:
                    yield frame
            if (frame := rows.rest()) is not None:
                yield frame
            bad.tell()

        for frame in read(LISTS, ListRows(objects, names, whole=tables is not None), objects):
            ids.add(frame)
            users.add_lists(frame)
            figures.add(frame)
            _propensities(frame, objects, findings)
            if tables is not None:
                tables.add(frame, objects)
        for frame in read(EVENTS, EventRows(archived, names), archived):
            users.add_events(frame)
            figures.add_events(frame)
        if tables is not None:
            tables.close()
        distinct = ids.judge(objects, findings)
        users.judge(objects, archived, findings)
    groups = figures.groups(users.of_group)
    findings.add("empty_list", figures.empty, [])
    findings.add("published_early", figures.early, [])
    first, last = (None, None) if figures.published is None else map(_time_text, figures.published)
    return Report(
        address=plan.address,
        archive=plan.archive,
        objects=len(objects),
        stored_bytes=sum(each.size for each in objects),
        text_bytes=text_bytes,
        lists=figures.lists,
        distinct_lists=distinct,
        users=users.count,
        first_published=first,
        last_published=last,
        archived_events=users.events if plan.archive is not None else None,
        judged_up_to=None
        if plan.archive is None
        else f"the checkpoints of {plan.application}"
        if plan.application is not None
        else "the last list of each shard",
        window_seconds=plan.window_seconds,
        arrival_to_published=users.arrival_to_published,
        faults=findings.of(FAULTS),
        notes=findings.of(NOTES),
        groups=groups,
        days=figures.days(),
        drift=figures.drift(),
        answered=users.answered,
    )


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without searches for cycles: records have none, and looking at all of them takes a twentieth of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class _BadLines:
    """What is no record: objects by themselves, lines by the reason."""

    def __init__(self, objects: list[Landed], findings: Findings) -> None:
        self._objects = objects
        self._findings = findings
        self._reasons: Counter[tuple[str, str]] = Counter()
        self._first: dict[tuple[str, str], str] = {}

    def add(self, read: Read[Any]) -> None:
        for bad in read.bad:
            where = self._objects[bad.number].name + (f", line {bad.line}" if bad.line else "")
            if bad.kind in (SCHEMA, NOT_JSON):
                self._reasons[bad.kind, bad.why] += 1
                self._first.setdefault((bad.kind, bad.why), where)
            else:
                self._findings.add(bad.kind, 1, [f"{where}: {bad.why}"])

    def tell(self) -> None:
        for (kind, why), count in self._reasons.most_common():
            lines = "1 line" if count == 1 else f"{count} lines, the first"
            self._findings.add(kind, count, [f"{why}: {lines} in {self._first[kind, why]}"])


def _propensities(frame: pl.DataFrame, objects: list[Landed], findings: Findings) -> None:
    wrong = frame.filter(~((pl.col("propensity") > 0) & (pl.col("propensity") <= 1)))
    if wrong.height:
        shown = wrong.head(findings.wanted("propensity")).select("object", "line", "propensity")
        findings.add(
            "propensity",
            wrong.height,
            [f"{objects[at].name}, line {line}: {propensity}" for at, line, propensity in shown.iter_rows()],
        )


def _checkpoints(plan: Plan) -> tuple[dict[str, str] | None, list[str]]:
    """Checkpoints as places by shard number, and the places of dead letters."""
    if plan.application is None:
        return None, []
    leases = DynamoDBLeases(plan.application).list()
    if not leases:
        raise SettingsError(f"the application {plan.application!r} has no leases: check --checkpoints and the region")
    found = {}
    for lease in leases:
        place = ""
        if lease.ended:
            place = END
        elif lease.checkpoint.isdigit():
            place = place_of(lease.shard_id, lease.checkpoint, lease.checkpoint_sub_sequence_number)
        found[lease.shard_id.rpartition("-")[2].rjust(12, "0")] = place
    if plan.stream is None:
        return found, []
    created_at = stream_created_at(aws_client("kinesis"), plan.stream)
    letters = DynamoDBDeadLetters(Namespace(plan.application, plan.stream, created_at), bucket="")
    return found, [
        place_of(
            f"shardId-{letter.position.shard_number:012d}",
            str(letter.position.sequence_number),
            letter.position.sub_sequence_number,
        )
        for letter in letters.scan(with_data=False)
        if letter.kind is Kind.EVENT
    ]


def _text_bytes(landed: Landed) -> int:
    return landed.size * (_GZIP_RATIO if landed.name.endswith(".gz") else 1)


def _time_text(micros: int) -> str:
    return datetime.fromtimestamp(micros / 1e6, UTC).isoformat(timespec="milliseconds")
