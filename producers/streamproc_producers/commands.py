"""The commands ``replay``, ``simulate`` and ``producer``."""

from __future__ import annotations

import contextlib
import itertools
import signal
import sys
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import IO

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from streamproc.cli import stop_on_signals
from streamproc.errors import SettingsError
from streamproc.producer import ProducerSettings
from streamproc_producers.cart import CartProducer
from streamproc_producers.events import CartEvent, new_event_id
from streamproc_producers.replay import Pace, ReplayReport, replay as send
from streamproc_producers.retail import RetailLog, default_data_path, stable_event_id
from streamproc_producers.simulate import Shop, simulate as shop_events
from streamproc_producers.verify import read_capture, read_stream, verify as judge

EXIT_CODES = """\b
Exit codes:
   0  every event was acknowledged
   1  some events could not be delivered; they are counted, and named in the journal
   2  an option or the data cannot be used
   3  the stream does not exist
   5  credentials are missing, or the call was refused
 130  stopped by Ctrl-C; what was sent before is counted
 143  stopped by SIGTERM, likewise
"""

VERIFY_EXIT_CODES = """\b
Exit codes:
   0  KCL would drop nothing
   1  it would: what, is printed
   2  an option or the capture cannot be used
   3  the stream does not exist
   4  Kinesis cannot be reached
   5  credentials are missing, or the call was refused
"""

_stream = click.option("--stream", required=True, help="The Kinesis stream to send to.")
_journal = click.option(
    "--journal",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write what became of each event here, a line of JSON each.",
)


@click.command(epilog=EXIT_CODES)
@_stream
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="The UCI Online Retail CSV, plain, .gz or .xz. Default: the one in STREAMPROC_DATA_DIR, else the sample.",
)
@click.option("--speed", type=float, help="Event time over real time: at 60, an hour takes a minute.")
@click.option("--rate", type=float, help="Events a second. Without --speed and --rate: as fast as possible.")
@click.option("--rate-seconds", type=float, help="Keep to --rate for so long, then go as fast as possible.")
@click.option("--from", "since", type=click.DateTime(), help="Leave out what was before (UTC).")
@click.option("--until", type=click.DateTime(), help="Leave out what was then or later (UTC).")
@click.option("--limit", type=click.IntRange(min=1), help="Send so many events.")
@click.option(
    "--same-ids",
    is_flag=True,
    help="Give each event the id it has on every replay. Sent twice, consumers then drop recent ones as duplicates.",
)
@_journal
def replay(
    stream: str,
    data: Path | None,
    speed: float | None,
    rate: float | None,
    rate_seconds: float | None,
    since: datetime | None,
    until: datetime | None,
    limit: int | None,
    same_ids: bool,
    journal: Path | None,
) -> None:
    """Replay a year of real invoices as cart events, in the order of event time.

    Each line of an invoice is put into the cart and then bought; a cancellation takes it out. Lines that are no
    shopping are counted by reason. Credentials, region and endpoint come from the environment, as for every AWS tool.

    \b
    Examples:
      streamproc replay --stream cart-events
      streamproc replay --stream cart-events --from 2011-11-01 --until 2011-11-08 --speed 3600
      streamproc replay --stream cart-events --rate 200 --rate-seconds 60 --limit 25000 --journal sent.jsonl
    """
    log = RetailLog(
        default_data_path(data),
        event_ids=stable_event_id if same_ids else lambda *_: new_event_id(),
        since=since,
        until=until,
    )
    pace = Pace(speed=speed, rate=rate, rate_seconds=rate_seconds)
    report, received = _send(itertools.islice(log, limit), stream, pace, journal, limit)
    click.echo(f"lines read     {log.lines}")
    for reason, lines in sorted(log.dirty.items()):
        click.echo(f"  left out     {lines}: {reason}")
    for sentence in log.unreadable:
        click.echo(f"    {sentence}")
    _finish(report, received)


@click.command(epilog=EXIT_CODES)
@_stream
@click.option("--users", type=int, default=1000, show_default=True, help="Shoppers; few of them come often.")
@click.option("--items", type=int, default=500, show_default=True, help="Products; few of them sell well.")
@click.option("--rate", type=float, default=50.0, show_default=True, help="Events a second.")
@click.option("--seconds", type=float, help="Stop after so long. Without --seconds and --events: on Ctrl-C.")
@click.option("--events", type=click.IntRange(min=1), help="Stop after so many events.")
@click.option("--seed", type=int, default=0, show_default=True, help="The same seed gives the same shop.")
@_journal
def simulate(
    stream: str,
    users: int,
    items: int,
    rate: float,
    seconds: float | None,
    events: int | None,
    seed: int,
    journal: Path | None,
) -> None:
    """Send the events of a simulated shop, as they happen.

    Sessions of views, carts, removals and purchases; times are now, and ids are new on every run.

    \b
    Examples:
      streamproc simulate --stream cart-events
      streamproc simulate --stream cart-events --users 50000 --items 5000 --rate 500 --seconds 600
      streamproc simulate --stream cart-events --events 10000 --seed 7 --journal sent.jsonl
    """
    if seconds is not None and seconds <= 0:
        raise SettingsError(f"--seconds is {seconds}: it must be above 0")
    start = datetime.now(UTC)
    happening = shop_events(Shop(users=users, items=items, rate=rate, seed=seed), start, new_event_id)
    if seconds is not None:
        end = start + timedelta(seconds=seconds)
        happening = itertools.takewhile(lambda event: event.ts < end, happening)
    report, received = _send(itertools.islice(happening, events), stream, Pace(speed=1.0), journal, events)
    _finish(report, received)


@click.group()
def producer() -> None:
    """Look after what producers send."""


@producer.command(epilog=VERIFY_EXIT_CODES)
@click.option("--stream", help="Read this stream.")
@click.option(
    "--capture", type=click.Path(path_type=Path), help="Read this file instead: shards and records, a JSON line each."
)
@click.option("--from", "since", type=click.DateTime(), help="Leave out what arrived before (UTC).")
@click.option("--until", type=click.DateTime(), help="Leave out what arrived then or later (UTC). Default: now.")
def verify(stream: str | None, capture: Path | None, since: datetime | None, until: datetime | None) -> None:
    """Prove that KCL drops no aggregate of a stream.

    KCL drops an aggregate whole, and says nothing, where one of its user records hashes outside the shard. Aggregates
    that aws-kinesis-agg made do, on a stream of several shards. This producer's do just after a reshard; it sees that,
    and sends their events again.

    \b
    A capture is made by:
      aws kinesis list-shards --stream-name cart-events | jq -c '.Shards[]' > capture.jsonl
      aws kinesis get-records --shard-iterator ... | jq -c '.Records[] + {ShardId: "shardId-..."}' >> capture.jsonl

    \b
    Examples:
      streamproc producer verify --stream cart-events
      streamproc producer verify --stream cart-events --from 2026-01-02T03:00:00
      streamproc producer verify --capture capture.jsonl
    """
    if (stream is None) == (capture is None):
        raise SettingsError("give either --stream or --capture: that is what is read")
    if capture is not None and (since is not None or until is not None):
        raise SettingsError("--from and --until are for --stream: a capture is read as a whole")
    if capture is not None:
        verdict = judge(partial(read_capture, capture))
    else:
        from streamproc.aws import aws_client

        start, end = (time.replace(tzinfo=UTC) if time else None for time in (since, until))
        verdict = judge(partial(read_stream, aws_client("kinesis"), stream or "", start, end or datetime.now(UTC)))
    click.echo(f"records            {verdict.records}")
    click.echo(f"aggregates         {verdict.aggregates}, of up to {verdict.keys_per_aggregate_max} keys")
    click.echo(f"  user records     {verdict.user_records}")
    if verdict.unreadable:
        click.echo(f"  unreadable       {verdict.unreadable}, which consumers get as they are")
    click.echo(f"KCL would drop     {verdict.dropped}")
    for offender in verdict.offenders:
        keys = ", ".join(map(repr, offender.keys_outside))
        click.echo(f"  {offender.shard_id} {offender.sequence_number}: {offender.users} user records; outside: {keys}")
    if verdict.dropped > len(verdict.offenders):
        click.echo(f"  and {verdict.dropped - len(verdict.offenders)} more")
    if verdict.dropped:
        again, users = verdict.user_records_sent_again, verdict.user_records_dropped
        click.echo(f"  user records     {users}, of which {again} are in the stream again, where they are kept")
        raise click.exceptions.Exit(1)


def _send(
    events: Iterable[CartEvent], stream: str, pace: Pace, journal: Path | None, total: int | None
) -> tuple[ReplayReport, list[int]]:
    stop, received = stop_on_signals()
    # A put that waits for room looks at `stop` so often.
    settings = ProducerSettings(full_wait_seconds_max=1.0)
    with (
        _opened(journal) as file,
        CartProducer(stream, settings=settings) as producer,
        Progress(
            TextColumn("sent"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]} events/s"),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            disable=not sys.stderr.isatty(),
        ) as progress,
    ):
        task = progress.add_task("sent", total=total, rate="0")

        def show(report: ReplayReport) -> None:
            rate = report.sent / report.seconds if report.seconds else 0.0
            progress.update(task, completed=report.sent, rate=f"{rate:,.0f}")

        report = send(events, producer, pace, journal=file, on_progress=show, stop=stop)
        if report.stopped:
            producer.close(0.0)  # the replay waited for acknowledgements already
        return report, received


@contextlib.contextmanager
def _opened(journal: Path | None) -> Iterator[IO[bytes] | None]:
    if journal is None:
        yield None
        return
    try:
        file = journal.open("wb")
    except OSError as error:
        raise SettingsError(f"the journal {journal} cannot be written: {error}") from error
    with file:
        yield file


def _finish(report: ReplayReport, received: list[int]) -> None:
    """Print the counts, and end with the code of what happened."""
    rate = report.sent / report.seconds if report.seconds else 0.0
    click.echo(f"sent           {report.sent} in {report.seconds:.1f} s ({rate:,.0f} a second)")
    click.echo(f"acknowledged   {report.acknowledged}")
    click.echo(f"failed         {sum(report.failed.values())}")
    for code, events in sorted(report.failed.items()):
        click.echo(f"  {code}: {events}")
    if received:
        raise click.exceptions.Exit(128 + signal.Signals(received[0]))
    if report.error is not None:
        raise report.error
    if report.failed:
        raise click.exceptions.Exit(1)
