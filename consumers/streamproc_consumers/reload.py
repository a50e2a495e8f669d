"""Hot reload: follows the aliases of a registry, and hands proven bundles to the recommenders of this process.

One thread a process polls. Where an alias moved it fetches the version, proves it (digests, feature schema, golden
rows), ranks with it once so that nothing is slow the first time, and offers it by replacing :attr:`serving` as a whole.
A recommender looks there at the beginning of a batch and nowhere else, so no batch is scored by two bundles.

A bundle that fails any of it is *rejected*: an error in the log and a metric, and the one before goes on serving. It is
not tried again until the alias moves. The bundle before the current one stays in memory, so a rollback is instant.
"""

from __future__ import annotations

import tempfile
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from streamproc.application import seconds_of
from streamproc.clock import Clock, SystemClock
from streamproc.errors import SettingsError, StreamprocError
from streamproc.telemetry import Retried, Telemetry
from streamproc_consumers.facts import ModelOffered, ModelRejected
from streamproc_models import bundle as bundles
from streamproc_models.bundle import MANIFEST, Bundle
from streamproc_models.errors import BundleInvalid
from streamproc_models.features import new_state
from streamproc_models.registry import Held, Registry, VersionUnknown, open_registry, split_alias
from streamproc_models.scorer import Scorer

#: Time from one look at the aliases to the next.
POLL_SECONDS = 10.0


class Serving(msgspec.Struct, frozen=True):
    """The bundles in force, by alias. Replaced as a whole, never changed."""

    #: The alias whose bundle is always there.
    main: str
    bundles: Mapping[str, Bundle]


class Models(Protocol):
    """Where a recommender gets its bundles from."""

    @property
    def serving(self) -> Serving:
        """What to score with from the next batch on."""
        ...

    @property
    def unusable(self) -> Mapping[str, str]:
        """The versions that cannot be used and that aliases mean all the same, by alias."""
        ...

    def start(self, telemetry: Telemetry) -> None:
        """Begin to follow the aliases, and tell what happens. Every call after the first one does nothing."""
        ...

    def without(self, serving: Serving, alias: str) -> Serving | None:
        """``serving`` with the alias' bundle before, or without the alias; None where nothing can take over."""
        ...

    def reject(self, serving: Serving, alias: str, reason: str) -> None:
        """The alias' bundle in ``serving`` failed where the one before it did not: go back to that."""
        ...


class FixedModels:
    """One bundle for as long as the process lives."""

    def __init__(self, bundle: Bundle, alias: str = "champion") -> None:
        self.serving = Serving(alias, {alias: bundle})
        self.unusable: Mapping[str, str] = {}

    def start(self, telemetry: Telemetry) -> None:
        """See :class:`Models`."""

    def without(self, serving: Serving, alias: str) -> Serving | None:
        """See :class:`Models`."""
        del serving, alias
        return None

    def reject(self, serving: Serving, alias: str, reason: str) -> None:
        """See :class:`Models`."""


class FollowedModels:
    """The bundles that the aliases of a registry mean.

    Made with what they mean now. The main alias must mean a bundle that can be served, or have meant one before; raises
    BundleInvalid or SettingsError else. The others may be absent, and their users get the main one's lists.
    """

    def __init__(
        self,
        registry: Registry,
        main: str,
        others: Sequence[str] = (),
        *,
        poll_seconds: float = POLL_SECONDS,
        clock: Clock | None = None,
        load: Callable[[Path], Bundle] = bundles.load,
    ) -> None:
        self._registry = registry
        self._poll_seconds = poll_seconds
        self._clock = clock or SystemClock()
        self._load = load
        self._lock = threading.Lock()
        self._telemetry: Telemetry | None = None
        #: What happened before anybody listened.
        self._untold: list[ModelOffered | ModelRejected] = []
        #: The content of each alias that was dealt with, for good or bad.
        self._seen: dict[str, str] = {}
        self._previous: dict[str, Bundle] = {}
        self.serving = Serving(main, {})
        #: Replaced as a whole, as ``serving`` is.
        self.unusable: Mapping[str, str] = {}
        for alias in (main, *others):
            self._follow(alias, patient=False)
        if main not in self.serving.bundles:
            self._start_from_previous(main)

    def start(self, telemetry: Telemetry) -> None:
        """See :class:`Models`."""
        with self._lock:
            if self._telemetry is not None:
                return
            self._telemetry = telemetry
            untold, self._untold = self._untold, []
        for event in untold:
            telemetry.emit(event)
        # The thread holds no reference between two polls: it ends with the recommenders that use this.
        threading.Thread(
            target=_poll,
            args=(weakref.ref(self), self._clock, self._poll_seconds),
            name="streamproc-models",
            daemon=True,
        ).start()

    def once(self) -> None:
        """Look at every alias. What passes (a service that is away) is told, and tried again by the next look."""
        for alias in (self.serving.main, *(name for name in self._seen if name != self.serving.main)):
            self._follow(alias, patient=True)

    def without(self, serving: Serving, alias: str) -> Serving | None:
        """See :class:`Models`."""
        previous = self._previous.get(alias)
        rest = {name: bundle for name, bundle in serving.bundles.items() if name != alias}
        if previous is not None and previous is not serving.bundles.get(alias):
            return Serving(serving.main, rest | {alias: previous})
        return None if alias == serving.main else Serving(serving.main, rest)

    def reject(self, serving: Serving, alias: str, reason: str) -> None:
        """See :class:`Models`. Of all shards that find out, the first one is heard."""
        with self._lock:
            bad = serving.bundles[alias]
            if self.serving.bundles.get(alias) is not bad:
                return
            back = self.without(self.serving, alias)
            if back is None:
                return
            self._previous.pop(alias, None)
            self.serving = back
        self._tell_rejected(alias, bad.model_version, reason)

    def _follow(self, alias: str, *, patient: bool) -> None:
        started = self._clock.monotonic()
        try:
            held = self._registry.alias(alias)
            if held is None:
                self._seen.setdefault(alias, "")
                return
            if self._seen.get(alias) == held.token:
                return
            bundle = self._bundle(alias, held)
        except _Unusable as error:
            self._seen[alias] = error.token
            self._tell_rejected(alias, error.version, error.reason)
            return
        except Exception as error:
            if not patient:
                raise
            # Whatever it is, the bundles in force are worth more than a thread that ended.
            self._emit(Retried(what=f"following {alias}", error=str(error), attempt=1, wait_seconds=self._poll_seconds))
            return
        with self._lock:
            before = self.serving.bundles.get(alias)
            self._seen[alias] = held.token
            self.unusable = {name: version for name, version in self.unusable.items() if name != alias}
            if before is not None and before is not bundle:
                self._previous[alias] = before
            self.serving = Serving(self.serving.main, {**self.serving.bundles, alias: bundle})
        if before is not bundle:
            seconds = self._clock.monotonic() - started
            self._emit(ModelOffered(alias=alias, model_version=bundle.model_version, seconds=seconds))

    def _bundle(self, alias: str, held: Held) -> Bundle:
        version = held.alias.version
        for known in (self.serving.bundles.get(alias), self._previous.get(alias), *self.serving.bundles.values()):
            if known is not None and known.model_version == version:
                return known
        return self._fetched(version, held.token)

    def _fetched(self, version: str, token: str) -> Bundle:
        """The proven bundle. Raises _Unusable; other errors are the registry's, and pass."""
        with tempfile.TemporaryDirectory(prefix="streamproc-model-") as folder:
            try:
                self._registry.fetch(version, Path(folder))
            except VersionUnknown as error:
                raise _Unusable(version, token, str(error)) from error
            try:
                bundle = self._load(Path(folder))
                # Through the whole path: what is made at the first use is made here, and not in a batch.
                Scorer(bundle).rank([("", new_state())])
            except Exception as error:  # whatever a bad bundle brings about, the old one must go on
                raise _Unusable(version, token, _reason(error)) from error
        if bundle.model_version != version:
            raise _Unusable(version, token, f"the files under {version} are those of {bundle.model_version}")
        return bundle

    def _start_from_previous(self, main: str) -> None:
        """At the start nothing serves yet; what the alias meant before is the next best."""
        held = self._registry.alias(main)
        if held is None:
            raise SettingsError(
                f"{self._registry.url} has no {main}: push a bundle and promote it with `streamproc models`"
            )
        if held.alias.previous is None:
            raise BundleInvalid(f"{main} of {self._registry.url} cannot be used: {self._why(main)}")
        try:
            bundle = self._fetched(held.alias.previous, held.token)
        except _Unusable as error:
            raise BundleInvalid(
                f"neither what {main} of {self._registry.url} means nor what it meant before can be used:"
                f" {self._why(main)}; {error.reason}"
            ) from error
        self.serving = Serving(main, {**self.serving.bundles, main: bundle})
        self._emit(ModelOffered(alias=main, model_version=bundle.model_version, seconds=0.0))

    def _why(self, alias: str) -> str:
        told = [event.reason for event in self._untold if isinstance(event, ModelRejected) and event.alias == alias]
        return told[-1] if told else "it was rejected"

    def _tell_rejected(self, alias: str, version: str, reason: str) -> None:
        serving = self.serving.bundles.get(alias)
        self.unusable = {**self.unusable, alias: version}
        self._emit(
            ModelRejected(
                alias=alias,
                model_version=version,
                reason=reason,
                serving=serving.model_version if serving else None,
            )
        )

    def _emit(self, event: ModelOffered | ModelRejected | Retried) -> None:
        if self._telemetry is not None:
            self._telemetry.emit(event)
        elif not isinstance(event, Retried):
            self._untold.append(event)


class _Unusable(Exception):
    """A bundle that cannot be served; internal to this module."""

    def __init__(self, version: str, token: str, reason: str) -> None:
        super().__init__(reason)
        self.version = version
        self.token = token
        self.reason = reason


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, StreamprocError) else f"{type(error).__name__}: {error}"


def _poll(of: weakref.ref[FollowedModels], clock: Clock, seconds: float) -> None:
    while not clock.wait(seconds):
        models = of()
        if models is None:
            return
        models.once()
        del models


def poll_seconds(text: str) -> float:
    """The setting STREAMPROC_MODEL_POLL_SECONDS. Raises SettingsError."""
    meaning = "a promotion reaches the consumers that much later"
    return seconds_of("STREAMPROC_MODEL_POLL_SECONDS", text, least=1, meaning=meaning)


def models_at(address: str, others: Sequence[str] = (), *, poll_seconds: float = POLL_SECONDS) -> Models:
    """The bundle in a folder, or those that the aliases of a registry mean: ``s3://bucket/models/name@champion``.

    ``others`` are the aliases that are followed beside that one. Raises SettingsError or BundleInvalid.
    """
    url, alias = split_alias(address)
    if alias is None or (Path(address) / MANIFEST).exists():
        if others:
            raise SettingsError(
                f"STREAMPROC_EXPERIMENT names {', '.join(others)}, and STREAMPROC_MODEL is a fixed bundle ({address}):"
                " write a registry with an alias there, as s3://bucket/models/NAME@champion"
            )
        if address.startswith("s3://"):
            raise SettingsError(f"STREAMPROC_MODEL is {address!r}: say which alias to follow, as {address}@champion")
        return FixedModels(bundles.load(Path(address)))
    return FollowedModels(
        open_registry(url), alias, [each for each in others if each != alias], poll_seconds=poll_seconds
    )
