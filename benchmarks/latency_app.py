"""The recommender, which also writes down when it read each batch, what each step took, and its calls of DynamoDB.

``STREAMPROC_BENCH_BATCHES`` is the file: a :class:`Batch` or a :class:`Checkpoint` of JSON a line. It is the real
application under either runner; the journal costs some ten microseconds a batch.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from streamproc.application import Application, environment
from streamproc.aws import aws_client
from streamproc.runners.kcl.properties import KclRunnerSettings
from streamproc.telemetry import BatchCommitted, Checkpointed, Telemetry, TelemetryEvent
from streamproc_consumers import recommender

ENVIRONMENT_VARIABLE = "STREAMPROC_BENCH_BATCHES"


class Batch(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """One batch. Times are seconds since the epoch."""

    shard_id: str
    #: Of its last record, as text.
    position: str
    records: int
    users: int
    #: Around GetRecords; None under KCL, which reads in Java.
    read_started: float | None
    read_ended: float | None
    #: When the next read of the shard is due; None under KCL.
    next_read: float | None
    #: Calls of DynamoDB since the batch before this one: parts of a checkpoint, beside the loading of states.
    calls: list[tuple[float, float]]
    ended: float
    seconds: float
    steps: dict[str, float]


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """One checkpoint: how long its parts took together."""

    seconds: float


class _Shard(threading.local):
    """What a thread did since its last batch."""

    def __init__(self) -> None:
        self.read_started: float | None = None
        self.read_ended: float | None = None
        self.call_started = 0.0
        self.calls: list[tuple[float, float]] = []


class BatchJournal:
    """Subscribes to the worker's telemetry, and to boto3's calls."""

    def __init__(self, path: Path, poll_seconds: float) -> None:
        self._file = path.open("ab", buffering=0)
        self._poll_seconds = poll_seconds
        self._shard = _Shard()  # a shard is read and processed by one thread
        self._telemetry: list[Telemetry] = []

    def observe(self, telemetry: Telemetry) -> None:
        """Subscribe, once for all shards of a process."""
        if not any(each is telemetry for each in self._telemetry):
            self._telemetry.append(telemetry)
            telemetry.subscribe(self)

    def reading(self, **_: Any) -> None:
        self._shard.read_started = time.time()

    def read(self, **_: Any) -> None:
        self._shard.read_ended = time.time()

    def calling(self, **_: Any) -> None:
        self._shard.call_started = time.time()

    def called(self, **_: Any) -> None:
        self._shard.calls.append((self._shard.call_started, time.time()))

    def __call__(self, event: TelemetryEvent) -> None:
        if isinstance(event, BatchCommitted) and event.position is not None:
            shard = self._shard
            batch = Batch(
                shard_id=event.shard_id,
                position=event.position,
                records=event.records,
                users=event.outputs,
                read_started=shard.read_started,
                read_ended=shard.read_ended,
                next_read=shard.read_started and shard.read_started + self._poll_seconds,
                calls=shard.calls,
                ended=time.time(),
                seconds=event.batch_seconds,
                steps=event.step_seconds,
            )
            shard.calls = []
            self._file.write(msgspec.json.encode(batch) + b"\n")
        elif isinstance(event, Checkpointed):
            self._file.write(msgspec.json.encode(Checkpoint(seconds=event.seconds)) + b"\n")


def observed(make: Callable[[], Any], journal: BatchJournal) -> Callable[[], Any]:
    """The processor, which hands the worker's telemetry to the journal as well."""

    def processor() -> Any:
        made = make()
        observe = made.observe

        def both(telemetry: Telemetry) -> None:
            observe(telemetry)
            journal.observe(telemetry)

        made.observe = both
        return made

    return processor


def app() -> Application:
    """The recommender's application, observed; under KCL with the short waits of a small fleet."""
    application = recommender.app()
    journal = BatchJournal(Path(environment(ENVIRONMENT_VARIABLE)), application.local.poll_seconds)
    kinesis, dynamodb = aws_client("kinesis").meta.events, aws_client("dynamodb").meta.events
    kinesis.register("before-call.kinesis.GetRecords", journal.reading)
    kinesis.register("after-call.kinesis.GetRecords", journal.read)
    dynamodb.register("before-call.dynamodb", journal.calling)
    dynamodb.register("after-call.dynamodb", journal.called)
    return msgspec.structs.replace(
        application,
        processor=observed(application.processor, journal),
        kcl=KclRunnerSettings(failover_seconds=2, shard_sync_seconds=1, parent_poll_seconds=1, worker_metrics=False),
    )
