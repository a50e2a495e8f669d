"""``streamproc state forget``: erase what an application keeps of one key."""

from __future__ import annotations

from collections.abc import Sequence

import click

from streamproc.application import Application
from streamproc.aws import aws_client
from streamproc.cli import EXIT_CODES
from streamproc.errors import LeasesHeldElsewhere, StreamprocError, translated
from streamproc.lease import Lease
from streamproc.leases.dynamodb import DynamoDBLeases
from streamproc.namespace import Namespace
from streamproc.operations.common import (
    confirm,
    namespace_of,
    of_application,
    print_table,
    refuse_while_alive,
    table_of,
)
from streamproc.readable import plain


@click.command(epilog=EXIT_CODES)
@of_application
@click.argument("key")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--force", is_flag=True, help="Erase although workers run, which may write the state again.")
@click.option(
    "--failover-seconds",
    type=click.FloatRange(min=1),
    help="As `run` was told: a worker whose leases stand still for so long is dead.",
)
def forget(application: Application, key: str, yes: bool, force: bool, failover_seconds: float | None) -> None:
    """Erase one key: its durable state, its projected one, and the dead letters under it.

    Stop the workers first: one that has the key in memory would write it again with its next checkpoint. The command
    looks twice at the leases, and refuses while one of them moves. Without --yes it asks on a terminal, and elsewhere
    only says what it would erase. It may be repeated.

    \b
    Examples:
      streamproc state forget -A streamproc_consumers.recommender:app 17850
      streamproc state forget -A shop.app:app 17850 --yes
    """
    namespace = namespace_of(application)
    states, letters = application.states(namespace), application.deadletters(namespace)
    projection = None if application.projection is None else application.projection(namespace)
    places = table_of("erases of " + plain(key), "")
    places.add_row("durable state", states.check())
    places.add_row(
        "projected state", "the application names no projection" if projection is None else projection.check()
    )
    count = sum(letter.partition_key == key for letter in letters.scan(with_data=False))
    places.add_row(f"{count} dead letters", letters.check())
    print_table(places)
    click.echo(_what_stays(application, namespace, key), err=True)

    confirm(f"Erase {plain(key)}?", yes=yes, unattended=False)
    leases = DynamoDBLeases(application.name)
    before = leases.list()
    if not force:
        refuse_while_alive(
            leases,
            before,
            failover_seconds or application.failover_seconds(before),
            lambda owners: (
                f"nothing was erased: {owners} runs the application {application.name!r}, and would write the key again"
                " with its next checkpoint. Stop the workers first; --force erases all the same"
            ),
        )
    # The state first: were it left, readers would fall back to it.
    found = states.forget(key)
    projected = projection is not None and projection.forget(key)
    erased = letters.forget(key)
    click.echo(
        f"durable state: {'erased' if found else 'there was none'}; projected state:"
        f" {'erased' if projected else 'there was none'}; dead letters: {erased} erased."
    )
    if force:
        click.echo("A worker that has the key in memory writes it again with its next checkpoint.", err=True)
        return
    if _rows(before) != _rows(leases.list()):
        raise LeasesHeldElsewhere(
            f"a worker of the application {application.name!r} started while {key!r} was erased, and may have the state"
            " in memory: stop it, and repeat the command"
        )
    click.echo(
        "Workers may start again. They read on behind their checkpoints: events of the key up to there are not folded"
        " again, those behind it begin a new state.",
        err=True,
    )


def _rows(leases: Sequence[Lease]) -> set[tuple[str, str | None, int]]:
    return {(lease.shard_id, lease.owner, lease.counter) for lease in leases}


def _what_stays(application: Application, namespace: Namespace, key: str) -> str:
    """What no command erases, for a person."""
    with translated(f"describing the stream {namespace.stream!r}"):
        answer = aws_client("kinesis").describe_stream_summary(StreamName=namespace.stream)
    hours = answer["StreamDescriptionSummary"]["RetentionPeriodHours"]
    stays = [f"the stream {namespace.stream} keeps the records for {hours} h after their arrival"]
    if application.sink is not None:
        try:
            sink = application.sink(namespace).check()
        except StreamprocError:
            sink = "the application's sink"
        stays.append(f"what was published, {sink}: erase the lines with {plain(key)} where it delivers to")
    stays.append(
        "other applications on the stream, and those that `streamproc rebuild` keeps beside this one: repeat this for"
        f" each of them with --exactly --name; from what the archive wrote to S3, erase the lines with {plain(key)}"
    )
    if application.snapshots is not None:
        stays.append("values across keys: snapshots hold sums in which the key's events are")
    stays.append("backups of the tables, and old versions in the bucket where it keeps them")
    return "Stays, and is not erased here:\n" + "\n".join(f"  - {each}" for each in stays)
