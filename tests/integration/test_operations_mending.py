"""The operator's commands that change something, and the oracle: as processes of their own, for an application that
keeps each shopper's items and, until its mistake is mended, cannot decode one item.
"""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from streamproc.application import Application, load_application
from streamproc.deadletter import DeadLetter, Kind, Status
from streamproc.leases.dynamodb import DynamoDBLeases
from streamproc.local import LocalStack
from streamproc.namespace import Namespace
from streamproc.record import Position
from streamproc.stream import stream_created_at
from streamproc_consumers import archive

Command = Callable[..., subprocess.CompletedProcess[str]]
Until = Callable[[Callable[[], bool]], None]
ANN, BOB = "ann", "bob"
POISON = "poison"

MODULE = """
import os
from functools import partial

import msgspec

from streamproc.application import Application
from streamproc.deadletters.dynamodb import DynamoDBDeadLetters
from streamproc.errors import DecodeError
from streamproc.processor import KeyedProcessor
from streamproc.projections.redis import RedisProjection
from streamproc.settings import LocalRunnerSettings, WorkerSettings
from streamproc.sinks.firehose import FirehoseSink
from streamproc.states.dynamodb import DynamoDBStates
from streamproc_producers.events import decode


class Baskets(KeyedProcessor):
    def decode(self, data):
        event = decode(data)
        if event.item_id == "poison" and "BASKETS_MENDED" not in os.environ:
            raise DecodeError("unknown item", "item_id")
        return event

    def key(self, event):
        return event.user_id

    def event_id(self, event):
        return event.event_id.bytes

    def event_time(self, event):
        return event.at

    def new_state(self):
        return []

    def fold(self, state, event):
        return [*state, event.item_id]

    def emit(self, changed):
        return [None for _ in changed]

    def encode(self, output):
        return output

    def encode_state(self, state):
        return msgspec.json.encode(state)

    def decode_state(self, data):
        return msgspec.json.decode(data)


def app():
    name = os.environ["BASKETS"]
    return Application(
        name=name,
        stream=name,
        processor=Baskets,
        states=DynamoDBStates,
        deadletters=partial(DynamoDBDeadLetters, bucket=name),
        sink=partial(FirehoseSink, delivery_stream=name),
        projection=partial(RedisProjection, url=os.environ["BASKETS_REDIS"]),
        local=LocalRunnerSettings(failover_seconds=1.0),
        worker=WorkerSettings(checkpoint_seconds=0.2),
    )
"""


class Baskets:
    """The application, its stream and its stores."""

    def __init__(self, aws: LocalStack, environment: dict[str, str], running: Callable[[Application], Any]) -> None:
        self.application = load_application("baskets:app")
        self.name = self.application.name
        self._kinesis = aws.client("kinesis")
        self.s3 = aws.client("s3")
        self.namespace = Namespace(self.name, self.name, stream_created_at(self._kinesis, self.name))
        ports = self.application.ports(self.namespace)
        self.states, self.letters = ports.states, ports.deadletters
        self.states.prepare()
        self.letters.prepare()
        assert ports.projection is not None
        self.projection = ports.projection
        self._environment = environment
        self._running = running

    def put(self, user: str, *items: str) -> None:
        for item in items:
            fields = {"event_id": str(uuid.uuid4()), "event_type": "view", "user_id": user, "item_id": item}
            data = json.dumps(fields | {"ts": datetime.now(UTC).isoformat()}).encode()
            self._kinesis.put_record(StreamName=self.name, Data=data, PartitionKey=user)

    def start(self) -> Any:
        return self._running(self.application)

    def work(self, until: Until, reached: Callable[[], bool]) -> None:
        """Run a worker until something is reached, and stop it in order."""
        run = self.start()
        until(lambda: run.failure is not None or reached())
        run.stop()
        assert run.failure is None

    def items(self, user: str) -> list[str]:
        found = self.states.load([user])
        return json.loads(found[user].state) if found else []

    def open(self) -> list[DeadLetter]:
        found = [letter for letter in self.letters.scan() if letter.status is Status.OPEN]
        return sorted(found, key=lambda letter: letter.position)


@pytest.fixture
def environment(local_aws: LocalStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    name = f"baskets-{uuid.uuid4().hex[:8]}"
    local_aws.create_stream(name, 2)
    local_aws.create_delivery_stream(name, name, "outputs/")
    folder = tmp_path / "application"
    folder.mkdir()
    (folder / "baskets.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "baskets", raising=False)
    settings = {"BASKETS": name, "BASKETS_REDIS": local_aws.redis_url, "PYTHONPATH": str(folder)}
    for each, value in settings.items():
        monkeypatch.setenv(each, value)
    return settings


@pytest.fixture
def operate(streamproc: Command, environment: dict[str, str]) -> Command:
    """Runs a command for the application."""

    def run(*arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
        done = streamproc(*arguments, "-A", "baskets:app", **(environment | changes))
        assert "Traceback" not in done.stderr, done.stderr
        return done

    return run


@pytest.fixture
def baskets(
    environment: dict[str, str], local_aws: LocalStack, running: Callable[[Application], Any], until: Until
) -> Baskets:
    """The application read Ann's and Bob's events, put two of Ann's aside, and has stopped."""
    baskets = Baskets(local_aws, environment, running)
    baskets.put(ANN, "tea", POISON, "milk", POISON)
    baskets.put(BOB, "jam")
    baskets.work(until, lambda: baskets.items(ANN) == ["tea", "milk"] and baskets.items(BOB) == ["jam"])
    assert [letter.reason for letter in baskets.open()] == ["unknown item"] * 2
    return baskets


def emission(position: Position, *, ordinal: int = 0, data: bytes = b'{"list": 1}') -> DeadLetter:
    return DeadLetter(
        shard_id="shardId-000000000000",
        position=position,
        kind=Kind.EMISSION,
        ordinal=ordinal,
        reason="refused: too large" if data else "emit failed: KeyError",
        partition_key=BOB,
        data=data,
        arrived_at=1_700_000_000.0,
    )


def test_a_replayed_record_is_folded_once_behind_what_its_key_did_since_however_often_it_is_put(
    baskets: Baskets, operate: Command, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = baskets.open()
    done = operate("deadletter", "replay", str(first.position))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("1 record put; ")
    assert "once a worker has folded them" in done.stdout
    done = operate("deadletter", "replay", "--all", "--reason-contains", "unknown item", "--yes")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("2 records put; ")
    assert len(baskets.open()) == 2  # only a worker's claim changes it

    monkeypatch.setenv("BASKETS_MENDED", "1")
    baskets.put(ANN, "bread")
    baskets.work(until, lambda: baskets.items(ANN)[-1:] == ["bread"])
    assert baskets.items(ANN) == ["tea", "milk", POISON, POISON, "bread"]

    done = operate("deadletter", "list")
    assert (done.stdout, done.stderr) == (
        "",
        "No open dead letters.\nBeside them: 2 replayed; --status all shows them.\n",
    )
    assert operate("deadletter", "list", "--status", "replayed").stdout.count(" replayed ") == 2
    (letter,) = baskets.letters.find(first.position)
    done = operate("deadletter", "show", str(first.position))
    assert f"replayed at     {letter.replayed_at}" in done.stdout
    done = operate("deadletter", "replay", str(first.position))
    assert done.returncode == 0
    assert "already" in done.stderr
    assert done.stdout == "Nothing was replayed.\n"
    assert operate("deadletter", "replay", "--all", "--yes").stderr == "No open dead letters.\n"
    assert operate("deadletter", "drop", str(second.position)).returncode == 1


def test_a_record_that_fails_again_is_put_aside_again_and_can_be_replayed_from_there(
    baskets: Baskets, operate: Command, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = baskets.open()
    assert operate("deadletter", "replay", str(first.position)).returncode == 0
    baskets.work(until, lambda: len(list(baskets.letters.scan())) == 3)
    _, again = baskets.open()
    assert baskets.letters.find(first.position)[0].replayed_at == again.position
    assert (again.data, again.first_position) == (first.data, first.position)
    assert f"first stood at  {first.position}" in operate("deadletter", "show", str(again.position)).stdout
    assert second.position < again.position

    assert operate("deadletter", "replay", str(again.position)).returncode == 0
    monkeypatch.setenv("BASKETS_MENDED", "1")
    baskets.work(until, lambda: POISON in baskets.items(ANN))
    assert baskets.items(ANN) == ["tea", "milk", POISON]


def test_a_dry_run_puts_nothing_and_without_a_terminal_all_needs_a_yes(baskets: Baskets, operate: Command) -> None:
    done = operate("deadletter", "replay", "--all", "--dry-run")
    assert done.returncode == 0
    assert done.stdout.count(" unknown item") == 2
    assert "2 dead letters would be replayed" in done.stderr
    for command in (("replay", "--all"), ("drop", "--all", "--reason-contains", "")):
        done = operate("deadletter", *command)
        assert done.returncode == 2
        assert "--yes" in done.stderr
    assert len(baskets.open()) == 2


def test_what_cannot_be_selected_is_one_sentence(operate: Command, baskets: Baskets) -> None:
    for command, words in {
        "replay": "--all",
        "replay --all shardId-000000000000:1:0": "not both",
        "replay shardId-000000000000:1:0": "no such dead letter at shardId-000000000000:1:0",
        "replay nonsense": "'nonsense' is no position",
        "drop --all --yes": "--reason-contains",
        "drop": "--all",
    }.items():
        done = operate("deadletter", *command.split())
        assert done.returncode == 2
        assert words in done.stderr
    assert len(baskets.open()) == 2


def test_a_dropped_record_is_not_folded_even_where_a_copy_of_it_is_in_the_stream(
    baskets: Baskets, operate: Command, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = baskets.open()
    assert operate("deadletter", "replay", str(first.position), str(second.position)).returncode == 0
    done = operate("deadletter", "drop", str(first.position))
    assert (done.returncode, done.stdout) == (0, "1 dropped.\n")
    monkeypatch.setenv("BASKETS_MENDED", "1")
    baskets.put(ANN, "bread")
    baskets.work(until, lambda: baskets.items(ANN)[-1:] == ["bread"])
    assert baskets.items(ANN) == ["tea", "milk", POISON, "bread"]
    done = operate("deadletter", "replay", str(first.position))
    assert done.returncode == 1
    assert "it was dropped" in done.stderr
    assert operate("deadletter", "drop", str(first.position)).stdout == "1 dropped.\n"  # harmless


def test_an_output_is_published_and_one_that_emit_did_not_give_is_refused(baskets: Baskets, operate: Command) -> None:
    position = Position(0, 10**55)
    baskets.letters.write([emission(position), emission(position, ordinal=1, data=b"")])
    done = operate("deadletter", "replay", "--all", "--kind", "emission", "--yes")
    assert done.returncode == 1
    assert done.stdout == "1 output published.\n"
    assert "emit failed" in done.stderr
    assert "drop it" in done.stderr
    (listed,) = baskets.s3.list_objects_v2(Bucket=baskets.name, Prefix="outputs/")["Contents"]
    assert baskets.s3.get_object(Bucket=baskets.name, Key=listed["Key"])["Body"].read() == b'{"list": 1}\n'
    by_ordinal = {letter.ordinal: letter.status for letter in baskets.letters.find(position)}
    assert by_ordinal == {0: Status.REPLAYED, 1: Status.OPEN}
    done = operate("deadletter", "drop", "--all", "--kind", "emission", "--reason-contains", "emit failed", "--yes")
    assert (done.returncode, done.stdout) == (0, "1 dropped.\n")


def test_a_record_that_its_envelope_makes_too_large_stays_and_the_others_are_put(
    baskets: Baskets, operate: Command
) -> None:
    (first, _) = baskets.open()
    large = msgspec.structs.replace(
        first, position=first.position._replace(sub_sequence_number=1), data=b"x" * (1024 * 1024 - 4)
    )
    baskets.letters.write([large])
    done = operate("deadletter", "replay", "--all", "--yes")
    assert done.returncode == 1
    assert done.stdout.startswith("2 records put")
    assert f"{large.position} event: with its envelope" in done.stderr
    assert "UpdateMaxRecordSize" in done.stderr


def test_a_forgotten_key_is_gone_everywhere_and_begins_anew(baskets: Baskets, operate: Command, until: Until) -> None:
    (first, _) = baskets.open()
    large = msgspec.structs.replace(first, position=Position(0, 7), data=b"x" * 100_000)
    baskets.letters.write([large])

    done = operate("state", "forget", ANN)
    assert done.returncode == 2
    assert "nothing was done" in done.stderr
    assert "3 dead letters" in done.stdout
    assert baskets.items(ANN)

    done = operate("state", "forget", ANN, "--yes")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == ("durable state: erased; projected state: erased; dead letters: 3 erased.")
    assert f"the stream {baskets.name} keeps the records for 24 h" in done.stderr
    assert f"delivery stream {baskets.name}: erase the lines with ann" in done.stderr
    assert baskets.items(ANN) == []
    assert baskets.projection.read([ANN]) == {}
    assert list(baskets.letters.scan()) == []
    assert "Contents" not in baskets.s3.list_objects_v2(Bucket=baskets.name, Prefix="deadletters/")
    assert baskets.items(BOB) == ["jam"]

    baskets.put(ANN, "bread")
    baskets.work(until, lambda: baskets.items(ANN) != [])
    assert baskets.items(ANN) == ["bread"]
    assert operate("state", "forget", "nobody", "--yes").stdout.splitlines()[-1].count("there was none") == 2


def test_a_key_is_not_forgotten_while_a_worker_is_alive_unless_forced(baskets: Baskets, operate: Command) -> None:
    run = baskets.start()
    done = operate("state", "forget", ANN, "--yes")
    assert done.returncode == 6
    assert "nothing was erased" in done.stderr
    assert baskets.items(ANN)
    done = operate("state", "forget", ANN, "--yes", "--force")
    assert done.returncode == 0, done.stderr
    assert "writes it again" in done.stderr
    assert baskets.items(ANN) == []
    run.stop()


def test_a_worker_that_died_without_a_word_does_not_keep_a_key(baskets: Baskets, operate: Command) -> None:
    leases = DynamoDBLeases(baskets.name)
    assert leases.take(leases.list()[0], "a dead worker")
    assert operate("state", "forget", ANN, "--yes").returncode == 0
    assert baskets.items(ANN) == []


def test_a_state_that_cannot_be_read_is_named_and_can_be_forgotten(
    baskets: Baskets, operate: Command, local_aws: LocalStack
) -> None:
    table = f"{baskets.name}-states"
    prefix = f"{baskets.name}@{baskets.namespace.stream_created_at}#"
    item: Any = {"pk": {"S": f"{prefix}{ANN}"}, "body": {"B": b"not an envelope"}}
    local_aws.client("dynamodb").put_item(TableName=table, Item=item)
    for command in (("show", ANN), ("diff",), ("project",)):
        done = operate("state", *command)
        assert done.returncode == 2
        assert f"the state of 'ann' in the table {table} cannot be read" in done.stderr
    assert operate("state", "forget", ANN, "--yes").returncode == 0
    assert operate("state", "diff").returncode == 0


@pytest.fixture
def archived(
    baskets: Baskets,
    local_aws: LocalStack,
    running: Callable[[Application], Any],
    until: Until,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[int], str]:
    """Archives the stream with the archive application, which decodes what the other one put aside, too."""
    name = f"{baskets.name}-archive"
    local_aws.create_delivery_stream(name, name, "archive/")
    for variable, value in {"BUCKET": name, "ARCHIVE_DELIVERY_STREAM": name, "ARCHIVE_NAME": name}.items():
        monkeypatch.setenv(f"STREAMPROC_{variable}", value)
    monkeypatch.setenv("STREAMPROC_STREAM", baskets.name)

    def run(records: int) -> str:
        worker = running(archive.app())
        until(lambda: worker.failure is not None or worker.records() >= records)
        worker.stop()
        assert worker.failure is None
        return f"s3://{name}/archive/"

    return run


def counts(table: str) -> dict[str, int]:
    """The two columns behind the first words."""
    return {line[: len("not archived")].strip(): int(line[12:].split()[0]) for line in table.splitlines()[1:]}


def test_states_equal_one_fold_of_the_archive_less_dead_letters_with_replays_where_they_were_folded(
    baskets: Baskets,
    operate: Command,
    until: Until,
    archived: Callable[[int], str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first, _ = baskets.open()
    assert operate("deadletter", "replay", str(first.position)).returncode == 0
    monkeypatch.setenv("BASKETS_MENDED", "1")
    baskets.put(ANN, "bread")
    baskets.work(until, lambda: baskets.items(ANN)[-1:] == ["bread"])
    assert baskets.items(ANN) == ["tea", "milk", POISON, "bread"]
    baskets.put(BOB, "ham")  # archived, and not folded yet: beyond the state
    baskets.put("cid", "tea")
    where = archived(8)

    done = operate("state", "diff", "--archive", where)
    assert done.returncode == 0, done.stdout + done.stderr
    assert counts(done.stdout) == {"equal": 2, "different": 0, "not archived": 0, "not stored": 1}
    assert "cid" in done.stdout

    stored = baskets.states.load([ANN])[ANN]
    assert baskets.states.store([msgspec.structs.replace(stored, state=b'["tea"]')]) == set()
    done = operate("state", "diff", "--archive", where)
    assert done.returncode == 1
    assert counts(done.stdout) == {"equal": 1, "different": 1, "not archived": 0, "not stored": 1}
    assert "ann (the same events folded, and another state)" in done.stdout

    later = stored.position._replace(sub_sequence_number=1)
    baskets.states.store([msgspec.structs.replace(stored, position=later)])
    done = operate("state", "diff", "--archive", where)
    assert done.returncode == 0
    assert counts(done.stdout) == {"equal": 1, "different": 0, "not archived": 1, "not stored": 1}

    other = tmp_path / "other"
    other.write_text('{"event": {}}\n')
    for wrong, words in (
        (str(other), "other, line 1 is no line of the archive: "),
        ("s3://", "names no bucket"),
        (where + "no/", "nothing has landed in"),
    ):
        done = operate("state", "diff", "--archive", wrong)
        assert done.returncode == 2
        assert words in done.stderr
