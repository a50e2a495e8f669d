"""``streamproc leases unlock-leader``: remove the lock of a KCL leader that is gone."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import click
from botocore.exceptions import ClientError

from streamproc.application import Application
from streamproc.aws import aws_client
from streamproc.cli import EXIT_CODES
from streamproc.clock import Clock, SystemClock
from streamproc.errors import LeasesHeldElsewhere, code_of, translated
from streamproc.operations.common import of_application
from streamproc.readable import plain
from streamproc.runners.kcl.properties import coordinator_table
from streamproc.runners.kcl.watchdog import LeaderLock, read_leader

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

# KCL's leader renews every 30 s: one that lives is found out long before its lock's duration is over.
_LOOK_SECONDS = 5.0


@click.command("unlock-leader", epilog=EXIT_CODES)
@of_application
def unlock_leader(application: Application) -> None:
    """Remove the lock of the worker that assigned a KCL fleet's leases, where that worker is gone.

    Its lock outlives a leader that was killed, and KCL 3 does not always take it over; new shards and those of dead
    workers then wait for an owner, without an error. The command looks at the lock for as long as it lasts, two minutes
    by default, and refuses where it is renewed meanwhile. It is deleted on condition that nobody renewed it since, and
    the fleet elects a leader by itself.

    \b
    Examples:
      streamproc leases unlock-leader -A streamproc_consumers.recommender:app
    """
    unlock(aws_client("dynamodb"), application.name, SystemClock())


def unlock(client: DynamoDBClient, application: str, clock: Clock) -> None:
    """Delete the leader's lock, if it stands still. Raises LeasesHeldElsewhere, with its owner, where it moves."""
    table = coordinator_table(application)
    seen = read_leader(client, application)
    if seen is None:
        click.echo(f"{table} holds no lock of a leader: there is nothing to unlock.")
        return
    owner = plain(seen.owner)
    click.echo(f"Looking for {seen.lease_seconds:.0f} s whether the leader {owner} renews its lock ...", err=True)
    deadline = clock.monotonic() + seen.lease_seconds
    while (left := deadline - clock.monotonic()) > 0:
        clock.wait(min(_LOOK_SECONDS, left), threading.Event())
        now = read_leader(client, application)
        if now is None:
            click.echo(f"{owner} gave up its lock meanwhile: there is nothing to unlock.")
            return
        if now != seen:
            raise _alive(now)
    with translated(f"deleting the leader's lock in {table}"):
        try:
            client.delete_item(
                TableName=table,
                Key={"key": {"S": "Leader"}},
                # Nobody renewed it or took it over since it was seen standing still.
                ConditionExpression="recordVersionNumber = :seen",
                ExpressionAttributeValues={":seen": {"S": seen.version}},
            )
        except ClientError as error:
            if code_of(error) != "ConditionalCheckFailedException":
                raise
            raise _alive(read_leader(client, application) or seen) from error
    click.echo(f"The lock of {owner}, which was not renewed for {seen.lease_seconds:.0f} s, was deleted from {table}.")


def _alive(lock: LeaderLock) -> LeasesHeldElsewhere:
    return LeasesHeldElsewhere(
        f"nothing was unlocked: {plain(lock.owner)} renews the lock and is alive. If it assigns nothing, stop that"
        " worker, and repeat the command"
    )
