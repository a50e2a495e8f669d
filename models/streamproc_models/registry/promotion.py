"""Pushing, promoting and rolling back: the gate, then one compare-and-swap."""

from __future__ import annotations

import tempfile
from pathlib import Path

import msgspec

from streamproc.clock import Clock, SystemClock
from streamproc.errors import SettingsError
from streamproc_models.bundle import Manifest
from streamproc_models.registry.base import CHAMPION, Alias, Held, PromotionRefused, Registry, checked_alias
from streamproc_models.registry.gate import Refusal, proven, quality
from streamproc_producers.events import utc


class Examined(msgspec.Struct, frozen=True):
    """What the gate says of a version, and the alias as it was when it was asked."""

    version: str
    to: str
    held: Held | None
    refusals: list[Refusal]

    @property
    def stands(self) -> bool:
        """Whether the alias means this version already."""
        return self.held is not None and self.held.alias.version == self.version


def push(registry: Registry, folder: Path) -> tuple[Manifest, bool]:
    """Prove a bundle and add it; False where the registry has it already.

    Raises PromotionRefused where no consumer could serve it, and SettingsError where the registry has the version with
    another manifest.
    """
    bundle, refusals = proven(folder)
    if bundle is None:
        raise _refused(f"{folder} was not pushed", refusals)
    manifest = bundle.manifest
    if registry.add(manifest.model_version, folder):
        return manifest, True
    if registry.manifest(manifest.model_version) != manifest:
        raise SettingsError(
            f"{registry.url} has {manifest.model_version} with another manifest (other metrics or times), and a version"
            " is never changed: compare the two, and push nothing, or train with another seed"
        )
    return manifest, False


def examine(registry: Registry, version: str, to: str = CHAMPION) -> Examined:
    """Fetch a version and hold it against the gate. Nothing is changed."""
    held = registry.alias(checked_alias(to))
    champion = registry.alias(CHAMPION)
    with tempfile.TemporaryDirectory(prefix="streamproc-model-") as folder:
        registry.fetch(version, Path(folder))
        bundle, refusals = proven(Path(folder))
    if bundle is not None:
        if bundle.model_version != version:
            refusals = [Refusal(f"the files under {version} are those of {bundle.model_version}: push it again")]
        else:
            refusals = quality(bundle.manifest, champion and registry.manifest(champion.alias.version), to)
    return Examined(version, to, held, refusals)


def promote(
    registry: Registry, examined: Examined, *, by: str, why: str, force: str | None = None, clock: Clock | None = None
) -> Alias:
    """Let the alias mean the examined version.

    ``force`` is the reason to go against what the gate says of its quality. Raises PromotionRefused, or AliasMoved
    where somebody moved the alias after the examination.
    """
    firm = [refusal for refusal in examined.refusals if not refusal.overrulable]
    if firm or (examined.refusals and not force):
        raise _refused(f"{examined.version} was not promoted to {examined.to}", examined.refusals)
    forced = force if examined.refusals else None
    return _move(registry, examined.to, examined.version, examined.held, by=by, why=why, forced=forced, clock=clock)


def rollback(registry: Registry, alias: str, *, by: str, why: str, clock: Clock | None = None) -> Alias:
    """Let an alias mean what it meant before. Its quality is not asked, since there is a reason to go back.

    Raises SettingsError where it meant nothing before, PromotionRefused where that version cannot be served.
    """
    examined = target(registry, alias)
    if examined.refusals:
        raise _refused(f"{alias} was not rolled back to {examined.version}", examined.refusals)
    return _move(registry, alias, examined.version, examined.held, by=by, why=why, forced=None, clock=clock)


def target(registry: Registry, alias: str) -> Examined:
    """Where a rollback would go, held against the part of the gate that asks whether it can be served."""
    held = registry.alias(checked_alias(alias))
    if held is None or held.alias.previous is None:
        raise SettingsError(f"{alias} in {registry.url} meant no other version before: promote one instead")
    version = held.alias.previous
    with tempfile.TemporaryDirectory(prefix="streamproc-model-") as folder:
        registry.fetch(version, Path(folder))
        _, refusals = proven(Path(folder))
    return Examined(version, alias, held, refusals)


def _move(
    registry: Registry,
    name: str,
    version: str,
    held: Held | None,
    *,
    by: str,
    why: str,
    forced: str | None,
    clock: Clock | None,
) -> Alias:
    alias = Alias(
        version=version,
        previous=held.alias.version if held else None,
        moved_at=utc((clock or SystemClock()).time()),
        by=by,
        why=why,
        forced=forced,
    )
    registry.move(name, alias, held.token if held else None)
    return alias


def _refused(what: str, refusals: list[Refusal]) -> PromotionRefused:
    lines = "".join(f"\n  - {refusal.sentence}" for refusal in refusals)
    hint = ""
    if all(refusal.overrulable for refusal in refusals):
        hint = "\nGive --force REASON to do it nevertheless; the alias keeps the reason."
    return PromotionRefused(f"{what}:{lines}{hint}")
