"""``streamproc deadletter``: look at what was put aside."""

from __future__ import annotations

import heapq
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import msgspec
from rich.table import Table

from streamproc.application import Application
from streamproc.cli import EXIT_CODES
from streamproc.deadletter import DeadLetter, Kind
from streamproc.errors import SettingsError
from streamproc.operations.common import (
    LIST_COLUMNS_MIN,
    exit_codes,
    namespace_of,
    of_application,
    print_table,
    table_of,
    time_text,
)
from streamproc.readable import data_text, plain


@click.group()
def deadletter() -> None:
    """Look at the records and outputs that were put aside."""


_KIND = click.Choice([kind.value for kind in Kind])


@deadletter.command("list", epilog=EXIT_CODES)
@of_application
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
        for letter in application.deadletters(namespace_of(application)).scan():
            if kind is None or letter.kind == kind:
                total += 1
                yield msgspec.structs.replace(letter, data=b"")  # up to 10 MiB each, and not listed

    newest = heapq.nlargest(limit, found(), key=lambda letter: (letter.arrived_at, letter.position))
    if not newest:
        click.echo("No dead letters.", err=True)
        return
    table = table_of("position", "kind", "key", "field", "arrived", "reason")
    for letter in newest:
        table.add_row(
            str(letter.position),
            letter.kind,
            plain(letter.partition_key),
            plain(letter.field or ""),
            time_text(letter.arrived_at),
            plain(letter.reason),
        )
    print_table(table, LIST_COLUMNS_MIN)
    if total > limit:
        click.echo(f"{limit} of {total} dead letters; --limit shows more.", err=True)


@deadletter.command("show", epilog=exit_codes("there is no such dead letter"))
@of_application
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
        for letter in application.deadletters(namespace_of(application)).scan()
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
        "arrived": time_text(letter.arrived_at),
        "data": f"{len(letter.data)} bytes",
    }.items():
        table.add_row(name, value)
    print_table(table)
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
