"""What a list over HTTP takes: p99 at 200 requests a second, and how many a second until that doubles.

The API runs as its users run it, in a process of its own, beside a real Redis that has the states of the shoppers of
the Online Retail sample; the booster has 100 trees of depth 6, and every shopper that is asked for has 100 candidates.
Requests leave when they are due, ready or not (an open loop), at random moments as many shoppers make them, and the
time of each counts from then: a server that falls behind cannot hide it. A figure of a rate is the median of three
rounds, so that a moment in which the machine did something else is not the API's.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import cast
from urllib.parse import quote, urlsplit

import numpy as np
import uvloop

from streamproc.local import LocalStack
from streamproc.local.processes import tethered
from streamproc.namespace import Namespace
from streamproc.projections.redis import RedisProjection
from streamproc.record import Position
from streamproc.state import StoredState
from streamproc.states.dynamodb import DynamoDBStates
from streamproc_models import bundle as bundles
from streamproc_models.candidates import candidates
from streamproc_models.features import FOLD_VERSION, UserState, encode_state, fold, new_state
from streamproc_models.features.columns import gather
from streamproc_models.items import named
from streamproc_models.training import TrainingSettings, train
from streamproc_producers.retail import RetailLog, default_data_path, item_names

CUT = datetime(2011, 11, 1, tzinfo=UTC)
STREAM, APPLICATION = "cart-events", "recommender"
#: The latency that the promise is about.
RATE = 200.0
_STEP = 1.15
ROUNDS = 3
_TREES, _DEPTH, _CANDIDATES = 100, 6, 100
_START_SECONDS = 60.0
_PATH = "/v1/recommendations/personalized"


class Connection(asyncio.Protocol):
    """HTTP/1.1 with one request at a time: as little of a client as there can be, since it shares the machine."""

    def __init__(self, idle: deque[Connection]) -> None:
        self._idle = idle
        self._data = b""
        self._due = 0.0
        self._into: list[tuple[float, int]] = []
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's own is no subclass
        self._idle.append(self)

    def ask(self, request: bytes, due: float, into: list[tuple[float, int]]) -> None:
        self._due, self._into, self._data = due, into, b""
        if self.transport is not None:  # else the server closed it, and the request counts as not answered
            self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._data += data
        head, end, body = self._data.partition(b"\r\n\r\n")
        if not end:
            return
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
        if len(body) >= length:
            self._into.append((time.perf_counter() - self._due, int(head[9:12])))
            self._idle.append(self)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self.transport = None


async def step(url: str, requests: list[bytes], rate: float, seconds: float) -> dict[str, float]:
    """So many requests a second for so long."""
    parts, loop = urlsplit(url), asyncio.get_running_loop()
    host, port = parts.hostname or "", parts.port or 0
    idle: deque[Connection] = deque()
    connections: list[Connection] = []

    async def connect() -> None:
        _, made = await loop.create_connection(lambda: Connection(idle), host, port)
        connections.append(made)

    for _ in range(64):
        await connect()
    answers: list[tuple[float, int]] = []
    draw = random.Random(7)
    due = started = time.perf_counter() + 0.05
    sent = 0
    while due < started + seconds:
        if (wait := due - time.perf_counter()) > 0:
            await asyncio.sleep(wait)
        if not idle:
            await connect()
        idle.popleft().ask(requests[sent % len(requests)], due, answers)
        sent += 1
        due += draw.expovariate(rate)
    deadline = time.perf_counter() + 10
    while len(answers) < sent and time.perf_counter() < deadline:
        await asyncio.sleep(0.01)
    for connection in connections:
        if connection.transport is not None:
            connection.transport.close()
    took = np.array([seconds for seconds, _ in answers]) * 1000
    p50, p95, p99 = np.percentile(took, (50, 95, 99)).tolist()
    return {
        "rate": round(rate, 1),
        "requests": sent,
        "answered_in_time": len(answers),
        "p50_ms": round(p50, 2),
        "p95_ms": round(p95, 2),
        "p99_ms": round(p99, 2),
        "max_ms": round(float(took.max()), 2),
        "errors_5xx": sum(status >= 500 for _, status in answers) + sent - len(answers),
        "errors_4xx": sum(400 <= status < 500 for _, status in answers),
    }


def median(name: str, rounds: Sequence[dict[str, float]]) -> float:
    return round(statistics.median(one[name] for one in rounds), 3)


def cpu_seconds(pid: int) -> float:
    """What a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def shoppers(model: bundles.Bundle, data: Path) -> dict[str, UserState]:
    """Those of the sample that have as many candidates as there may be."""
    states: dict[str, UserState] = {}
    for event in RetailLog(data):
        states[event.user_id] = fold(states.get(event.user_id) or new_state(), event)
    users = list(states.items())
    chosen = {}
    for start in range(0, len(users), 256):
        part = users[start : start + 256]
        counts = np.diff(
            candidates(gather([state for _, state in part], model.catalogue.codes), model.catalogue).offsets
        )
        chosen.update({user: state for (user, state), count in zip(part, counts, strict=True) if count == _CANDIDATES})
    return chosen


@contextmanager
def serving(environment: dict[str, str], folder: Path) -> Iterator[tuple[str, int]]:
    """The API in a process of its own: its URL and process id."""
    log = folder / "api.log"
    command = [sys.executable, "-m", "streamproc", "api", "--port", "0", "--rate", "0", "--log-format", "json"]
    with log.open("wb") as output:
        process = subprocess.Popen(tethered(command), env={**os.environ, **environment}, stderr=output)
    try:
        deadline = time.monotonic() + _START_SECONDS
        while True:
            lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
            if found := [line["url"] for line in lines if line.get("event") == "streamproc.api_started"]:
                break
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"the API did not start: {log.read_text()[-2000:]}")
            time.sleep(0.05)
        yield found[0], process.pid
    finally:
        process.terminate()
        process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0, help="of a round at 200 requests a second")
    parser.add_argument("--step-seconds", type=float, default=6.0, help="of a round at each further rate")
    parser.add_argument("--model", type=Path, help="take this bundle instead of training one")
    parser.add_argument("--json", type=Path, default=Path("build/bench-api.json"), help="write the figures here, too")
    options = parser.parse_args()
    data = default_data_path()
    with tempfile.TemporaryDirectory(prefix="streamproc-bench-api-") as temporary, LocalStack() as stack:
        folder = Path(temporary)
        address = options.model or folder / "model"
        if options.model is None:
            settings = TrainingSettings(trees_max=_TREES, patience_trees=_TREES, tree_depth=_DEPTH)
            train(RetailLog(data, until=CUT), CUT, address, items=named(item_names(data)), settings=settings)
        model = bundles.load(address)
        users = shoppers(model, data)
        stack.create_stream(STREAM, 2)
        created = stack.client("kinesis").describe_stream_summary(StreamName=STREAM)["StreamDescriptionSummary"]
        namespace = Namespace(APPLICATION, STREAM, int(created["StreamCreationTimestamp"].timestamp()))
        DynamoDBStates(namespace, client=stack.client("dynamodb")).prepare()
        RedisProjection(namespace, url=stack.redis_url).project(
            [
                StoredState(user, Position(0, number, 0), 1, 1, b"", FOLD_VERSION, encode_state(state))
                for number, (user, state) in enumerate(users.items(), 1)
            ]
        )
        requests = [
            f"GET {_PATH}?userId={quote(user)}&k=10 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode() for user in users
        ]
        random.Random(1).shuffle(requests)
        trees = model.booster.trees if model.booster else 0
        print(f"{len(users):,} shoppers with {_CANDIDATES} candidates, {len(model.catalogue):,} items, {trees} trees")
        environment = {**stack.environment(), "STREAMPROC_MODEL": str(address)}
        steps: list[dict[str, float]] = []

        def measured(rate: float, seconds: float) -> float:
            """The median of the p99 of three rounds, each of which is kept."""
            for _ in range(ROUNDS):
                before = cpu_seconds(pid)
                found = uvloop.run(step(url, requests, rate, seconds))
                found["cpu_ms_per_request"] = round((cpu_seconds(pid) - before) * 1000 / found["requests"], 3)
                print("  ".join(f"{name} {value}" for name, value in found.items()), flush=True)
                steps.append(found)
            return median("p99_ms", steps[-ROUNDS:])

        with serving(environment, folder) as (url, pid):
            measured(100.0, 1.0)  # caches, connections
            steps.clear()
            base = measured(RATE, options.seconds)
            rate = best = RATE
            while True:
                rate *= _STEP
                if measured(rate, options.step_seconds) > 2 * base or any(one["errors_5xx"] for one in steps):
                    break
                best = rate
    figures = {
        "p99_ms_200rps": base,
        "p50_ms_200rps": median("p50_ms", steps[:ROUNDS]),
        "rps_at_double_p99": round(best, 1),
        "errors_5xx": sum(int(each["errors_5xx"]) for each in steps),
        "errors_4xx": sum(int(each["errors_4xx"]) for each in steps),
        "cpu_ms_per_request_200rps": median("cpu_ms_per_request", steps[:ROUNDS]),
        "candidates": _CANDIDATES,
        "trees": trees,
        "steps": steps,
    }
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(figures, indent=2) + "\n")
    print(json.dumps({name: value for name, value in figures.items() if name != "steps"}, indent=2))


if __name__ == "__main__":
    main()
