"""A bug in a fold is mended: the states are folded again beside the running application, which then switches."""

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
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from streamproc.alias import Origin, Rebuilds, SwitchLost
from streamproc.errors import SettingsError
from streamproc.lease import Lease
from streamproc.leases.dynamodb import DynamoDBLeases
from streamproc.local import LocalStack
from streamproc.namespace import Namespace
from streamproc.operations import rebuild as commands
from streamproc.projections.redis import RedisProjection
from streamproc.record import Position, shard_id_of, shard_number_of
from streamproc.state import StoredState
from streamproc.states.dynamodb import DynamoDBStates
from streamproc.stream import stream_created_at

from .tables import tables_of

KEYS = [f"key-{n}" for n in range(12)]

MODULE = """
import functools
import json
import os

from streamproc.application import Application
from streamproc.deadletters.dynamodb import DynamoDBDeadLetters
from streamproc.processor import KeyedProcessor
from streamproc.projections.redis import RedisProjection
from streamproc.settings import LocalRunnerSettings, WorkerSettings
from streamproc.sink import Delivery
from streamproc.states.dynamodb import DynamoDBStates

BUGGY = os.environ["FOLD"] == "buggy"


class Totals(KeyedProcessor):
    def decode(self, data):
        return json.loads(data)

    def event_id(self, event):
        return event["id"].encode()

    def event_time(self, event):
        return 0.0

    def key(self, event):
        return event["key"]

    def new_state(self):
        return 0

    def fold(self, state, event):
        return state + event["value"] + (1 if BUGGY and event["value"] % 5 == 0 else 0)

    def emit(self, changed):
        return [(item.key, item.position, item.state) for item in changed]

    def encode(self, output):
        return json.dumps(output).encode()

    def encode_state(self, state):
        return str(state).encode()

    def decode_state(self, data):
        return int(data)


class File:
    def __init__(self, namespace):
        self.path = os.environ["OUTPUTS"]

    def check(self):
        return self.path

    def publish(self, outputs):
        with open(self.path, "ab") as file:
            file.write(b"".join(output + b"\\n" for output in outputs))
        return Delivery([], [])


app = Application(
    name=os.environ["NAME"],
    stream=os.environ["NAME"],
    processor=Totals,
    states=DynamoDBStates,
    deadletters=functools.partial(DynamoDBDeadLetters, bucket=os.environ["NAME"]),
    sink=File,
    projection=functools.partial(RedisProjection, url=os.environ["REDIS"]),
    worker=WorkerSettings(checkpoint_seconds=0.5),
    local=LocalRunnerSettings(failover_seconds=2, shard_sync_seconds=2),
)
"""


class World:
    """An application in a file of its own, its stream, and processes of it."""

    def __init__(self, stack: LocalStack, folder: Path) -> None:
        self.name = f"totals-{uuid.uuid4().hex[:8]}"
        (folder / "totals.py").write_text(MODULE)
        self.folder = folder
        self.outputs_file = folder / "outputs"
        self.settings = {
            "NAME": self.name,
            "OUTPUTS": str(self.outputs_file),
            "REDIS": stack.redis_url,
            **stack.environment(),
        }
        stack.create_stream(self.name, 2)
        stack.client("s3").create_bucket(Bucket=self.name)
        self.stack = stack
        self.kinesis = stack.client("kinesis")
        self.events: list[tuple[str, int, Position]] = []
        self.processes: list[subprocess.Popen[bytes]] = []
        self._lock = threading.Lock()

    def put(self, count: int) -> None:
        for _ in range(count):
            with self._lock:
                value = len(self.events)
                key = KEYS[value * 7 % len(KEYS)]
                event = {"id": str(value), "key": key, "value": value}
                put = self.kinesis.put_record(StreamName=self.name, Data=json.dumps(event).encode(), PartitionKey=key)
                at = Position(shard_number_of(put["ShardId"]), int(put["SequenceNumber"]))
                self.events.append((key, value, at))

    def environment(self, fold: str) -> dict[str, str]:
        own = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "STREAMPROC_"))}
        return {**own, **self.settings, "FOLD": fold}

    def start(self, *arguments: str, fold: str = "mended") -> subprocess.Popen[bytes]:
        # Files: nobody reads while it runs, and a pipe that is full would hold it up.
        out, err = self.texts(len(self.processes))
        with out.open("w") as stdout, err.open("w") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-m", "streamproc", *arguments, "-A", "totals:app"],
                env=self.environment(fold),
                cwd=self.folder,
                stdout=stdout,
                stderr=stderr,
            )
        self.processes.append(process)
        return process

    def texts(self, number: int) -> tuple[Path, Path]:
        return self.folder / f"{number}.out", self.folder / f"{number}.err"

    def ended(self, process: subprocess.Popen[bytes]) -> tuple[int, str, str]:
        code = process.wait(timeout=120)
        out, err = (path.read_text() for path in self.texts(self.processes.index(process)))
        assert "Traceback" not in err, err
        return code, out, err

    def command(self, *arguments: str, fold: str = "mended") -> tuple[int, str, str]:
        return self.ended(self.start(*arguments, fold=fold))

    def stop(self, process: subprocess.Popen[bytes]) -> None:
        process.send_signal(signal.SIGTERM)
        code, _, err = self.ended(process)
        assert code == 0, err

    def namespace(self, name: str) -> Namespace:
        return Namespace(name, self.name, stream_created_at(self.kinesis, self.name))

    def states(self, name: str) -> dict[str, StoredState]:
        store = DynamoDBStates(self.namespace(name), client=self.stack.client("dynamodb"))
        return {stored.key: stored for stored in store.scan()}

    def leases(self, name: str) -> DynamoDBLeases:
        return DynamoDBLeases(name, client=self.stack.client("dynamodb"))

    def tables(self) -> list[str]:
        return tables_of(self.stack.client("dynamodb"))

    def checkpoints(self, name: str) -> dict[str, tuple[str, int]]:
        if name not in self.tables():
            return {}
        rows = self.leases(name).list()
        return {row.shard_id: (row.checkpoint, row.checkpoint_sub_sequence_number) for row in rows}

    def outputs(self) -> list[tuple[str, Position]]:
        lines = self.outputs_file.read_text().splitlines() if self.outputs_file.exists() else []
        return [(key, Position(*position)) for key, position, _ in map(json.loads, lines)]

    def newest(self) -> dict[str, Position]:
        return {key: position for key, _, position in self.events}

    def published(self) -> bool:
        """Whether every event is in an output of its key."""
        return {key: max(at for k, at in self.outputs() if k == key) for key in {key for key, _ in self.outputs()}} == (
            self.newest()
        )

    def totals(self, first: int = 0) -> dict[str, int]:
        """The single-threaded fold of the log from there, without the bug."""
        totals: defaultdict[str, int] = defaultdict(int)
        for key, value, _ in self.events[first:]:
            totals[key] += value
        return totals


@pytest.fixture
def world(local_aws: LocalStack, tmp_path: Path) -> Iterator[World]:
    made = World(local_aws, tmp_path)
    yield made
    for number, process in enumerate(made.processes):
        process.kill()
        process.wait()
        texts = (path.read_text() for path in made.texts(number))
        print(process.args, *texts, sep="\n")  # noqa: T201  # what a failed test is read with


def totals_of(states: dict[str, StoredState]) -> dict[str, int]:
    return {key: int(stored.state) for key, stored in states.items()}


def test_mended_states_are_folded_beside_the_running_application_and_serve_after_a_switch_without_a_lost_output(
    world: World, until: Callable[[Callable[[], bool]], None]
) -> None:
    live = world.start("run", fold="buggy")
    world.put(40)
    since = int(time.time()) + 1
    until(lambda: time.time() >= since)
    first = len(world.events)
    world.put(200)
    until(world.published)

    done = threading.Event()

    def load() -> None:
        while not done.wait(0.05):
            world.put(1)

    loading = threading.Thread(target=load)
    loading.start()
    try:
        shadow = f"{world.name}-mended"
        words = ("rebuild", "start", "--as", "mended", "--poll-seconds", "0.2")
        origin = ("--from-timestamp", datetime.fromtimestamp(since, UTC).isoformat())
        running = world.start(*words, *origin, "--records-max", "8")
        until(lambda: any(number.isdigit() for number, _ in world.checkpoints(shadow).values()))
        running.kill()
        running.wait()
        assert world.checkpoints(shadow) != world.checkpoints(world.name), "it was killed on its way"
        code, _, err = world.command("rebuild", "switch", "--to", "mended")
        assert code == 6, "the live one runs"
        assert "is running" in err

        running = world.start(*words)
        other = world.start("rebuild", "start", "--as", "other", "--from-horizon", "--poll-seconds", "0.2")
        until(lambda: len(world.states(shadow)) == len(KEYS))
        assert running.poll() is None, "it follows while the live one runs"
    finally:
        done.set()
        loading.join()
    until(world.published)
    assert running.poll() is None
    world.stop(live)
    code, out, err = world.ended(running)
    assert code == 0, err
    assert f"rebuild switch -A totals:app --to {shadow}" in out
    assert world.checkpoints(shadow) == world.checkpoints(world.name)
    code, _, err = world.ended(other)
    assert code == 0, err
    assert totals_of(world.states(shadow)) == world.totals(first)
    assert totals_of(world.states(f"{world.name}-other")) == world.totals()
    assert totals_of(world.states(world.name)) != world.totals()

    code, out, err = world.command("rebuild", "switch", "--to", "mended")
    assert code == 0, err
    code, out, err = world.command("rebuild", "list")
    assert code == 0, err
    assert [line.split()[1] for line in out.splitlines() if line.startswith(shadow)] == ["serves"]
    code, out, _ = world.command("doctor")
    assert f"{world.name} is served by {shadow}" in out

    world.put(50)
    live = world.start("run")
    world.put(50)
    until(world.published)
    world.stop(live)
    states = world.states(shadow)
    assert totals_of(states) == world.totals(first)
    projected = RedisProjection(world.namespace(shadow), url=world.stack.redis_url).read(KEYS)
    assert projected == states
    by_key: defaultdict[str, list[Position]] = defaultdict(list)
    for key, position in world.outputs():
        by_key[key].append(position)
    assert all(positions == sorted(set(positions)) for positions in by_key.values()), "nothing was published twice"
    code, out, _ = world.command("state", "show", KEYS[0])
    assert f"{states[KEYS[0]].position}" in out

    code, _, err = world.command("rebuild", "switch", "--to", world.name)
    assert code == 2
    assert "stands behind" in err
    code, _, err = world.command("rebuild", "drop", shadow, "--yes")
    assert code == 2
    assert "the one that serves" in err
    code, _, err = world.command("rebuild", "start", "--as", world.name, "--poll-seconds", "0.2", fold="buggy")
    assert code == 0, err
    code, _, err = world.command("rebuild", "switch", "--to", world.name)
    assert code == 0, err
    assert Rebuilds(world.name).serving() == world.name
    code, _, err = world.command("rebuild", "drop", "mended", "--yes")
    assert code == 0, err
    assert not [table for table in world.tables() if table.startswith(shadow)]
    assert RedisProjection(world.namespace(shadow), url=world.stack.redis_url).read(KEYS) == {}
    assert world.states(world.name)


@pytest.fixture
def rebuilt(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """An application that is stopped, with two rebuilds, ``one`` and ``two``, that stand where it stands."""
    world.put(20)
    names = [world.name, f"{world.name}-one", f"{world.name}-two"]
    for name in names:
        DynamoDBStates(world.namespace(name), client=world.stack.client("dynamodb")).prepare()
        leases = world.leases(name)
        leases.prepare()
        for shard in {at.shard_number for _, _, at in world.events}:
            last = max(at for _, _, at in world.events if at.shard_number == shard)
            leases.create(Lease(shard_id=shard_id_of(shard), checkpoint=str(last.sequence_number)))
    for name in names[1:]:
        Rebuilds(world.name).add(name, Origin(None))
    for name, value in {**world.settings, "FOLD": "mended"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(world.folder)
    monkeypatch.syspath_prepend(world.folder)
    monkeypatch.delitem(sys.modules, "totals", raising=False)
    return world


def switching(monkeypatch: pytest.MonkeyPatch, meanwhile: Callable[[], None]) -> Any:
    """Switch to ``one`` in this process; ``meanwhile`` happens after everything was looked at."""
    refuse = commands._refuse_unless_same

    def hooked(*arguments: Any) -> None:
        refuse(*arguments)
        meanwhile()

    monkeypatch.setattr(commands, "_refuse_unless_same", hooked)
    return CliRunner().invoke(commands.rebuild, ["switch", "-A", "totals:app", "--to", "one"])


def test_of_two_switches_at_the_same_time_one_loses_and_says_so(
    rebuilt: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other() -> None:
        code, _, err = rebuilt.command("rebuild", "switch", "--to", "two")
        assert code == 0, err

    lost = switching(monkeypatch, other)
    assert isinstance(lost.exception, SwitchLost)
    assert f"another switch came first: '{rebuilt.name}' is served by '{rebuilt.name}-two'" in str(lost.exception)
    assert Rebuilds(rebuilt.name).serving() == f"{rebuilt.name}-two"


def test_a_switch_loses_against_a_worker_that_starts_at_the_same_time(
    rebuilt: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    leases = rebuilt.leases(rebuilt.name)

    def started() -> None:
        first: Lease = min(leases.list(), key=lambda lease: lease.shard_id)
        assert leases.take(first, "a worker") is not None

    lost = switching(monkeypatch, started)
    assert isinstance(lost.exception, SwitchLost)
    assert "was started while this switch was under way" in str(lost.exception)
    assert Rebuilds(rebuilt.name).serving() == rebuilt.name


REFUSED = [
    (["start", "--as", "three"], "say from where to fold"),
    (["start", "--as", "one", "--from-timestamp", "2026-01-01T00:00:00Z"], "was begun from TRIM_HORIZON"),
    (["start", "--as", "states", "--from-horizon"], "has a table of that name"),
    (["start", "--as", "three", "--from-timestamp", "2001-01-01T00:00:00Z"], "older than what the stream holds"),
    (["start", "--as", "a b", "--from-horizon"], "cannot name a DynamoDB table"),
    (["start", "--name", "nobody", "--from-horizon"], "no application has run under the name 'nobody'"),
    (["switch", "--to", "three"], "has no rebuild 'three'; there is"),
    (["drop", "three"], "has no rebuild 'three'"),
    (["drop", "one"], "--yes"),
]


def test_what_cannot_be_done_is_refused_with_a_sentence_and_changes_nothing(rebuilt: World) -> None:
    tables = rebuilt.tables()
    for words, sentence in REFUSED:
        refused = CliRunner().invoke(commands.rebuild, [words[0], "-A", "totals:app", *words[1:]])
        assert isinstance(refused.exception, SettingsError), (words, refused.output)
        assert sentence in str(refused.exception)
    assert rebuilt.tables() == tables
    assert Rebuilds(rebuilt.name).shadows() == {f"{rebuilt.name}-{each}": Origin(None) for each in ("one", "two")}
