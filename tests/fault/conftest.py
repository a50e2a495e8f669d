"""An application to run under faults, a clock that hurries, a runner in a thread, and waiting for what they bring."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import pytest

from streamproc.application import Application
from streamproc.clock import SystemClock
from streamproc.errors import DecodeError, is_transient
from streamproc.leases.dynamodb import DynamoDBLeases
from streamproc.processor import AnyProcessor, Changed, KeyedProcessor
from streamproc.runners.local import LocalRunner
from streamproc.telemetry import BatchCommitted, Telemetry, TelemetryEvent

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_kinesis import KinesisClient

SETTLE_SECONDS = 30.0


class Ids(KeyedProcessor[dict[str, Any], list[str], dict[str, Any]]):
    """Keeps the ids of each key's events in order. An event with a broken one makes the fold fail."""

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
        del event
        return 0.0

    def new_state(self) -> list[str]:
        return []

    def fold(self, state: list[str], event: dict[str, Any]) -> list[str]:
        state.append(event["id"])
        if event.get("broken"):
            raise ValueError("a broken event")
        return state

    def emit(self, changed: Sequence[Changed[list[str]]]) -> Sequence[dict[str, Any]]:
        return [{"key": item.key, "events": len(item.state), "last": item.state[-1]} for item in changed]

    def encode(self, output: dict[str, Any]) -> bytes:
        return json.dumps(output).encode()

    def encode_state(self, state: list[str]) -> bytes:
        return json.dumps(state).encode()

    def decode_state(self, data: bytes) -> list[str]:
        state: list[str] = json.loads(data)
        return state


class HurriedClock(SystemClock):
    """A clock on which time passes ten times as fast, so that polls and backoffs take a tenth."""

    PACE = 10.0

    def monotonic(self) -> float:
        return super().monotonic() * self.PACE

    def wait(self, seconds: float, stop: threading.Event | None = None) -> bool:
        return super().wait(seconds / self.PACE, stop)


class Run:
    """An application in a thread, under a supervisor that starts it again where its start met an error that passes."""

    def __init__(self, application: Application, kinesis: KinesisClient, dynamodb: DynamoDBClient) -> None:
        self.telemetry: list[TelemetryEvent] = []
        self.failure: BaseException | None = None
        self._application = application
        self._kinesis = kinesis
        self._leases = DynamoDBLeases(application.name, client=dynamodb)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while True:
            runner = LocalRunner(
                self._application,
                leases=self._leases,
                kinesis=self._kinesis,
                telemetry=Telemetry(self.telemetry.append),
                clock=HurriedClock(),
            )
            try:
                runner.run(self._stop)
            except Exception as error:  # noqa: BLE001  # for the test to look at
                if is_transient(error) and not self.of(BatchCommitted):
                    continue
                self.failure = error
            return

    def of(self, kind: type[TelemetryEvent]) -> list[TelemetryEvent]:
        """What it reported of this kind."""
        return [event for event in self.telemetry if isinstance(event, kind)]

    def stop(self) -> None:
        """Stop in order. What ended it before is in ``failure``."""
        self._stop.set()
        self._thread.join()


@pytest.fixture
def processor() -> Callable[[], AnyProcessor]:
    return Ids


@pytest.fixture
def hurried_clock() -> HurriedClock:
    return HurriedClock()


@pytest.fixture
def running() -> Iterator[Callable[[Application, KinesisClient, DynamoDBClient], Run]]:
    """Starts applications, and stops them at the end of the test."""
    with contextlib.ExitStack() as started:

        def start(application: Application, kinesis: KinesisClient, dynamodb: DynamoDBClient) -> Run:
            run = Run(application, kinesis, dynamodb)
            started.callback(run.stop)
            return run

        yield start


@pytest.fixture
def until() -> Callable[[Callable[[], bool]], None]:
    """Waits for something that other threads or processes bring about."""

    def wait(reached: Callable[[], bool]) -> None:
        deadline = time.monotonic() + SETTLE_SECONDS
        while not reached():
            assert time.monotonic() < deadline, "it did not happen in time"
            time.sleep(0.1)

    return wait
