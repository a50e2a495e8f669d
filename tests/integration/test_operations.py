"""The operator's commands, as processes of their own beside the recommender on the local stack."""

from __future__ import annotations

import json
import subprocess
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis

from streamproc.application import Application
from streamproc.local import LocalStack
from streamproc.namespace import Namespace
from streamproc.settings import WorkerSettings
from streamproc.stream import stream_created_at
from streamproc.worker import Ports
from streamproc_consumers import recommender

Command = Callable[..., subprocess.CompletedProcess[str]]
USERS = [f"user-{number}" for number in range(8)]
BAD = b'{"event_id": "\x1b[31m'


class Shop:
    """The recommender, which read three events of each user and one bad record, and has stopped."""

    def __init__(self, application: Application, ports: Ports, redis_url: str, namespace: Namespace) -> None:
        assert ports.projection is not None
        self.application = application
        self.states, self.projection = ports.states, ports.projection
        self._redis = redis.Redis.from_url(redis_url)
        self._namespace = namespace

    def forget(self, key: str) -> None:
        self._redis.delete(f"{self._namespace}:{key}")

    def spoil(self, key: str) -> None:
        self._redis.hset(f"{self._namespace}:{key}", "body", b"not an envelope")


@pytest.fixture
def environment(local_aws: LocalStack, model: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    name = f"operations-{uuid.uuid4().hex[:8]}"
    local_aws.create_stream(name, 2)
    local_aws.create_delivery_stream(name, name, "recommendations/")
    settings = {
        "STREAMPROC_MODEL": str(model),
        "STREAMPROC_BUCKET": name,
        "STREAMPROC_STREAM": name,
        "STREAMPROC_DELIVERY_STREAM": name,
        "STREAMPROC_RECOMMENDER_NAME": name,
        "STREAMPROC_REDIS_URL": local_aws.redis_url,
    }
    for each, value in settings.items():
        monkeypatch.setenv(each, value)
    return settings


@pytest.fixture
def operate(streamproc: Command, environment: dict[str, str]) -> Command:
    """Runs a command for the recommender: its two words, then its arguments."""

    def run(*arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
        done = streamproc(*arguments, "-A", "streamproc_consumers.recommender:app", **(environment | changes))
        assert "Traceback" not in done.stderr, done.stderr
        return done

    return run


@pytest.fixture
def shop(
    environment: dict[str, str],
    local_aws: LocalStack,
    running: Callable[[Application], Any],
    until: Callable[[Callable[[], bool]], None],
) -> Shop:
    application = msgspec.structs.replace(recommender.app(), worker=WorkerSettings(checkpoint_seconds=1))
    kinesis = local_aws.client("kinesis")
    events = [(user, event(user)) for user in USERS for _ in range(3)]
    for user, data in [*events, (USERS[0], BAD)]:
        kinesis.put_record(StreamName=application.stream, Data=data, PartitionKey=user)
    run = running(application)
    until(lambda: run.failure is not None or run.records() == len(events) + 1)
    run.stop()
    assert run.failure is None
    namespace = Namespace(application.name, application.stream, stream_created_at(kinesis, application.stream))
    return Shop(application, application.ports(namespace), environment["STREAMPROC_REDIS_URL"], namespace)


def event(user: str) -> bytes:
    fields = {"event_id": str(uuid.uuid4()), "event_type": "view", "user_id": user, "item_id": "an item"}
    return json.dumps(fields | {"ts": datetime.now(UTC).isoformat()}).encode()


def row(table: str, name: str) -> list[str]:
    """The cells of the row that begins so."""
    (line,) = [line for line in table.splitlines() if line.startswith(name)]
    return line[len(name) :].split()


def counts(table: str) -> dict[str, int]:
    """The first two columns."""
    return {line.split()[0]: int(line.split()[1]) for line in table.splitlines()[1:]}


def test_a_state_and_its_projection_are_shown_side_by_side(shop: Shop, operate: Command) -> None:
    stored = shop.states.load([USERS[0]])[USERS[0]]
    done = operate("state", "show", USERS[0])
    assert done.returncode == 0, done.stderr
    assert row(done.stdout, "position") == [str(stored.position), "="]
    assert row(done.stdout, "events folded") == ["3", "="]
    assert row(done.stdout, "ids hash") == [f"{stored.ids_hash:016x}", "="]
    assert row(done.stdout, "state item_ids") == ['["an', 'item"]', "="]
    assert "equal" in done.stdout.splitlines()[1]

    later = msgspec.structs.replace(stored, position=stored.position._replace(sub_sequence_number=1), events_folded=4)
    shop.projection.project([later])
    done = operate("state", "show", USERS[0])
    assert row(done.stdout, "position") == [str(stored.position), str(later.position)]
    assert row(done.stdout, "events folded") == ["3", "4"]
    assert "ahead" in done.stdout.splitlines()[1]

    shop.forget(USERS[0])
    done = operate("state", "show", USERS[0])
    assert done.returncode == 0
    assert "none" in done.stdout.splitlines()[1]

    shop.spoil(USERS[0])
    done = operate("state", "show", USERS[0])
    assert done.returncode == 2
    assert USERS[0] in done.stderr
    assert row(done.stdout, "events folded") == ["3"]


def test_a_key_without_a_state_is_said_to_have_none(shop: Shop, operate: Command) -> None:
    del shop
    done = operate("state", "show", "nobody")
    assert done.returncode == 1
    assert "no state of 'nobody'" in done.stderr


def test_the_durable_state_is_shown_where_redis_is_away(shop: Shop, operate: Command) -> None:
    del shop
    done = operate("state", "show", USERS[0], STREAMPROC_REDIS_URL="redis://127.0.0.1:1")
    assert done.returncode == 4
    assert row(done.stdout, "events folded") == ["3"]
    assert "Redis" in done.stderr
    assert operate("state", "project", STREAMPROC_REDIS_URL="redis://127.0.0.1:1").returncode == 4


def test_a_state_that_no_checkpoint_stored_yet_is_shown_as_it_was_projected(shop: Shop, operate: Command) -> None:
    shop.projection.project([msgspec.structs.replace(shop.states.load([USERS[0]])[USERS[0]], key="a new user")])
    done = operate("state", "show", "a new user")
    assert done.returncode == 0, done.stderr
    assert "none before the next checkpoint" in done.stdout.splitlines()[1]
    assert row(done.stdout, "events folded") == ["3"]


def test_a_state_of_another_fold_version_is_not_decoded(shop: Shop, operate: Command) -> None:
    stored = shop.states.load([USERS[0]])[USERS[0]]
    shop.states.store([msgspec.structs.replace(stored, fold_version=99, state=b"newer")])
    done = operate("state", "show", USERS[0])
    assert done.returncode == 0
    assert "written by fold version 99" in done.stdout
    assert "different" in done.stdout.splitlines()[1]


def test_diff_counts_what_is_missing_behind_and_ahead_and_project_mends_it(shop: Shop, operate: Command) -> None:
    done = operate("state", "diff")
    assert done.returncode == 0, done.stdout + done.stderr
    assert counts(done.stdout) == {"equal": 8, "ahead": 0, "behind": 0, "missing": 0, "different": 0}

    stored = shop.states.load(USERS)
    for key in USERS[:2]:
        shop.forget(key)
    early, late, other = (stored[key] for key in USERS[2:5])
    shop.forget(early.key)
    later = late.position._replace(sub_sequence_number=1)
    shop.projection.project(
        [
            msgspec.structs.replace(early, position=early.position._replace(sequence_number=1)),
            msgspec.structs.replace(late, position=later),
            msgspec.structs.replace(other, events_folded=99),
        ]
    )
    done = operate("state", "diff")
    assert done.returncode == 1
    assert counts(done.stdout) == {"equal": 3, "ahead": 1, "behind": 1, "missing": 2, "different": 1}
    assert "normal between two checkpoints" in done.stdout
    assert all(key in done.stdout for key in USERS[:5])

    done = operate("state", "project")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "7 states written, 1 refused because the projected one is later.\n"
    assert shop.projection.read([late.key])[late.key].position == later

    done = operate("state", "diff")
    assert done.returncode == 0
    assert counts(done.stdout) == {"equal": 7, "ahead": 1, "behind": 0, "missing": 0, "different": 0}


def test_dead_letters_are_listed_and_shown_with_their_data(shop: Shop, operate: Command, tmp_path: Path) -> None:
    del shop
    done = operate("deadletter", "list")
    assert done.returncode == 0, done.stderr
    header, line = done.stdout.splitlines()
    position, kind, status, key, *_ = line.split()
    assert header.split() == ["position", "kind", "status", "key", "field", "arrived", "reason"]
    assert (kind, status, key) == ("event", "open", USERS[0])
    assert "not JSON" in line

    done = operate("deadletter", "show", position)
    assert done.returncode == 0, done.stderr
    assert row(done.stdout, "position") == [position]
    assert done.stdout.splitlines()[-1] == '{"event_id": "\\x1b[31m'  # the terminal does not turn red

    assert operate("deadletter", "show", position, "--data", "-").stdout.encode() == BAD
    file = tmp_path / "record"
    assert operate("deadletter", "show", position, "--kind", "event", "--data", str(file)).returncode == 0
    assert file.read_bytes() == BAD
    done = operate("deadletter", "show", position, "--data", str(tmp_path / "nowhere" / "record"))
    assert done.returncode == 2
    assert "cannot be written" in done.stderr

    done = operate("deadletter", "show", position, "--kind", "emission")
    assert done.returncode == 1
    assert "no such dead letter" in done.stderr
    done = operate("deadletter", "list", "--kind", "emission")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "No open dead letters.\n")
    done = operate("deadletter", "show", "4966")
    assert done.returncode == 2
    assert "'4966' is no position" in done.stderr


def test_leases_are_listed_with_what_is_durable(shop: Shop, operate: Command) -> None:
    furthest = max(shop.states.load(USERS).values(), key=lambda stored: stored.position)
    done = operate("leases")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0].split() == ["shard", "owner", "checkpoint", "lag", "age", "parents", "ended"]
    first, second = ("shardId-000000000000", "shardId-000000000001")
    assert row(done.stdout, first)[-1] == row(done.stdout, second)[-1] == "no"
    sequence_number = int(row(done.stdout, f"shardId-{furthest.position.shard_number:012d}")[0].split(":")[0])
    assert sequence_number >= furthest.position.sequence_number


@pytest.mark.parametrize(
    "command", [("state", "show", "key"), ("state", "project"), ("state", "diff"), ("deadletter", "list"), ("leases",)]
)
def test_an_application_that_never_ran_is_said_to_have_nothing(operate: Command, command: tuple[str, ...]) -> None:
    done = operate(*command, "--name", "never-run")
    assert done.returncode == 2
    assert "no application has run under the name 'never-run'" in done.stderr


@pytest.mark.parametrize("command", [("state", "show", "key"), ("state", "diff"), ("deadletter", "list")])
def test_a_stream_that_does_not_exist_is_named(operate: Command, command: tuple[str, ...]) -> None:
    done = operate(*command, "--stream", "no-such-stream")
    assert done.returncode == 3
    assert done.stderr.startswith("streamproc: ")
    assert "no-such-stream" in done.stderr


def test_an_application_without_a_projection_is_told_so(streamproc: Command, environment: dict[str, str]) -> None:
    application = ("-A", "streamproc_consumers.archive:app", "--stream", environment["STREAMPROC_STREAM"])
    done = streamproc("state", "diff", *application, **environment)
    assert done.returncode == 2
    assert "names no projection" in done.stderr
