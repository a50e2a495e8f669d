"""One shard's process under the MultiLangDaemon: ``python -m streamproc.runners.kcl.child``.

It reads actions, feeds them to the same :class:`streamproc.worker.ShardWorker` as the local runner, and checkpoints
where the protocol allows it: within an action, always with an explicit position; without one at the shard's end alone,
which is what ends the lease, and only once everything is durable. A checkpoint that is due is made within the next
action; the daemon is told to send empty batches too, so that an idle shard has one.

**An exception never becomes a success**: no status is sent for an action that failed. The process ends with the reason
on standard error, the daemon ends with it, and the runner starts anew from the checkpoint.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from streamproc.alias import still_serves
from streamproc.application import Application, load_application
from streamproc.aws import aws_client
from streamproc.checkpoint import Durable, checkpointed
from streamproc.clock import Clock, SystemClock, backoff
from streamproc.errors import SettingsError, StreamNotFound, StreamprocError
from streamproc.memory import release_memory, settle_memory
from streamproc.metrics.logs import LogWriter
from streamproc.metrics.relay import RelaySender
from streamproc.namespace import Namespace
from streamproc.record import Record
from streamproc.runners.kcl.protocol import (
    Action,
    Initialize,
    LeaseLost,
    ProcessRecords,
    Protocol,
    ShardEnded,
    batch_of,
    position_of,
    take_over_standard_streams,
)
from streamproc.runners.kcl.pulse import Pulse
from streamproc.runners.prepare import with_snapshots
from streamproc.shardmap import HashRange
from streamproc.stream import list_shards
from streamproc.telemetry import (
    ChildFailed,
    LeaseAcquired,
    LeaseLost as LeaseLostFact,
    Retried,
    ShardEnded as ShardEndedFact,
    Telemetry,
)
from streamproc.worker import ShardWorker

#: What the runner tells its children, as JSON.
ENVIRONMENT_VARIABLE = "STREAMPROC_KCL_CHILD"
#: Checkpoint errors that pass: DynamoDB throttled KCL, or could not be reached.
_PASSING = ("ThrottlingException", "KinesisClientLibDependencyException")
#: The lease is lost: its new owner replays what is not durable.
_LOST = "ShutdownException"
#: What an action may spend on the parts of a checkpoint. The daemon reads on meanwhile.
_CHECKPOINT_SECONDS = 0.05


class ChildSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What a child is told by its runner."""

    #: ``module:variable``, as ``streamproc run -A`` was given it.
    app: str
    name: str
    stream: str
    #: Read once by the runner: DescribeStreamSummary allows 20 calls a second for a whole account.
    stream_created_at: int
    #: Overrides the application's, as the runner's command line does.
    checkpoint_seconds: float | None = None
    #: The application whose alias must still name ``name``; see :mod:`streamproc.alias`.
    alias: str | None = None
    #: Where the child says what it is doing; see :mod:`streamproc.runners.kcl.pulse`.
    pulse_folder: str | None = None


class Child:
    """Serves one shard from ``initialize`` on."""

    def __init__(
        self,
        protocol: Protocol,
        start: Callable[[Initialize], ShardWorker],
        *,
        clock: Clock,
        telemetry: Telemetry,
        pulse: Pulse | None = None,
    ) -> None:
        self._pulse = pulse
        self._protocol = protocol
        self._start = start
        self._clock = clock
        self._telemetry = telemetry
        self._worker: ShardWorker | None = None
        self._is_lost = False
        #: Whether the worker was told that it ends: that its leases go then is no loss.
        self._is_ending = False

    @property
    def shard_id(self) -> str:
        """The shard that is served; empty before ``initialize``."""
        return self._worker.shard_id if self._worker is not None else ""

    def run(self) -> None:
        """Serve until the lease is lost, the shard's end, or the daemon is gone.

        Raises whatever an action ended with; its status was not sent then.
        """
        try:
            while (action := self._protocol.receive()) is not None:
                if self._pulse is None:
                    self._act(action)
                else:
                    self._act_watched(self._pulse, action)
                self._protocol.done(action)
        finally:
            if self._worker is not None:
                self._worker.close()

    def _act_watched(self, pulse: Pulse, action: Action) -> None:
        if isinstance(action, Initialize):
            pulse.serves(action.shard_id)
        with pulse.action(action.millis_behind_latest if isinstance(action, ProcessRecords) else None):
            self._act(action)
        if not isinstance(action, (Initialize, ProcessRecords)):
            pulse.drained()

    def _act(self, action: Action) -> None:
        if isinstance(action, Initialize):
            self._worker = self._start(action)
            settle_memory()
            self._telemetry.emit(LeaseAcquired(shard_id=action.shard_id, checkpoint=action.sequence_number or ""))
            return
        worker = self._worker
        if worker is None:
            raise SettingsError(f"the daemon sent {type(action).__name__} before initialize")
        if isinstance(action, ProcessRecords):
            if self._is_lost:
                raise StreamprocError(f"the daemon sent records of {worker.shard_id} after its lease was lost")
            worker.process(batch_of(worker.shard_id, action))
            durable = worker.advance_checkpoint(until=self._clock.monotonic() + _CHECKPOINT_SECONDS)
            if durable is not None:
                self._move_checkpoint(worker, durable)
                release_memory()
        elif isinstance(action, LeaseLost):
            self._lose(worker)
        elif not self._is_lost:
            ended = isinstance(action, ShardEnded)
            durable = worker.make_durable()
            if ended or durable is not None:
                self._move_checkpoint(worker, durable, ended=ended)
            self._is_ending = True
            if ended and not self._is_lost:
                self._telemetry.emit(ShardEndedFact(shard_id=worker.shard_id))

    def _lose(self, worker: ShardWorker) -> None:
        """Nothing is written any more: the new owner replays what is not durable."""
        if not self._is_lost:
            self._is_lost = True
            if self._is_ending:
                return
            self._telemetry.emit(LeaseLostFact(shard_id=worker.shard_id, owner=None))

    def _move_checkpoint(self, worker: ShardWorker, durable: Durable | None, *, ended: bool = False) -> None:
        """Ask until it holds for the checkpoint of what is durable, or for the shard's end."""
        started = self._clock.monotonic()
        target = None if ended or durable is None else durable.position
        what = f"checkpointing {worker.shard_id}"
        for attempt, wait in enumerate(backoff(), 1):
            error = self._protocol.checkpoint(target)
            if error is None:
                break
            if error == _LOST:
                self._lose(worker)  # the daemon says so too, in the next action
                return
            if error not in _PASSING:
                raise StreamprocError(f"{what}: KCL answered {error}, after which it can not be relied upon")
            self._telemetry.emit(Retried(what=what, error=error, attempt=attempt, wait_seconds=wait))
            self._clock.wait(wait)
        self._telemetry.emit(checkpointed(worker.shard_id, target, durable, self._clock.monotonic() - started))


R = TypeVar("R")


class _WatchedWorker(ShardWorker):
    """Tells the runner when it is in the application's code, where alone it may be killed for taking too long."""

    #: Set before the first batch.
    pulse: Pulse | None = None

    def _in_user_code(self, records: Sequence[Record], call: Callable[[], R]) -> R:
        pulse = self.pulse
        if pulse is None:
            return super()._in_user_code(records, call)

        def watched() -> R:
            with pulse:
                return call()

        return super()._in_user_code(records, watched)


def worker_for(
    application: Application,
    namespace: Namespace,
    action: Initialize,
    clock: Clock,
    telemetry: Telemetry,
    pulse: Pulse | None = None,
) -> ShardWorker:
    """A started worker for the shard. Raises where the model, a store or the stream cannot be used: no record is read.

    Whoever had the shard before may have died of a record in it, on this host or on another; only the notes in the
    dead-letter store would tell, so a worker here is always careful until its first checkpoint.
    """
    ports = with_snapshots(
        application,
        application.ports(namespace),
        clock,
        telemetry,
        threading.Event(),
        shards=lambda: list_shards(aws_client("kinesis"), application.stream),
        only_as=action.shard_id,
    )
    worker = _WatchedWorker(
        shard_id=action.shard_id,
        hash_range=_hash_range(application.stream, action.shard_id),
        processor=application.processor(),
        ports=ports,
        settings=application.worker,
        clock=clock,
        telemetry=telemetry,
        abort=threading.Event(),
    )
    worker.pulse = pulse
    worker.start(position_of(action.shard_id, action), after_death=True)
    return worker


def _hash_range(stream: str, shard_id: str) -> HashRange:
    for shard in list_shards(aws_client("kinesis"), stream):
        if shard.shard_id == shard_id:
            return shard.hash_range
    raise StreamNotFound(f"the stream {stream!r} has no shard {shard_id}: it is gone with its last record")


def main() -> int:
    """Serve a shard for the daemon that started this process. Returns the exit code."""
    protocol = take_over_standard_streams()
    # The runner and the daemon say when to end; a Ctrl-C in a terminal reaches every process in it.
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    log = LogWriter()
    relay = RelaySender.from_environment()
    clock, telemetry = SystemClock(), Telemetry(log, *([relay] if relay is not None else []))
    child: Child | None = None
    try:
        settings = _settings()
        pulse = Pulse(Path(settings.pulse_folder)) if settings.pulse_folder is not None else None
        start = _starter(settings, clock, telemetry, pulse)
        child = Child(protocol, start, clock=clock, telemetry=telemetry, pulse=pulse)
        child.run()
    except Exception as error:  # noqa: BLE001  # also the application's own: the daemon must not hear of a success
        exit_code = error.exit_code if isinstance(error, StreamprocError) else 1
        reason = str(error) if isinstance(error, StreamprocError) else traceback.format_exc()
        telemetry.emit(ChildFailed(shard_id=child.shard_id if child else "", reason=reason, exit_code=exit_code))
        return exit_code
    finally:
        if relay is not None:
            relay.close()
        log.close()
    return 0


def _settings() -> ChildSettings:
    text = os.environ.get(ENVIRONMENT_VARIABLE)
    if text is None:
        raise SettingsError(f"{ENVIRONMENT_VARIABLE} is not set: this program is started by `streamproc run`")
    return msgspec.json.decode(text, type=ChildSettings)


def _starter(
    settings: ChildSettings, clock: Clock, telemetry: Telemetry, pulse: Pulse | None
) -> Callable[[Initialize], ShardWorker]:
    replace = msgspec.structs.replace
    application = replace(load_application(settings.app), name=settings.name, stream=settings.stream)
    if settings.checkpoint_seconds is not None:
        worker = replace(application.worker, checkpoint_seconds=settings.checkpoint_seconds)
        application = replace(application, worker=worker)
    namespace = Namespace(settings.name, settings.stream, settings.stream_created_at)

    def start(action: Initialize) -> ShardWorker:
        if settings.alias is not None:
            still_serves(settings.alias, settings.name)  # the lease is held now, so a switch can not come later
        return worker_for(application, namespace, action, clock, telemetry, pulse)

    return start


if __name__ == "__main__":
    sys.exit(main())
