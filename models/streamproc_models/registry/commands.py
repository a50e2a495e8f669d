"""The commands ``models list | show | compare | push | promote | rollback``."""

from __future__ import annotations

import getpass
import shutil
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.table import Table

from streamproc.errors import StreamprocError
from streamproc_models.bundle import Manifest
from streamproc_models.registry import promotion
from streamproc_models.registry.base import ALIASES, CHAMPION, Held, Registry
from streamproc_models.registry.location import open_registry
from streamproc_models.registry.significance import MODEL, Difference, differences, names_of

EXIT_CODES = """\b
Exit codes:
   0  done
   2  an option, the registry or the version cannot be used
   4  S3 cannot be reached
   5  credentials are missing, or a call was refused
  11  the bundle cannot be read
  13  the gate refused the promotion; each reason is a line
  14  somebody else moved the alias at the same time; nothing was changed
"""
_PIPE_COLUMNS = 10_000


@click.group(epilog=EXIT_CODES)
def models() -> None:
    """Look at the versions of a model, and say which one serves.

    The registry is a prefix in S3 or a folder: give --registry, or set STREAMPROC_REGISTRY. Running consumers follow
    an alias within seconds, without a restart.

    \b
    Examples:
      export STREAMPROC_REGISTRY=s3://shop-models/models/next-basket
      streamproc models push bundle
      streamproc models list
      streamproc models compare 3f9c2a01b7de champion
      streamproc models promote 3f9c2a01b7de --why "November's baskets"
      streamproc models rollback --why "empty lists in the app"
    """


def _of_registry(command: Callable[..., None]) -> Callable[..., None]:
    @click.option(
        "--registry", "url", envvar="STREAMPROC_REGISTRY", required=True, help="s3://bucket/models/NAME, or a folder."
    )
    @wraps(command)
    def with_registry(url: str, **options: Any) -> None:
        command(open_registry(url), **options)

    return with_registry


def _deciding(command: Callable[..., None]) -> Callable[..., None]:
    @click.option("--why", default="", help="The alias keeps it.")
    @click.option("--by", help="Who decides.  [default: the user's name]")
    @click.option("--dry-run", is_flag=True, help="Say what would happen; change nothing.")
    @wraps(command)
    def deciding(registry: Registry, by: str | None, **options: Any) -> None:
        command(registry, by=by or _user(), **options)

    return deciding


@models.command("list", epilog=EXIT_CODES)
@_of_registry
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of a table.")
def list_(registry: Registry, as_json: bool) -> None:
    """Show the versions, the latest training first, and the aliases."""
    aliases = _aliases(registry)
    manifests = sorted(map(registry.manifest, registry.versions()), key=lambda each: each.trained_until, reverse=True)
    if as_json:
        _print_json(
            {
                "versions": [_summary(manifest) for manifest in manifests],
                "aliases": {name: held.alias for name, held in aliases.items()},
            }
        )
        return
    table = _table("version", "aliases", "trained from", "until", "slice", "metrics")
    for manifest in manifests:
        meant = " ".join(name for name, held in aliases.items() if held.alias.version == manifest.model_version)
        days = (manifest.trained_from[:10], manifest.trained_until[:10])
        rows = [(slice_, _figures(rankings.get(MODEL, {}))) for slice_, rankings in manifest.metrics.items()]
        for number, (slice_, figures) in enumerate(rows or [("", "none: it ranks by popularity")]):
            table.add_row(
                *((manifest.model_version, meant, *days) if not number else ("", "", "", "")), slice_, figures
            )
    _print(table)
    for name, held in aliases.items():
        click.echo(f"{name}: {_told(held)}")
    if not manifests:
        click.echo(f"{registry.url} has no version yet: streamproc models push FOLDER", err=True)


@models.command(epilog=EXIT_CODES)
@_of_registry
@click.argument("version")
@click.option("--json", "as_json", is_flag=True, help="The manifest as JSON.")
def show(registry: Registry, version: str, as_json: bool) -> None:
    """Show what VERSION (or what an alias means) was trained on, its metrics beside the baselines, and its files."""
    manifest = registry.manifest(_resolved(registry, version))
    if as_json:
        _print_json(manifest)
        return
    click.echo(f"version      {manifest.model_version}")
    click.echo(f"trained      {manifest.trained_from} to {manifest.trained_until}")
    click.echo(
        f"features     {len(manifest.features)}, schema {manifest.schema_hash[:12]}, fold {manifest.fold_version}"
    )
    click.echo(f"XGBoost      {manifest.xgboost_version}")
    table = _table("slice", "ranking", "metrics")
    for slice_, rankings in manifest.metrics.items():
        for ranking, values in rankings.items():
            table.add_row(slice_, ranking.replace("_", " "), _figures(values))
    _print(table)
    files = _table("file", "SHA-256")
    for name, digest in manifest.files.items():
        files.add_row(name, digest)
    _print(files)


@models.command(epilog=EXIT_CODES)
@_of_registry
@click.argument("a")
@click.argument("b")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of a table.")
def compare(registry: Registry, a: str, b: str, as_json: bool) -> None:
    """Show the metrics of A beside those of B, each a version or an alias, and what noise explains."""
    ours, theirs = (registry.manifest(_resolved(registry, version)) for version in (a, b))
    found = differences(ours.metrics, MODEL, theirs.metrics, MODEL)
    features = sorted({*ours.features} ^ {*theirs.features})
    if as_json:
        versions = {"a": ours.model_version, "b": theirs.model_version}
        rows = [msgspec.structs.asdict(each) | {"verdict": _verdict(each)} for each in found]
        _print_json(versions | {"features_of_one_alone": features, "differences": rows})
        return
    table = _table("slice", "metric", ours.model_version, theirs.model_version, "difference", "noise", "")
    for each in found:
        figures = (each.value, each.other, each.value - each.other, each.noise)
        table.add_row(each.slice, each.metric, *(f"{figure:.4f}" for figure in figures), _verdict(each))
    _print(table)
    for manifest in (ours, theirs):
        click.echo(f"{manifest.model_version} was trained on {manifest.trained_from} to {manifest.trained_until}")
    if features:
        click.echo(f"features of one alone: {', '.join(features)}")
    if not found:
        click.echo("no metric that both have", err=True)
    elif not any(each.noise for each in found):
        click.echo("a manifest does not tell on how many baskets: what noise explains is not known", err=True)


@models.command(epilog=EXIT_CODES)
@_of_registry
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
def push(registry: Registry, folder: Path) -> None:
    """Prove the bundle in FOLDER and copy it into the registry. It serves nobody until it is promoted."""
    manifest, added = promotion.push(registry, folder)
    state = "is in" if added else "was already in"
    click.echo(f"{manifest.model_version} {state} {registry.url}")


@models.command(epilog=EXIT_CODES)
@_of_registry
@_deciding
@click.argument("version")
@click.option("--to", type=click.Choice(ALIASES), default=CHAMPION, show_default=True, help="The alias to move.")
@click.option("--force", metavar="REASON", help="Go against what the gate says of its quality; the alias keeps it.")
def promote(registry: Registry, version: str, to: str, force: str | None, why: str, by: str, dry_run: bool) -> None:
    """Let an alias mean VERSION, if the gate lets it pass.

    The gate refuses what no consumer could serve: a changed file, a pickle, unknown features, another schema, golden
    rows that score otherwise. It also refuses what is worse than the champion or than a baseline beyond noise; that can
    be overruled.
    """
    version = _resolved(registry, version)
    examined = promotion.examine(registry, version, to)
    if examined.stands:
        click.echo(f"{version} is {to} already")
        return
    if dry_run:
        for refusal in examined.refusals:
            click.echo(f"refused{' unless forced' if refusal.overrulable else ''}: {refusal.sentence}")
        before = examined.held.alias.version if examined.held else "nothing"
        click.echo(f"{to} would mean {version} instead of {before}" if not examined.refusals else "not promoted")
        if examined.refusals:
            raise click.exceptions.Exit(13)
        return
    alias = promotion.promote(registry, examined, by=by, why=why, force=force)
    click.echo(f"{to} means {alias.version} now, {alias.previous or 'nothing'} before")


@models.command(epilog=EXIT_CODES)
@_of_registry
@_deciding
@click.option("--alias", type=click.Choice(ALIASES), default=CHAMPION, show_default=True, help="The alias to move.")
def rollback(registry: Registry, alias: str, why: str, by: str, dry_run: bool) -> None:
    """Let an alias mean again what it meant before. A second rollback takes the first one back."""
    if dry_run:
        examined = promotion.target(registry, alias)
        for refusal in examined.refusals:
            click.echo(f"refused: {refusal.sentence}")
        if examined.refusals:
            raise click.exceptions.Exit(13)
        click.echo(f"{alias} would mean {examined.version} again")
        return
    moved = promotion.rollback(registry, alias, by=by, why=why)
    click.echo(f"{alias} means {moved.version} again, {moved.previous} before")


def _resolved(registry: Registry, version: str) -> str:
    """A version, or what an alias means."""
    held = registry.alias(version) if version in ALIASES else None
    return held.alias.version if held else version


def _aliases(registry: Registry) -> dict[str, Held]:
    return {name: held for name in ALIASES if (held := registry.alias(name)) is not None}


def _told(held: Held) -> str:
    alias = held.alias
    text = f"{alias.version} since {alias.moved_at:%Y-%m-%d %H:%M} UTC, by {alias.by}"
    if alias.why:
        text += f": {alias.why}"
    if alias.previous:
        text += f" (before: {alias.previous})"
    if alias.forced:
        text += f" [forced: {alias.forced}]"
    return text


def _figures(values: dict[str, float]) -> str:
    return "  ".join(f"{name} {values[name]:.4f}" for name in names_of(values))


def _summary(manifest: Manifest) -> dict[str, object]:
    return {
        "version": manifest.model_version,
        "trained_from": manifest.trained_from,
        "trained_until": manifest.trained_until,
        "metrics": manifest.metrics,
    }


def _verdict(difference: Difference) -> str:
    return "worse" if difference.worse else "better" if difference.better else "noise"


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError) as error:
        raise StreamprocError("the user of this process has no name: give --by NAME") from error


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _print(table: Table) -> None:
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else _PIPE_COLUMNS
    Console(markup=False, highlight=False, emoji=False, width=width).print(table, crop=False)


def _print_json(value: object) -> None:
    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())
