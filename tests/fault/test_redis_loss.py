"""Redis is wiped, restarted from an old file, failed over to a lagging replica, or away, in the middle of a stream."""

from __future__ import annotations

import json
import sys
import time
import types
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis
from click.testing import CliRunner

from streamproc.application import Application
from streamproc.deadletters.dynamodb import DynamoDBDeadLetters
from streamproc.local import LocalStack
from streamproc.local.processes import HOST, ChildProcess, bound_socket, find_redis
from streamproc.local.readiness import wait_for_redis
from streamproc.namespace import Namespace
from streamproc.operations.state import state
from streamproc.processor import AnyProcessor
from streamproc.projections.redis import RedisProjection
from streamproc.settings import WorkerSettings
from streamproc.states.dynamodb import DynamoDBStates
from streamproc.stream import stream_created_at
from streamproc.telemetry import ProjectionCaughtUp
from streamproc.testing.proxy import Fault, ProxyFaults, TcpProxy

READY_SECONDS_MAX = 30.0
KEYS = [f"key-{number}" for number in range(12)]
#: Those that get an event after the loss, and those that do not.
BUSY, IDLE = KEYS[:6], KEYS[6:]

Until = Callable[[Callable[[], bool]], None]


class RedisServer:
    """A Redis of the test's own, which keeps its data in a file when it is told to, and its port when it dies."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder
        with bound_socket("redis", None) as free:
            self._port = int(free.getsockname()[1])
        self.url = f"redis://{HOST}:{self._port}/0"
        self.start()

    def start(self) -> None:
        """Start on what the file holds."""
        options = {
            "port": str(self._port),
            "bind": HOST,
            "save": "",
            "appendonly": "no",
            "dir": str(self._folder),
            "repl-diskless-sync-delay": "0",  # a primary waits 5 s for more replicas otherwise
        }
        command = [find_redis(), *(word for name, value in options.items() for word in (f"--{name}", value))]
        self._process = ChildProcess("redis", command, log=self._folder / "redis.log")
        wait_for_redis(self._process, self._port, time.monotonic() + READY_SECONDS_MAX)

    def kill(self) -> None:
        """SIGKILL."""
        self._process.stop()

    def ask(self, *command: str) -> Any:
        """One command's answer."""
        with redis.Redis(host=HOST, port=self._port) as client:
            return client.execute_command(*command)

    def follow(self, primary: RedisServer) -> None:
        """Become a replica of this server, and wait until what it holds is here."""
        self.ask("REPLICAOF", HOST, str(primary._port))
        deadline = time.monotonic() + READY_SECONDS_MAX
        while self.ask("INFO", "replication")["master_link_status"] != "up":
            assert time.monotonic() < deadline, "the replica did not catch up"
            time.sleep(0.02)
        primary.ask("WAIT", "1", str(int(READY_SECONDS_MAX * 1000)))

    def promote(self) -> None:
        """Stop replicating, with what is here."""
        self.ask("REPLICAOF", "NO", "ONE")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path / "primary")
    yield server
    server.kill()


class Shop:
    """An application on two shards that projects into a Redis, and what should be in its states."""

    def __init__(
        self, stack: LocalStack, name: str, processor: Callable[[], AnyProcessor], url: str, read_url: str
    ) -> None:
        self.kinesis, self.dynamodb = stack.client("kinesis"), stack.client("dynamodb")
        self.application = Application(
            name=name,
            stream=name,
            processor=processor,
            states=partial(DynamoDBStates, client=self.dynamodb),
            deadletters=partial(DynamoDBDeadLetters, bucket=name, client=self.dynamodb, s3=stack.client("s3")),
            projection=partial(RedisProjection, url=url),
            worker=WorkerSettings(checkpoint_seconds=1.0),
        )
        namespace = Namespace(name, name, stream_created_at(self.kinesis, name))
        self._states = DynamoDBStates(namespace, client=self.dynamodb)
        self._states.prepare()
        self._projection = RedisProjection(namespace, url=read_url)
        self._put: dict[str, list[str]] = {}

    def put(self, keys: list[str], events: int = 3) -> None:
        """Put so many events of each key."""
        for key in keys * events:
            ids = self._put.setdefault(key, [])
            ids.append(f"{key}/{len(ids)}")
            data = json.dumps({"key": key, "id": ids[-1]}).encode()
            self.kinesis.put_record(StreamName=self.application.stream, Data=data, PartitionKey=key)

    def durable(self) -> bool:
        """Whether every stored state is that of the events that were put."""
        return {stored.key: json.loads(stored.state) for stored in self._states.scan()} == self._put

    def projected(self, keys: list[str]) -> bool:
        """Whether the projected states of these keys are those of the events that were put."""
        found = self._projection.read(keys)
        return {key: json.loads(stored.state) for key, stored in found.items()} == {key: self._put[key] for key in keys}


@pytest.fixture
def make_shop(
    stack: LocalStack, processor: Callable[[], AnyProcessor], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Shop]:
    """A shop that projects into one Redis and reads it back at another URL, past a proxy; ``shop_app:app`` is its."""

    def make(url: str, read_url: str = "") -> Shop:
        name = f"redis-loss-{uuid.uuid4().hex[:8]}"
        stack.create_stream(name, 2)
        for variable, value in stack.environment().items():
            monkeypatch.setenv(variable, value)
        shop = Shop(stack, name, processor, url, read_url or url)
        module = types.ModuleType("shop_app")
        module.app = shop.application  # type: ignore[attr-defined] # as a module of an application has it
        monkeypatch.setitem(sys.modules, "shop_app", module)
        return shop

    return make


def operate(command: str) -> tuple[int, str]:
    """``streamproc state <command> -A shop_app:app``: its exit code and what it printed."""
    done = CliRunner().invoke(state, [command, "-A", "shop_app:app"])
    return done.exit_code, done.output


def standings() -> dict[str, int]:
    """What ``state diff`` counts."""
    _, table = operate("diff")
    rows = (line.split() for line in table.splitlines()[1:])
    return {row[0]: int(row[1]) for row in rows if int(row[1])}


def refill() -> None:
    """``state project``, and ``state diff`` then finds both equal."""
    code, printed = operate("project")
    assert code == 0, printed
    assert standings() == {"equal": len(KEYS)}
    assert operate("diff")[0] == 0


def test_after_a_wipe_the_stream_refills_its_busy_keys_and_the_operator_the_others(
    server: RedisServer, make_shop: Callable[..., Shop], running: Callable[..., Any], until: Until
) -> None:
    shop = make_shop(server.url)
    run = running(shop.application, shop.kinesis, shop.dynamodb)
    shop.put(KEYS)
    until(lambda: shop.projected(KEYS))
    server.ask("FLUSHALL")
    shop.put(BUSY)
    until(lambda: shop.projected(BUSY) and shop.durable())
    assert standings() == {"equal": len(BUSY), "missing": len(IDLE)}
    refill()
    assert run.failure is None


def test_after_a_restart_from_an_old_file_the_stream_mends_its_busy_keys_and_the_operator_the_others(
    server: RedisServer, make_shop: Callable[..., Shop], running: Callable[..., Any], until: Until
) -> None:
    shop = make_shop(server.url)
    run = running(shop.application, shop.kinesis, shop.dynamodb)
    shop.put(KEYS)
    until(lambda: shop.projected(KEYS))
    server.ask("SAVE")
    shop.put(KEYS)
    until(lambda: shop.projected(KEYS))
    server.kill()
    shop.put(BUSY)
    until(shop.durable)
    server.start()
    shop.put(BUSY)
    until(lambda: shop.projected(BUSY) and shop.durable())
    assert standings() == {"equal": len(BUSY), "behind": len(IDLE)}
    refill()
    assert run.failure is None


def test_after_a_failover_to_a_lagging_replica_the_stream_mends_its_busy_keys_and_the_operator_the_others(
    server: RedisServer,
    tmp_path: Path,
    make_shop: Callable[..., Shop],
    running: Callable[..., Any],
    until: Until,
) -> None:
    replica = RedisServer(tmp_path / "replica")
    try:
        with TcpProxy(server.url) as proxy:
            shop = make_shop(proxy.url)
            run = running(shop.application, shop.kinesis, shop.dynamodb)
            shop.put(KEYS)
            until(lambda: shop.projected(KEYS))
            replica.follow(server)
            replica.promote()
            shop.put(KEYS)
            until(lambda: shop.projected(KEYS))
            proxy.point_to(replica.url)
            shop.put(BUSY)
            until(lambda: shop.projected(BUSY) and shop.durable())
            assert standings() == {"equal": len(BUSY), "behind": len(IDLE)}
            refill()
            run.stop()
            assert run.failure is None
    finally:
        replica.kill()


def test_while_redis_is_away_the_stream_goes_on_and_what_waited_is_projected_when_it_is_back(
    server: RedisServer, make_shop: Callable[..., Shop], running: Callable[..., Any], until: Until
) -> None:
    with TcpProxy(server.url) as proxy:
        shop = make_shop(proxy.url)
        run = running(shop.application, shop.kinesis, shop.dynamodb)
        shop.put(IDLE)
        until(lambda: shop.projected(IDLE))
        proxy.away()
        for _ in range(3):
            shop.put(KEYS)
            until(shop.durable)
        proxy.back()
        until(lambda: shop.projected(KEYS))
        assert run.of(ProjectionCaughtUp)
        assert standings() == {"equal": len(KEYS)}
        run.stop()
        assert run.failure is None


def test_what_waited_for_redis_when_the_worker_ended_is_left_to_the_operator(
    server: RedisServer, make_shop: Callable[..., Shop], running: Callable[..., Any], until: Until
) -> None:
    with TcpProxy(server.url) as proxy:
        shop = make_shop(proxy.url)
        first = running(shop.application, shop.kinesis, shop.dynamodb)
        shop.put(KEYS)
        until(lambda: shop.projected(KEYS))
        proxy.away()
        shop.put(KEYS)
        until(shop.durable)
        first.stop()
        second = running(shop.application, shop.kinesis, shop.dynamodb)
        proxy.back()
        shop.put(BUSY)
        until(lambda: shop.projected(BUSY) and shop.durable())
        assert standings() == {"equal": len(BUSY), "behind": len(IDLE)}
        refill()
        second.stop()
        assert (first.failure, second.failure) == (None, None)


@pytest.mark.parametrize("seed", range(3), ids="seed-{}".format)
def test_a_redis_that_cuts_connections_and_loses_replies_is_right_in_the_end(
    seed: int, server: RedisServer, make_shop: Callable[..., Shop], running: Callable[..., Any], until: Until
) -> None:
    with TcpProxy(server.url, faults=ProxyFaults(seed, cut=0.1, lost_reply=0.1, latency=0.1)) as proxy:
        shop = make_shop(proxy.url, server.url)
        run = running(shop.application, shop.kinesis, shop.dynamodb)
        for _ in range(20):
            shop.put(KEYS, events=1)
        until(lambda: shop.durable() and shop.projected(KEYS))
        assert {Fault.CUT, Fault.LOST_REPLY} <= set(proxy.counts)
        run.stop()
        assert run.failure is None
