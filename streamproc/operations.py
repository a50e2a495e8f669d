"""The commands for whoever operates an application: ``state``, ``deadletter`` and ``leases``.

They read what a running application wrote and take nothing from its workers: no lease, no read of a shard. The one that
writes, ``state project``, goes through the projection's fence.
"""

from __future__ import annotations

import enum
import functools
import heapq
import itertools
import shutil
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec
from botocore.exceptions import ClientError
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from streamproc.application import Application, load_application
from streamproc.aws import aws_client
from streamproc.cli import EXIT_CODES
from streamproc.deadletter import DeadLetter, Kind
from streamproc.errors import SettingsError, StreamprocError, code_of
from streamproc.lease import Lease
from streamproc.leases.dynamodb import DynamoDBLeases
from streamproc.namespace import Namespace
from streamproc.processor import AnyProcessor, KeyedProcessor
from streamproc.projection import Projection
from streamproc.readable import data_text, plain, state_fields
from streamproc.state import StoredState, encode_stored
from streamproc.stream import stream_created_at

T = TypeVar("T")

#: Keys that are read or written at once: 500 states of the 5 KB that the recommender's can have are 2.5 MB.
PART_KEYS = 500
#: How many keys of each kind ``state diff`` names.
KEYS_NAMED = 5
# Columns of a table that nothing need be cut from: in a pipe, for grep. A terminal wraps what it cannot show.
_PIPE_COLUMNS = 100_000
_LIST_COLUMNS_MIN = 180


class Standing(enum.StrEnum):
    """How a projected state stands to the durable one."""

    EQUAL = "equal"
    #: The projection is written with every batch and the store with every checkpoint.
    AHEAD = "ahead"
    BEHIND = "behind"
    MISSING = "missing"
    #: The same position, and yet something else: neither came from the other.
    DIFFERENT = "different"

    @property
    def good(self) -> bool:
        """Whether a reader of the projection is served as well as one of the store."""
        return self in (Standing.EQUAL, Standing.AHEAD)


_MEANING = {
    Standing.EQUAL: "",
    Standing.AHEAD: "normal between two checkpoints",
    Standing.BEHIND: "mend it with: streamproc state project",
    Standing.MISSING: "mend it with: streamproc state project",
    Standing.DIFFERENT: "at the same position: mend it with: streamproc state project",
}


def standing(durable: StoredState, projected: StoredState | None) -> Standing:
    """Compare a durable state with its projection, which must have been read after it."""
    if projected is None:
        return Standing.MISSING
    if projected.position != durable.position:
        return Standing.AHEAD if projected.position > durable.position else Standing.BEHIND
    return Standing.EQUAL if projected == durable else Standing.DIFFERENT


def parts(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """The items in lists of ``size``; the last one may be shorter, none is empty."""
    iterator = iter(items)
    while part := list(itertools.islice(iterator, size)):
        yield part


def envelope_fields(stored: StoredState) -> dict[str, str]:
    """What the library keeps of a key, readable."""
    return {
        "position": str(stored.position),
        "events folded": str(stored.events_folded),
        "ids hash": f"{stored.ids_hash:016x}",
        "fold version": str(stored.fold_version),
        "window": f"{len(stored.window)} bytes",
        "encoded": f"{len(encode_stored(stored))} bytes, of them the state's {len(stored.state)}",
    }


def decoded_fields(processor: AnyProcessor, stored: StoredState) -> dict[str, str]:
    """The fields of the application's state, or why it cannot be decoded."""
    if not isinstance(processor, KeyedProcessor):
        return {"": "the application's processor keeps no states"}
    if stored.fold_version != processor.fold_version:
        return {"": f"written by fold version {stored.fold_version}; this code reads {processor.fold_version}"}
    try:
        return state_fields(processor.decode_state(stored.state))
    except Exception as error:  # noqa: BLE001  # user code: the envelope is worth showing without it
        return {"": f"decode_state failed: {plain(f'{type(error).__name__}: {error}')}"}


def _of_application(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the application, under the name and on the stream that ``streamproc run`` was told."""

    @click.option("-A", "--app", "path", required=True, metavar="MODULE:APP", help="The application.")
    @click.option("--name", help="The application name that it runs under, where `run` was given one.")
    @click.option("--stream", help="The stream that it reads, where `run` was given one.")
    @functools.wraps(command)
    def with_application(path: str, name: str | None, stream: str | None, **options: Any) -> None:
        given = {option: value for option, value in (("name", name), ("stream", stream)) if value is not None}
        application = msgspec.structs.replace(load_application(path), **given)
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


def _namespace(application: Application) -> Namespace:
    created_at = stream_created_at(aws_client("kinesis"), application.stream)
    return Namespace(application.name, application.stream, created_at)


def _projection(application: Application, namespace: Namespace) -> Projection:
    if application.projection is None:
        raise SettingsError(f"the application {application.name!r} names no projection, so there is none to look at")
    return application.projection(namespace)


def _projected(projection: Projection, keys: Sequence[str]) -> dict[str, StoredState]:
    try:
        return projection.read(keys)
    except (msgspec.DecodeError, ValueError) as error:
        raise SettingsError(
            f"the projection of {len(keys)} keys, the first one {keys[0]!r}, cannot be read: {error}. Something else"
            " wrote there: delete it, and run `streamproc state project`"
        ) from error


def _print(table: Table, columns_min: int = 0) -> None:
    width = max(shutil.get_terminal_size().columns, columns_min) if sys.stdout.isatty() else _PIPE_COLUMNS
    # What producers sent is in the cells: nothing in it is markup.
    Console(markup=False, highlight=False, emoji=False, width=width).print(table, crop=False)


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


@contextmanager
def _counting(what: str) -> Iterator[Callable[[int], None]]:
    """Shows on a terminal how many there were so far; how many there are, only the scan's end tells."""
    columns = (SpinnerColumn(), TextColumn("{task.completed:.0f} {task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True) as progress:
        task = progress.add_task(what, total=None)
        yield lambda count: progress.advance(task, count)


def _exit_codes(one: str) -> str:
    return EXIT_CODES.replace("   1  an error", f"   1  {one}, or an error")


@click.group()
def state() -> None:
    """Look at states, and fill the projection again."""


@state.command(epilog=_exit_codes("there is no such key"))
@_of_application
@click.argument("key")
def show(application: Application, key: str) -> None:
    """Show one key's state: the durable one and the projected one, side by side.

    The durable one is as of the last checkpoint, the projected one as of the last batch, so that it is often ahead.

    \b
    Examples:
      streamproc state show -A streamproc_consumers.recommender:app 17850
      streamproc state show -A shop.app:app --name shop-v2 17850
    """
    namespace = _namespace(application)
    durable = application.states(namespace).load([key]).get(key)
    projected, away = None, None
    if application.projection is not None:
        try:
            projected = _projected(application.projection(namespace), [key]).get(key)
        except StreamprocError as error:
            away = error
    if durable is None and projected is None:
        if away is not None:
            raise away
        click.echo(
            f"There is no state of {key!r} in {namespace}: no event of it was folded and checkpointed yet.", err=True
        )
        raise click.exceptions.Exit(1)
    missing = "no projection" if application.projection is None else "not readable" if away else "none"
    _print(_side_by_side(application.processor(), durable, projected, missing))
    if away is not None:
        raise away


def _side_by_side(
    processor: AnyProcessor, durable: StoredState | None, projected: StoredState | None, missing: str
) -> Table:
    """A row a field; "=" stands for what is the same in the projected state."""
    columns = []
    for stored in (durable, projected):
        fields = {} if stored is None else envelope_fields(stored)
        if stored is not None:
            fields |= {f"state {name}".rstrip(): value for name, value in decoded_fields(processor, stored).items()}
        columns.append(fields)
    left, right = columns
    table = _table("", "durable", "projected")
    if durable is not None and projected is not None:
        found = standing(durable, projected)
        table.add_row("", "", f"{found}{': ' if _MEANING[found] else ''}{_MEANING[found]}")
    else:
        table.add_row("", "" if durable else "none before the next checkpoint", "" if projected else missing)
    for name in {**left, **right}:
        same = name in left and left[name] == right.get(name)
        table.add_row(name, left.get(name, ""), "=" if same else right.get(name, ""))
    return table


@state.command(epilog=EXIT_CODES)
@_of_application
def project(application: Application) -> None:
    """Fill the projection again from the durable states, after it was wiped or replaced.

    Workers may run meanwhile: a projected state that is later than the durable one stays as it is, and is counted as
    refused. It can be repeated, and interrupted.

    \b
    Examples:
      streamproc state project -A streamproc_consumers.recommender:app
    """
    namespace = _namespace(application)
    projection = _projection(application, namespace)
    total = refused = 0
    with _counting("states") as count:
        for part in parts(application.states(namespace).scan(), PART_KEYS):
            refused += projection.project(part)
            total += len(part)
            count(len(part))
    click.echo(f"{total - refused} states written, {refused} refused because the projected one is later.")


@state.command(epilog=_exit_codes("states are missing in the projection, behind or different"))
@_of_application
def diff(application: Application) -> None:
    """Compare every durable state with its projection.

    Ahead is normal: batches are projected at once, and stored at checkpoints. Behind is what an outage of the
    projection leaves until the worker catches up; missing, what a wipe leaves.

    \b
    Examples:
      streamproc state diff -A streamproc_consumers.recommender:app
      streamproc state diff -A shop.app:app || streamproc state project -A shop.app:app
    """
    namespace = _namespace(application)
    projection = _projection(application, namespace)
    counts: Counter[Standing] = Counter()
    keys: dict[Standing, list[str]] = defaultdict(list)
    with _counting("states") as count:
        for part in parts(application.states(namespace).scan(), PART_KEYS):
            projected = _projected(projection, [stored.key for stored in part])
            for stored in part:
                found = standing(stored, projected.get(stored.key))
                counts[found] += 1
                if found is not Standing.EQUAL and len(keys[found]) < KEYS_NAMED:
                    keys[found].append(plain(stored.key))
            count(len(part))
    table = _table("projected", "states", "", "first keys")
    for each in Standing:
        table.add_row(each, str(counts[each]), _MEANING[each] if counts[each] else "", ", ".join(keys[each]))
    _print(table)
    if not all(each.good for each in counts if counts[each]):
        raise click.exceptions.Exit(1)


@click.group()
def deadletter() -> None:
    """Look at the records and outputs that were put aside."""


_KIND = click.Choice([kind.value for kind in Kind])


@deadletter.command("list", epilog=EXIT_CODES)
@_of_application
@click.option("--kind", type=_KIND, help="Records that were not folded, or outputs that were not published.")
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="Show the last N to arrive.")
def list_letters(application: Application, kind: str | None, limit: int) -> None:
    """List the dead letters, the last to arrive first.

    \b
    Examples:
      streamproc deadletter list -A streamproc_consumers.recommender:app
      streamproc deadletter list -A shop.app:app --kind emission --limit 1000
    """
    total = 0

    def found() -> Iterator[DeadLetter]:
        nonlocal total
        for letter in application.deadletters(_namespace(application)).scan():
            if kind is None or letter.kind == kind:
                total += 1
                yield msgspec.structs.replace(letter, data=b"")  # up to 10 MiB each, and not listed

    newest = heapq.nlargest(limit, found(), key=lambda letter: (letter.arrived_at, letter.position))
    if not newest:
        click.echo("No dead letters.", err=True)
        return
    table = _table("position", "kind", "key", "field", "arrived", "reason")
    for letter in newest:
        table.add_row(
            str(letter.position),
            letter.kind,
            plain(letter.partition_key),
            plain(letter.field or ""),
            _time(letter.arrived_at),
            plain(letter.reason),
        )
    _print(table, _LIST_COLUMNS_MIN)
    if total > limit:
        click.echo(f"{limit} of {total} dead letters; --limit shows more.", err=True)


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


@deadletter.command("show", epilog=_exit_codes("there is no such dead letter"))
@_of_application
@click.argument("position")
@click.option("--kind", type=_KIND, help="Where a record and an output were put aside at one position.")
@click.option("--ordinal", type=click.IntRange(min=0), help="Where one record gave several outputs.")
@click.option(
    "--data",
    "target",
    type=click.Path(dir_okay=False, allow_dash=True, path_type=Path),
    help="Write the data, byte for byte, to this file; with -, to standard output and nothing else.",
)
def show_letter(
    application: Application, position: str, kind: str | None, ordinal: int | None, target: Path | None
) -> None:
    """Show a dead letter with its data. POSITION is written as `deadletter list` writes it.

    \b
    Examples:
      streamproc deadletter show -A shop.app:app shardId-000000000000:4966...:0
      streamproc deadletter show -A shop.app:app shardId-000000000000:4966...:0 --data - | jq .
    """
    letters = [
        letter
        for letter in application.deadletters(_namespace(application)).scan()
        if str(letter.position) == position and kind in (None, letter.kind) and ordinal in (None, letter.ordinal)
    ]
    if not letters:
        click.echo(f"There is no such dead letter at {position}; `streamproc deadletter list` names them.", err=True)
        raise click.exceptions.Exit(1)
    if target is not None and len(letters) > 1:
        found = ", ".join(f"{letter.kind} {letter.ordinal}" for letter in letters)
        raise SettingsError(f"--data writes one dead letter and {position} has {found}: choose with --kind, --ordinal")
    for letter in letters:
        if target != Path("-"):
            _print_letter(letter, with_data=target is None)
        if target is not None:
            _write(target, letter.data)


def _print_letter(letter: DeadLetter, *, with_data: bool) -> None:
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, value in {
        "position": str(letter.position),
        "kind": letter.kind,
        "ordinal": str(letter.ordinal),
        "key": plain(letter.partition_key),
        "field": plain(letter.field or ""),
        "reason": plain(letter.reason),
        "arrived": _time(letter.arrived_at),
        "data": f"{len(letter.data)} bytes",
    }.items():
        table.add_row(name, value)
    _print(table)
    if with_data:
        click.echo(data_text(letter.data))


def _write(target: Path, data: bytes) -> None:
    if target == Path("-"):
        sys.stdout.buffer.write(data)
        return
    try:
        target.write_bytes(data)
    except OSError as error:
        raise SettingsError(f"--data {str(target)!r} cannot be written: {error.strerror}") from error


@click.command(epilog=EXIT_CODES)
@_of_application
def leases(application: Application) -> None:
    """List the leases: which worker reads which shard, and up to where its states are durable.

    \b
    Examples:
      streamproc leases -A streamproc_consumers.recommender:app
    """
    table = _table("shard", "owner", "checkpoint", "parents", "ended")
    for lease in sorted(DynamoDBLeases(application.name).list(), key=lambda lease: lease.shard_id):
        parents = ", ".join(sorted(lease.parent_shard_ids))
        table.add_row(
            lease.shard_id, plain(lease.owner or ""), checkpoint_text(lease), parents, "yes" if lease.ended else "no"
        )
    _print(table, _LIST_COLUMNS_MIN)


def checkpoint_text(lease: Lease) -> str:
    """A sequence number, with the sub-sequence number inside an aggregate, or where the reading begins."""
    if lease.latest_since is not None and not lease.checkpoint.isdigit():
        return f"{lease.checkpoint} since {_time(lease.latest_since)}"
    sub = f":{lease.checkpoint_sub_sequence_number}" if lease.checkpoint.isdigit() else ""
    return f"{lease.checkpoint}{sub}"
