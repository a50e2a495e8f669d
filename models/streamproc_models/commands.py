"""The command ``train``."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from streamproc_models.evaluation import Judgement
from streamproc_models.items import read_items
from streamproc_models.log import open_log
from streamproc_models.training import TrainingReport, TrainingSettings, train as train_bundle
from streamproc_models.training.recipes import RECIPES

EXAMPLES = """\b
Examples:
  Train on everything before November and write the bundle:
    streamproc train --cut 2011-11-01 --out bundle
\b
  On your own log, one event a line as on the stream, with the items' names, categories and brands:
    streamproc train --events events.jsonl.gz --items items.csv --cut 2026-05-01 --out bundle
\b
  On what the archive wrote, with more generators (slower to score, better lists):
    streamproc train --events s3://shop/archive/ --cut 2026-05-01 --recipe online-retail --out bundle
\b
Exit codes:
   0  the bundle is written
   2  an option or the data cannot be used
  12  the log has no order before the cut
"""
_METRICS = {"hit_rate_at_10": "hit rate@10", "recall_at_10": "recall@10", "ndcg_at_10": "NDCG@10"}
_STATES = {"cold": "states that began ten days ago", "warm": "states that know the whole log"}


@click.command(epilog=EXAMPLES)
@click.option(
    "--events",
    help="The log: lines of JSON in a file, a folder or s3://bucket/prefix, events in order or the archive's lines;"
    " or the UCI Online Retail CSV. Default: the CSV in STREAMPROC_DATA_DIR, else the sample.",
)
@click.option(
    "--items",
    type=click.Path(path_type=Path),
    help="CSV with the head line item_id,name,category,brand; item_id is needed, and a category may be a path, as"
    " Kitchen > Mugs. The UCI CSV brings names of its own.",
)
@click.option("--cut", type=click.DateTime(), required=True, help="Train on the events before it (UTC).")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="The bundle's folder.")
@click.option(
    "--recipe",
    type=click.Choice(["small", *RECIPES]),
    default="small",
    show_default=True,
    help="Settings: small scores fastest on a stream; the others were chosen on the public set of their name.",
)
@click.option("--seed", type=int, default=TrainingSettings().seed, show_default=True, help="Equal seeds, equal bytes.")
def train(events: str | None, items: Path | None, cut: datetime, out: Path, recipe: str, seed: int) -> None:
    """Train the ranker on a log of cart events and write a bundle.

    The log is replayed through the live code. The last ten days before the cut are held out to choose the number of
    trees, and for the metrics that are printed beside two baselines; the bundle's model then learns from them, too.
    """
    until = cut.replace(tzinfo=UTC)
    log = open_log(events)
    settings = RECIPES.get(recipe, TrainingSettings())
    console = Console(stderr=True)
    with Progress(TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), console=console) as bar:
        task = bar.add_task("reading events", total=None)
        report = train_bundle(
            log.read(),
            until,
            out,
            items=log.items() if items is None else read_items(items),
            settings=msgspec.structs.replace(settings, seed=seed),
            progress=lambda what, done, total: bar.update(task, description=what, completed=done, total=total),
        )
        bar.update(task, description="done", completed=1, total=1)
    _print(report, out)


def _print(report: TrainingReport, out: Path) -> None:
    console = Console()
    for states, judgement in report.validation.items():
        console.print(_table(_STATES[states], judgement))
    console.print(
        f"{report.events:,} events, {report.baskets:,} baskets; learned from {report.labelled_baskets:,} baskets"
        f" ({report.rows:,} rows)"
    )
    if report.has_model:
        console.print(f"{report.trees} trees; predicted by observed positives: {report.calibration:.2f}")
    else:
        console.print("[yellow]Too few baskets to train a model: the bundle ranks by popularity.[/yellow]")
    console.print(f"[bold]{out}[/bold] holds model [bold]{report.model_version}[/bold]")


def _table(states: str, judgement: Judgement) -> Table:
    table = Table(title=f"Next basket, {states}: {judgement.baskets:,} held-out baskets of {judgement.users:,} users")
    table.add_column("ranking")
    for heading in _METRICS.values():
        table.add_column(heading, justify="right")
    for name, values in judgement.asdict().items():
        cells = [f"{values[metric]:.3f}" for metric in _METRICS]
        table.add_row(name.replace("_", " "), *cells, style="bold" if name == "model" else None)
    return table
