"""``streamproc state``: look at states, compare them, fill the projection again, and forget a key."""

from __future__ import annotations

import enum
from collections import Counter, defaultdict
from collections.abc import Sequence

import click
import msgspec
from rich.table import Table

from streamproc.application import Application
from streamproc.cli import EXIT_CODES
from streamproc.errors import SettingsError, StreamprocError
from streamproc.namespace import Namespace
from streamproc.operations.common import (
    PART_KEYS,
    counting,
    exit_codes,
    namespace_of,
    of_application,
    parts,
    print_table,
    table_of,
)
from streamproc.operations.forget import forget
from streamproc.operations.oracle import compare_with_archive
from streamproc.processor import AnyProcessor, KeyedProcessor
from streamproc.projection import Projection
from streamproc.readable import plain, state_fields
from streamproc.state import StoredState, encode_stored

#: How many keys of each kind ``state diff`` names.
KEYS_NAMED = 5


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


@click.group()
def state() -> None:
    """Look at states, compare them, fill the projection again, and forget a key."""


state.add_command(forget)


@state.command(epilog=exit_codes("there is no such key"))
@of_application
@click.argument("key")
def show(application: Application, key: str) -> None:
    """Show one key's state: the durable one and the projected one, side by side.

    The durable one is as of the last checkpoint, the projected one as of the last batch, so that it is often ahead.

    \b
    Examples:
      streamproc state show -A streamproc_consumers.recommender:app 17850
      streamproc state show -A shop.app:app --name shop-v2 17850
    """
    namespace = namespace_of(application)
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
    print_table(_side_by_side(application.processor(), durable, projected, missing))
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
    table = table_of("", "durable", "projected")
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
@of_application
def project(application: Application) -> None:
    """Fill the projection again from the durable states, after it was wiped or replaced.

    Workers may run meanwhile: a projected state that is later than the durable one stays as it is, and is counted as
    refused. It can be repeated, and interrupted.

    \b
    Examples:
      streamproc state project -A streamproc_consumers.recommender:app
    """
    namespace = namespace_of(application)
    projection = _projection(application, namespace)
    total = refused = 0
    with counting("states") as count:
        for part in parts(application.states(namespace).scan(), PART_KEYS):
            refused += projection.project(part)
            total += len(part)
            count(len(part))
    click.echo(f"{total - refused} states written, {refused} refused because the projected one is later.")


@state.command(epilog=exit_codes("states are missing in the projection, behind or different"))
@of_application
@click.option(
    "--archive",
    metavar="PATH|s3://BUCKET/PREFIX",
    help="Compare with one fold of the archived log instead: a file, a folder, or what Firehose wrote to S3.",
)
def diff(application: Application, archive: str | None) -> None:
    """Compare every durable state with its projection, or with the archived log.

    Ahead is normal: batches are projected at once, and stored at checkpoints. Behind is what an outage of the
    projection leaves until the worker catches up; missing, what a wipe leaves.

    With --archive, each key's archived events up to its state's position are folded anew, one after the other, less the
    dead letters and with the replayed ones where they were folded: count, hash and bytes must come out the same.

    \b
    Examples:
      streamproc state diff -A streamproc_consumers.recommender:app
      streamproc state diff -A shop.app:app || streamproc state project -A shop.app:app
      streamproc state diff -A shop.app:app --archive s3://shop-data/archive/
    """
    namespace = namespace_of(application)
    if archive is not None:
        compare_with_archive(application, namespace, archive)
        return
    projection = _projection(application, namespace)
    counts: Counter[Standing] = Counter()
    keys: dict[Standing, list[str]] = defaultdict(list)
    with counting("states") as count:
        for part in parts(application.states(namespace).scan(), PART_KEYS):
            projected = _projected(projection, [stored.key for stored in part])
            for stored in part:
                found = standing(stored, projected.get(stored.key))
                counts[found] += 1
                if found is not Standing.EQUAL and len(keys[found]) < KEYS_NAMED:
                    keys[found].append(plain(stored.key))
            count(len(part))
    table = table_of("projected", "states", "", "first keys")
    for each in Standing:
        table.add_row(each, str(counts[each]), _MEANING[each] if counts[each] else "", ", ".join(keys[each]))
    print_table(table)
    if not all(each.good for each in counts if counts[each]):
        raise click.exceptions.Exit(1)
