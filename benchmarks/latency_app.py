"""The recommender, which also writes down when it read each batch, what each step of it took, and its checkpoints.

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
    ended: float
    seconds: float
    steps: dict[str, float]


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """One checkpoint: for so long, until then (seconds since the epoch), the shard was not read."""

    shard_id: str
    ended: float
    seconds: float


class BatchJournal:
    """Subscribes to the worker's telemetry, and to boto3's calls of GetRecords."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab", buffering=0)
        self._reads = threading.local()  # a shard is read and processed by one thread
        self._telemetry: list[Telemetry] = []

    def observe(self, telemetry: Telemetry) -> None:
        """Subscribe, once for all shards of a process."""
        if not any(each is telemetry for each in self._telemetry):
            self._telemetry.append(telemetry)
            telemetry.subscribe(self)

    def reading(self, **_: Any) -> None:
        self._reads.started = time.time()

    def read(self, **_: Any) -> None:
        self._reads.ended = time.time()

    def __call__(self, event: TelemetryEvent) -> None:
        if isinstance(event, BatchCommitted) and event.position is not None:
            batch = Batch(
                shard_id=event.shard_id,
                position=event.position,
                records=event.records,
                users=event.outputs,
                read_started=getattr(self._reads, "started", None),
                read_ended=getattr(self._reads, "ended", None),
                ended=time.time(),
                seconds=event.batch_seconds,
                steps=event.step_seconds,
            )
            self._file.write(msgspec.json.encode(batch) + b"\n")
        elif isinstance(event, Checkpointed):
            checkpoint = Checkpoint(shard_id=event.shard_id, ended=time.time(), seconds=event.seconds)
            self._file.write(msgspec.json.encode(checkpoint) + b"\n")


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
    journal = BatchJournal(Path(environment(ENVIRONMENT_VARIABLE)))
    calls = aws_client("kinesis").meta.events
    calls.register("before-call.kinesis.GetRecords", journal.reading)
    calls.register("after-call.kinesis.GetRecords", journal.read)
    return msgspec.structs.replace(
        application,
        processor=observed(application.processor, journal),
        kcl=KclRunnerSettings(failover_seconds=2, shard_sync_seconds=1, parent_poll_seconds=1, worker_metrics=False),
    )
