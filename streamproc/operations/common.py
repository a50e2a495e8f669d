"""What the operator's commands share: the application that they are given, tables, progress, exit codes."""

from __future__ import annotations

import functools
import itertools
import re
import shutil
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, TypeVar

import click
import msgspec
from botocore.exceptions import ClientError
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from streamproc.alias import resolved
from streamproc.application import Application, load_application
from streamproc.aws import aws_client
from streamproc.cli import EXIT_CODES
from streamproc.clock import Clock, SystemClock, backoff
from streamproc.errors import LeasesHeldElsewhere, SettingsError, code_of, is_transient
from streamproc.lease import LATEST, Lease, LeaseStore, alive, others
from streamproc.namespace import Namespace
from streamproc.readable import plain
from streamproc.record import Position
from streamproc.stream import stream_created_at

T = TypeVar("T")

#: Keys that are read or written at once: 500 states of the 5 KB that the recommender's can have are 2.5 MB.
PART_KEYS = 500
# Columns of a table that nothing need be cut from: in a pipe, for grep. A terminal wraps what it cannot show.
_PIPE_COLUMNS = 100_000
LIST_COLUMNS_MIN = 180
_POSITION = re.compile(r"shardId-([0-9]{1,18}):([0-9]{1,200}):([0-9]{1,18})")


def parts(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """The items in lists of ``size``; the last one may be shorter, none is empty."""
    iterator = iter(items)
    while part := list(itertools.islice(iterator, size)):
        yield part


def of_application(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the application, under the name and on the stream that ``streamproc run`` was told."""

    @click.option("-A", "--app", "path", required=True, metavar="MODULE:APP", help="The application.")
    @click.option("--name", help="The application name that it runs under, where `run` was given one.")
    @click.option("--stream", help="The stream that it reads, where `run` was given one.")
    @click.option("--exactly", is_flag=True, help="The one of this very name, whichever of its rebuilds serves.")
    @functools.wraps(command)
    def with_application(path: str, name: str | None, stream: str | None, exactly: bool, **options: Any) -> None:
        given = {option: value for option, value in (("name", name), ("stream", stream)) if value is not None}
        application = msgspec.structs.replace(load_application(path), **given)
        if not exactly:
            application = resolved(application)
        with _explained(application):
            command(application, **options)

    return with_application


@contextmanager
def _explained(application: Application) -> Iterator[None]:
    """Say what a missing table means. Other errors pass."""
    try:
        yield
    except SettingsError as error:
        cause = error.__cause__
        if isinstance(cause, ClientError) and code_of(cause) == "ResourceNotFoundException":
            raise SettingsError(
                f"{error}: no application has run under the name {application.name!r} here yet, or it keeps nothing of"
                " the kind; check --name and the region"
            ) from error
        raise


def namespace_of(application: Application) -> Namespace:
    """The application on the stream that exists now. Raises StreamNotFound."""
    created_at = stream_created_at(aws_client("kinesis"), application.stream)
    return Namespace(application.name, application.stream, created_at)


def print_table(table: Table, columns_min: int = 0) -> None:
    """Print: as wide as the terminal, but at least so wide; in a pipe a row is one line, whole."""
    width = max(shutil.get_terminal_size().columns, columns_min) if sys.stdout.isatty() else _PIPE_COLUMNS
    # What producers sent is in the cells: nothing in it is markup.
    Console(markup=False, highlight=False, emoji=False, width=width).print(table, crop=False)


def table_of(*columns: str) -> Table:
    """An empty table with these columns."""
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


@contextmanager
def counting(what: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """Shows on a terminal how many there were so far. How many a scan gives in all, only its end tells: None."""
    count = TextColumn("{task.completed:.0f} {task.description}")
    columns = (SpinnerColumn(), count, *(() if total is None else (BarColumn(),)), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True) as progress:
        task = progress.add_task(what if total is None else f"of {total} {what}", total=total)
        yield lambda count: progress.advance(task, count)


def confirm(question: str, *, yes: bool, unattended: bool) -> None:
    """Ask on a terminal, unless ``--yes`` was given. Raises click.Abort for a no.

    ``unattended`` says whether to go on where there is nobody to ask; else that raises SettingsError.
    """
    if yes or (unattended and not sys.stdin.isatty()):
        return
    if not sys.stdin.isatty():
        raise SettingsError("nothing was done: there is no terminal to ask at; give --yes to go on without being asked")
    click.confirm(question, abort=True, err=True)


def refuse_while_alive(
    leases: LeaseStore,
    before: Sequence[Lease],
    failover_seconds: float,
    refusal: Callable[[str], str],
    clock: Clock | None = None,
) -> None:
    """Look twice at the leases, the failover time apart, where ``before`` names an owner.

    A worker that died without a word leaves its name in the rows; only a counter that stands still tells. Raises
    LeasesHeldElsewhere with the ``refusal`` that is made of the owners' names.
    """
    if not others(before, ""):
        return
    click.echo(f"Looking for {failover_seconds:.0f} s whether workers are alive ...", err=True)
    (clock or SystemClock()).wait(failover_seconds, threading.Event())
    if living := alive(before, leases.list(), ""):
        raise LeasesHeldElsewhere(refusal(", ".join(sorted({plain(lease.owner or "") for lease in living}))))


def patiently(call: Callable[[], T], clock: Clock, tries: int = 8) -> T:
    """Call, and again for some seconds while the error is one that passes. Raises the last one."""
    for attempt, wait in enumerate(backoff(0.2), 1):
        try:
            return call()
        except Exception as error:
            if attempt == tries or not is_transient(error):
                raise
        clock.wait(wait)
    raise AssertionError("unreachable: backoff never ends")


def position_of(text: str) -> Position:
    """The position that ``deadletter list`` writes. Raises SettingsError for anything else."""
    if (found := _POSITION.fullmatch(text)) is None:
        raise SettingsError(
            f"{plain(text)!r} is no position: write it as `streamproc deadletter list` does,"
            " shardId-000000000000:4966...:0"
        )
    return Position(*map(int, found.groups()))


def exit_codes(one: str) -> str:
    """The help's list of exit codes, where 1 has a meaning of its own."""
    return EXIT_CODES.replace("   1  an error", f"   1  {one}, or an error")


def time_text(seconds: float) -> str:
    """Seconds since the epoch as RFC 3339, in UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def duration_text(seconds: float) -> str:
    """A span of time in its two largest units: ``3 h 4 min``."""
    if 0 < seconds < 1:
        return "< 1 s"
    rest = max(0, round(seconds))
    found = []
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, rest = divmod(rest, size)
        if count:
            found.append(f"{count} {unit}")
        elif found:
            break
    return " ".join(found[:2]) or "0 s"


def checkpoint_text(lease: Lease) -> str:
    """A sequence number, with the sub-sequence number inside an aggregate, or where the reading begins."""
    if lease.checkpoint == LATEST and lease.latest_since is not None:
        return f"{LATEST} since {time_text(lease.latest_since)}"
    sub = f":{lease.checkpoint_sub_sequence_number}" if lease.checkpoint.isdigit() else ""
    return f"{lease.checkpoint}{sub}"
