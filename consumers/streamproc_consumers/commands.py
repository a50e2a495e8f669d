"""The command ``demo``."""

from __future__ import annotations

import signal
import tempfile
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from types import FrameType

import click
from rich.console import Console

from streamproc.errors import MissingExtra
from streamproc_consumers.demo.run import DemoFailed, Plan, run, show, write_json
from streamproc_producers.retail import default_data_path

_REPLAYED_RATE, _SERVED_RATE = 200.0, 25.0


@click.command()
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="The UCI Online Retail CSV, plain, .gz or .xz. Default: the one in STREAMPROC_DATA_DIR, else the sample.",
)
@click.option(
    "--cut",
    type=click.DateTime(["%Y-%m-%d"]),
    default="2011-11-01",
    show_default=True,
    help="Train on what came before, replay what came after.",
)
@click.option("--events", type=click.IntRange(min=100), default=100_000, show_default=True, help="Replay so many.")
@click.option(
    "--rate",
    type=click.FloatRange(min=0, min_open=True),
    help="Events a second in the steady phase.  [default: 200; of the others with --serve: 25]",
)
@click.option("--rate-seconds", type=float, default=60.0, show_default=True, help="Length of the steady phase.")
@click.option("--model", type=click.Path(path_type=Path), help="Use this bundle instead of training one.")
@click.option("--kill", is_flag=True, help="Kill the recommender with SIGKILL half-way, and start it again.")
@click.option("--kill-after", type=click.IntRange(min=1), metavar="EVENTS", help="Kill it after so many instead.")
@click.option("--serve", is_flag=True, help="Open a shop on this machine, and keep it open until Ctrl-C.")
@click.option("--port", type=click.IntRange(0, 65535), default=8787, show_default=True, help="Where that is; 0: any.")
@click.option("--kinesis-port", type=int, help="Serve Kinesis here, for tools of your own.  [default: a free one]")
@click.option("--redis-port", type=int, help="Serve Redis here, likewise.  [default: a free one]")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the figures here, too.")
@click.option(
    "--keep", type=click.Path(path_type=Path), help="Keep the model, the logs, the journals and what landed here."
)
def demo(
    data: Path | None,
    cut: datetime,
    events: int,
    rate: float | None,
    rate_seconds: float,
    model: Path | None,
    kill: bool,
    kill_after: int | None,
    serve: bool,
    port: int,
    kinesis_port: int | None,
    redis_port: int | None,
    json_path: Path | None,
    keep: Path | None,
) -> None:
    """Take real shopping data through the whole system on this machine, and prove from S3 that it worked.

    Trains on the history, starts moto and Redis, replays events through the producer, the recommender and the archive
    as separate processes, and compares every state in DynamoDB and Redis with a single-threaded fold of what was sent.

    With --serve there is no replay: a shop opens whose visitors are you and simulated others, with the lists as they
    change, the engine beside them, and a button that kills the worker. See docs/live.md.

    \b
    Examples:
      streamproc demo
      streamproc demo --serve
      streamproc demo --kill                              # kill -9 in the middle; nothing may be lost
      streamproc demo --events 5000 --rate-seconds 10 --keep demo-output

    \b
    Exit codes:
      0  every promise held
      1  one did not; the table says which
      2  an option or the data cannot be used
      4  a process of the stack, or a consumer, ended
      9  something is not installed
    130  stopped by Ctrl-C; nothing is left running
    143  stopped by SIGTERM, likewise
    """
    console = Console()
    signal.signal(signal.SIGTERM, _leave)  # unwinds as Ctrl-C does, so that every process is ended
    with ExitStack() as cleanup:
        folder = keep or Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="streamproc-demo-")))
        folder.mkdir(parents=True, exist_ok=True)
        plan = Plan(
            data=default_data_path(data),
            cut=cut,
            events=events,
            rate=rate or (_SERVED_RATE if serve else _REPLAYED_RATE),
            rate_seconds=rate_seconds,
            folder=folder,
            model=model,
            kill_after=kill_after or (events // 2 if kill else None),
            kinesis_port=kinesis_port,
            redis_port=redis_port,
        )
        if serve:
            _serve(plan, console, port)
            return
        result = run(plan, console)
    show(result, console)
    if json_path is not None:
        write_json(result, json_path)
    if broken := result.broken_promises():
        raise DemoFailed("; ".join(broken))
    console.print("[green]every event was applied exactly once, and every recommendation landed[/]")


def _serve(plan: Plan, console: Console, port: int) -> None:
    try:
        from streamproc_consumers.demo.serve import serve
    except ModuleNotFoundError as error:
        raise MissingExtra(
            f"--serve needs an extra ({error.name} is missing): pip install 'streamproc-consumers[demo]'"
        ) from error
    serve(plan, console, port=port)


def _leave(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
