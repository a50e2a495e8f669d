"""The command ``evaluate``."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from streamproc.errors import MissingExtra, SettingsError
from streamproc_models.datasets import DATASETS, Dataset, TemporalSplit, open_dataset
from streamproc_models.evaluate.ranking import rank_with_bundle, rank_with_training
from streamproc_models.evaluate.report import MODEL, Report, evaluate as judge, figures
from streamproc_models.evaluate.segments import ALL, NEW_ONLY
from streamproc_models.evaluate.wording import headed, named
from streamproc_models.log import open_log
from streamproc_models.training.recipes import RECIPES

PAGE, FIGURES, REPORT = "evaluate.html", "evaluate.json", "report.json"
SHOP = "shop"
#: What the table in the terminal has room for; the page has all.
_COLUMNS = (
    ("recall_at_10", ALL),
    ("hr_at_20", ALL),
    ("ndcg_at_10", ALL),
    ("mrr_at_20", ALL),
    ("recall_at_10", NEW_ONLY),
)
EXAMPLES = """\b
Examples:
  Train on two public sets and judge what came after, beside every baseline:
    streamproc evaluate --set tafeng --set diginetica --data DIR --out build/evaluate
\b
  Judge a bundle on your own log, on what was bought in the 30 days from the cut on:
    streamproc evaluate --bundle bundle --events events.jsonl.gz --cut 2026-05-01 --out build/evaluate
\b
Writes evaluate.html (tables and plots), evaluate.json (the headline figures) and report.json (all of it).
\b
Exit codes:
   0  judged
   2  an option or the data cannot be used
   9  jinja2 is not installed
  11  the bundle cannot be used
  12  the log cannot be trained on
"""


@click.command(epilog=EXAMPLES)
@click.option("--set", "sets", type=click.Choice([*DATASETS]), multiple=True, help="A public data set; again for more.")
@click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    help="The folder of the data sets. Default: STREAMPROC_DATA_DIR.",
)
@click.option("--inner", is_flag=True, help="Judge on a split inside the training part: for choosing settings.")
@click.option("--bundle", type=click.Path(file_okay=False, path_type=Path), help="Judge this bundle on --events.")
@click.option(
    "--events",
    help="Your log: lines of JSON in a file, a folder or s3://bucket/prefix, events in order or the archive's lines;"
    " or the UCI Online Retail CSV.",
)
@click.option("--cut", type=click.DateTime(), help="States know the events before it (UTC), targets come after it.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Write the page and the figures here.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of training and of the intervals.")
def evaluate(
    sets: Sequence[str],
    data: Path | None,
    inner: bool,
    bundle: Path | None,
    events: str | None,
    cut: datetime | None,
    out: Path | None,
    seed: int,
) -> None:
    """Judge recommendations on what users did next, beside every baseline.

    Every item of the catalogue is ranked for every target. A bundle is judged from states that know the log before the
    cut, and must have been trained on nothing after it.
    """
    own_log = (bundle, events, cut)
    if bool(sets) == any(given is not None for given in own_log):
        raise SettingsError("choose either --set, or --bundle with --events and --cut")
    if sets:
        reports = [_of_set(open_dataset(name, data, inner=inner), seed) for name in dict.fromkeys(sets)]
    else:
        if bundle is None or events is None or cut is None:
            raise SettingsError("--bundle, --events and --cut go together: one of them is missing")
        if inner or data is not None:
            raise SettingsError("--inner and --data belong to --set: leave them out")
        until = cut.replace(tzinfo=UTC)
        reports = [judge(TemporalSplit(SHOP, open_log(events).read, until), rank_with_bundle(bundle, until), seed=seed)]
    console = Console()
    for report in reports:
        console.print(_table(report))
    if out is not None:
        _write(out, reports)
        console.print(f"[bold]{out / PAGE}[/bold] shows intervals, segments, candidates and calibration")


def _of_set(dataset: Dataset, seed: int) -> Report:
    with Progress(
        TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), console=Console(stderr=True)
    ) as bar:
        task = bar.add_task("reading events", total=None)
        rank = rank_with_training(
            dataset,
            msgspec.structs.replace(RECIPES[dataset.name], seed=seed),
            lambda what, done, total: bar.update(task, description=what, completed=done, total=total),
        )
        bar.update(task, description="judging", completed=0, total=None)
        report = judge(dataset, rank, seed=seed)
        bar.update(task, description=f"judged {dataset.name}", completed=1, total=1)
    return report


def _table(report: Report) -> Table:
    table = Table(
        title=f"{report.dataset}{' (inner split)' if report.inner else ''}: {report.targets:,} targets,"
        f" {report.items:,} items. {report.protocol}."
    )
    table.add_column("ranking")
    for metric, segment in _COLUMNS:
        table.add_column(headed(metric) + ("" if segment == ALL else f", {named(segment)}"), justify="right")
    for name in report.rankings:
        cells = [f"{report.value(name, metric, segment):.4f}" for metric, segment in _COLUMNS]
        table.add_row(named(name), *cells, style="bold" if name == MODEL else None)
    return table


def _write(out: Path, reports: Sequence[Report]) -> None:
    try:
        from streamproc_models.evaluate.page import render
    except ModuleNotFoundError as error:
        raise MissingExtra("the page needs jinja2: pip install 'streamproc-models[evaluate]'") from error
    flat = {name: value for report in reports for name, value in figures(report).items()}
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / PAGE).write_text(render(reports), encoding="utf-8")
        (out / FIGURES).write_bytes(msgspec.json.format(msgspec.json.encode(flat), indent=2) + b"\n")
        (out / REPORT).write_bytes(msgspec.json.format(msgspec.json.encode(reports), indent=2) + b"\n")
    except OSError as error:
        raise SettingsError(f"--out {out} cannot be written: {error}") from error
