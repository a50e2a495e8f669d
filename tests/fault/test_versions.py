"""A new fold is deployed, rolled back by mistake, and deployed again, under load, with real processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from streamproc.deadletters.dynamodb import DynamoDBDeadLetters
from streamproc.errors import NewerState
from streamproc.leases.dynamodb import DynamoDBLeases
from streamproc.local import LocalStack
from streamproc.namespace import Namespace
from streamproc.projections.redis import RedisProjection
from streamproc.state import StoredState, fingerprint, roll
from streamproc.states.dynamodb import DynamoDBStates
from streamproc.stream import stream_created_at

#: The second version keeps a sum beside the numbers, and reads the sum of a state of the first from them.
APPLICATION = """
import json
import os
from functools import partial

from streamproc.application import Application
from streamproc.deadletters.dynamodb import DynamoDBDeadLetters
from streamproc.processor import KeyedProcessor
from streamproc.projections.redis import RedisProjection
from streamproc.settings import LocalRunnerSettings, WorkerSettings
from streamproc.states.dynamodb import DynamoDBStates


class First(KeyedProcessor):
    def decode(self, data): return json.loads(data)
    def key(self, event): return event["key"]
    def event_id(self, event): return str(event["n"]).encode()
    def event_time(self, event): return 0.0
    def new_state(self): return []
    def fold(self, state, event): return [*state, event["n"]]
    def emit(self, changed): return [None for _ in changed]
    def encode(self, output): return output
    def encode_state(self, state): return json.dumps(state).encode()
    def decode_state(self, data): return json.loads(data)


class Second(First):
    fold_version = 2
    def new_state(self): return {"numbers": [], "sum": 0}
    def fold(self, state, event):
        return {"numbers": [*state["numbers"], event["n"]], "sum": state["sum"] + event["n"]}
    def migrate_state(self, data, fold_version):
        assert fold_version == 1
        numbers = json.loads(data)
        return {"numbers": numbers, "sum": sum(numbers)}


def app(version):
    name = os.environ["STREAMPROC_STREAM"]
    return Application(
        name=name, stream=name, processor=version, states=DynamoDBStates,
        deadletters=partial(DynamoDBDeadLetters, bucket=name),
        projection=partial(RedisProjection, url=os.environ["STREAMPROC_REDIS_URL"]),
        worker=WorkerSettings(checkpoint_seconds=0.3), local=LocalRunnerSettings(failover_seconds=1),
    )


first, second = partial(app, First), partial(app, Second)
"""
SHARDS, KEYS, EVENTS_PER_SECOND = 2, 8, 60
SECONDS_MAX = 40.0


class Load(threading.Thread):
    """Puts events, numbered in order, until it is told to stop."""

    def __init__(self, stack: LocalStack, stream: str) -> None:
        super().__init__(name="load")
        self.numbers: defaultdict[str, list[int]] = defaultdict(list)
        self._kinesis = stack.client("kinesis")
        self._stream = stream
        self._stopped = threading.Event()

    def run(self) -> None:
        """See the class."""
        n = 0
        while not self._stopped.wait(1 / EVENTS_PER_SECOND):
            key = f"key-{n % KEYS}"
            data = json.dumps({"key": key, "n": n}).encode()
            self._kinesis.put_record(StreamName=self._stream, Data=data, PartitionKey=key)
            self.numbers[key].append(n)
            n += 1

    def stop(self) -> None:
        """The last event is in the stream afterwards."""
        self._stopped.set()
        self.join()


class Deployment:
    """One stream under load, and the versions that are started on it."""

    def __init__(self, stack: LocalStack, folder: Path) -> None:
        self.name = f"versions-{uuid.uuid4().hex[:8]}"
        self._stack = stack
        self._folder = folder
        self._starts = 0
        stack.create_stream(self.name, SHARDS)
        stack.client("s3").create_bucket(Bucket=self.name)
        self._dynamodb = stack.client("dynamodb")
        namespace = Namespace(self.name, self.name, stream_created_at(stack.client("kinesis"), self.name))
        self.states = DynamoDBStates(namespace, client=self._dynamodb)
        self.states.prepare()
        self.letters = DynamoDBDeadLetters(namespace, bucket=self.name, client=self._dynamodb, s3=stack.client("s3"))
        self.projection = RedisProjection(namespace, url=stack.redis_url)
        self.load = Load(stack, self.name)
        self.load.start()

    def start(self, version: str) -> subprocess.Popen[bytes]:
        self._starts += 1
        with self.log.open("wb") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "streamproc", "run", "-A", f"versioned:{version}"],
                cwd=self._folder,
                env={**os.environ, **self._stack.environment(), "STREAMPROC_STREAM": self.name},
                stderr=log,
            )

    @property
    def log(self) -> Path:
        """What the version that was started last says."""
        return self._folder / f"start-{self._starts}.log"

    def until(self, reached: Callable[[], bool]) -> None:
        deadline = time.monotonic() + SECONDS_MAX
        while not reached():
            assert time.monotonic() < deadline, f"it did not happen in time: {self.log.read_text()[-2000:]}"
            time.sleep(0.1)

    def stored(self) -> dict[str, StoredState]:
        return {one.key: one for one in self.states.scan()}

    def all_are_of_version(self, version: int) -> bool:
        return [one.fold_version for one in self.states.scan()] == [version] * KEYS

    def durable(self) -> dict[str, Any]:
        """Every item that a worker could have written or moved, but for who owns which lease."""
        tables = {
            table: sorted(self._dynamodb.scan(TableName=table, ConsistentRead=True)["Items"], key=repr)
            for table in (self.states.table, self.letters.table)
        }
        leases = DynamoDBLeases(self.name, client=self._dynamodb).list()
        checkpoints = {lease.shard_id: (lease.checkpoint, lease.checkpoint_sub_sequence_number) for lease in leases}
        return {**tables, "checkpoints": checkpoints, "projection": self.projection.read([*self.stored()])}


@pytest.fixture
def deployment(stack: LocalStack, tmp_path: Path) -> Iterator[Deployment]:
    (tmp_path / "versioned.py").write_text(APPLICATION)
    deployment = Deployment(stack, tmp_path)
    yield deployment
    deployment.load.stop()


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL], ids=["stopped", "killed"])
def test_a_rollback_to_the_older_fold_refuses_and_writes_nothing_and_the_newer_one_goes_on(
    deployment: Deployment, end: signal.Signals
) -> None:
    with deployment.start("first") as first:
        deployment.until(lambda: deployment.all_are_of_version(1))
        first.send_signal(end)
        assert first.wait(SECONDS_MAX) == (0 if end == signal.SIGTERM else -signal.SIGKILL)
    with deployment.start("second") as second:
        deployment.until(lambda: deployment.all_are_of_version(2))
        second.terminate()
        assert second.wait(SECONDS_MAX) == 0

    before = deployment.durable()
    with deployment.start("first") as rolled_back:
        assert rolled_back.wait(SECONDS_MAX) == NewerState.exit_code == 8
    said = deployment.log.read_text()
    assert "was written by fold version 2, and this worker has 1: deploy the newer version here" in said
    assert "Traceback" not in said
    assert deployment.durable() == before

    with deployment.start("second") as second:
        deployment.until(lambda: deployment.durable()["checkpoints"] != before["checkpoints"])
        deployment.load.stop()
        events = sum(len(numbers) for numbers in deployment.load.numbers.values())
        deployment.until(lambda: sum(one.events_folded for one in deployment.states.scan()) >= events)
        second.terminate()
        assert second.wait(SECONDS_MAX) == 0
    stored = deployment.stored()
    assert {key: json.loads(one.state) for key, one in stored.items()} == {
        key: {"numbers": numbers, "sum": sum(numbers)} for key, numbers in deployment.load.numbers.items()
    }
    for key, numbers in deployment.load.numbers.items():
        ids_hash = 0
        for n in numbers:
            ids_hash = roll(ids_hash, fingerprint(str(n).encode()))
        assert (stored[key].events_folded, stored[key].ids_hash) == (len(numbers), ids_hash)
    assert deployment.projection.read([*stored]) == stored
    assert list(deployment.letters.scan()) == []
