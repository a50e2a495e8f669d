"""An application: a processor, its stream, and where states and outputs go. The same under every runner."""

from __future__ import annotations

import importlib
import math
import os
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from streamproc.deadletter import DeadLetterStore
from streamproc.errors import ApplicationNotFound, SettingsError
from streamproc.lease import FLEET_PREFIX, Lease
from streamproc.namespace import Namespace
from streamproc.ports import Ports
from streamproc.processor import AnyProcessor
from streamproc.projection import Projection
from streamproc.runners.kcl.properties import KclRunnerSettings
from streamproc.settings import LocalRunnerSettings, WorkerSettings
from streamproc.sink import Sink
from streamproc.snapshot import SnapshotStore
from streamproc.state import StateStore

# DynamoDB's rule for table names, less the longest suffix of ours: the application's name is its lease table.
_NAME = re.compile(r"[A-Za-z0-9_.-]{3,200}")


class Application(msgspec.Struct, frozen=True, kw_only=True):
    """What ``streamproc run -A module:app`` runs.

    A port is given as a function of the namespace, such as the adapter's class or a ``functools.partial`` of it, since
    the namespace holds the stream's creation timestamp, which only the runner knows. One adapter serves all shards of a
    process; ``processor`` is called once a shard.
    """

    #: Names the lease table, and begins the names of the other tables. Two applications read one stream independently.
    name: str
    stream: str
    processor: Callable[[], AnyProcessor]
    states: Callable[[Namespace], StateStore]
    deadletters: Callable[[Namespace], DeadLetterStore]
    sink: Callable[[Namespace], Sink] | None = None
    projection: Callable[[Namespace], Projection] | None = None
    #: Where snapshots of the values across keys go, for a processor with a shared fold.
    snapshots: Callable[[Namespace], SnapshotStore] | None = None
    worker: WorkerSettings = WorkerSettings()
    local: LocalRunnerSettings = LocalRunnerSettings()
    kcl: KclRunnerSettings = KclRunnerSettings()

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise SettingsError(
                f"the application name {self.name!r} cannot name a DynamoDB table: use 3 to 200 of letters, digits,"
                " '_', '.' and '-'"
            )
        if not self.stream:
            raise SettingsError(f"the application {self.name!r} names no stream")

    def failover_seconds(self, leases: Iterable[Lease]) -> float:
        """For how long a counter must stand still until its owner counts as dead: as the owner's runner was told."""
        owners = [lease.owner or "" for lease in leases]
        fleet = self.kcl.failover_seconds if any(owner.startswith(FLEET_PREFIX) for owner in owners) else 0.0
        return max(self.local.failover_seconds, fleet)

    def ports(self, namespace: Namespace) -> Ports:
        """The adapters, bound to the namespace."""
        return Ports(
            namespace=namespace,
            states=self.states(namespace),
            deadletters=self.deadletters(namespace),
            sink=self.sink(namespace) if self.sink else None,
            projection=self.projection(namespace) if self.projection else None,
            partials=self.states(namespace.of_partials()),
        )


def load_application(path: str) -> Application:
    """The application that ``module:variable`` names: an Application, or a function that returns one.

    The working directory is searched too. Raises ApplicationNotFound with the reason; errors of the application's own
    code pass through.
    """
    module_name, separator, variable = path.partition(":")
    if not separator or not module_name or not variable:
        raise ApplicationNotFound(f"-A {path!r}: write it as module:variable, as in -A shop.recommender:app")
    if not all(part.isidentifier() for part in module_name.split(".")):
        raise ApplicationNotFound(
            f"-A {path!r}: {module_name!r} is no module's name: write shop.app, not ./shop/app.py"
        )
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and (module_name == error.name or module_name.startswith(error.name + ".")):
            raise ApplicationNotFound(
                f"-A {path!r}: there is no module {error.name!r} here ({here}) or among the installed packages"
            ) from error
        raise ApplicationNotFound(f"-A {path!r}: the module needs {error.name!r}, which is not installed") from error
    try:
        found = getattr(module, variable)
    except AttributeError as error:
        raise ApplicationNotFound(
            f"-A {path!r}: the module {module_name!r} defines no variable {variable!r}"
        ) from error
    application = found() if callable(found) and not isinstance(found, type) else found
    if not isinstance(application, Application):
        raise ApplicationNotFound(
            f"-A {path!r}: {variable!r} is a {_kind(application)}; an Application, or a function that returns"
            " one, was expected"
        )
    return application


def _kind(found: object) -> str:
    return "class" if isinstance(found, type) else type(found).__name__


def environment(name: str, *, default: str | None = None) -> str:
    """A setting from the environment. Raises SettingsError with the variable's name where it is not set."""
    value = os.environ.get(name, "") or default
    if value is None:
        raise SettingsError(f"the environment variable {name} is not set")
    return value


def seconds_of(name: str, text: str, *, least: int, meaning: str) -> float:
    """The value of a setting in seconds, an hour at most. Raises SettingsError, which says what it means."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not least <= seconds <= 3600:
        raise SettingsError(f"{name} is {text!r}: it is a number of seconds from {least} to 3600; {meaning}")
    return seconds
