"""Leases looked at and moved, and a leader unlocked: as processes of their own beside an application that sums up."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from streamproc.application import Application, load_application
from streamproc.errors import LeasesHeldElsewhere
from streamproc.lease import Lease
from streamproc.leases.dynamodb import DynamoDBLeases
from streamproc.local import LocalStack
from streamproc.namespace import Namespace
from streamproc.operations.leader import unlock
from streamproc.stream import stream_created_at

from .tables import tables_of

Command = Callable[..., subprocess.CompletedProcess[str]]
Until = Callable[[Callable[[], bool]], None]
FIRST, SECOND = "shardId-000000000000", "shardId-000000000001"
KEY = "ann"

MODULE = """
import json
import os
from functools import partial

from streamproc.application import Application
from streamproc.deadletters.dynamodb import DynamoDBDeadLetters
from streamproc.processor import KeyedProcessor
from streamproc.settings import LocalRunnerSettings, WorkerSettings
from streamproc.sinks.firehose import FirehoseSink
from streamproc.states.dynamodb import DynamoDBStates


class Numbers(KeyedProcessor):
    def decode(self, data):
        return json.loads(data)

    def key(self, event):
        return event["key"]

    def event_id(self, event):
        return event["id"].encode()

    def event_time(self, event):
        return 0.0

    def new_state(self):
        return []

    def fold(self, state, event):
        return [*state, event["value"]]

    def emit(self, changed):
        return [item.events_folded for item in changed]

    def encode(self, output):
        return json.dumps(output).encode()

    def encode_state(self, state):
        return json.dumps(state).encode()

    def decode_state(self, data):
        return json.loads(data)


def app():
    name = os.environ["NUMBERS"]
    return Application(
        name=name,
        stream=name,
        processor=Numbers,
        states=DynamoDBStates,
        deadletters=partial(DynamoDBDeadLetters, bucket=name),
        sink=partial(FirehoseSink, delivery_stream=name),
        local=LocalRunnerSettings(failover_seconds=1.0),
        worker=WorkerSettings(checkpoint_seconds=0.2),
    )
"""


class Numbers:
    """The application, its stream of one shard or two, and what it stored."""

    def __init__(self, aws: LocalStack, running: Callable[[Application], Any], until: Until) -> None:
        self.application = load_application("numbers_app:app")
        self.name = self.application.name
        self.leases = DynamoDBLeases(self.name)
        self.kinesis = aws.client("kinesis")
        namespace = Namespace(self.name, self.name, stream_created_at(self.kinesis, self.name))
        self._states = self.application.states(namespace)
        self._running = running
        self.until = until

    def put(self, *values: int, key: str = KEY) -> None:
        for value in values:
            data = json.dumps({"key": key, "value": value, "id": str(uuid.uuid4())}).encode()
            self.kinesis.put_record(StreamName=self.name, Data=data, PartitionKey=key)

    def start(self) -> Any:
        return self._running(self.application)

    def work(self, *values: int) -> int:
        """Run a worker until the key's state is these values. How many records it was given."""
        run = self.start()
        self.until(lambda: run.failure is not None or self.values() == [*values])
        run.stop()
        assert run.failure is None
        return int(run.records())

    def values(self, key: str = KEY) -> list[int]:
        found = self._states.load([key])
        return list(json.loads(found[key].state)) if found else []

    def forget(self) -> None:
        self._states.forget(KEY)

    def rows(self) -> dict[str, Lease]:
        return {lease.shard_id: lease for lease in self.leases.list()}

    def read(self) -> Lease:
        """The lease of the shard that has the records."""
        return next(lease for lease in self.rows().values() if lease.checkpoint.isdigit())


@pytest.fixture
def environment(local_aws: LocalStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    name = f"numbers-{uuid.uuid4().hex[:8]}"
    local_aws.create_stream(name, 2)
    local_aws.create_delivery_stream(name, name, "outputs/")
    folder = tmp_path / "application"
    folder.mkdir()
    (folder / "numbers_app.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "numbers_app", raising=False)
    monkeypatch.setenv("NUMBERS", name)
    return {"NUMBERS": name, "PYTHONPATH": str(folder)}


@pytest.fixture
def operate(streamproc: Command, environment: dict[str, str]) -> Command:
    """Runs ``streamproc leases``, with what comes behind it."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = arguments[:1] if arguments[:1] in (("reset",), ("unlock-leader",)) else ()
        done = streamproc("leases", *command, "-A", "numbers_app:app", *arguments[len(command) :], **environment)
        assert "Traceback" not in done.stderr, done.stderr
        return done

    return run


@pytest.fixture
def numbers(
    environment: dict[str, str], local_aws: LocalStack, running: Callable[[Application], Any], until: Until
) -> Numbers:
    """The application read two numbers, and has stopped."""
    del environment
    numbers = Numbers(local_aws, running, until)
    numbers.start().stop()
    numbers.put(1, 2)
    numbers.work(1, 2)
    return numbers


def second_begins() -> str:
    """The next whole second, once it has begun."""
    now = int(time.time()) + 1
    while time.time() < now:
        time.sleep(0.01)
    return datetime.fromtimestamp(now, UTC).isoformat().replace("+00:00", "Z")


def cells(table: str, shard_id: str) -> str:
    (line,) = [line for line in table.splitlines() if line.startswith(shard_id)]
    return line


def test_the_list_says_how_far_behind_and_how_old_each_checkpoint_is(numbers: Numbers, operate: Command) -> None:
    second_begins()
    second_begins()
    numbers.put(3)
    lease = numbers.read()
    done = operate()
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0].split() == ["shard", "owner", "checkpoint", "lag", "age", "parents", "ended"]
    shard_id, checkpoint, lag, lag_unit, age, age_unit, ended = cells(done.stdout, lease.shard_id).split()
    assert (shard_id, checkpoint) == (lease.shard_id, f"{lease.checkpoint}:0")
    assert (lag_unit, age_unit, ended) == ("s", "s", "no")
    assert 1 <= int(lag) <= int(age)

    (row,) = [row for row in json.loads(operate("--json").stdout) if row["shard"] == lease.shard_id]
    assert row["lag_seconds"] >= 1
    assert row["age_seconds"] >= row["lag_seconds"]
    assert {name: row[name] for name in ("checkpoint", "sub_sequence_number", "trimmed", "error", "parents")} == {
        "checkpoint": lease.checkpoint,
        "sub_sequence_number": 0,
        "trimmed": False,
        "error": None,
        "parents": [],
    }
    (row,) = [row for row in json.loads(operate("--no-lag", "--json").stdout) if row["shard"] == lease.shard_id]
    assert (row["lag_seconds"], row["age_seconds"]) == (None, None)


def test_a_lag_that_cannot_be_read_is_a_question_mark_with_one_footnote(numbers: Numbers, operate: Command) -> None:
    done = operate("--stream", "no-such-stream")
    assert done.returncode == 0, done.stderr
    assert cells(done.stdout, numbers.read().shard_id).split()[2:4] == ["?", "?"]
    assert done.stderr.startswith("?: 2 of 2 shards could not be read: ")
    assert done.stderr.count("\n") == 1


def test_a_keyed_application_that_goes_back_folds_nothing_twice_and_what_was_forgotten_anew(
    numbers: Numbers, operate: Command
) -> None:
    before = numbers.rows()
    done = operate("reset", "--to", "TRIM_HORIZON", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("Nothing was written.\n")
    assert "goes back" in done.stdout
    done = operate("reset", "--to", "TRIM_HORIZON")
    assert done.returncode == 2
    assert "nothing was done" in done.stderr
    assert numbers.rows() == before

    done = operate("reset", "--to", "TRIM_HORIZON", "--yes")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].endswith("reset; workers may start.")
    assert {(lease.checkpoint, lease.owner) for lease in numbers.rows().values()} == {("TRIM_HORIZON", None)}
    numbers.put(3)
    assert numbers.work(1, 2, 3) == 3
    numbers.forget()
    assert operate("reset", "--to", "TRIM_HORIZON", "--yes").returncode == 0
    assert numbers.work(1, 2, 3) == 3


def test_a_time_moves_the_lease_to_the_first_record_since(numbers: Numbers, operate: Command) -> None:
    since = second_begins()
    numbers.put(3, 4)
    numbers.work(1, 2, 3, 4)
    numbers.forget()
    done = operate("reset", "--to", since, "--yes")
    assert done.returncode == 0, done.stderr
    lease = numbers.read()
    assert "goes back" in cells(done.stdout, lease.shard_id)
    assert f"{lease.checkpoint}:-1" in cells(done.stdout, lease.shard_id)
    assert lease.checkpoint_sub_sequence_number == -1
    numbers.work(3, 4)

    done = operate("reset", "--to", "2020-01-01T00:00:00Z", "--yes")
    assert done.returncode == 0
    assert "2020-01-01T00:00:00Z lies before the stream's retention" in done.stderr
    assert {lease.checkpoint for lease in numbers.rows().values()} == {"TRIM_HORIZON"}


def test_latest_skips_for_good_what_was_not_read_and_nothing_that_comes_before_the_next_start(
    numbers: Numbers, operate: Command
) -> None:
    numbers.put(3)
    second_begins()
    done = operate("reset", "--to", "LATEST", "--yes")
    assert done.returncode == 0, done.stderr
    assert "for good" in cells(done.stdout, numbers_shard(numbers))
    assert {lease.latest_since is not None for lease in numbers.rows().values()} == {True}
    second_begins()
    numbers.put(4)
    numbers.work(1, 2, 4)


def numbers_shard(numbers: Numbers) -> str:
    """The shard that has the records, whatever its lease says."""
    log: Any = numbers.kinesis.list_shards(StreamName=numbers.name)
    for shard in log["Shards"]:
        iterator = numbers.kinesis.get_shard_iterator(
            StreamName=numbers.name, ShardId=shard["ShardId"], ShardIteratorType="TRIM_HORIZON"
        )["ShardIterator"]
        if numbers.kinesis.get_records(ShardIterator=iterator)["Records"]:
            return str(shard["ShardId"])
    raise AssertionError("no shard has a record")


def test_a_shard_alone_is_reset_and_a_wrong_one_or_place_is_named(numbers: Numbers, operate: Command) -> None:
    before = numbers.rows()
    for arguments, said in (
        (("--to", "LATEST", "--shard", "shardId-7"), "has no such shard"),
        (("--to", "2026-01-01"), "--to '2026-01-01' has no time zone"),
        (("--to", "noon"), "--to 'noon' is neither"),
    ):
        done = operate("reset", *arguments, "--yes")
        assert done.returncode == 2
        assert said in done.stderr
    assert numbers.rows() == before
    assert operate("reset", "--to", "LATEST", "--shard", FIRST, "--yes").returncode == 0
    assert numbers.rows()[FIRST].checkpoint == "LATEST"
    assert numbers.rows()[SECOND] == before[SECOND]


def test_a_running_worker_is_not_reset_and_one_that_died_is(numbers: Numbers, operate: Command) -> None:
    run = numbers.start()
    numbers.put(3)
    numbers.until(lambda: run.failure is not None or numbers.values() == [1, 2, 3])
    done = operate("reset", "--to", "TRIM_HORIZON", "--yes")
    assert done.returncode == 6
    (owner,) = {lease.owner for lease in numbers.rows().values()}
    assert f"nothing was reset: {owner} runs the application" in done.stderr
    assert numbers.read().owner == owner
    run.stop()
    assert run.failure is None

    assert numbers.leases.take(numbers.read(), "a dead worker")
    assert operate("reset", "--to", "TRIM_HORIZON", "--yes").returncode == 0
    assert {(lease.checkpoint, lease.owner) for lease in numbers.rows().values()} == {("TRIM_HORIZON", None)}


def test_an_application_that_never_ran_has_nothing_to_reset(numbers: Numbers, operate: Command) -> None:
    done = operate("reset", "--to", "LATEST", "--yes", "--name", f"{numbers.name}-never")
    assert done.returncode == 2
    assert "no application has run under the name" in done.stderr


def test_a_stream_that_the_application_does_not_read_is_refused(
    numbers: Numbers, operate: Command, local_aws: LocalStack
) -> None:
    before = numbers.rows()
    local_aws.create_stream(f"{numbers.name}-other", 2)
    done = operate("reset", "--to", "TRIM_HORIZON", "--yes", "--stream", f"{numbers.name}-other")
    assert done.returncode == 2
    assert "its checkpoints speak of that one" in done.stderr
    assert numbers.rows() == before


# The leader of a KCL fleet


class Lock:
    """The item by which KCL's leader is known, in the format of its lock client."""

    def __init__(self, aws: LocalStack, application: str) -> None:
        self.client = aws.client("dynamodb")
        self.application = application
        self.table = f"{application}-CoordinatorState"

    def write(self, version: str, *, seconds: int = 1, **more: Any) -> None:
        if self.table not in tables_of(self.client):
            self.client.create_table(
                TableName=self.table,
                KeySchema=[{"AttributeName": "key", "KeyType": "HASH"}],
                AttributeDefinitions=[{"AttributeName": "key", "AttributeType": "S"}],
                BillingMode="PAY_PER_REQUEST",
            )
        item = {"key": "Leader", "ownerName": "host:1", "leaseDuration": str(seconds * 1000)}
        item["recordVersionNumber"] = version
        self.client.put_item(TableName=self.table, Item={name: {"S": value} for name, value in (item | more).items()})

    def version(self) -> str | None:
        found = self.client.get_item(TableName=self.table, Key={"key": {"S": "Leader"}})
        return str(found["Item"]["recordVersionNumber"]["S"]) if "Item" in found else None


@pytest.fixture
def lock(local_aws: LocalStack, environment: dict[str, str]) -> Lock:
    return Lock(local_aws, environment["NUMBERS"])


def test_the_lock_of_a_leader_that_is_gone_is_deleted(lock: Lock, operate: Command) -> None:
    done = operate("unlock-leader")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{lock.table} holds no lock of a leader: there is nothing to unlock.\n"
    lock.write("v1")
    done = operate("unlock-leader")
    assert done.returncode == 0, done.stderr
    assert "The lock of host:1, which was not renewed for 1 s, was deleted" in done.stdout
    assert lock.version() is None
    assert "nothing to unlock" in operate("unlock-leader").stdout
    lock.write("v1", isReleased="1")
    assert "nothing to unlock" in operate("unlock-leader").stdout
    assert lock.version() == "v1"


class Meanwhile:
    """A clock that does something in the ``at``-th wait."""

    def __init__(self, at: int, do: Callable[[], None]) -> None:
        self.now, self._at, self._do = 0.0, at, do
        self.waits: list[float] = []

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now

    def wait(self, seconds: float, stop: object = None) -> bool:
        del stop
        self.waits.append(seconds)
        self.now += seconds
        if len(self.waits) == self._at:
            self._do()
        return False


def test_a_lock_that_is_renewed_is_left_and_said_at_once(lock: Lock) -> None:
    lock.write("v1", seconds=120)
    clock = Meanwhile(6, lambda: lock.write("v2", seconds=120))
    with pytest.raises(LeasesHeldElsewhere, match="nothing was unlocked: host:1 renews the lock and is alive"):
        unlock(lock.client, lock.application, clock)
    assert sum(clock.waits) == 30
    assert lock.version() == "v2"


def test_a_lock_is_looked_at_for_as_long_as_it_lasts_and_one_that_was_given_up_meanwhile_is_said(
    lock: Lock, capsys: pytest.CaptureFixture[str]
) -> None:
    lock.write("v1", seconds=120)
    clock = Meanwhile(24, lambda: lock.write("v1", seconds=120, isReleased="1"))
    unlock(lock.client, lock.application, clock)
    assert sum(clock.waits) == 120
    assert "host:1 gave up its lock meanwhile" in capsys.readouterr().out
    assert lock.version() == "v1"


def test_a_lock_that_is_renewed_between_the_last_look_and_the_deletion_stays(lock: Lock) -> None:
    lock.write("v1")
    real = lock.client.delete_item

    class Late:
        get_item = staticmethod(lock.client.get_item)

        @staticmethod
        def delete_item(**request: Any) -> Any:
            lock.write("v2")
            return real(**request)

    client: Any = Late()
    with pytest.raises(LeasesHeldElsewhere, match="nothing was unlocked"):
        unlock(client, lock.application, Meanwhile(0, lambda: None))
    assert lock.version() == "v2"
