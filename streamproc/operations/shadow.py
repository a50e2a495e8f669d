"""A shadow while it is rebuilt: where it begins, what it runs as, and what is shown of it."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from datetime import datetime

import click
import msgspec
from botocore.exceptions import ClientError
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from streamproc.alias import Origin, Rebuilds
from streamproc.application import Application
from streamproc.aws import aws_client
from streamproc.errors import SettingsError, StreamprocError, code_of, is_transient
from streamproc.lease import Lease
from streamproc.leases.dynamodb import DynamoDBLeases
from streamproc.metrics.logs import LogWriter
from streamproc.operations.common import namespace_of
from streamproc.rebuild import LiveLead, Standing, checked_origin, retention_seconds, standings
from streamproc.runners.local import LocalRunner
from streamproc.stream import list_shards
from streamproc.telemetry import BatchCommitted, Checkpointed, TelemetryEvent

REFRESH_SECONDS = 1.0
# A line that often where there is no terminal.
LINE_SECONDS = 10.0


def named(application: Application, shadows: dict[str, Origin], name: str) -> str | None:
    """The full name of the original or of a shadow that is given with or without the application's; None is neither."""
    full = f"{application.name}-{name}"
    return next((known for known in (name, full) if known == application.name or known in shadows), None)


def leases_of(name: str) -> list[Lease]:
    """The leases of an application; none where it has no table."""
    try:
        return DynamoDBLeases(name).list()
    except SettingsError as error:
        if is_absent(error):
            return []
        raise


def is_absent(error: SettingsError) -> bool:
    """Whether an error says that a table does not exist."""
    cause = error.__cause__
    return isinstance(cause, ClientError) and code_of(cause) == "ResourceNotFoundException"


def origin_given(text: str | None, *, from_horizon: bool) -> tuple[bool, int | None]:
    """Whether an origin was given, and its time in whole seconds since the epoch; None is the horizon."""
    if text is None:
        return from_horizon, None
    if from_horizon:
        raise SettingsError("--from-timestamp and --from-horizon name two beginnings: give one of them")
    try:
        since = datetime.fromisoformat(text)
    except ValueError as error:
        raise SettingsError(
            f"--from-timestamp {text!r} is not a time: write it as 2026-11-01T00:00:00Z ({error})"
        ) from error
    if since.tzinfo is None:
        raise SettingsError(f"--from-timestamp {text!r} has no time zone: end it with Z for UTC, or with +02:00")
    return True, int(since.timestamp())


def begun(
    application: Application, rebuilds: Rebuilds, suffix: str | None, given: tuple[bool, int | None], live: str
) -> tuple[str, Origin]:
    """The name and the origin of a shadow that goes on, or of a new one, which is noted."""
    shadows = rebuilds.shadows()
    name = named(application, shadows, suffix) if suffix is not None else None
    if name is not None:
        if name == live:
            raise SettingsError(f"{name!r} is the one that serves; what is rebuilt must be another one")
        if name not in shadows and not leases_of(name):
            raise SettingsError(f"{name!r}, the original, was dropped; rebuild under another name")
        origin = shadows.get(name, Origin(None))
        if given[0] and (name not in shadows or origin.since != given[1]):
            raise SettingsError(
                f"{name!r} was begun from {origin}: go on without --from-timestamp and --from-horizon, or drop it first"
            )
        return name, origin
    if not given[0]:
        raise SettingsError("say from where to fold: --from-timestamp 2026-11-01T00:00:00Z, or --from-horizon")
    retention = retention_seconds(aws_client("kinesis"), application.stream)
    origin = checked_origin(given[1], retention_seconds=retention, now=time.time())
    suffix = suffix or time.strftime("%Y%m%dT%H%M%S", time.gmtime())
    name = f"{application.name}-{suffix}"
    if suffix in ("states", "deadletters", "rebuilds"):
        raise SettingsError(f"--as {suffix!r}: {application.name!r} has a table of that name; choose another one")
    msgspec.structs.replace(application, name=name)  # raises where it cannot name a table
    if leases_of(name):
        raise SettingsError(f"--as {suffix!r}: another application runs under the name {name!r}; choose another one")
    rebuilds.add(name, origin)
    return name, origin


def check_stream(live: Application) -> None:
    """Raises SettingsError where the stream was made anew since the live application read it."""
    namespace = namespace_of(live)
    stream = f"{namespace.stream}@{namespace.stream_created_at}"
    known = live.states(namespace).claim_stream(stream)
    if known != stream:
        raise SettingsError(
            f"the application {live.name!r} reads {known!r}, and the stream that is there now is {stream!r}: its"
            " checkpoints say nothing about this one, so nothing can be rebuilt up to them"
        )


def follow(runner: LocalRunner, lead: LiveLead, shadow: Application, stop: threading.Event, progress: Shown) -> bool:
    """Run the shadow until it is told to stop, or stands where the live one stopped: True."""
    done = False
    kinesis = aws_client("kinesis")
    with ThreadPoolExecutor(1, thread_name_prefix="streamproc-rebuild") as pool:
        running: Future[None] = pool.submit(runner.run, stop)
        try:
            while not wait([running], REFRESH_SECONDS).done and not done:
                try:
                    lead.refresh()
                    shards = list_shards(kinesis, shadow.stream)
                    found = Counter(standings(shards, [*lead.leases.values()], leases_of(shadow.name)).values())
                except StreamprocError as error:
                    if not is_transient(error):
                        raise
                    continue
                progress.show(found)
                same = found.total() > 0 and found.total() == found[Standing.SAME]
                done = same and not stop.is_set() and lead.stopped(shadow.failover_seconds(lead.leases.values()))
        finally:
            stop.set()
    running.result()
    return done


class Shown:
    """Progress: a line that moves on a terminal, else one line now and then. Batches are counted, not logged."""

    def __init__(self, show: Callable[[str], None], log: LogWriter) -> None:
        self._show = show
        self._log = log
        self._lock = threading.Lock()
        self._records = 0
        self._behind: dict[str, int] = {}

    def count(self, event: TelemetryEvent) -> None:
        """Take an event of the shadow."""
        if isinstance(event, BatchCommitted):
            with self._lock:
                self._records += event.records
                self._behind[event.shard_id] = event.millis_behind_latest
        elif not isinstance(event, Checkpointed):
            self._log(event)

    def show(self, found: Counter[Standing]) -> None:
        """Show where the shadow stands."""
        with self._lock:
            behind_seconds = max(self._behind.values(), default=0) / 1000
            behind = f", the furthest behind by {behind_seconds:.0f} s" if found[Standing.SAME] < found.total() else ""
            self._show(
                f"{found[Standing.SAME]} of {found.total()} shards stand where the live one stands;"
                f" {self._records} records folded{behind}"
            )


@contextlib.contextmanager
def progress_of(name: str) -> Iterator[Shown]:
    """Shows on standard error where a shadow stands, and what its worker reports."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    terminal = sys.stderr.isatty()
    shown_at = float("-inf")
    with Progress(*columns, console=Console(stderr=True), disable=not terminal, transient=True) as bar:
        task = bar.add_task(name, total=None)

        def show(text: str) -> None:
            nonlocal shown_at
            bar.update(task, description=f"{name}: {text}")
            if not terminal and time.monotonic() - shown_at >= LINE_SECONDS:
                shown_at = time.monotonic()
                click.echo(f"{name}: {text}", err=True)

        log = LogWriter(json=False)
        try:
            yield Shown(show, log)
        finally:
            log.close()
