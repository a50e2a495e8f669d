"""The fleet as it runs: real daemons (Java, KCL's jars) on kinesis-local, moto's DynamoDB and Firehose, and Redis."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from streamproc.errors import LeasesHeldElsewhere, SettingsError
from streamproc.leases.dynamodb import DynamoDBLeases
from streamproc.local import LocalStack, read_journal
from streamproc.local.kinesis_local import KinesisLocal
from streamproc.namespace import Namespace
from streamproc.producer import Producer
from streamproc.projections.redis import RedisProjection
from streamproc.record import Position
from streamproc.state import fingerprint, roll
from streamproc.states.dynamodb import DynamoDBStates
from streamproc.stream import list_shards, stream_created_at

PATIENCE_SECONDS = 120.0
COMMAND = [sys.executable, "-m", "streamproc", "run", "-A", "kcl_app:app"]
#: One that is not ASCII: the protocol must not take the locale's encoding.
KEYS = ["käuferin-ß-☃", *(f"user-{n}" for n in range(30))]


class Fleet:
    """One stream, and workers on it, each a process with its own JVM."""

    def __init__(self, folder: Path, stack: LocalStack, kinesis: KinesisLocal, shards: int) -> None:
        self.name = f"kcl-{uuid.uuid4().hex[:8]}"
        self.folder = folder
        self.stack = stack
        self.client = kinesis.client()
        self.client.create_stream(StreamName=self.name, ShardCount=shards)
        self.wait(lambda: self._summary()["StreamStatus"] == "ACTIVE")
        stack.create_delivery_stream(self.name, self.name, "outputs/")
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "STREAMPROC_"))},
            **stack.environment(),
            "AWS_ENDPOINT_URL_KINESIS": kinesis.url,
            "KCL_APP_NAME": self.name,
            "KCL_APP_TRAP": str(folder / "trap"),
            "LC_ALL": "C",
        }
        self.sent: list[dict[str, Any]] = []
        self.workers: list[Worker] = []

    def _summary(self) -> Any:
        return self.client.describe_stream_summary(StreamName=self.name)["StreamDescriptionSummary"]

    def start(self, *options: str, **environment: str) -> Worker:
        """A worker of the fleet, unless the options name another runner."""
        log = self.folder / f"worker-{len(self.workers)}.log"
        worker = Worker(log, {**self.environment, **environment}, options or ("--runner", "kcl"))
        self.workers.append(worker)
        return worker

    def run(self, *options: str) -> subprocess.CompletedProcess[str]:
        """``streamproc run`` to its end."""
        return subprocess.run(
            [*COMMAND, *options],
            cwd=Path(__file__).parent,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )

    def wait(self, reached: Callable[[], bool], seconds: float = PATIENCE_SECONDS) -> None:
        deadline = time.monotonic() + seconds
        while not reached():
            assert time.monotonic() < deadline, self.logs()
            time.sleep(0.1)

    def logs(self) -> str:
        logs = [f"{worker.log}:\n{worker.log.read_text()[-6000:]}" for worker in self.workers]
        return "\n".join([*logs, *(str(lease) for lease in self.leases().list())])

    def open_shards(self) -> set[str]:
        return {shard.shard_id for shard in list_shards(self.client, self.name) if not shard.closed}

    def reshard(self, count: int) -> None:
        self.client.update_shard_count(StreamName=self.name, TargetShardCount=count, ScalingType="UNIFORM_SCALING")
        self.wait(lambda: self._summary()["StreamStatus"] == "ACTIVE" and len(self.open_shards()) == count)

    def put(self, producer: Producer, count: int, **more: Any) -> None:
        for _ in range(count):
            n = len(self.sent)
            key = KEYS[n * n % len(KEYS)]
            event = {"id": f"id-{n}", "key": key, "value": n, "at": 1_700_000_000 + n, **more}
            self.sent.append(event)
            producer.put(json.dumps(event).encode(), partition_key=key)

    @property
    def namespace(self) -> Namespace:
        return Namespace(self.name, self.name, stream_created_at(self.client, self.name))

    def states(self) -> DynamoDBStates:
        return DynamoDBStates(self.namespace, client=self.stack.client("dynamodb"))

    def leases(self) -> DynamoDBLeases:
        return DynamoDBLeases(self.name, client=self.stack.client("dynamodb"))

    def folded(self) -> int:
        with contextlib.suppress(SettingsError):  # no table yet
            return sum(state.events_folded for state in self.states().scan())
        return 0

    def started(self) -> bool:
        """Whether a worker of the fleet reads a shard."""
        return any('"event":"streamproc.lease_acquired"' in worker.log.read_text() for worker in self.workers)

    def check(self) -> None:
        """Every event exactly once, in its key's order, in the states; the last of each key in Redis and Firehose."""
        counts: Counter[str] = Counter()
        sums: Counter[str] = Counter()
        hashes: Counter[str] = Counter()
        for event in self.sent:
            key = event["key"]
            counts[key] += 1
            sums[key] += event["value"]
            hashes[key] = roll(hashes[key], fingerprint(event["id"].encode()))
        stored = {state.key: state for state in self.states().scan()}
        assert {key: json.loads(state.state) for key, state in stored.items()} == {
            key: {"count": counts[key], "sum": sums[key]} for key in counts
        }
        assert {key: state.events_folded for key, state in stored.items()} == counts
        assert {key: state.ids_hash for key, state in stored.items()} == hashes, "in the order of each key's puts"
        projection = RedisProjection(self.namespace, url=self.stack.redis_url)
        assert projection.read(list(stored)) == stored
        last: dict[str, tuple[Position, int]] = {}
        for accepted in read_journal(self.stack.firehose_journal):
            if accepted.stream != self.name:
                continue
            for line in accepted.data.splitlines():
                output = json.loads(line)
                position = Position(*output["position"])
                last[output["key"]] = max(last.get(output["key"], (position, 0)), (position, output["count"]))
        assert {key: count for key, (_, count) in last.items()} == counts
        assert {key: position for key, (position, _) in last.items()} == {
            key: state.position for key, state in stored.items()
        }


class Worker:
    """``streamproc run`` in a process of its own."""

    def __init__(self, log: Path, environment: dict[str, str], options: tuple[str, ...]) -> None:
        self.log = log
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [*COMMAND, *options],
                cwd=Path(__file__).parent,
                env=environment,
                stdout=output,
                stderr=output,
            )

    def events(self, name: str) -> list[dict[str, Any]]:
        """The lines of this event."""
        mark = f'"event":"streamproc.{name}"'
        return [json.loads(line) for line in self.log.read_text().splitlines() if mark in line]

    def stop(self) -> int:
        """Ask it to end; returns its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE_SECONDS)


@pytest.fixture
def fleet_of(tmp_path: Path, stack: LocalStack) -> Iterator[Callable[[int], Fleet]]:
    with contextlib.ExitStack() as started:
        kinesis = started.enter_context(KinesisLocal(tmp_path))

        def make(shards: int) -> Fleet:
            fleet = Fleet(tmp_path, stack, kinesis, shards)

            def end() -> None:
                for worker in fleet.workers:
                    worker.process.kill()
                    worker.process.wait()

            started.callback(end)
            return fleet

        yield make


def test_a_worker_processes_a_stream_once_and_checkpoints_its_end_when_it_is_stopped(
    fleet_of: Callable[[int], Fleet],
) -> None:
    fleet = fleet_of(2)
    with Producer(fleet.name, client=fleet.client) as producer:
        fleet.put(producer, 1000)
        worker = fleet.start()
        fleet.wait(fleet.started)
        fleet.put(producer, 1000)
        producer.flush()
    fleet.wait(lambda: fleet.folded() >= 1900)
    assert KEYS[0] in {event["key"] for event in fleet.sent}
    beside = fleet.run("--runner", "local", "--failover-seconds", "2")
    assert beside.returncode == LeasesHeldElsewhere.exit_code, beside.stderr
    assert f"held by kcl:{os.uname().nodename}:{worker.process.pid}:" in beside.stderr
    assert worker.stop() == 0, fleet.logs()
    fleet.check()
    last_of_shard = {state.position.shard_number: Position(0, 0) for state in fleet.states().scan()}
    for state in fleet.states().scan():
        last_of_shard[state.position.shard_number] = max(last_of_shard[state.position.shard_number], state.position)
    leases = {int(lease.shard_id[-12:]): lease for lease in fleet.leases().list()}
    assert {
        shard: (lease.checkpoint, lease.checkpoint_sub_sequence_number, lease.owner) for shard, lease in leases.items()
    } == {
        shard: (str(position.sequence_number), position.sub_sequence_number, None)
        for shard, position in last_of_shard.items()
    }
    assert not worker.events("child_failed")


def test_without_java_the_fleet_says_what_to_install(streamproc: Callable[..., Any]) -> None:
    app = "streamproc_consumers.archive:app"
    done = streamproc("run", "-A", app, "--runner", "kcl", STREAMPROC_BUCKET="bucket", PATH="/nowhere", JAVA_HOME=None)
    assert done.returncode == 9
    assert done.stderr.startswith("streamproc: --runner kcl needs Java 8 or newer, and there is none: install")
    assert done.stderr.count("\n") == 1


def test_the_doctor_looks_at_what_the_fleet_needs_and_moto_s_kinesis_is_not_it(
    streamproc: Callable[..., Any], stack: LocalStack
) -> None:
    name = f"kcl-{uuid.uuid4().hex[:8]}"
    stack.create_stream(name, 1)
    done = streamproc(
        "doctor",
        "-A",
        "streamproc_consumers.archive:app",
        "--runner",
        "kcl",
        STREAMPROC_BUCKET=name,
        STREAMPROC_STREAM=name,
        COLUMNS="400",
    )
    assert done.returncode == 2, done.stdout + done.stderr
    for words in ("(Java ", "amazon-kclpy 3.1.3", "does not speak HTTP/2", "archive-CoordinatorState (is made by the"):
        assert words in done.stdout


def owners(fleet: Fleet) -> dict[str, str | None]:
    """The owner of each shard that is not at its end."""
    return {lease.shard_id: lease.owner for lease in fleet.leases().list() if not lease.ended}


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.long
def test_a_killed_worker_and_reshards_under_load_lose_nothing_and_apply_nothing_twice(
    fleet_of: Callable[[int], Fleet],
) -> None:
    fleet = fleet_of(4)
    done = threading.Event()

    def load() -> None:
        with Producer(fleet.name, client=fleet.client) as producer:
            while not done.is_set():
                fleet.put(producer, 20)
                time.sleep(0.1)

    loading = threading.Thread(target=load)
    loading.start()
    try:
        workers = [fleet.start(), fleet.start()]
        fleet.wait(lambda: all(worker.events("checkpointed") for worker in workers), seconds=120)
        ids = [f"kcl:{os.uname().nodename}:{worker.process.pid}:" for worker in workers]

        def shares() -> list[int]:
            held = owners(fleet).values()
            return [sum((owner or "").startswith(prefix) for owner in held) for prefix in ids]

        fleet.wait(lambda: sum(shares()) == 4 and min(shares()) >= 1)
        daemon = workers[0].events("daemon_started")[0]["pid"]
        workers[0].process.kill()
        workers[0].process.wait()
        fleet.wait(lambda: not alive(daemon), seconds=30)
        # Up to two minutes where the dead worker was the leader: its lock lasts so long.
        fleet.wait(lambda: shares()[1] == 4, seconds=400)
        workers.append(fleet.start())
        for count in (8, 4):
            fleet.reshard(count)
            fleet.wait(lambda: owners(fleet).keys() == fleet.open_shards(), seconds=300)
            fleet.wait(lambda: None not in owners(fleet).values())
    finally:
        done.set()
        loading.join()
    # KCL can hold a lease for minutes before it starts the shard, where it moved it while the parents were read.
    fleet.wait(lambda: fleet.folded() >= len(fleet.sent) - 200, seconds=400)
    for worker in workers[1:]:
        worker.process.send_signal(signal.SIGTERM)
    assert [worker.process.wait(PATIENCE_SECONDS) for worker in workers[1:]] == [0, 0], fleet.logs()
    fleet.check()


@pytest.mark.long
def test_the_fleet_and_the_local_runner_follow_each_other_and_nothing_is_lost_or_applied_twice(
    fleet_of: Callable[[int], Fleet],
) -> None:
    fleet = fleet_of(2)
    local = ("--runner", "local", "--failover-seconds", "2")
    with Producer(fleet.name, client=fleet.client) as producer:
        for options in (local, (), local):
            worker = fleet.start(*options)
            fleet.put(producer, 500)
            producer.flush()
            # One event, then silence: an idle shard is checkpointed too.
            fleet.wait(lambda: fleet.folded() == len(fleet.sent))
            assert worker.stop() == 0, fleet.logs()
    fleet.check()


@pytest.mark.long
def test_a_record_that_hangs_the_application_is_put_aside_and_its_shard_goes_on(
    fleet_of: Callable[[int], Fleet],
) -> None:
    fleet = fleet_of(2)
    (fleet.folder / "trap").touch()
    with Producer(fleet.name, client=fleet.client) as producer:
        fleet.put(producer, 100)
        fleet.put(producer, 1, trap="hang")
        fleet.put(producer, 100)
        producer.flush()
    worker = fleet.start(KCL_APP_USER_CODE_SECONDS_MAX="2")
    fleet.wait(lambda: bool(worker.events("dead_lettered")), seconds=400)
    trapped = fleet.sent.pop(100)
    fleet.wait(lambda: fleet.folded() == len(fleet.sent))
    assert worker.stop() == 0, fleet.logs()
    fleet.check()
    (letter,) = worker.events("dead_lettered")
    assert "died in the application's code on this record, tried alone" in letter["reason"]
    killed = worker.events("child_killed")
    assert len(killed) == 2, "a child is always careful: the first death names the batch, the second the record"
    assert {line["level"] for line in killed} == {"error"}
    assert trapped["trap"] == "hang"
    assert worker.log.read_text().count("hanging\n") == 2, "what the application prints comes out once"
