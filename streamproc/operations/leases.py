"""``streamproc leases``: who reads which shard."""

from __future__ import annotations

import click

from streamproc.application import Application
from streamproc.cli import EXIT_CODES
from streamproc.lease import Lease
from streamproc.leases.dynamodb import DynamoDBLeases
from streamproc.operations.common import LIST_COLUMNS_MIN, of_application, print_table, table_of, time_text
from streamproc.readable import plain


@click.command(epilog=EXIT_CODES)
@of_application
def leases(application: Application) -> None:
    """List the leases: which worker reads which shard, and up to where its states are durable.

    \b
    Examples:
      streamproc leases -A streamproc_consumers.recommender:app
    """
    table = table_of("shard", "owner", "checkpoint", "parents", "ended")
    for lease in sorted(DynamoDBLeases(application.name).list(), key=lambda lease: lease.shard_id):
        parents = ", ".join(sorted(lease.parent_shard_ids))
        table.add_row(
            lease.shard_id, plain(lease.owner or ""), checkpoint_text(lease), parents, "yes" if lease.ended else "no"
        )
    print_table(table, LIST_COLUMNS_MIN)


def checkpoint_text(lease: Lease) -> str:
    """A sequence number, with the sub-sequence number inside an aggregate, or where the reading begins."""
    if lease.latest_since is not None and not lease.checkpoint.isdigit():
        return f"{lease.checkpoint} since {time_text(lease.latest_since)}"
    sub = f":{lease.checkpoint_sub_sequence_number}" if lease.checkpoint.isdigit() else ""
    return f"{lease.checkpoint}{sub}"
