"""The command ``audit``."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from streamproc.errors import MissingExtra, SettingsError
from streamproc.operations.common import counting, print_table, table_of
from streamproc.readable import plain

if TYPE_CHECKING:
    from streamproc_consumers.audit.report import Finding, Lag, Report
    from streamproc_consumers.interval import Interval

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_SPAN = re.compile(r"(\d+(?:\.\d+)?)([smhd])")
_NEEDED = ("polars", "isal", "jinja2")
#: What libraries read as they are loaded. NumPy's linear algebra starts threads that wait busily; nothing here uses it.
#: Polars' allocator gives free pages back within a second, and the kernel clears them for the next frame.
_ENVIRONMENT = {
    "OPENBLAS_NUM_THREADS": "1",
    "_RJEM_MALLOC_CONF": "background_thread:false,dirty_decay_ms:-1,muzzy_decay_ms:-1",
}


@click.command()
@click.argument("address")
@click.option("--archive", help="Where the archive landed: finds events without a list, and joins what users did.")
@click.option("--checkpoints", "application", help="The recommender's application name: its leases tell what is due.")
@click.option("--stream", help="Its stream, with --checkpoints: dead letters are then left out of what is due.")
@click.option(
    "--settle", default="15m", show_default=True, help="Events that arrived later are not due: Firehose waits."
)
@click.option("--window", default="24h", show_default=True, help="How long a list can be answered.")
@click.option("--examples", type=click.IntRange(1, 1000), default=10, show_default=True, help="Places shown of a kind.")
@click.option(
    "--json", "json_path", type=click.Path(path_type=Path, dir_okay=False), help="Write the report here, too."
)
@click.option("--html", "html_path", type=click.Path(path_type=Path, dir_okay=False), help="Write a page with plots.")
@click.option(
    "--parquet", type=click.Path(path_type=Path, file_okay=False), help="Write the lists as Parquet to a new folder."
)
def audit(
    address: str,
    archive: str | None,
    application: str | None,
    stream: str | None,
    settle: str,
    window: str,
    examples: int,
    json_path: Path | None,
    html_path: Path | None,
    parquet: Path | None,
) -> None:
    """Say whether the lists that landed below ADDRESS are sound, and what they say.

    ADDRESS and --archive are s3://bucket/prefix, a folder or a file; lines of JSON, plain or gzip, of any size. What is
    told of each kind of fault, and how each figure is made: docs/audit.md.

    \b
    Examples:
      streamproc audit s3://shop/recommendations/ --archive s3://shop/archive/ --checkpoints recommender \\
          --stream cart-events --html audit.html
      streamproc audit landed/recommendations --archive landed/cart-events-archive --settle 0s --parquet tables

    \b
    Exit codes:
       0  the data is sound
       1  it is not: the faults are listed
       2  an option cannot be used, or nothing is there
       4  S3 or DynamoDB cannot be reached
       5  credentials are missing, or a call was refused
       9  polars, isal or jinja2 is not installed
    """
    if missing := [name for name in _NEEDED if importlib.util.find_spec(name) is None]:
        raise MissingExtra(
            f"`streamproc audit` needs {', '.join(missing)}, not installed here: pip install"
            " 'streamproc-consumers[audit]'"
        )
    if application is not None and archive is None:
        raise SettingsError("--checkpoints tell which archived events are due: give --archive, too")
    if stream is not None and application is None:
        raise SettingsError("--stream finds the dead letters of an application: give --checkpoints, too")
    for path in (json_path, html_path):
        if path is not None and not path.parent.is_dir():
            raise SettingsError(f"{path} cannot be written: its folder does not exist")
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from streamproc_consumers.audit.run import Plan, audit as audit_of

    plan = Plan(
        address=address,
        archive=archive,
        application=application,
        stream=stream,
        settle_seconds=_seconds("--settle", settle),
        window_seconds=_seconds("--window", window),
        examples=examples,
        parquet=parquet,
    )
    with ExitStack() as stack:

        def begun(total: int) -> Callable[[int], None]:
            return stack.enter_context(counting("bytes", total))

        report = audit_of(plan, begun)
    show(report)
    if json_path is not None:
        _write(json_path, msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")
    if html_path is not None:
        from streamproc_consumers.audit.page import render

        _write(html_path, render(report).encode())
    if not report.sound:
        raise click.exceptions.Exit(1)


def show(report: Report) -> None:
    """Print the report."""
    click.echo(
        f"{report.objects:,} objects, {report.lists:,} lists ({report.distinct_lists:,} distinct) of {report.users:,}"
        f" users, published {report.first_published} to {report.last_published}"
        if report.lists
        else f"{report.objects:,} objects, no list"
    )
    if report.archived_events is not None:
        click.echo(f"{report.archived_events:,} archived events, judged up to {report.judged_up_to}")
    _findings("fault", report.faults)
    _findings("note", report.notes)
    if report.groups:
        table = table_of(
            "model version", "arm", "lists", "users", "propensity", "fallback", "empty", "items", "coverage", "score"
        )
        for group in report.groups:
            fallbacks = ", ".join(f"{plain(label)} {share:.2%}" for label, share in group.fallbacks.items())
            low, high = group.propensity_min, group.propensity_max
            table.add_row(
                plain(group.model_version),
                plain(group.arm),
                f"{group.lists:,}",
                f"{group.users:,}",
                f"{low:g}" if low == high else f"{low:g} to {high:g}",
                fallbacks or "none",
                f"{group.empty_share:.2%}",
                f"{group.items:,}",
                f"{group.coverage:.1%}",
                "-" if group.score is None else f"{group.score:.4f}",
            )
        _section(table)
        table = table_of("lag", "model version", "arm", "p50", "p95", "p99")
        for group in report.groups:
            names = (plain(group.model_version), plain(group.arm))
            table.add_row("event to publication", *names, *lag_texts(group.published))
            table.add_row("publication to object", *names, *lag_texts(group.landed))
        if report.arrival_to_published is not None:
            table.add_row("arrival to publication", "all", "all", *lag_texts(report.arrival_to_published))
        _section(table)
    if report.drift:
        table = table_of("score drift", "PSI", "KS", "")
        for drift in report.drift:
            table.add_row(
                f"{plain(drift.base)} to {plain(drift.other)}",
                f"{drift.psi:.3f}",
                f"{drift.ks:.3f}",
                "shifted" if drift.shifted else "",
            )
        _section(table)
    if report.answered:
        table = table_of("rank", "model version", "arm", "lists", "hit rate", "click-through", "conversion")
        for each in report.answered:
            table.add_row(
                str(each.rank or "any"),
                plain(each.model_version),
                plain(each.arm),
                f"{each.lists:,}",
                *(share_text(share) for share in (each.hit_rate, each.click_through, each.conversion)),
            )
        _section(table)
    click.echo()
    click.echo("sound" if report.sound else "NOT SOUND: see the faults above")


def lag_texts(lag: Lag) -> list[str]:
    """The percentiles with their units."""
    return [seconds_text(each) for each in (lag.p50, lag.p95, lag.p99)]


def seconds_text(seconds: float) -> str:
    """A span of time in one unit."""
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s")):
        if seconds >= size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds * 1000:.0f} ms"


def share_text(share: Interval) -> str:
    """A share and its interval."""
    if share.value is None:
        return "-"
    if share.low is None or share.high is None:
        return f"{share.value:.2%}"
    return f"{share.value:.2%} ({share.low:.2%} to {share.high:.2%})"


def _findings(what: str, found: list[Finding]) -> None:
    if not found:
        return
    table = table_of(what, "count", "", "where")
    for each in found:
        table.add_row(each.kind, f"{each.count:,}", each.meaning, "\n".join(map(plain, each.examples)))
    _section(table)


def _section(table: object) -> None:
    click.echo()
    print_table(table)  # type: ignore[arg-type] # a rich table


def _seconds(option: str, span: str) -> float:
    found = _SPAN.fullmatch(span)
    if found is None:
        raise SettingsError(f"{option} {span!r}: write a number and s, m, h or d, as in 24h")
    return float(found[1]) * _UNITS[found[2]]


def _write(path: Path, content: bytes) -> None:
    try:
        path.write_bytes(content)
    except OSError as error:
        raise SettingsError(f"{path} cannot be written: {error.strerror}") from error
