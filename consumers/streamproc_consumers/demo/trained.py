"""The models of the served demonstration: a champion, a challenger that is trained meanwhile, and who serves."""

from __future__ import annotations

import shutil
import subprocess
import threading
from pathlib import Path

from streamproc.errors import StreamprocError
from streamproc.local.processes import tethered
from streamproc_consumers.demo.processes import streamproc_command
from streamproc_consumers.demo.run import DemoFailed
from streamproc_consumers.demo.wares import Wares
from streamproc_consumers.live.engine import Registered, Version
from streamproc_models.registry import ALIASES, CHALLENGER, CHAMPION, Registry
from streamproc_models.registry.promotion import examine, promote, push, rollback

_BY = "the live page"
#: More generators than the champion's, so that its lists differ visibly.
_CHALLENGER_RECIPE = "online-retail"
_FIRST = "the demonstration's own model"


class Models:
    """The registry, as the page's buttons use it."""

    def __init__(self, registry: Registry, wares: Wares, folder: Path) -> None:
        self._registry = registry
        self._wares = wares
        self._folder = folder
        self._note = ""
        self._training: subprocess.Popen[bytes] | None = None
        self._closed = False

    def begin(self, given: Path | None) -> None:
        """Make the champion: a given bundle, or one that is trained now, with its output shown."""
        bundle = given or self._folder / "model"
        if given is None:
            done = subprocess.run(self._command(bundle, "small"), check=False)  # noqa: S603  # our own command
            if done.returncode:
                raise DemoFailed(f"training failed with exit code {done.returncode}; its output is above")
        self._push(bundle, CHAMPION)

    def train_challenger(self) -> threading.Thread:
        """Train a challenger aside, at the lowest priority; it gets its arm when it is done."""
        self._note = "A challenger is being trained; it takes over a fifth of the shoppers when it is done."
        thread = threading.Thread(target=self._train, name="streamproc-challenger", daemon=True)
        thread.start()
        return thread

    def close(self) -> None:
        """End a training that is under way."""
        self._closed = True
        if self._training is not None and self._training.poll() is None:
            self._training.kill()

    def registered(self) -> Registered:
        """See :class:`streamproc_consumers.live.engine.Controls`."""
        held = {alias: found.alias for alias in ALIASES if (found := self._registry.alias(alias)) is not None}
        return Registered(
            champion=held[CHAMPION].version,
            previous=held[CHAMPION].previous,
            versions=[
                self._version(version, [alias for alias, meant in held.items() if meant.version == version])
                for version in sorted(self._registry.versions())
            ],
            note=self._note,
        )

    def promote(self, version: str, force: str | None) -> None:
        """See :class:`streamproc_consumers.live.engine.Controls`."""
        promote(self._registry, examine(self._registry, version), by=_BY, why="a button was pressed", force=force)

    def rollback(self) -> None:
        """See :class:`streamproc_consumers.live.engine.Controls`."""
        rollback(self._registry, CHAMPION, by=_BY, why="a button was pressed")

    def _version(self, version: str, aliases: list[str]) -> Version:
        manifest = self._registry.manifest(version)
        return Version(
            version=version,
            generators=manifest.generators,
            hit_rate=manifest.metrics.get("warm", {}).get("model", {}).get("hit_rate_at_10"),
            aliases=aliases,
        )

    def _push(self, bundle: Path, alias: str) -> None:
        manifest, _ = push(self._registry, bundle)
        promote(
            self._registry, examine(self._registry, manifest.model_version, alias), by=_BY, why=_FIRST, force=_FIRST
        )

    def _train(self) -> None:
        bundle = self._folder / "challenger"
        nice = [found, "-n", "19"] if (found := shutil.which("nice")) else []
        with (self._folder / "challenger.log").open("ab") as log:
            self._training = subprocess.Popen(  # noqa: S603  # our own command
                tethered([*nice, *self._command(bundle, _CHALLENGER_RECIPE)]),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        code = self._training.wait()
        if self._closed:
            return
        if code:
            self._note = f"The training of a challenger ended with code {code}: its log is challenger.log."
            return
        try:
            self._push(bundle, CHALLENGER)
        except StreamprocError as error:
            self._note = f"The challenger cannot be used: {error}"
        else:
            self._note = ""

    def _command(self, out: Path, recipe: str) -> list[str]:
        wares = self._wares
        options = {
            "--events": wares.history,
            "--items": wares.items,
            "--cut": f"{wares.cut:%Y-%m-%dT%H:%M:%S}",
            "--recipe": recipe,
            "--out": out,
        }
        return [*streamproc_command("train"), *(str(word) for option in options.items() for word in option)]
