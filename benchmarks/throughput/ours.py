"""Our way: ``ShardWorker`` with the whole commit protocol, the recommender and its telemetry, fed from memory.

The projection is in Redis, states, partials and dead letters are written with the DynamoDB adapters to whatever
AWS_ENDPOINT_URL_DYNAMODB names. The lease, which a runner would move with one write a checkpoint, is left out.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import msgspec

from benchmarks.throughput.inputs import FIRST_SEQUENCE_NUMBER
from benchmarks.throughput.job import (
    CHECKPOINT_SECONDS,
    Task,
    bundle_of,
    log_lines,
    mark,
    output,
    task,
    wait_for_start,
)
from streamproc.checkpoint import Durable
from streamproc.deadletters.dynamodb import DynamoDBDeadLetters
from streamproc.memory import release_memory, settle_memory
from streamproc.metrics.logs import LogWriter
from streamproc.namespace import Namespace
from streamproc.ports import Ports
from streamproc.projections.redis import RedisProjection
from streamproc.record import Batch, Position, Record, shard_id_of
from streamproc.registry import Registry
from streamproc.settings import WorkerSettings
from streamproc.shardmap import ALL_HASH_KEYS
from streamproc.sink import Delivery
from streamproc.states.dynamodb import DynamoDBStates
from streamproc.telemetry import BatchCommitted, Telemetry, TelemetryEvent
from streamproc.worker import ShardWorker
from streamproc_consumers.recommender import Recommender
from streamproc_producers.events import decode

SHARD_ID = shard_id_of(0)


class EventTime:
    """A clock that shows the event time of the batch in hand, so that checkpoints are due by it."""

    def __init__(self) -> None:
        self.now = 0.0

    def time(self) -> float:
        """See :class:`streamproc.clock.Clock`."""
        return self.now

    def monotonic(self) -> float:
        """See :class:`streamproc.clock.Clock`."""
        return self.now

    def wait(self, seconds: float, stop: threading.Event | None = None) -> bool:  # noqa: ARG002
        """Nothing here should have to be tried again."""
        raise AssertionError(f"the worker wants to wait {seconds} s: Redis or the responder failed")


class Lines:
    """A sink that appends lines to the way's output."""

    def __init__(self, of: Task) -> None:
        self._file = output(of)

    def check(self) -> str:
        """See :class:`streamproc.sink.Sink`."""
        return "a file"

    def publish(self, outputs: Sequence[bytes]) -> Delivery:
        """See :class:`streamproc.sink.Sink`."""
        self._file.write(b"\n".join([*outputs, b""]))
        self._file.flush()
        return Delivery([], [])


class Counted:
    """A subscriber: events folded, and seconds by step."""

    def __init__(self) -> None:
        self.events = self.outputs = self.states_written = self.checkpoints = 0
        self.step_seconds: dict[str, float] = {}

    def __call__(self, event: TelemetryEvent) -> None:
        if isinstance(event, BatchCommitted):
            self.events += event.events_folded
            self.outputs += event.outputs
            # The parts of a step come instead of the step.
            steps = {name: took for name, took in event.step_seconds.items() if name != "emit"} | event.emit_seconds
            for name, took in steps.items():
                self.step_seconds[name] = self.step_seconds.get(name, 0.0) + took


def worker_of(of: Task, clock: EventTime, telemetry: Telemetry) -> ShardWorker:
    """A worker as a runner makes it, with the adapters of the application."""
    namespace = Namespace("bench", "cart-events", 1)
    return ShardWorker(
        shard_id=SHARD_ID,
        hash_range=ALL_HASH_KEYS,
        processor=Recommender(bundle_of(of), clock),
        ports=Ports(
            namespace=namespace,
            states=DynamoDBStates(namespace),
            deadletters=DynamoDBDeadLetters(namespace, bucket="none"),
            sink=Lines(of),
            projection=RedisProjection(namespace, url=of.redis_url),
            partials=DynamoDBStates(namespace.of_partials()),
        ),
        settings=WorkerSettings(
            checkpoint_seconds=CHECKPOINT_SECONDS, emit_at_most_every_seconds=of.at_most_every_seconds
        ),
        clock=clock,
        telemetry=telemetry,
        abort=threading.Event(),
    )


def records_of(lines: Sequence[bytes]) -> list[Record]:
    """The log as a reader hands it over."""
    records = []
    for number, line in enumerate(lines):
        event = decode(line)
        records.append(Record(line, event.user_id, Position(0, FIRST_SEQUENCE_NUMBER + number), event.at))
    return records


def main() -> None:
    of = task()
    records = records_of(log_lines(of))
    clock, counted = EventTime(), Counted()
    clock.now = records[0].arrived_at
    log = LogWriter()
    worker = worker_of(of, clock, Telemetry(log, Registry(), counted))
    worker.start(None)
    settle_memory()
    wait_for_start(of)
    for start in range(0, len(records), of.batch):
        batch = records[start : start + of.batch]
        clock.now = batch[-1].arrived_at
        worker.process(Batch(SHARD_ID, batch))
        count(worker.advance_checkpoint(until=0.0), counted)
    count(worker.make_durable(), counted)
    mark("done")
    log.close()
    if counted.events != len(records):
        sys.exit(f"{counted.events} of {len(records)} events were folded, so the figures would mean nothing")
    Path(of.out, "counted.json").write_bytes(msgspec.json.encode(counted.__dict__))


def count(durable: Durable | None, counted: Counted) -> None:
    """After a checkpoint, as a runner has it; it gives memory back then, too."""
    if durable is not None:
        release_memory()
        counted.checkpoints += 1
        counted.states_written += durable.states_written


if __name__ == "__main__":
    main()
