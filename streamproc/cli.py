"""The generic commands, ``run`` and ``doctor``, and how the commands of the other distributions are found."""

from __future__ import annotations

import importlib.metadata
import platform
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from types import FrameType
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.table import Table

from streamproc import __version__
from streamproc.alias import resolved, still_serves
from streamproc.application import load_application
from streamproc.aws import aws_client
from streamproc.errors import MissingExtra, SettingsError, StreamprocError, translated
from streamproc.leases.dynamodb import DynamoDBLeases
from streamproc.metrics import Exporter, serve
from streamproc.metrics.logs import LogWriter
from streamproc.metrics.profile import Profile
from streamproc.namespace import Namespace
from streamproc.runners.kcl.checks import fleet_checks, install_checks
from streamproc.runners.kcl.lines import Lines
from streamproc.runners.kcl.runner import KclRunner
from streamproc.runners.local import LocalRunner
from streamproc.stream import stream_created_at
from streamproc.telemetry import Telemetry

EXIT_CODES = """\b
Exit codes:
   0  done, or stopped by SIGTERM after a last checkpoint
   1  an error of the application's code
   2  a setting, an option or -A cannot be used
   3  the stream does not exist
   4  a service cannot be reached
   5  credentials are missing, or a call was refused
   6  another worker holds the leases
   7  the stream was deleted and made again
   8  a state was written by a newer fold
   9  something is not installed
  11  the model bundle cannot be used, nor the one before it
 130  stopped by Ctrl-C
"""


class _Commands(click.Group):
    """Commands by entry point: a distribution adds its own to the group ``streamproc.commands``."""

    def __init__(self, distribution_of: Mapping[str, str]) -> None:
        super().__init__(
            "streamproc",
            help="Process Kinesis streams: nothing lost, nothing counted twice.",
            epilog="Examples and exit codes: streamproc COMMAND --help",
            params=[click.Option(["--version"], is_flag=True, is_eager=True, expose_value=False, callback=_version)],
            no_args_is_help=True,
        )
        self._distribution_of = distribution_of
        self._found = {point.name: point for point in importlib.metadata.entry_points(group="streamproc.commands")}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """See click."""
        del ctx
        return sorted({*self._found, *self._distribution_of})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """See click. A command whose package is missing is there too, and says what to install when it is called."""
        del ctx
        needs = f"pip install '{self._distribution_of.get(cmd_name, 'streamproc[cli]')}'"
        if cmd_name not in self._found:
            return _Missing(cmd_name, needs) if cmd_name in self._distribution_of else None
        try:
            command = self._found[cmd_name].load()
        except ModuleNotFoundError as error:
            return _Missing(cmd_name, needs, error)
        assert isinstance(command, click.Command)  # noqa: S101  # what the entry point promises
        return command


class _Missing(click.Command):
    """Stands for a command that cannot be loaded."""

    def __init__(self, name: str, needs: str, cause: ModuleNotFoundError | None = None) -> None:
        super().__init__(
            name,
            help=f"(not installed: {needs})",
            add_help_option=False,
            context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
        )
        self._needs = needs
        self._cause = cause

    def invoke(self, ctx: click.Context) -> None:
        """See click."""
        del ctx
        lacks = f": the module {self._cause.name!r} is missing" if self._cause else ""
        raise MissingExtra(f"{self.name!r} is not installed{lacks}; {self._needs}") from self._cause


def _version(ctx: click.Context, _parameter: click.Parameter, asked: bool) -> None:  # click's signature
    if asked:
        click.echo(f"streamproc {__version__}")
        ctx.exit()


def commands(distribution_of: Mapping[str, str]) -> click.Group:
    """The ``streamproc`` command. ``distribution_of`` says what to install for a command that is not there."""
    return _Commands(distribution_of)


@click.command(epilog=EXIT_CODES)
@click.option("-A", "--app", "path", required=True, metavar="MODULE:APP", help="The application to run.")
@click.option(
    "--runner",
    type=click.Choice(["local", "kcl"]),
    default="local",
    show_default=True,
    help="One process for all shards, or a worker of a fleet under KCL.",
)
@click.option("--stream", help="Read this stream instead of the application's.")
@click.option("--name", help="Run under this application name: its own leases, states and dead letters.")
@click.option("--poll-seconds", type=float, help="Time from one read of a shard to the next (at least 0.2).")
@click.option("--checkpoint-seconds", type=float, help="Time from one checkpoint to the next.")
@click.option("--failover-seconds", type=float, help="A lease whose owner is silent for so long is taken over.")
@click.option(
    "--initial-position", type=click.Choice(["TRIM_HORIZON", "LATEST"]), help="Where a stream never read before starts."
)
@click.option(
    "--log-format", type=click.Choice(["auto", "json", "text"]), default="auto", show_default=True, help="Of stderr."
)
@click.option(
    "--metrics",
    type=click.Choice(["none", "prometheus", "emf"]),
    help="A scraper, or CloudWatch by lines on stdout. With a port, prometheus is the default.",
)
@click.option("--metrics-port", type=int, help="Serve /metrics, /healthz and /readyz there; 0 takes a free port.")
@click.option("--metrics-address", default="127.0.0.1", show_default=True, help="Where that port listens.")
@click.option(
    "--profile", is_flag=True, help="Write a table of the time by step to stderr, each minute and at the end."
)
def run(
    path: str,
    runner: str,
    stream: str | None,
    name: str | None,
    poll_seconds: float | None,
    checkpoint_seconds: float | None,
    failover_seconds: float | None,
    initial_position: str | None,
    log_format: str,
    metrics: Exporter | None,
    metrics_port: int | None,
    metrics_address: str,
    profile: bool,
) -> None:
    """Run an application until SIGTERM or Ctrl-C.

    The first signal finishes the batches in hand, checkpoints and releases the leases; a second one exits at once.

    \b
    Examples:
      streamproc run -A streamproc_consumers.recommender:app
      streamproc run -A shop.app:app --stream cart-events --checkpoint-seconds 30
      streamproc run -A shop.app:app --name shop-v2      # beside the first one, from the beginning
      streamproc run -A shop.app:app --runner kcl        # as many of them as there should be hosts
    """
    if profile and runner == "kcl":
        raise SettingsError(
            "--profile is for --runner local: a fleet has a process a shard; their steps are in the metric"
            " streamproc_batch_step_seconds"
        )
    application = load_application(path)
    replace = msgspec.structs.replace
    given = _given(poll_seconds=poll_seconds, failover_seconds=failover_seconds, initial_position=initial_position)
    application = replace(
        application,
        **_given(stream=stream, name=name),
        worker=replace(application.worker, **_given(checkpoint_seconds=checkpoint_seconds)),
        **{runner: replace(getattr(application, runner), **given)},
    )
    name = application.name
    application = resolved(application)
    served = partial(serve, application=name, exporter=metrics, port=metrics_port, address=metrics_address)
    if runner == "kcl":
        if log_format == "text":
            raise SettingsError("--log-format text is for --runner local: a fleet's lines are JSON, one object each")
        lines = Lines()
        fleet = KclRunner(application, app=path, alias=name, leases=DynamoDBLeases(application.name), lines=lines)
        stop, received = stop_on_signals(at_once=fleet.kill)
        with served(Telemetry(lines), stop=stop) as measured:
            fleet.run(stop, measured)
        if signal.SIGINT in received:
            raise click.exceptions.Exit(130)
        return
    log = LogWriter(json=log_format == "json" or (log_format == "auto" and not sys.stderr.isatty()))
    stop, received = stop_on_signals()
    telemetry = Telemetry(log)
    profiled = Profile(partial(click.echo, err=True)) if profile else None
    if profiled is not None:
        telemetry.subscribe(profiled)
    try:
        with served(telemetry, stop=stop):
            LocalRunner(
                application,
                leases=DynamoDBLeases(application.name),
                telemetry=telemetry,
                confirm=lambda: still_serves(name, application.name),
            ).run(stop)
    finally:
        log.close()
        if profiled is not None:
            profiled.close()
    if signal.SIGINT in received:
        raise click.exceptions.Exit(130)


def _given(**options: object) -> dict[str, Any]:
    """The options that were given on the command line."""
    return {name: value for name, value in options.items() if value is not None}


def stop_on_signals(at_once: Callable[[], None] | None = None) -> tuple[threading.Event, list[int]]:
    """An event that SIGTERM and SIGINT set, and the list of what was received.

    The second signal ends the process, after ``at_once``.
    """
    stop = threading.Event()
    received: list[int] = []

    def handle(number: int, _frame: FrameType | None) -> None:
        if stop.is_set() and at_once is not None:
            at_once()
        if stop.is_set() or at_once is None:
            for each in (signal.SIGTERM, signal.SIGINT):
                signal.signal(each, signal.SIG_DFL)
        if stop.is_set():
            signal.raise_signal(number)
        received.append(number)
        stop.set()

    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, handle)
    return stop, received


@click.command(epilog=EXIT_CODES)
@click.option("-A", "--app", "path", metavar="MODULE:APP", help="Check what this application needs, too.")
@click.option(
    "--runner", type=click.Choice(["local", "kcl"]), default="local", show_default=True, help="What is to feed it."
)
def doctor(path: str | None, runner: str) -> None:
    """Check versions, settings, and that every service answers, with its latency.

    Nothing is written. Exits with 0 when everything can be used, else with the code of the first failure.

    \b
    Examples:
      streamproc doctor
      streamproc doctor -A streamproc_consumers.recommender:app
      streamproc doctor -A streamproc_consumers.recommender:app --runner kcl
    """
    table = Table("check", "", "detail", "ms", box=None, pad_edge=False)
    failures: list[StreamprocError] = []

    def check(name: str, call: Callable[[], str]) -> None:
        started = time.perf_counter()
        try:
            detail, mark = call(), "[green]ok[/]"
        except StreamprocError as error:
            failures.append(error)
            detail, mark = str(error), "[red]failed[/]"
        table.add_row(name, mark, detail, f"{(time.perf_counter() - started) * 1000:.0f}")

    check("python", platform.python_version)
    for package in ("boto3", "msgspec", "redis", "xgboost", "xgboost-cpu", "amazon-kclpy"):
        if version := _installed(package):
            check(package, lambda version=version: version)  # type: ignore[misc]  # bound now, not at the call
    if runner == "kcl":
        for what, call in install_checks():
            check(what, call)
    check("region", lambda: aws_client("kinesis").meta.region_name)
    if path is None:
        check("kinesis", _list_streams)
    else:
        _check_application(path, check, runner)
    Console().print(table)
    if failures:
        raise click.exceptions.Exit(failures[0].exit_code)


def _check_application(path: str, check: Callable[[str, Callable[[], str]], None], runner: str) -> None:
    application = load_application(path)
    created_at = 0

    def alias() -> str:
        nonlocal application
        name, application = application.name, resolved(application)
        return f"{name} serves itself" if application.name == name else f"{name} is served by {application.name}"

    check("alias", alias)

    def stream() -> str:
        nonlocal created_at
        created_at = stream_created_at(aws_client("kinesis"), application.stream)
        return f"stream {application.stream}"

    check("kinesis", stream)
    if runner == "kcl":
        for what, call in fleet_checks(application):
            check(what, call)
    else:
        check("leases", lambda: DynamoDBLeases(application.name).check())
    ports = application.ports(Namespace(application.name, application.stream, created_at))
    check("states", ports.states.check)
    check("dead letters", ports.deadletters.check)
    if ports.sink is not None:
        check("sink", ports.sink.check)
    if ports.projection is not None:
        check("projection", ports.projection.check)
    check("processor", lambda: type(application.processor()).__name__)


def _installed(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _list_streams() -> str:
    with translated("listing streams"):
        return f"{len(aws_client('kinesis').list_streams(Limit=100)['StreamNames'])} streams"
