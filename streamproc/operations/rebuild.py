"""``streamproc rebuild``: fold the log again after a bug in a fold, beside the application that serves, and switch."""

from __future__ import annotations

import functools
import signal
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import click
import msgspec

from streamproc.alias import Rebuilds, SwitchLost, still_serves
from streamproc.application import Application, load_application
from streamproc.aws import aws_client
from streamproc.cli import EXIT_CODES, stop_on_signals
from streamproc.errors import LeasesHeldElsewhere, SettingsError, translated
from streamproc.lease import Lease, alive, others
from streamproc.leases.dynamodb import DynamoDBLeases
from streamproc.operations.common import (
    LIST_COLUMNS_MIN,
    PART_KEYS,
    checkpoint_text,
    confirm,
    counting,
    exit_codes,
    namespace_of,
    parts,
    print_table,
    table_of,
)
from streamproc.operations.shadow import (
    begun,
    check_stream,
    follow,
    is_absent,
    leases_of,
    named,
    origin_given,
    progress_of,
)
from streamproc.processor import KeyedProcessor
from streamproc.rebuild import LiveLead, Standing, not_begun, standings
from streamproc.runners.local import LocalRunner
from streamproc.stream import list_shards
from streamproc.telemetry import Telemetry

_ME = "streamproc-rebuild"


@click.group()
def rebuild() -> None:
    """Fold the log again beside the application that serves, and switch to it.

    \b
    1. streamproc rebuild start -A shop.app:app --from-timestamp 2026-11-01T00:00:00Z --as mended
    2. stop the application; `start` stands where it stood, and ends
    3. streamproc rebuild switch -A shop.app:app --to mended
    4. start the application
    """


def _of_rebuilds(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the application under its own name, whoever serves under it, and the application's rebuilds."""

    @click.option("-A", "--app", "path", required=True, metavar="MODULE:APP", help="The application.")
    @click.option("--name", help="The application name that it runs under, where `run` was given one.")
    @click.option("--stream", help="The stream that it reads, where `run` was given one.")
    @functools.wraps(command)
    def with_rebuilds(path: str, name: str | None, stream: str | None, **options: Any) -> None:
        given = {option: value for option, value in (("name", name), ("stream", stream)) if value is not None}
        application = msgspec.structs.replace(load_application(path), **given)
        command(application, Rebuilds(application.name), **options)

    return with_rebuilds


def _existing(application: Application, rebuilds: Rebuilds, name: str) -> str:
    shadows = rebuilds.shadows()
    found = named(application, shadows, name)
    if found is None:
        raise SettingsError(
            f"{application.name!r} has no rebuild {name!r}; there is {', '.join([application.name, *sorted(shadows)])}"
        )
    return found


@rebuild.command(epilog=exit_codes("the shadow's own failure"))
@_of_rebuilds
@click.option("--from-timestamp", help="Fold the events that arrived since: 2026-11-01T00:00:00Z. Whole seconds.")
@click.option("--from-horizon", is_flag=True, help="Fold everything that the stream still holds.")
@click.option("--as", "suffix", metavar="NAME", help="Names it <application>-NAME; the time now by default.")
@click.option(
    "--poll-seconds",
    type=float,
    default=1.0,
    show_default=True,
    help="Time from one read of a shard to the next. The live application needs the same five reads a second.",
)
@click.option("--records-max", type=int, default=2000, show_default=True, help="Records a read; a shard gives 2 MB/s.")
def start(
    application: Application,
    rebuilds: Rebuilds,
    from_timestamp: str | None,
    from_horizon: bool,
    suffix: str | None,
    poll_seconds: float,
    records_max: int,
) -> None:
    """Fold the log again into a shadow, up to where the live application stands.

    It runs here, publishes nothing, and follows the live application without passing it. It ends by itself once the
    live one is stopped and it stands where that one stood. Ctrl-C stops it in order; the same command with the same
    --as and without a time goes on.

    \b
    Examples:
      streamproc rebuild start -A shop.app:app --from-timestamp 2026-11-01T00:00:00Z --as mended
      streamproc rebuild start -A shop.app:app --as mended      # goes on
      streamproc rebuild start -A shop.app:app --from-horizon
    """
    live_name = rebuilds.serving()
    if not isinstance(application.processor(), KeyedProcessor):
        raise SettingsError(f"the application {application.name!r} keeps no states: there is nothing to rebuild")
    live = DynamoDBLeases(live_name)
    if not leases_of(live_name):
        raise SettingsError(
            f"no application has run under the name {live_name!r} here yet, so there is nothing to rebuild; check"
            " --name and the region"
        )
    check_stream(msgspec.structs.replace(application, name=live_name))
    given = origin_given(from_timestamp, from_horizon=from_horizon)
    name, origin = begun(application, rebuilds, suffix, given, live_name)
    shadow = msgspec.structs.replace(
        application,
        name=name,
        sink=None,
        snapshots=None,
        local=msgspec.structs.replace(
            application.local,
            poll_seconds=poll_seconds,
            records_max=records_max,
            shard_sync_seconds=min(5.0, application.local.shard_sync_seconds),
        ),
    )
    stop, received = stop_on_signals()
    kinesis = aws_client("kinesis")
    lead = LiveLead(live, kinesis, application.stream, origin, stop=stop)
    click.echo(f"{name} is folded from {origin} up to where {live_name} stands.", err=True)
    with progress_of(name) as progress:
        lead.refresh()
        runner = LocalRunner(
            shadow,
            leases=DynamoDBLeases(name),
            kinesis=kinesis,
            telemetry=Telemetry(progress.count),
            lead=lead,
            confirm=lambda: still_serves(application.name, live_name),
        )
        done = follow(runner, lead, shadow, stop, progress)
    words = f"-A {_app()} --to {name}"
    if done:
        click.echo(
            f"{name} stands where {live_name} stands, which is stopped. Before that one runs again:"
            f" streamproc rebuild switch {words}"
        )
    else:
        click.echo(f"Stopped. It goes on with: streamproc rebuild start -A {_app()} --as {name}", err=True)
    if not done and signal.SIGINT in received:
        raise click.exceptions.Exit(130)


def _app() -> str:
    """The application as it was given, for a command that somebody is to call next."""
    given = click.get_current_context().params
    words = [str(given["path"])]
    words += [f"--{option} {given[option]}" for option in ("name", "stream") if given[option] is not None]
    return " ".join(words)


@rebuild.command(epilog=exit_codes("another switch came first, or one of the two was started"))
@_of_rebuilds
@click.option("--to", "target", required=True, metavar="NAME", help="What is to serve: a rebuild, or the original.")
def switch(application: Application, rebuilds: Rebuilds, target: str) -> None:
    """Let another one serve under the application's name. Both must be stopped, and stand at the same positions.

    From then on every `streamproc run`, and every other command, means that one. The one that served is kept; `switch`
    goes back to it, once `rebuild start --as` let it catch up.

    \b
    Examples:
      streamproc rebuild switch -A shop.app:app --to mended
      streamproc rebuild switch -A shop.app:app --to shop        # back to the original
    """
    name = _existing(application, rebuilds, target)
    live = rebuilds.serving()
    if name == live:
        click.echo(f"{application.name} is served by {name} already.")
        return
    before = _standing_still(application, (live, name))
    _refuse_unless_same(application, live, name, before)
    standing_still = {each: _freed(each, rows) for each, rows in before.items()}
    for lease in not_begun(standing_still[live], standing_still[name]):
        DynamoDBLeases(name).create(lease)
    rebuilds.move(live, name, [lease for lease in standing_still[live] if not lease.ended])
    click.echo(
        f"{application.name} is served by {name} now: start it. {live} is kept until you"
        f" `streamproc rebuild drop {live}`."
    )


def _standing_still(application: Application, names: tuple[str, ...]) -> dict[str, list[Lease]]:
    """The leases of each, that nobody writes. Raises LeasesHeldElsewhere where somebody does."""
    before = {name: leases_of(name) for name in names}
    if any(others(rows, _ME) for rows in before.values()):
        # A worker that died leaves its name; only a counter that stands still tells.
        time.sleep(application.failover_seconds(row for rows in before.values() for row in rows))
    after = {name: leases_of(name) for name in names}
    for name in names:
        if living := alive(before[name], after[name], _ME):
            owners = ", ".join(sorted({lease.owner or "" for lease in living}))
            raise LeasesHeldElsewhere(f"{name!r} is running ({owners}): stop it first; nothing was changed")
    return after


def _refuse_unless_same(application: Application, live: str, name: str, rows: dict[str, list[Lease]]) -> None:
    shards = list_shards(aws_client("kinesis"), application.stream)
    found = standings(shards, rows[live], rows[name])
    ahead = [shard_id for shard_id, standing in found.items() if standing is Standing.AHEAD]
    behind = [shard_id for shard_id, standing in found.items() if standing is Standing.BEHIND]
    if not rows[name] or not found:
        raise SettingsError(
            f"{name!r} has folded nothing: it has no lease; `streamproc rebuild list` shows what is there"
        )
    if ahead:
        raise SettingsError(
            f"{name!r} stands ahead of {live!r} on {', '.join(ahead)}: the outputs of the events between would never be"
            f" published. Run the application until it has passed them; nothing was changed"
        )
    if behind:
        raise SettingsError(
            f"{name!r} stands behind {live!r} on {', '.join(behind)}: it would publish again what was published since."
            f" Let it catch up first: streamproc rebuild start -A {_app()} --as {name}; nothing was changed"
        )


def _freed(name: str, rows: list[Lease]) -> list[Lease]:
    """Take what a dead worker left and give it up: it can never write again, and the next start need not wait."""
    store = DynamoDBLeases(name)
    freed = []
    for lease in rows:
        row: Lease | None = lease
        if lease.owner is not None:
            taken = store.take(lease, _ME)
            row = store.release(taken) if taken else None
        if row is None:
            raise SwitchLost(f"{name!r} was started while this switch was under way, and nothing was switched: stop it")
        freed.append(row)
    return freed


@rebuild.command("list", epilog=EXIT_CODES)
@_of_rebuilds
def list_rebuilds(application: Application, rebuilds: Rebuilds) -> None:
    """List what serves, what else was rebuilt, and where each one stands. Counts states, which reads every one.

    \b
    Examples:
      streamproc rebuild list -A shop.app:app
    """
    live, shadows = rebuilds.serving(), rebuilds.shadows()
    shards = list_shards(aws_client("kinesis"), application.stream)
    rows = {name: leases_of(name) for name in (application.name, *sorted(shadows))}
    rows = {name: leases for name, leases in rows.items() if leases or name in shadows or name == live}
    table = table_of("name", "", "folded from", "stands", "owner", "states")
    for name, leases in rows.items():
        found = Counter(standings(shards, rows[live], leases).values())
        stands = ", ".join(f"{count} {standing}" for standing, count in sorted(found.items()))
        owners = sorted({lease.owner for lease in leases if lease.owner and not lease.ended})
        origin = str(shadows[name]) if name in shadows else "the beginning"
        role = "serves" if name == live else ""
        table.add_row(name, role, origin, stands, ", ".join(owners), str(_count_states(application, name, leases)))
    print_table(table, LIST_COLUMNS_MIN)
    click.echo()
    positions = table_of("shard", *rows)
    for shard in sorted(shards, key=lambda shard: shard.shard_id):
        by_name = [{lease.shard_id: lease for lease in leases} for leases in rows.values()]
        cells = [checkpoint_text(leases[shard.shard_id]) if shard.shard_id in leases else "" for leases in by_name]
        positions.add_row(shard.shard_id, *cells)
    print_table(positions, LIST_COLUMNS_MIN)


def _count_states(application: Application, name: str, leases: list[Lease]) -> int:
    if not leases:
        return 0
    counted = msgspec.structs.replace(application, name=name)
    total = 0
    with counting(f"states of {name}") as count:
        for part in parts(counted.states(namespace_of(counted)).scan(), PART_KEYS):
            total += len(part)
            count(len(part))
    return total


@rebuild.command(epilog=EXIT_CODES)
@_of_rebuilds
@click.argument("target", metavar="NAME")
@click.option("--yes", is_flag=True, help="Do not ask.")
def drop(application: Application, rebuilds: Rebuilds, target: str, yes: bool) -> None:
    """Delete one that does not serve: its projected states, its tables and its entry. NAME is as `list` shows it.

    It can be repeated. The data of its large dead letters stays in the bucket, below deadletters/NAME/.

    \b
    Examples:
      streamproc rebuild drop -A shop.app:app shop-mended
    """
    dropped = _existing(application, rebuilds, target)
    if dropped == rebuilds.serving():
        raise SettingsError(f"{dropped!r} is the one that serves {application.name!r}: switch to another one first")
    _standing_still(application, (dropped,))
    confirm(f"Delete the states, leases, dead letters and projected states of {dropped}?", yes=yes, unattended=False)
    tables = [f"{dropped}-deadletters", f"{dropped}-states", dropped]
    try:
        _forget_projected(msgspec.structs.replace(application, name=dropped))
    except SettingsError as error:
        if not is_absent(error):  # the tables went before, in a drop that was interrupted
            raise
    client = aws_client("dynamodb")
    # The leases and the entry last: what was interrupted is found again.
    for table in tables:
        try:
            with translated(f"deleting the table {table}"):
                client.delete_table(TableName=table)
        except SettingsError as error:
            if not is_absent(error):
                raise
    rebuilds.remove(dropped)
    click.echo(f"{dropped} is gone: {', '.join(tables)}.")


def _forget_projected(application: Application) -> None:
    if application.projection is None:
        return
    namespace = namespace_of(application)
    projection = application.projection(namespace)
    with counting("projected states") as count:
        for stored in application.states(namespace).scan():
            projection.forget(stored.key)
            count(1)
