"""A small keyed application, a clock that tests move, and a bench that puts a worker on memory ports."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from streamproc.checkpoint import STATES_PER_WRITE
from streamproc.deadletter import DeadLetter
from streamproc.deadletters.memory import MemoryDeadLetters
from streamproc.errors import DecodeError
from streamproc.namespace import Namespace
from streamproc.processor import Changed, KeyedProcessor
from streamproc.projections.memory import MemoryProjection
from streamproc.record import Batch, Position, Record, shard_id_of
from streamproc.settings import WorkerSettings
from streamproc.shardmap import ALL_HASH_KEYS, HashRange
from streamproc.sink import Delivery
from streamproc.sinks.memory import MemorySink
from streamproc.states.memory import MemoryStates
from streamproc.telemetry import Telemetry, TelemetryEvent
from streamproc.testing.clock import ManualClock
from streamproc.worker import Ports, ShardWorker

NAMESPACE = Namespace("app", "stream", 1)


class Sums(KeyedProcessor[dict[str, Any], dict[str, Any], dict[str, Any]]):
    """Keeps the values of each key in order. Values that are words make it fail in ways the tests name."""

    fold_version = 1

    def __init__(self) -> None:
        self.emit_calls: list[int] = []
        self.fails_once: set[str] = set()

    def decode(self, data: bytes) -> dict[str, Any]:
        try:
            event: dict[str, Any] = json.loads(data)
        except ValueError as error:
            raise DecodeError("not JSON") from error
        return event

    def key(self, event: dict[str, Any]) -> str:
        return str(event["key"])

    def event_id(self, event: dict[str, Any]) -> bytes:
        return str(event["id"]).encode()

    def event_time(self, event: dict[str, Any]) -> float:
        return float(event.get("at", 0))

    def new_state(self) -> dict[str, Any]:
        return {"values": []}

    def fold(self, state: dict[str, Any], event: dict[str, Any]) -> dict[str, Any]:
        value = event["value"]
        state["values"].append(value)  # changed before it fails: the library must not keep that
        if value == "poison":
            raise ValueError("poison")
        if value in self.fails_once:
            self.fails_once.discard(value)
            raise ValueError("once")
        return state

    def emit(self, changed: Sequence[Changed[dict[str, Any]]]) -> Sequence[dict[str, Any] | None]:
        self.emit_calls.append(len(changed))
        if any(item.key == "unemittable" for item in changed):
            raise ValueError("cannot emit")
        return [{"key": item.key, "n": item.events_folded} if item.key != "silent" else None for item in changed]

    def encode(self, output: dict[str, Any]) -> bytes:
        return json.dumps(output).encode()

    def encode_state(self, state: dict[str, Any]) -> bytes:
        return json.dumps(state).encode()

    def decode_state(self, data: bytes) -> dict[str, Any]:
        state: dict[str, Any] = json.loads(data)
        return state


def record(sequence_number: int, key: str, value: object, *, event_id: str | None = None, **more: object) -> Record:
    """A record that holds an event of :class:`Sums`."""
    event = {"key": key, "value": value, "id": event_id or f"id-{sequence_number}", **more}
    return Record(json.dumps(event).encode(), key, Position(0, sequence_number), 1_000.0)


class FlakySink:
    """Fails as scripted: an error to raise, or what to answer."""

    def __init__(self, *script: Exception | Callable[[Sequence[bytes]], Delivery]) -> None:
        self.script = list(script)
        self.accepted: list[bytes] = []
        self.outputs = self.accepted

    def check(self) -> str:
        return "scripted"

    def publish(self, outputs: Sequence[bytes]) -> Delivery:
        step = self.script.pop(0) if self.script else None
        if isinstance(step, Exception):
            raise step
        delivery = step(outputs) if step else Delivery([], [])
        gone = {*delivery.pending, *(index for index, _ in delivery.refused)}
        self.accepted += [output for index, output in enumerate(outputs) if index not in gone]
        return delivery


@dataclass
class Bench:
    """A worker of shard 0 on memory ports, and what it wrote."""

    processor: Sums = field(default_factory=Sums)
    clock: ManualClock = field(default_factory=lambda: ManualClock(1_000.0))
    states: MemoryStates = field(default_factory=lambda: MemoryStates(NAMESPACE))
    projection: MemoryProjection = field(default_factory=lambda: MemoryProjection(NAMESPACE))
    sink: MemorySink = field(default_factory=lambda: MemorySink(NAMESPACE))
    deadletters: MemoryDeadLetters = field(default_factory=lambda: MemoryDeadLetters(NAMESPACE))
    abort: threading.Event = field(default_factory=threading.Event)
    telemetry: list[TelemetryEvent] = field(default_factory=list)

    def worker(
        self,
        checkpoint: Position | None = None,
        *,
        hash_range: HashRange = ALL_HASH_KEYS,
        settings: WorkerSettings | None = None,
        after_death: bool = False,
        states_per_write: int = STATES_PER_WRITE,
        shard_number: int = 0,
    ) -> ShardWorker:
        """A new worker, started after this checkpoint."""
        worker = ShardWorker(
            shard_id=shard_id_of(shard_number),
            hash_range=hash_range,
            processor=self.processor,
            ports=Ports(
                states=self.states,
                deadletters=self.deadletters,
                sink=self.sink,
                projection=self.projection,
                namespace=NAMESPACE,
            ),
            settings=settings or WorkerSettings(),
            clock=self.clock,
            telemetry=Telemetry(self.telemetry.append),
            abort=self.abort,
            states_per_write=states_per_write,
        )
        worker.start(checkpoint, after_death=after_death)
        return worker

    def values(self, key: str) -> list[Any]:
        """What the store holds for a key."""
        stored = self.states.load([key])
        return list(json.loads(stored[key].state)["values"]) if stored else []

    def letters(self) -> dict[int, DeadLetter]:
        """The dead letters by sequence number."""
        return {letter.position.sequence_number: letter for letter in self.deadletters.scan()}

    def outputs(self) -> list[dict[str, Any]]:
        """What was published."""
        return [json.loads(output) for output in self.sink.outputs]


def batch(records: Iterable[Record]) -> Batch:
    """A read of shard 0."""
    return Batch("shardId-000000000000", list(records))


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.fixture
def make_bench() -> Callable[[], Bench]:
    return Bench


@pytest.fixture
def make_record() -> Callable[..., Record]:
    return record


@pytest.fixture
def make_batch() -> Callable[[Iterable[Record]], Batch]:
    return batch


@pytest.fixture
def manual_clock() -> Callable[[], ManualClock]:
    return lambda: ManualClock(1_000.0)


@pytest.fixture
def sums() -> Callable[[], Sums]:
    return Sums


@pytest.fixture
def flaky_sink() -> type[FlakySink]:
    return FlakySink
