"""``streamproc api`` as its users run it: a process of its own, on a free port; and a log to train its models on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import httpx

from streamproc.application import Application
from streamproc.deadletters.memory import MemoryDeadLetters
from streamproc.local import LocalStack
from streamproc.namespace import Namespace
from streamproc.projections.redis import RedisProjection
from streamproc.settings import LocalRunnerSettings, WorkerSettings
from streamproc.sink import Sink
from streamproc.states.dynamodb import DynamoDBStates
from streamproc_consumers.recommender import Recommender
from streamproc_models.bundle import Bundle
from streamproc_producers.events import CartEvent
from streamproc_producers.simulate import Shop, simulate

#: Where the log ends.
CUT = datetime(2026, 1, 1, tzinfo=UTC)
_START_SECONDS = 60.0


def two_months() -> list[CartEvent]:
    """Enough of a simulated shop to train a booster on in a second."""
    shop = Shop(users=40, items=60, rate=4_000 / timedelta(days=60).total_seconds(), seed=1)
    return list(islice(simulate(shop, CUT - timedelta(days=60)), 4_000))


def recommender_of(name: str, bundle: Bundle, redis_url: str, sink: Callable[[Namespace], Sink]) -> Application:
    """The recommender beside it, on the stream of its name, with a checkpoint a second."""
    return Application(
        name=name,
        stream=name,
        processor=lambda: Recommender(bundle),
        states=DynamoDBStates,
        deadletters=MemoryDeadLetters,
        sink=sink,
        projection=lambda namespace: RedisProjection(namespace, url=redis_url),
        local=LocalRunnerSettings(),
        worker=WorkerSettings(checkpoint_seconds=1.0),
    )


class ApiProcess:
    """The process, a client for it, and its log."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self.log = log
        deadline = time.monotonic() + _START_SECONDS
        while not (started := self.said("streamproc.api_started")):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, "the API did not start in time"
            time.sleep(0.05)
        self.url = str(started[0]["url"])
        self.http = httpx.Client(base_url=self.url, timeout=30.0, trust_env=False)

    def said(self, event: str) -> list[dict[str, Any]]:
        """The lines of its log about an event."""
        lines = self.log.read_text().splitlines(keepends=True)
        told = [json.loads(line) for line in lines if line.endswith("\n")]
        return [line for line in told if line["event"] == event]


@contextmanager
def serving(stack: LocalStack, folder: Path, *arguments: str, **environment: str) -> Iterator[ApiProcess]:
    """The API on this stack, killed at the end where it still runs."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "STREAMPROC_"))}
    log = folder / "api.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                *[sys.executable, "-m", "streamproc", "api", "--port", "0", "--rate", "0"],
                "--log-format=json",
                *arguments,
            ],
            env={**own, **stack.environment(), **environment},
            stderr=output,
        )
    try:
        api = ApiProcess(process, log)
        with api.http:
            yield api
    finally:
        process.kill()
        process.wait()
