"""The API as its users run it: a process of its own, on a real Redis, Kinesis and DynamoDB."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from streamproc.application import Application
from streamproc.local import LocalStack
from streamproc.local.processes import HOST, ChildProcess, bound_socket, find_redis
from streamproc.local.readiness import wait_for_redis
from streamproc.namespace import Namespace
from streamproc.sinks.memory import MemorySink
from streamproc_consumers.recommendation import Recommendation
from streamproc_consumers.recommender import ITEMS_PER_LIST
from streamproc_models.bundle import load

from .api_process import recommender_of, serving

Run = Any
USER = "ann"
_START_SECONDS = 60.0


class Redis:
    """A Redis of the test's own, that keeps its port when it is killed, and nothing else."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with bound_socket("redis", None) as free:
            self._port = int(free.getsockname()[1])
        self.url = f"redis://{HOST}:{self._port}/0"
        self.start()

    def start(self) -> None:
        options = {"port": str(self._port), "bind": HOST, "save": "", "dir": str(self._folder)}
        command = [find_redis(), *(word for name, value in options.items() for word in (f"--{name}", value))]
        self._child = ChildProcess("redis", command, log=self._folder / "redis.log")
        wait_for_redis(self._child, self._port, time.monotonic() + _START_SECONDS)

    def kill(self) -> None:
        self._child.stop()


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Redis]:
    server = Redis(tmp_path)
    yield server
    server.kill()


def test_lists_are_those_of_the_recommender_and_survive_the_loss_of_redis_under_load(
    local_aws: LocalStack,
    redis: Redis,
    model: Path,
    tmp_path: Path,
    running: Callable[[Application], Run],
    until: Callable[[Callable[[], bool]], None],
) -> None:
    name = f"shop-{uuid.uuid4().hex[:8]}"
    local_aws.create_stream(name, 1)
    sinks: list[MemorySink] = []
    bundle = load(model)

    def sink(namespace: Namespace) -> MemorySink:
        sinks.append(MemorySink(namespace))
        return sinks[-1]

    def published() -> list[Recommendation]:
        return [msgspec.json.decode(output, type=Recommendation) for each in sinks for output in each.outputs]

    run = running(recommender_of(name, bundle, redis.url, sink))
    settings = {
        "STREAMPROC_MODEL": str(model),
        "STREAMPROC_REDIS_URL": redis.url,
        "STREAMPROC_STREAM": name,
        "STREAMPROC_RECOMMENDER_NAME": name,
    }
    with serving(local_aws, tmp_path, **settings) as api:
        http = api.http
        # Events go in, and are counted once however often they are sent.
        events = [{"event_type": "view", "user_id": USER, "item_id": item} for item in bundle.catalogue.ids[:3]]
        first = http.post("/v1/events", json=events, headers={"Idempotency-Key": "k1"})
        assert first.status_code == 202, first.text
        again = http.post("/v1/events", json=events, headers={"Idempotency-Key": "k1"})
        assert again.content == first.content
        until(lambda: _list(http)["recommendationId"] in {one.recommendation_id for one in published()[-1:]})
        found, last = _list(http), published()[-1]
        assert [(item["id"], item["score"], item["source"]) for item in found["items"]] == [
            (item.id, item.probability, item.source) for item in last.items
        ]
        assert (found["fallback"], found["stateSource"]) == (last.fallback, "redis")

        # A list that knows an event is there before the recommender has it, and is the one that it then publishes.
        submitted = http.post("/submit", json={"user_id": USER, "event": {"event_type": "purchase", "item_id": "x"}})
        assert submitted.status_code == 200, submitted.text
        until(lambda: submitted.json()["recommendation_id"] in {one.recommendation_id for one in published()})

        # Redis goes under load, and comes back empty.
        with load_on(http) as answered:
            until(lambda: answered["redis"] > 20)
            redis.kill()
            until(lambda: answered["dynamodb"] > 20)
            while_away = http.post("/v1/events", json=events, headers={"Idempotency-Key": "k1"})
            assert while_away.status_code == 202
            assert while_away.headers["Idempotency-Store"] == "unavailable"
            assert [one["eventId"] for one in while_away.json()["results"]] == [
                one["eventId"] for one in first.json()["results"]
            ]
            assert http.get("/v1/health").json()["degraded"]
            redis.start()
            answered.clear()
            http.post("/v1/events", json=events[0])  # whoever shops is projected again
            until(lambda: answered["redis"] > 20)
        assert not http.get("/v1/health").json()["degraded"]
        api.process.send_signal(signal.SIGINT)
        assert api.process.wait(30) == 130
    run.stop()
    assert run.failure is None


@contextmanager
def load_on(http: httpx.Client) -> Iterator[Counter[str]]:
    """Requests for lists, one after the other in four threads; how many lists came from where. Each must be a list."""
    answered: Counter[str] = Counter()
    failed: list[str] = []
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            answer = http.get("/v1/recommendations/personalized", params={"userId": USER, "k": 3})
            if answer.status_code != 200 or len(answer.json()["items"]) != 3:
                failed.append(answer.text)
                return
            answered[answer.json()["stateSource"]] += 1

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        yield answered
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not failed


def _list(http: httpx.Client) -> dict[str, Any]:
    answer = http.get("/v1/recommendations/personalized", params={"userId": USER, "k": ITEMS_PER_LIST})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


@pytest.mark.parametrize(
    ("changes", "code", "says"),
    [
        ({"STREAMPROC_MODEL": "/nowhere"}, 11, "/nowhere"),
        ({"STREAMPROC_STREAM": "no-such-stream"}, 3, "no-such-stream"),
        ({"STREAMPROC_API_PORT": "the one that is taken"}, 2, "Address already in use"),
        ({"AWS_ENDPOINT_URL_DYNAMODB": "http://127.0.0.1:1", "AWS_ENDPOINT_URL_KINESIS": "http://127.0.0.1:1"}, 4, ""),
    ],
)
def test_what_keeps_it_from_starting_is_one_sentence_and_an_exit_code(
    streamproc: Callable[..., subprocess.CompletedProcess[str]],
    model: Path,
    changes: dict[str, str | None],
    code: int,
    says: str,
) -> None:
    with bound_socket("taken", None) as taken:
        taken.listen()
        settings: dict[str, str | None] = {"STREAMPROC_MODEL": str(model), "STREAMPROC_API_PORT": "0", **changes}
        if changes.keys() == {"STREAMPROC_API_PORT"}:
            settings["STREAMPROC_API_PORT"] = str(taken.getsockname()[1])
        ended = streamproc("api", **settings)
    assert ended.returncode == code, ended.stderr
    assert says in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1
    assert "Traceback" not in ended.stderr


def test_it_starts_without_redis_and_before_a_recommender_made_its_tables_and_says_what_lists_lack(
    local_aws: LocalStack, model: Path, tmp_path: Path
) -> None:
    name = f"shop-{uuid.uuid4().hex[:8]}"
    local_aws.create_stream(name, 1)
    settings = {
        "STREAMPROC_MODEL": str(model),
        "STREAMPROC_STREAM": name,
        "STREAMPROC_RECOMMENDER_NAME": name,
        "STREAMPROC_REDIS_URL": f"redis://{HOST}:1/0",
    }
    event = {"event_type": "view", "user_id": USER, "item_id": "item-1"}
    with serving(local_aws, tmp_path, **settings) as api:
        found = _list(api.http)
        assert (found["stateSource"], found["fallback"]) == ("unavailable", "state_unavailable")
        assert len(found["items"]) == ITEMS_PER_LIST
        sent = [api.http.post("/v1/events", json=event, headers={"Idempotency-Key": "k1"}) for _ in range(2)]
        assert [answer.status_code for answer in sent] == [202, 202]
        assert len({answer.json()["eventId"] for answer in sent}) == 1
        submitted = api.http.post("/submit", json={"user_id": USER, "event": {"event_type": "view", "item_id": "x"}})
        assert (submitted.status_code, submitted.json()["fallback"]) == (200, "state_unavailable")
        health = api.http.get("/v1/health")
        assert (health.status_code, health.json()["degraded"]) == (200, True)
        assert {line["store"] for line in api.said("streamproc.store_away")} == {"redis", "dynamodb"}


def test_an_interrupt_answers_what_is_under_way_and_a_second_one_ends_at_once(
    local_aws: LocalStack, model: Path, tmp_path: Path
) -> None:
    name, kinesis = f"shop-{uuid.uuid4().hex[:8]}", local_aws.process_ids["kinesis"]
    local_aws.create_stream(name, 1)
    settings = {
        "STREAMPROC_MODEL": str(model),
        "STREAMPROC_STREAM": name,
        "STREAMPROC_RECOMMENDER_NAME": name,
        "STREAMPROC_API_ACKNOWLEDGE_SECONDS": "1",
    }
    event = {"event_type": "view", "user_id": USER, "item_id": "item-1"}
    with serving(local_aws, tmp_path, **settings) as api, ThreadPoolExecutor(1) as caller:
        os.kill(kinesis, signal.SIGSTOP)
        try:
            under_way = caller.submit(api.http.post, "/v1/events", json=event)
            while not under_way.running():
                time.sleep(0.01)
            assert httpx.get(f"{api.url}/v1/health", trust_env=False).status_code == 200
            api.process.send_signal(signal.SIGINT)
            answer = under_way.result()
            assert (answer.status_code, answer.json()["code"]) == (503, "not_acknowledged")
            assert int(answer.headers["Retry-After"]) >= 1
            assert api.process.poll() is None, "the producer still has the event"
            api.process.send_signal(signal.SIGINT)
            assert api.process.wait(5) == 130
        finally:
            os.kill(kinesis, signal.SIGCONT)
    assert "Traceback" not in api.log.read_text()
