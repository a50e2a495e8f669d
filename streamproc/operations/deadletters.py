"""``streamproc deadletter``: look at what was put aside."""

from __future__ import annotations

import heapq
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import click
from rich.table import Table

from streamproc.application import Application
from streamproc.cli import EXIT_CODES
from streamproc.deadletter import DeadLetter, Status
from streamproc.errors import SettingsError
from streamproc.operations.common import (
    LIST_COLUMNS_MIN,
    exit_codes,
    namespace_of,
    of_application,
    position_of,
    print_table,
    time_text,
)
from streamproc.operations.replay import KIND, drop, letters_table, replay
from streamproc.readable import data_text, plain


@click.group()
def deadletter() -> None:
    """Look at the records and outputs that were put aside, and replay or drop them."""


deadletter.add_command(replay)
deadletter.add_command(drop)

_EVERY = "all"


@deadletter.command("list", epilog=EXIT_CODES)
@of_application
@click.option("--kind", type=KIND, help="Records that were not folded, or outputs that were not published.")
@click.option(
    "--status",
    "wanted",
    type=click.Choice([*(status.value for status in Status), _EVERY]),
    default=Status.OPEN.value,
    show_default=True,
    help="Open ones wait for somebody to replay or drop them.",
)
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="Show the last N to arrive.")
def list_letters(application: Application, kind: str | None, wanted: str, limit: int) -> None:
    """List the dead letters that are open, the last to arrive first.

    \b
    Examples:
      streamproc deadletter list -A streamproc_consumers.recommender:app
      streamproc deadletter list -A shop.app:app --kind emission --limit 1000
      streamproc deadletter list -A shop.app:app --status all
    """
    counts: Counter[Status] = Counter()

    def found() -> Iterator[DeadLetter]:
        for letter in application.deadletters(namespace_of(application)).scan(with_data=False):
            if kind in (None, letter.kind):
                counts[letter.status] += 1
                if wanted in (_EVERY, letter.status):
                    yield letter

    newest = heapq.nlargest(limit, found(), key=lambda letter: (letter.arrived_at, letter.position))
    if newest:
        print_table(letters_table(newest), LIST_COLUMNS_MIN)
    else:
        click.echo("No dead letters." if wanted == _EVERY else f"No {wanted} dead letters.", err=True)
    hidden = {status: count for status, count in counts.items() if wanted not in (_EVERY, status)}
    total = counts.total() - sum(hidden.values())
    if total > limit:
        click.echo(f"{limit} of {total} dead letters; --limit shows more.", err=True)
    if hidden:
        named = ", ".join(f"{count} {status}" for status, count in sorted(hidden.items()))
        click.echo(f"Beside them: {named}; --status all shows them.", err=True)


@deadletter.command("show", epilog=exit_codes("there is no such dead letter"))
@of_application
@click.argument("position")
@click.option("--kind", type=KIND, help="Where a record and an output were put aside at one position.")
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
        for letter in application.deadletters(namespace_of(application)).find(position_of(position))
        if kind in (None, letter.kind) and ordinal in (None, letter.ordinal)
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
        "first stood at": str(letter.first_position or ""),
        "status": letter.status,
        "replayed at": str(letter.replayed_at or ""),
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
