"""The command ``experiment report``."""

from __future__ import annotations

import re
import shutil
import sys
from datetime import UTC, datetime
from pathlib import Path

import click
import msgspec
from rich.console import Console
from rich.table import Table

from streamproc.errors import SettingsError
from streamproc.landed import read_lines
from streamproc_consumers.experiment import Interval, LandedEvent, Report, report as report_of
from streamproc_consumers.recommendation import Recommendation

EXIT_CODES = """\b
Exit codes:
   0  the report is printed; its warnings are to be read
   2  an option cannot be used, or what landed is not what was expected
   4  S3 cannot be reached
   5  credentials are missing, or a call was refused
"""
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_WINDOW = re.compile(r"(\d+(?:\.\d+)?)([smhd])")
_PIPE_COLUMNS = 10_000


@click.group(epilog=EXIT_CODES)
def experiment() -> None:
    """Compare the arms of an experiment."""


@experiment.command(epilog=EXIT_CODES)
@click.option("--recommendations", required=True, help="Where they landed: s3://bucket/prefix, or a folder.")
@click.option("--events", required=True, help="Where the archive landed, likewise.")
@click.option("--window", default="24h", show_default=True, help="How long a list can be answered: 30m, 24h, 7d.")
@click.option("--since", type=click.DateTime(), help="Leave out lists published before it (UTC).")
@click.option("--until", type=click.DateTime(), help="Leave out lists published from then on (UTC).")
@click.option("--base", default="champion", show_default=True, help="The arm that the others are compared with.")
@click.option("--salt", help="The experiment's: check that every user is in the arm that it deals them to.")
@click.option(
    "--json", "json_path", type=click.Path(path_type=Path, dir_okay=False), help="Write the report here, too."
)
def report(
    recommendations: str,
    events: str,
    window: str,
    since: datetime | None,
    until: datetime | None,
    base: str,
    salt: str | None,
    json_path: Path | None,
) -> None:
    """Say what the arms are worth, from the lists and the events that landed.

    A list is answered by what its user does after it and within the window. The hit rate is of lists, conversion of
    users; every interval is 95 %, over users. All lists and events of their users are held in memory.

    \b
    Examples:
      streamproc experiment report --recommendations s3://shop/recommendations/ --events s3://shop/events/ \\
          --since 2026-11-01 --window 24h --salt 2026-11
      streamproc experiment report --recommendations landed/lists --events landed/events --json report.json
    """
    found = report_of(
        read_lines(recommendations, Recommendation),
        read_lines(events, LandedEvent),
        window_seconds=_seconds(window),
        since=since and since.replace(tzinfo=UTC),
        until=until and until.replace(tzinfo=UTC),
        base=base,
        salt=salt,
    )
    if not found.arms:
        raise SettingsError(f"{recommendations} has no list in that time: check --since and --until")
    _print(found)
    if json_path is not None:
        try:
            json_path.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=2) + b"\n")
        except OSError as error:
            raise SettingsError(f"--json {json_path} cannot be written: {error.strerror}") from error


def _seconds(window: str) -> float:
    found = _WINDOW.fullmatch(window)
    if found is None or not float(found[1]):
        raise SettingsError(f"--window {window!r}: write a number and s, m, h or d, as in 24h")
    return float(found[1]) * _UNITS[found[2]]


def _print(found: Report) -> None:
    console = Console(
        markup=False,
        highlight=False,
        emoji=False,
        width=shutil.get_terminal_size().columns if sys.stdout.isatty() else _PIPE_COLUMNS,
    )
    table = _table("arm", "users", "lists", "hit rate", "conversion", "models")
    for arm in found.arms:
        table.add_row(
            f"{arm.arm} ({arm.propensity:.0%})",
            f"{arm.users:,}",
            f"{arm.lists:,}",
            _share(arm.hit_rate),
            _share(arm.conversion),
            " ".join(arm.model_versions),
        )
    console.print(table)
    if found.comparisons:
        table = _table("difference", "hit rate", "conversion")
        for compared in found.comparisons:
            table.add_row(
                f"{compared.arm} - {compared.base}", _difference(compared.hit_rate), _difference(compared.conversion)
            )
        console.print(table)
    if any(arm.explored_lists for arm in found.arms):
        table = _table("explored places", "lists", "hit rate")
        for arm in found.arms:
            table.add_row(arm.arm, f"{arm.explored_lists:,}", _share(arm.explored_hit_rate))
        console.print(table)
    table = _table("guardrails", "fallback", "empty lists", "events a user", "latency p50 ms", "p99 ms")
    for arm in found.arms:
        table.add_row(
            arm.arm,
            f"{arm.fallback_share:.2%}",
            f"{arm.empty_share:.2%}",
            f"{arm.events_per_user:.1f}",
            f"{arm.latency_ms_p50:.0f}",
            f"{arm.latency_ms_p99:.0f}",
        )
    console.print(table)
    for warning in found.warnings:
        console.print(f"warning: {warning}")


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if not number else "right", overflow="fold")
    return table


def _share(interval: Interval) -> str:
    if interval.value is None:
        return "-"
    if interval.low is None or interval.high is None:
        return f"{interval.value:.2%}"
    return f"{interval.value:.2%} ({interval.low:.2%} to {interval.high:.2%})"


def _difference(interval: Interval) -> str:
    if interval.value is None or interval.low is None or interval.high is None:
        return "-"
    verdict = "" if interval.excludes_zero else ", noise"
    return f"{interval.value * 100:+.2f} points ({interval.low * 100:+.2f} to {interval.high * 100:+.2f}{verdict})"
