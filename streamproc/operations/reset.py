"""``streamproc leases reset``: move the leases of an application back or forward."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import click

from streamproc.application import Application
from streamproc.aws import aws_client
from streamproc.cli import EXIT_CODES
from streamproc.clock import Clock, SystemClock
from streamproc.errors import LeasesHeldElsewhere
from streamproc.lease import TRIM_HORIZON, Lease, LeaseStore
from streamproc.leases.dynamodb import DynamoDBLeases
from streamproc.operations.common import (
    LIST_COLUMNS_MIN,
    checkpoint_text,
    confirm,
    namespace_of,
    of_application,
    patiently,
    print_table,
    refuse_while_alive,
    table_of,
    time_text,
)
from streamproc.operations.target import Change, Planner, retained_since, since_of
from streamproc.readable import plain
from streamproc.runners.held import new_lease
from streamproc.runners.local import new_worker_id
from streamproc.runners.prepare import prepare


@click.command(epilog=EXIT_CODES)
@of_application
@click.option("--to", required=True, metavar="TRIM_HORIZON|LATEST|TIME", help="A time as 2026-11-01T00:00:00Z.")
@click.option("--shard", "shard_ids", multiple=True, metavar="ID", help="This shard alone; may be given again.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and write nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option(
    "--failover-seconds",
    type=click.FloatRange(min=1),
    help="As `run` was told: a worker whose leases stand still for so long is dead.",
)
def reset(
    application: Application,
    to: str,
    shard_ids: tuple[str, ...],
    dry_run: bool,
    yes: bool,
    failover_seconds: float | None,
) -> None:
    """Move the leases to the oldest records, to now, or to the first record since a time.

    Stop the workers first. The command looks twice at the leases, and refuses while one of them moves; it takes every
    lease before it changes one, so that a worker that starts meanwhile is never overwritten.

    Going back reads records again: a keyed application skips what its states contain, and folds what they do not, such
    as the events of a key that was forgotten or has expired; a stateless application publishes again. Going forward
    skips records for good.

    \b
    Examples:
      streamproc leases reset -A shop.app:app --to 2026-11-01T00:00:00Z --dry-run
      streamproc leases reset -A shop.app:app --to TRIM_HORIZON
      streamproc leases reset -A shop.app:app --to LATEST --shard shardId-000000000003 --yes
    """
    clock, kinesis = SystemClock(), aws_client("kinesis")
    store = DynamoDBLeases(application.name)
    before, since = store.list(), since_of(to, clock.time())
    if isinstance(since, int) and since < (horizon := retained_since(kinesis, application.stream, clock.time())):
        click.echo(
            f"{to} lies before the stream's retention, which reaches back to {time_text(horizon)} now: this is what"
            f" {TRIM_HORIZON} gives, the oldest records that are left.",
            err=True,
        )
        since = TRIM_HORIZON
    changes = Planner(kinesis, application.stream, clock).plan(before, since, shard_ids)
    _print(changes)
    moved = sum(change.goal is not None for change in changes)
    if dry_run or not moved:
        click.echo("Nothing was written." if moved else "There is nothing to reset.")
        return
    confirm(f"Reset {moved} leases of {application.name}?", yes=yes, unattended=False)
    refuse_while_alive(
        store,
        before,
        failover_seconds or application.failover_seconds(before),
        lambda owners: (
            f"nothing was reset: {owners} runs the application {application.name!r}, and would go on from where it is."
            " Stop the workers first"
        ),
    )
    namespace = namespace_of(application)
    # A sequence number of this stream means nothing to an application that read another one of this name.
    prepare(store, application.ports(namespace), namespace)
    write(store, changes, f"streamproc-reset:{new_worker_id()}", clock)
    click.echo(f"{moved} leases reset; workers may start.")


def _print(changes: Sequence[Change]) -> None:
    table = table_of("shard", "from", "to", "means")
    for change in changes:
        lease = change.lease
        now = "" if lease is None else checkpoint_text(lease)
        goal = now if change.goal is None else checkpoint_text(change.goal.of(Lease(shard_id=change.shard_id)))
        table.add_row(change.shard_id, now, goal, change.meaning)
    print_table(table, LIST_COLUMNS_MIN)


def write(store: LeaseStore, changes: Sequence[Change], me: str, clock: Clock) -> None:
    """Take every lease that is to change, write the checkpoints, and give the leases up.

    Nothing is changed before all are taken. Raises LeasesHeldElsewhere where somebody wrote one since it was read, and
    otherwise what the store raises; what was reset by then, and what was not, is said. The leases are given up
    whatever happens.
    """
    changes = [change for change in changes if change.goal is not None]
    held: dict[str, Lease] = {}
    done: list[str] = []
    try:
        for change in changes:
            if change.lease is not None:
                held[change.shard_id] = _take(store, change.lease, me, clock)
        for change in changes:
            _reset(store, change, held, clock)
            done.append(change.shard_id)
    except BaseException:
        if done:
            rest = [change.shard_id for change in changes if change.shard_id not in done]
            click.echo(f"Reset: {', '.join(done)}. Not reset: {', '.join(rest)}. Repeat the command.", err=True)
        else:
            click.echo("No lease was reset.", err=True)
        raise
    finally:
        for lease in held.values():
            # None: somebody took it over, behind what was written.
            _written(store, lease, store.release, clock)


def _take(store: LeaseStore, lease: Lease, me: str, clock: Clock) -> Lease:
    taken = _written(store, lease, lambda row: store.take(row, me), clock, me)
    if taken is None:
        raise _lost(store, lease.shard_id)
    return taken


def _reset(store: LeaseStore, change: Change, held: dict[str, Lease], clock: Clock) -> None:
    goal = change.goal
    assert goal is not None  # noqa: S101  # the caller has left out those that stay
    if change.lease is None:
        assert change.shard is not None  # noqa: S101  # a shard without a lease was listed
        lease = goal.of(new_lease(change.shard, goal.checkpoint))
        patiently(lambda: store.create(lease), clock)
        if not any(row == lease for row in store.list()):
            raise _lost(store, change.shard_id)
        return
    written = _written(
        store,
        held[change.shard_id],
        lambda row: store.checkpoint(row, goal.checkpoint, goal.sub_sequence_number, goal.latest_since),
        clock,
    )
    if written is None:
        raise _lost(store, change.shard_id)
    held[change.shard_id] = written


def _written(
    store: LeaseStore, lease: Lease, write: Callable[[Lease], Lease | None], clock: Clock, me: str | None = None
) -> Lease | None:
    """Write a row, again while the errors pass. None where somebody else wrote it.

    An earlier try whose answer was lost moved the row's counter; it is known by our name, which nobody else writes.
    """

    def tried() -> Lease | None:
        if (written := write(lease)) is not None:
            return written
        row = next((row for row in store.list() if row.shard_id == lease.shard_id), None)
        return write(row) if row is not None and row.owner == (me or lease.owner) else None

    return patiently(tried, clock)


def _lost(store: LeaseStore, shard_id: str) -> LeasesHeldElsewhere:
    row = next((row for row in store.list() if row.shard_id == shard_id), None)
    if row is None:
        return LeasesHeldElsewhere(f"the lease of {shard_id} was deleted meanwhile")
    who = "a worker" if row.owner is None else plain(row.owner)
    return LeasesHeldElsewhere(
        f"{who} wrote the lease of {shard_id} meanwhile, which is left as that wrote it, at {checkpoint_text(row)}:"
        " stop the workers, and repeat the command"
    )
