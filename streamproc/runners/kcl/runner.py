"""A worker of the fleet: starts KCL's daemon for an application, looks after it, and ends it in order.

The daemon takes leases, reads, and starts a child a shard; ``docs/kcl.md`` has the settings. Any number of workers may
run; KCL gives each its share of the shards. Their ids begin with ``kcl:``, and any other owner that is alive, a local
runner for one, keeps a worker from starting.
"""

from __future__ import annotations

import collections
import contextlib
import os
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import msgspec

from streamproc.aws import aws_client
from streamproc.clock import Clock, SystemClock
from streamproc.errors import LeasesHeldElsewhere, SettingsError, StreamprocError
from streamproc.lease import FLEET_PREFIX, Lease, LeaseStore, alive, others
from streamproc.metrics.relay import RelayReceiver
from streamproc.namespace import Namespace
from streamproc.runners.kcl.child import ENVIRONMENT_VARIABLE, ChildSettings
from streamproc.runners.kcl.daemon import (
    Daemon,
    WorkFolder,
    daemon_environment,
    find_jars,
    find_java,
    java_command,
    java_version,
    refuse_without_http2,
)
from streamproc.runners.kcl.lines import DaemonLine, Lines, daemon_line, encoded
from streamproc.runners.kcl.properties import Worker, endpoint_of, properties_of
from streamproc.runners.kcl.pulse import children_seen, forget_children
from streamproc.runners.kcl.restarts import Death, GiveUp, after_deaths
from streamproc.runners.kcl.watchdog import (
    ChildKilled,
    LeaderLock,
    Watchdog,
    read_leader,
    release_leader as leader_released,
    unlock_command,
)
from streamproc.runners.local import new_worker_id
from streamproc.runners.prepare import missing_leases, prepare
from streamproc.stream import list_shards, stream_created_at
from streamproc.telemetry import Checkpointed, ChildFailed, Retried, Telemetry, TelemetryEvent, event_name

if TYPE_CHECKING:
    from mypy_boto3_kinesis import KinesisClient

    from streamproc.application import Application

#: What a stop may take beyond drain_seconds, which is the daemon's own deadline for its children.
GIVE_UP_SECONDS = 3.0
#: How long a daemon whose children are drained has to end by itself.
AFTER_DRAIN_SECONDS = 5.0
#: How long the children of a dead daemon have to end by themselves.
ORPHAN_SECONDS = 5.0


class DaemonStarted(TelemetryEvent, frozen=True, kw_only=True):
    """KCL's daemon was started; the first records come once it has leases."""

    worker_id: str
    pid: int


class DaemonDied(TelemetryEvent, frozen=True, kw_only=True):
    """The daemon ended by itself, with the processes of all its shards. It is started again after the wait."""

    level: ClassVar[str] = "error"
    reason: str
    exit_code: int
    wait_seconds: float


class OrphansKilled(TelemetryEvent, frozen=True, kw_only=True):
    """Children of a dead daemon did not end by themselves."""

    level: ClassVar[str] = "warning"
    shard_ids: list[str]


class FleetWorkerFailed(StreamprocError):
    """The worker ended with this reason; its exit code is that of the child's error, where there is one."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class KclRunner:
    """Runs one worker until it is told to stop, or its daemon dies for a reason that stays.

    ``app`` is the application as a child finds it, ``module:variable``. ``alias`` is the name under which it was asked
    for, where another one serves it. ``command`` stands in for the daemon's own command, in tests.
    """

    def __init__(
        self,
        application: Application,
        *,
        app: str,
        leases: LeaseStore,
        alias: str | None = None,
        kinesis: KinesisClient | None = None,
        lines: Lines | None = None,
        clock: Clock | None = None,
        worker_id: str | None = None,
        command: Sequence[str] | None = None,
        leader: Callable[[], LeaderLock | None] | None = None,
        release_leader: Callable[[], None] | None = None,
    ) -> None:
        self._application = application
        self._settings = application.kcl
        self._app = app
        self._alias = alias
        # Before anything is looked up: what is not installed is the first thing to say.
        self._command = command if command is not None else _daemon_command(self._settings.heap_mb)
        self._kinesis = kinesis or aws_client("kinesis")
        self._leases = leases
        self._lines = lines or Lines()
        self._telemetry = Telemetry(self._lines, self._notice)
        self._clock = clock or SystemClock()
        self._worker_id = worker_id or FLEET_PREFIX + new_worker_id()
        name = application.name
        self._leader = leader or (lambda: read_leader(aws_client("dynamodb"), name))
        self._release_leader = release_leader or (
            lambda: leader_released(aws_client("dynamodb"), name, self._worker_id)
        )
        self._daemon: Daemon | None = None
        self._heard = _Heard()

    def run(self, stop: threading.Event, measured: Telemetry | None = None) -> None:
        """Serve shards until ``stop`` is set, then checkpoint and release the leases.

        ``measured`` takes the events of the children too, for the host's metrics.

        Raises StreamNotFound, StreamRecreated, LeasesHeldElsewhere, a SettingsError, or FleetWorkerFailed: the daemon
        died too often, or a shard was not checkpointed when the time for a stop was over.
        """
        if measured is not None:
            self._telemetry.subscribe(measured.emit)
        endpoint = endpoint_of("kinesis")
        refuse_without_http2(endpoint)
        stream = self._application.stream
        created_at = stream_created_at(self._kinesis, stream)
        namespace = Namespace(self._application.name, stream, created_at)
        prepare(self._leases, self._application.ports(namespace), namespace)
        self._begin_leases()
        self._refuse_if_others_live(stop)
        with tempfile.TemporaryDirectory(prefix="streamproc-kcl-") as name, contextlib.ExitStack() as stack:
            folder = WorkFolder(Path(name))
            worker = Worker(
                application=self._application.name,
                stream=stream,
                worker_id=self._worker_id,
                region=self._kinesis.meta.region_name,
                executable=folder.executable,
                kinesis_endpoint=endpoint,
                dynamodb_endpoint=endpoint_of("dynamodb"),
            )
            command = [*self._command, *folder.write(properties_of(self._settings, worker))]
            environment = daemon_environment(os.environ, kinesis_endpoint=endpoint)
            environment[ENVIRONMENT_VARIABLE] = msgspec.json.encode(
                ChildSettings(
                    app=self._app,
                    name=self._application.name,
                    stream=stream,
                    stream_created_at=created_at,
                    checkpoint_seconds=self._application.worker.checkpoint_seconds,
                    alias=self._alias,
                    pulse_folder=str(folder.pulses),
                )
            ).decode()
            if measured is not None:
                relay = RelayReceiver(measured.emit)
                stack.callback(relay.close)
                environment.update(relay.environment())
            self._serve(command, environment, folder, stop)

    def kill(self) -> None:
        """End the daemon and its children at once, for a second signal."""
        if self._daemon is not None:
            self._daemon.kill()

    def _begin_leases(self) -> None:
        """Make the leases that are missing, as the local runner does.

        A daemon that finds none waits half a minute for another one to make them, and holes are looked for in minutes.
        """
        leases = self._leases.list()
        if strange := [lease.shard_id for lease in leases if not lease.shard_id.startswith("shardId-")]:
            raise SettingsError(
                f"the table {self._application.name!r} is the lease table of another application: {strange[0]!r} is no"
                " shard of one stream. The application's name names its lease table; choose another name"
            )
        shards = list_shards(self._kinesis, self._application.stream)
        known = {lease.shard_id for lease in leases}
        for lease in missing_leases(shards, known, self._settings.initial_position, self._clock.time()):
            self._leases.create(lease)

    def _refuse_if_others_live(self, stop: threading.Event) -> None:
        """Workers of the fleet share the leases. Another kind of owner that lives would be robbed of its own."""
        before = self._leases.list()
        if not _foreign(others(before, self._worker_id)):
            return
        self._clock.wait(self._application.failover_seconds(before), stop)
        living = _foreign(alive(before, self._leases.list(), self._worker_id))
        if living:
            owners = ", ".join(sorted({lease.owner or "another worker" for lease in living}))
            raise LeasesHeldElsewhere(
                f"leases of the application {self._application.name!r} are held by {owners}, which is alive and no"
                " worker of this fleet: stop that one first, or run under another application name"
            )

    def _serve(
        self, command: list[str], environment: dict[str, str], folder: WorkFolder, stop: threading.Event
    ) -> None:
        deaths: list[Death] = []
        while not stop.is_set():
            forget_children(folder.pulses)
            self._heard = _Heard()
            daemon = self._daemon = Daemon(command, environment, self._hear)
            self._telemetry.emit(DaemonStarted(worker_id=self._worker_id, pid=daemon.pid))
            try:
                self._watch(daemon, folder, stop)
                if stop.is_set():
                    self._drain(daemon, folder)
                    return
            finally:
                daemon.kill_if_running()
                self._end_orphans(daemon, folder)
                self._passing("releasing the leader's lock", self._release_leader)
            deaths.append(self._heard.death(daemon.exit_code() or 0))
            decision = after_deaths(deaths, self._settings.deaths_max)
            if isinstance(decision, GiveUp):
                raise FleetWorkerFailed(decision.sentence, decision.exit_code)
            last = deaths[-1]
            self._telemetry.emit(
                DaemonDied(
                    reason=last.reason, exit_code=last.daemon_exit_code, wait_seconds=round(decision.wait_seconds, 1)
                )
            )
            self._clock.wait(decision.wait_seconds, stop)

    def _watch(self, daemon: Daemon, folder: WorkFolder, stop: threading.Event) -> None:
        """Return when a stop is asked for, or the daemon is dead."""
        name = self._application.name
        watchdog = Watchdog(
            self._settings,
            folder.pulses,
            worker_id=self._worker_id,
            unlock_command=unlock_command(self._app, self._alias or name),
            is_child=daemon.is_child,
            leases=self._leases,
            leader=self._leader,
            clock=self._clock,
            telemetry=self._telemetry,
        )
        watchdog.start()
        siblings: set[int] | None = None
        try:
            while daemon.exit_code() is None and not self._clock.wait(0.1, stop):
                if self._heard.is_ending:
                    alive = {child.pid for child in children_seen(folder.pulses) if daemon.is_child(child.pid)}
                    siblings = alive if siblings is None else siblings & alive
                    if not siblings:
                        # All that can be checkpointed is. KCL would wait for the dead child until the grace is over.
                        daemon.kill()
                        return
        finally:
            watchdog.stop()

    def _drain(self, daemon: Daemon, folder: WorkFolder) -> None:
        """Have the daemon end in order. Raises FleetWorkerFailed with the shards that were not checkpointed."""
        # What a daemon that ends takes over meanwhile, and it does so as the leader, is served by the next worker.
        served = {child.pid for child in children_seen(folder.pulses) if child.actions}
        daemon.ask_to_end()
        seconds = self._settings.drain_seconds + GIVE_UP_SECONDS
        deadline = self._clock.monotonic() + seconds
        is_drained = False
        while daemon.exit_code() is None and self._clock.monotonic() < deadline:
            self._clock.wait(0.05)
            if not is_drained and not served & {child.pid for child in children_seen(folder.pulses)}:
                is_drained = True
                deadline = min(deadline, self._clock.monotonic() + AFTER_DRAIN_SECONDS)
        late = daemon.exit_code() is None
        daemon.kill_if_running()
        self._end_orphans(daemon, folder)
        left = [child for child in children_seen(folder.pulses) if child.pid in served]
        self._release()
        if not left:
            return
        shards = ", ".join(sorted(child.shard_id for child in left))
        failure = self._heard.child_failure
        why = f"within {seconds:.0f} s" if late else "before the daemon ended"
        raise FleetWorkerFailed(
            f"{shards}: no last checkpoint was made {why}; what came after the one before is replayed at the start"
            + (f". {failure.reason}" if failure else ""),
            failure.exit_code if failure else 1,
        )

    def _release(self) -> None:
        """Give up the leases, which KCL leaves with their owner's name: the next worker would wait for the failover."""

        def release() -> None:
            for lease in self._leases.list():
                if lease.owner == self._worker_id and not lease.ended:
                    self._leases.release(lease)

        self._passing("releasing the leases", release)

    def _passing(self, what: str, call: Callable[[], None]) -> None:
        """Call; where it fails the other workers wait, as they would after a crash."""
        try:
            call()
        except StreamprocError as error:
            self._telemetry.emit(Retried(what=what, error=str(error), attempt=1, wait_seconds=0.0))

    def _end_orphans(self, daemon: Daemon, folder: WorkFolder) -> None:
        if not daemon.children_gone(ORPHAN_SECONDS):
            self._telemetry.emit(OrphansKilled(shard_ids=[child.shard_id for child in children_seen(folder.pulses)]))

    def _notice(self, event: TelemetryEvent) -> None:
        if isinstance(event, ChildKilled):
            self._heard.killed = (
                f"the process of {event.shard_id} was in the application's code for {event.seconds} s and was killed"
                " (user_code_seconds_max)"
            )

    def _hear(self, line: bytes) -> None:
        own = daemon_line(line)
        self._heard.line(line, own)
        self._lines.pass_on(line if own is None else encoded(own))


class _ChildLine(msgspec.Struct):
    """The fields of a child's line that the runner looks at."""

    event: str
    reason: str = ""
    exit_code: int = 1


class _Heard:
    """What one daemon and its children said that tells why it died."""

    def __init__(self) -> None:
        self.child_failure: _ChildLine | None = None
        #: Whether the daemon began to end by itself: it asks the other children for their last checkpoint.
        self.is_ending = False
        #: Why a child was killed.
        self.killed: str | None = None
        self._checkpointed = False
        self._last_error: str | None = None
        self._plain: collections.deque[str] = collections.deque(maxlen=5)
        self._decoder = msgspec.json.Decoder(_ChildLine)

    def line(self, line: bytes, own: DaemonLine | None) -> None:
        """Take a line; ``own`` is what it says as the daemon's own."""
        if own is not None:
            if own.message == _ENDING:
                self.is_ending = True
            elif own.level == "error" and not self.is_ending:  # what comes after it only follows from it
                self._last_error = ": ".join(filter(None, [own.message, own.error]))
            return
        try:
            child = self._decoder.decode(line)
        except msgspec.DecodeError:
            self._plain.append(line.decode(errors="replace").strip())
            return
        if child.event == _CHECKPOINTED:
            self._checkpointed = True
        elif child.event == _CHILD_FAILED and self.child_failure is None:
            # The first one; those that follow only lost their daemon.
            self.child_failure = child

    def death(self, exit_code: int) -> Death:
        """Why the daemon died, as far as anybody said."""
        failure = self.child_failure
        if failure is not None:
            reason = failure.reason
        else:
            how = f"with signal {-exit_code}" if exit_code < 0 else f"with exit code {exit_code}"
            if self.is_ending:
                how = "by itself, as it does when a child dies"
            said = self._last_error or " / ".join(filter(None, self._plain)) or "it gave no reason"
            reason = self.killed or f"KCL's daemon ended {how}: {said}"
        return Death(
            reason=reason,
            child_exit_code=failure.exit_code if failure else None,
            daemon_exit_code=exit_code,
            checkpointed=self._checkpointed,
        )


#: What the daemon says in its shutdown hook.
_ENDING = "Process terminated, will initiate shutdown."
_CHECKPOINTED = event_name(Checkpointed)
_CHILD_FAILED = event_name(ChildFailed)


def _foreign(leases: Sequence[Lease]) -> list[Lease]:
    return [lease for lease in leases if not (lease.owner or "").startswith(FLEET_PREFIX)]


def _daemon_command(heap_mb: int) -> list[str]:
    jars, java = find_jars(), find_java()
    java_version(java)
    return java_command(java, jars, heap_mb=heap_mb)
