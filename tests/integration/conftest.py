"""Running applications on the local stack, in this process or in one of their own."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from streamproc.application import Application
from streamproc.leases.dynamodb import DynamoDBLeases
from streamproc.local import LocalStack
from streamproc.runners.local import LocalRunner
from streamproc.telemetry import BatchCommitted, Telemetry, TelemetryEvent
from streamproc_models.training import train
from streamproc_producers.simulate import Shop, simulate

SETTLE_SECONDS = 90.0


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle without a booster: a simulated afternoon is too little to train one on, and popularity ranks."""
    folder = tmp_path_factory.mktemp("model")
    start = datetime(2026, 1, 1, tzinfo=UTC)
    ids = (uuid.UUID(int=n) for n in range(10**9))
    shopping = simulate(Shop(users=20, items=30, rate=1.0, seed=1), start, lambda *_: next(ids))
    events = [event for _, event in zip(range(2000), shopping, strict=False)]
    train(events, datetime(2027, 1, 1, tzinfo=UTC), folder, items={})
    return folder


@pytest.fixture
def local_aws(stack: LocalStack, monkeypatch: pytest.MonkeyPatch) -> LocalStack:
    """The stack, with this process's environment pointing at it."""
    for name, value in stack.environment().items():
        monkeypatch.setenv(name, value)
    return stack


@pytest.fixture
def until() -> Callable[[Callable[[], bool]], None]:
    """Waits for something that other threads or processes bring about."""

    def wait(reached: Callable[[], bool]) -> None:
        deadline = time.monotonic() + SETTLE_SECONDS
        while not reached():
            assert time.monotonic() < deadline, "it did not happen in time"
            time.sleep(0.02)

    return wait


class Run:
    """A local runner in a thread, and the telemetry it emitted."""

    def __init__(self, application: Application) -> None:
        self.telemetry: list[TelemetryEvent] = []
        self.failure: BaseException | None = None
        self._stop = threading.Event()
        self._runner = LocalRunner(
            application, leases=DynamoDBLeases(application.name), telemetry=Telemetry(self.telemetry.append)
        )
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._runner.run(self._stop)
        except Exception as error:  # noqa: BLE001  # for the test to look at
            self.failure = error

    def records(self) -> int:
        """How many records went through the commit protocol."""
        return sum(event.records for event in self.telemetry if isinstance(event, BatchCommitted))

    def stop(self) -> None:
        """Stop in order."""
        self._stop.set()
        self._thread.join()


@pytest.fixture
def running() -> Iterator[Callable[[Application], Run]]:
    """Starts runners, and stops them at the end of the test."""
    with contextlib.ExitStack() as started:

        def start(application: Application) -> Run:
            run = Run(application)
            started.callback(run.stop)
            return run

        yield start


@pytest.fixture
def streamproc(stack: LocalStack) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs the command line to its end, as a user would, with the stack's environment; None unsets a variable."""

    def run(*arguments: str, **environment: str | None) -> subprocess.CompletedProcess[str]:
        own = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "STREAMPROC_"))}
        settings: dict[str, str | None] = {**own, **stack.environment(), **environment}
        return subprocess.run(
            [sys.executable, "-m", "streamproc", *arguments],
            env={name: value for name, value in settings.items() if value is not None},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return run
