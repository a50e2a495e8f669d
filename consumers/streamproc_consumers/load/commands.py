"""The command ``load``."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import click
import msgspec
from rich.console import Console

from streamproc.aws import aws_client
from streamproc.cli import stop_on_signals
from streamproc.errors import SettingsError, translated
from streamproc.producer import ProducerSettings
from streamproc.stream import list_shards
from streamproc_consumers.load.cost import Demand, Line, bill, measured, needs, per_million, shards_for
from streamproc_consumers.load.prices import Prices, read_prices
from streamproc_consumers.load.published import Journal, Outcome, outcome_of
from streamproc_consumers.load.report import Report, cost_lines, page, show, show_cost
from streamproc_consumers.load.run import Plan, Progress, run
from streamproc_consumers.load.shape import SHAPES, Shape
from streamproc_consumers.load.system import local_system
from streamproc_producers.cart import CartProducer

EXIT_CODES = """\b
Exit codes:
   0  every event that was due was acknowledged
   1  some could not be delivered, or the local recommender ended
   2  an option, the prices or what landed cannot be used
   3  the stream does not exist
   4  a service cannot be reached
   5  credentials are missing, or the call was refused
   9  something is not installed
 130  not confirmed; or stopped by Ctrl-C: the report is of what was sent before
 143  stopped by SIGTERM, likewise
"""
#: How often a line is printed where the output is not a terminal.
_LINE_SECONDS = 10.0
#: Firehose keeps records for a buffer's time, 300 s by default, before they are in S3.
_WAIT_SECONDS_S3, _WAIT_SECONDS_LOCAL = 420.0, 30.0


@click.command(epilog=EXIT_CODES)
@click.option("--stream", help="The Kinesis stream to send to.")
@click.option("--local", is_flag=True, help="Start the whole system on this machine, and load that; costs nothing.")
@click.option("--rate", type=float, default=100.0, show_default=True, help="Events a second: the mean of the shape.")
@click.option("--duration", type=float, default=60.0, show_default=True, help="Seconds at the shape, after the ramp.")
@click.option("--ramp", type=float, default=0.0, show_default=True, help="Seconds from nothing to the first rate.")
@click.option(
    "--shape",
    type=click.Choice(SHAPES),
    default="steady",
    show_default=True,
    help="spike: five times the rate in the middle tenth; diurnal: a day's low and high in one run.",
)
@click.option("--users", type=click.IntRange(min=1), default=5000, show_default=True, help="Shoppers, by Zipf's law.")
@click.option("--items", type=click.IntRange(min=1), default=500, show_default=True, help="Products, likewise.")
@click.option("--seed", type=int, default=0, show_default=True, help="The same seed gives the same shop.")
@click.option(
    "--recommendations",
    metavar="PLACE",
    help="Where they land: s3://bucket/prefix, or the local stack's firehose.jsonl. Without: only puts are measured.",
)
@click.option("--delivery-stream", default="recommendations", show_default=True, help="Whose, in that firehose.jsonl.")
@click.option("--wait", "wait_seconds", type=float, help="Wait so long for the last ones.  [default: 420, 30 locally]")
@click.option("--prices", "prices_path", type=click.Path(path_type=Path), help="A price table of your own (TOML).")
@click.option("--yes", is_flag=True, help="Do not ask before money is spent.")
@click.option("--json", "json_path", type=click.Path(dir_okay=False, path_type=Path), help="Write the report here.")
@click.option("--html", "html_path", type=click.Path(dir_okay=False, path_type=Path), help="And here, as a page.")
def load(
    stream: str | None,
    local: bool,
    rate: float,
    duration: float,
    ramp: float,
    shape: str,
    users: int,
    items: int,
    seed: int,
    recommendations: str | None,
    delivery_stream: str,
    wait_seconds: float | None,
    prices_path: Path | None,
    yes: bool,
    json_path: Path | None,
    html_path: Path | None,
) -> None:
    """Load a stream with a simulated shop, and measure how soon each event is in a recommendation.

    An open loop: each event has an intended time, and latencies count from it, however late it could be sent. What it
    costs is estimated first, and on AWS asked for. Items of the shop are in no catalogue of yours: a recommender with
    another model's catalogue ranks its popular items, which costs it less.

    \b
    Examples:
      streamproc load --local --rate 500 --html load.html
      streamproc load --stream cart-events --rate 1000 --ramp 60 --duration 600
      streamproc load --stream cart-events --rate 2000 --shape spike --recommendations s3://shop-output/recommendations/
    """
    if local == (stream is not None):
        raise SettingsError("give either --stream or --local: that is what is loaded")
    if local and recommendations is not None:
        raise SettingsError("--recommendations is for --stream: --local finds its own")
    if wait_seconds is not None and not wait_seconds >= 0:
        raise SettingsError(f"--wait is {wait_seconds}: it must be 0 or more seconds")
    form = Shape(rate=rate, seconds=duration, ramp_seconds=ramp, kind=shape)
    prices = read_prices(prices_path)
    console = Console(stderr=True)
    for path in (json_path, html_path):
        if path is not None and not path.absolute().parent.is_dir():
            raise SettingsError(f"{path}: there is no folder {path.absolute().parent}")
    stop, received = stop_on_signals()
    with contextlib.ExitStack() as ending:
        outcome: Outcome | None = None
        if local:
            console.print("starting the local stack, a model and the recommender; half a minute")
            stack, system = ending.enter_context(
                local_system(users=users, items=items, seed=seed, shards=max(4, shards_for(form.peak_rate, measured())))
            )
            os.environ.update(stack.environment())
            stream = system.stream
            outcome = Journal(system.journal, system.delivery_stream)
        elif recommendations is not None:
            outcome = outcome_of(recommendations, delivery_stream, time.time())
        assert stream is not None  # noqa: S101  # one of the two was given
        shards, on_demand, costs_money = _stream_facts(stream)
        lines = _bill(form, users, shards, prices, on_demand)
        _announce(form, lines, prices, console)
        if costs_money and not yes:
            click.confirm("This spends money on AWS. Send it?", abort=True, err=True)
        plan = Plan(
            stream=stream,
            shape=form,
            users=users,
            items=items,
            seed=seed,
            wait_seconds=_wait_seconds(wait_seconds, outcome),
        )
        report = _run(plan, outcome, lines, prices, stop, console)
    show(report, Console())
    if json_path is not None:
        json_path.write_text(json.dumps(msgspec.to_builtins(report), indent=2) + "\n")
    if html_path is not None:
        html_path.write_text(page(report), "utf-8")
    if signal.SIGINT in received:
        raise click.exceptions.Exit(130)
    if received:
        raise click.exceptions.Exit(143)
    if report.events_acknowledged < report.events_due:
        raise click.exceptions.Exit(1)


def _wait_seconds(given: float | None, outcome: Outcome | None) -> float:
    if given is not None:
        return given
    return _WAIT_SECONDS_LOCAL if isinstance(outcome, Journal) else _WAIT_SECONDS_S3


def _stream_facts(stream: str) -> tuple[int, bool, bool]:
    """Open shards, whether the stream is on demand, and whether its endpoint is AWS, and so takes money."""
    client = aws_client("kinesis")
    shards = sum(1 for shard in list_shards(client, stream) if not shard.closed)
    with translated(f"describing the stream {stream!r}"):
        summary = client.describe_stream_summary(StreamName=stream)["StreamDescriptionSummary"]
    on_demand = summary.get("StreamModeDetails", {}).get("StreamMode") == "ON_DEMAND"
    return shards, on_demand, not is_local(client.meta.endpoint_url)


def is_local(url: str) -> bool:
    """Whether an endpoint is on this machine, or in a private network, where nobody sends a bill."""
    host = urlsplit(url).hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:
        return False


def _bill(form: Shape, users: int, shards: int, prices: Prices, on_demand: bool) -> list[Line]:
    demand, constants = Demand(rate=form.rate, users=users, shards=shards), measured()
    return bill(demand, needs(demand, constants), constants, prices, on_demand=on_demand)


def _announce(form: Shape, lines: list[Line], prices: Prices, console: Console) -> None:
    hourly = sum(line.dollars_per_hour for line in lines)
    show_cost(cost_lines(lines, form.rate), per_million(hourly, form.rate), prices.date, prices.region, console)
    console.print(
        f"{form.events:,} events in {form.total_seconds:,.0f} s, at most {form.peak_rate:,.0f} a second: about"
        f" ${hourly * form.total_seconds / 3600:,.2f} with the recommender, its stores and an archive; prices of"
        f" {prices.date}, to be checked",
        soft_wrap=True,
    )


def _run(
    plan: Plan, outcome: Outcome | None, lines: list[Line], prices: Prices, stop: threading.Event, console: Console
) -> Report:
    # A put that waits for room looks at `stop` so often.
    settings = ProducerSettings(full_wait_seconds_max=1.0)
    with CartProducer(plan.stream, settings=settings) as producer, _progress(console) as shown:
        report = run(
            plan,
            producer,
            outcome,
            lines,
            prices,
            stop=stop,
            on_progress=shown,
            look_seconds=0.25 if isinstance(outcome, Journal) else 10.0,
        )
        if report.stopped:
            producer.close(0.0)  # the run waited for acknowledgements already
        return report


class _Line:
    """One line that is written over, or a line every ten seconds where standard error is no terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._printed_at = time.monotonic()

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        if now - self._printed_at < (0.25 if self._console.is_terminal else _LINE_SECONDS):
            return
        self._printed_at = now
        tally = progress.tally
        text = (
            f"{tally.seconds:6.0f} s  {tally.put:,} of {progress.due:,} put  {tally.acknowledged:,} acknowledged "
            f" {sum(tally.failed.values()):,} failed  put up to {tally.late_seconds_max * 1000:,.0f} ms late"
        )
        if progress.recent_ms_p50 is not None or progress.waiting:
            median = "-" if progress.recent_ms_p50 is None else f"{progress.recent_ms_p50:,.0f}"
            text += f"  recommendation p50 {median} ms, {progress.waiting:,} waiting"
        if self._console.is_terminal:
            sys.stderr.write(f"\r\x1b[2K{text}"[: self._console.width + 5])
            sys.stderr.flush()
        else:
            self._console.print(text, soft_wrap=True, highlight=False)

    def end(self) -> None:
        if self._console.is_terminal:
            sys.stderr.write("\r\x1b[2K")
            sys.stderr.flush()


@contextlib.contextmanager
def _progress(console: Console) -> Iterator[_Line]:
    line = _Line(console)
    try:
        yield line
    finally:
        line.end()
