"""``streamproc leases``: who reads which shard and how far it got, and how to move that."""

from __future__ import annotations

import sys
import time

import click
import msgspec

from streamproc.application import Application
from streamproc.aws import aws_client
from streamproc.cli import EXIT_CODES
from streamproc.lease import Lease
from streamproc.leases.dynamodb import DynamoDBLeases
from streamproc.operations.common import (
    LIST_COLUMNS_MIN,
    checkpoint_text,
    duration_text,
    of_application,
    print_table,
    table_of,
)
from streamproc.operations.lag import Lag, lags
from streamproc.operations.leader import unlock_leader
from streamproc.operations.reset import reset
from streamproc.readable import plain


class _Leases(click.Group):
    """``streamproc leases -A ...`` is ``streamproc leases list -A ...``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """See click."""
        if args and args[0] not in {*self.commands, *self.get_help_option_names(ctx)}:
            args = ["list", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_Leases, epilog="Without a command, with options alone, it lists: streamproc leases list --help")
def leases() -> None:
    """List who reads which shard and how far it got, and move that.

    \b
    Examples:
      streamproc leases -A streamproc_consumers.recommender:app
      streamproc leases reset -A shop.app:app --to 2026-11-01T00:00:00Z --dry-run
      streamproc leases unlock-leader -A shop.app:app
    """


leases.add_command(reset)
leases.add_command(unlock_leader)


@leases.command("list", epilog=EXIT_CODES)
@of_application
@click.option("--no-lag", is_flag=True, help="Read no shard, and leave lag and age out.")
@click.option("--json", "as_json", is_flag=True, help="One JSON array, for scripts.")
def list_leases(application: Application, no_lag: bool, as_json: bool) -> None:
    """List the leases: which worker reads which shard, up to where its states are durable, and how far behind that is.

    Lag and age cost one GetRecords call a shard, of the five a second that all its readers share.

    \b
    Examples:
      streamproc leases -A streamproc_consumers.recommender:app
      streamproc leases -A shop.app:app --no-lag
      streamproc leases -A shop.app:app --json | jq 'map(.lag_seconds) | max'
    """
    rows = sorted(DynamoDBLeases(application.name).list(), key=lambda lease: lease.shard_id)
    found = [Lag()] * len(rows) if no_lag else lags(aws_client("kinesis"), application.stream, rows, time.time())
    if as_json:
        lines = [_fields(lease, lag) for lease, lag in zip(rows, found, strict=True)]
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(lines)).decode() + "\n")
        return
    table = table_of("shard", "owner", "checkpoint", "lag", "age", "parents", "ended")
    for lease, lag in zip(rows, found, strict=True):
        table.add_row(
            lease.shard_id,
            plain(lease.owner or ""),
            checkpoint_text(lease) + (" (trimmed)" if lag.trimmed else ""),
            _seconds_text(lag.behind_seconds, lag),
            _seconds_text(lag.age_seconds, lag),
            ", ".join(sorted(lease.parent_shard_ids)),
            "yes" if lease.ended else "no",
        )
    print_table(table, LIST_COLUMNS_MIN)
    errors = [lag.error for lag in found if lag.error is not None]
    if errors:
        click.echo(f"?: {len(errors)} of {len(rows)} shards could not be read: {plain(errors[0])}", err=True)
    if any(lag.trimmed for lag in found):
        click.echo(
            "(trimmed): the retention has removed the checkpoint's record; what came between it and the oldest record"
            " that is left, if anything, was not read",
            err=True,
        )


def _seconds_text(seconds: float | None, lag: Lag) -> str:
    if lag.error is not None:
        return "?"
    return "" if seconds is None else duration_text(seconds)


def _fields(lease: Lease, lag: Lag) -> dict[str, object]:
    """A lease for a script. Sequence numbers are strings: they have 56 digits."""
    return {
        "shard": lease.shard_id,
        "owner": lease.owner,
        "checkpoint": lease.checkpoint,
        "sub_sequence_number": lease.checkpoint_sub_sequence_number if lease.checkpoint.isdigit() else None,
        "latest_since": lease.latest_since,
        "lag_seconds": lag.behind_seconds,
        "age_seconds": lag.age_seconds,
        "trimmed": lag.trimmed,
        "error": lag.error,
        "parents": sorted(lease.parent_shard_ids),
        "ended": lease.ended,
    }
