"""The command ``explain``."""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
from pathlib import Path

import click
import msgspec
from rich.console import Console
from rich.table import Table

from streamproc.errors import SettingsError, StreamprocError
from streamproc.landed import read_lines
from streamproc_consumers.explain import (
    BY_POPULARITY,
    ArchivedLine,
    Explained,
    ExplainedItem,
    explain as explained,
    find,
    read_log,
)
from streamproc_consumers.recommendation import Recommendation
from streamproc_consumers.trending import find_snapshot, trend_named
from streamproc_models import bundle as bundles
from streamproc_models.bundle import MANIFEST, Bundle
from streamproc_models.explain import Reason
from streamproc_models.features.schema import MISSING
from streamproc_models.registry import open_registry, split_alias
from streamproc_models.scorer import FEW_CANDIDATES, NO_CANDIDATES, NO_MODEL, NO_NEIGHBOURS, STALE_MODEL

EXIT_CODES = """\b
Exit codes:
   0  the list is the same when it is ranked again
   1  it is not; the reasons are printed
   2  the list, its user's events or its model version is not there, or an option cannot be used
   4  S3 cannot be reached
   5  credentials are missing, or a call was refused
  11  the bundle cannot be read, or fits another version of this code
"""
_ID = re.compile(r"[0-9a-f]{32}")
_PIPE_COLUMNS = 10_000
#: Contributions that are shown for each item of the list.
_REASONS_SHOWN = 3
_FALLBACKS = {
    NO_MODEL: "the model has no booster, so the most popular items are shown",
    NO_CANDIDATES: "the model knows none of the items of the user's history, so the most popular ones are shown",
    FEW_CANDIDATES: "there were fewer candidates than places, so popular items come after them",
    NO_NEIGHBOURS: "no generator links anything to the user, so the model ranked own and popular items",
    STALE_MODEL: "the model's item features are from long before the user's last event",
}


class ListDiffers(StreamprocError):
    """Ranked again, the list is another one. The message says why, as far as the log and the two lists tell."""


@click.command(epilog=EXIT_CODES)
@click.argument("recommendation_id")
@click.option("--recommendations", required=True, help="Where they landed: s3://bucket/prefix, or a folder.")
@click.option("--events", required=True, help="Where the archive landed, likewise; from its beginning.")
@click.option(
    "--model",
    "address",
    envvar="STREAMPROC_REGISTRY",
    required=True,
    help="The registry that has the list's version, s3://bucket/models/NAME or a folder, or that bundle's folder.",
)
@click.option(
    "--snapshots",
    help="Where the recommender's snapshots are, s3://bucket/snapshots/APPLICATION/STREAM@CREATED or a folder: for"
    " lists that were offered what is trending.",
)
@click.option("--item", "items", multiple=True, metavar="ID", help="All features of this item instead; repeatable.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object, with all features of every item.")
def explain(
    recommendation_id: str,
    recommendations: str,
    events: str,
    address: str,
    snapshots: str | None,
    items: tuple[str, ...],
    as_json: bool,
) -> None:
    """Rebuild the features of a list from the archived log, rank again, and show why its items are in it.

    Contributions are SHAP values of the model's margin: log-odds where it is logistic. All of the archive is read, and
    only the user's events are kept.

    \b
    Examples:
      streamproc explain c07538d6c18c055f75b6c4b3499b5c3b --recommendations s3://shop/recommendations/ \\
          --events s3://shop/archive/ --model s3://shop-models/models/next-basket
      streamproc explain c07538d6c18c055f75b6c4b3499b5c3b --recommendations landed/recommendations \\
          --events landed/archive --model bundle --item 22865
    """
    if not _ID.fullmatch(recommendation_id):
        raise SettingsError(f"{recommendation_id!r} is no id of a list: it has 32 hexadecimal digits")
    found = find(read_lines(recommendations, Recommendation), recommendation_id, recommendations)
    # The model first: what is missing there should be said before a long archive is read.
    bundle = _bundle(address, found.model_version)
    trending = trend_named(found.item_snapshot)
    snapshot = find_snapshot(snapshots, trending[0]) if snapshots and trending else None
    result = explained(found, read_log(read_lines(events, ArchivedLine), found, events), bundle, items, snapshot)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(result), indent=2))
    else:
        _print(result, in_full=bool(items))
    if not result.same:
        raise ListDiffers(f"the list is another one when it is ranked again: {'; '.join(result.differences)}")


def _bundle(address: str, version: str) -> Bundle:
    """The bundle in a folder, which must be of this version, or this version of a registry. An alias says nothing here.

    Raises SettingsError, VersionUnknown or BundleInvalid.
    """
    if (Path(address) / MANIFEST).is_file():
        bundle = bundles.load(Path(address))
    else:
        registry = open_registry(split_alias(address)[0])
        with tempfile.TemporaryDirectory(prefix="streamproc-explain-") as folder:
            registry.fetch(version, Path(folder))
            bundle = bundles.load(Path(folder))
    if bundle.model_version != version:
        raise SettingsError(
            f"--model {address} has version {bundle.model_version} there, and the list was made by {version}: give the"
            " bundle of that version, or the registry that keeps it"
        )
    return bundle


def _print(result: Explained, *, in_full: bool) -> None:
    of, features = result.recommendation, result.features
    position = f"{of.position.shard_id}:{of.position.sequence_number}:{of.position.sub_sequence_number}"
    left_out = "".join(
        f", {count} {why}"
        for count, why in (
            (features.events_repeated, "repeated and left out"),
            (features.events_rejected, "on which the fold fails left out"),
            (features.events_later, "later ones not read"),
        )
        if count
    )
    lines = {
        "list": of.recommendation_id,
        "user": of.user_id,
        "published": of.published_ts.isoformat(),
        "features as of": of.features_as_of.isoformat(),
        "position": position,
        "model": f"{of.model_version}, trained on {result.trained_from} to {result.trained_until}",
        "item snapshot": of.item_snapshot,
        "arm": f"{of.arm} (propensity {of.propensity:g})",
        "explored": _explored(of),
        "fallback": f"{of.fallback}: {_FALLBACKS.get(of.fallback, 'see docs/explain.md')}" if of.fallback else "none",
        "log": f"{features.events:,} events of the user{left_out}; {features.archive_lines:,} lines, the first arrived"
        f" {features.archive_begins.isoformat()}",
        "history": f"{features.history_items} items, {features.history_items_known} of them known to the model",
        "ranked again": "the same list, bit for bit" if result.same else "ANOTHER LIST",
    }
    console = _console()
    for name, text in lines.items():
        if text is None:
            continue
        console.print(f"{name:<15} {text}", soft_wrap=True)
    for difference in result.differences:
        console.print(f"{'':<15} {difference}", soft_wrap=True)
    console.print()
    if in_full:
        for item in result.items:
            _print_item(console, item, of)
        return
    table = _table("rank", "item", "name", "probability", "sources", "adds or takes most")
    for item in result.items:
        if item.published is None:
            continue
        why = item.explanation
        table.add_row(
            str(item.published.rank),
            item.item_id,
            item.published.name,
            f"{item.published.probability:.6f}",
            " ".join(why.sources) if why else item.published.source,
            ", ".join(map(_reason, why.reasons[:_REASONS_SHOWN])) if why else "",
        )
    console.print(table)
    if not result.same:
        console.print("\nranked again:")
        table = _table("rank", "item", "name", "probability", "source")
        for place in result.ranked_again:
            table.add_row(str(place.rank), place.id, place.name, f"{place.probability:.6f}", place.source)
        console.print(table)


def _print_item(console: Console, item: ExplainedItem, of: Recommendation) -> None:
    place = f"rank {item.published.rank} of the list" if item.published else "not in the list"
    why = item.explanation
    if why is None:
        cause = f"popularity ranked ({of.fallback})" if of.fallback in BY_POPULARITY else "no source proposes it"
        console.print(f"{item.item_id}: {place}; {cause}\n", soft_wrap=True)
        return
    console.print(
        f"{item.item_id} {why.name}: {place}; rank {why.rank} of all candidates before filters, probability"
        f" {why.probability:.6f}, from {', '.join(why.sources)}; margin of a row of which nothing is known"
        f" {why.bias:+.4f}",
        soft_wrap=True,
    )
    table = _table("feature", "value", "contribution")
    for each in why.reasons:
        table.add_row(each.feature, _value(each), f"{each.contribution:+.4f}")
    console.print(table)
    console.print()


def _explored(of: Recommendation) -> str | None:
    """What stands there to be tried, where exploration is on."""
    if not of.items or of.items[-1].propensity == 1:
        return None
    last = of.items[-1]
    how = "drawn from the candidates behind the list" if last.explored else "as ranked"
    return f"place {last.rank}, {how} (propensity {last.propensity:g})"


def _reason(reason: Reason) -> str:
    return f"{reason.feature} {_value(reason)} ({reason.contribution:+.2f})"


def _value(reason: Reason) -> str:
    return "missing" if reason.value == MISSING else f"{reason.value:.4g}"


def _console() -> Console:
    return Console(
        markup=False,
        highlight=False,
        emoji=False,
        width=shutil.get_terminal_size().columns if sys.stdout.isatty() else _PIPE_COLUMNS,
    )


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(
            column,
            justify="right" if column in ("rank", "probability", "value", "contribution") else "left",
            overflow="fold",
        )
    return table
