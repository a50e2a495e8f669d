"""Runs ways: one process each, between the marks, against a fresh Redis and a responder in DynamoDB's place."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import redis

from benchmarks.throughput.environments import ROOT, python_of
from benchmarks.throughput.job import Task, machine_cpu_seconds
from benchmarks.throughput.ways import Way
from streamproc.errors import MissingExtra
from streamproc.local.processes import HOST, ChildProcess, bound_socket, find_redis, tethered
from streamproc.local.readiness import wait_for_http, wait_for_redis

_READY_SECONDS_MAX = 20.0
#: For a way that hangs.
WAY_SECONDS_MAX = 1_800.0


class WayFailed(Exception):
    """A way ended with an error, or not at all; the reason is a sentence."""


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """What one run of a way took."""

    events: int
    cpu_s: float
    wall_s: float
    #: CPU seconds and the clock until it was ready for the first event.
    start_cpu_s: float
    start_wall_s: float
    peak_mb: float
    #: How many writes of states, partials and leases our way made, and its seconds by step. Empty for others.
    dynamodb: dict[str, int]
    counted: dict[str, Any]


class Services(msgspec.Struct, frozen=True):
    """What runs beside the ways."""

    redis_url: str
    dynamodb_url: str

    def environment(self) -> dict[str, str]:
        """For the process of a way."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "PYTHON"))}
        path = [ROOT, *(ROOT / folder for folder in ("producers", "models", "consumers"))]
        return {
            **kept,
            "PYTHONPATH": os.pathsep.join(map(str, path)),
            # One core for all: none of the libraries may take another one.
            **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
            "AWS_ENDPOINT_URL_DYNAMODB": self.dynamodb_url,
            "AWS_ENDPOINT_URL_S3": self.dynamodb_url,
            "AWS_REGION": "eu-central-1",
            "AWS_ACCESS_KEY_ID": "bench",
            "AWS_SECRET_ACCESS_KEY": "bench",
            "AWS_EC2_METADATA_DISABLED": "true",
            "NO_PROXY": HOST,
            "no_proxy": HOST,
        }

    def dynamodb_calls(self) -> dict[str, int]:
        """Calls by operation so far, and the items of the transactions."""
        with urllib.request.urlopen(self.dynamodb_url) as answer:  # noqa: S310  # our own, over HTTP
            counts: dict[str, int] = json.load(answer)
        return counts

    def flush(self) -> None:
        """Empty Redis."""
        with redis.Redis.from_url(self.redis_url) as client:
            client.flushall()


@contextmanager
def services(folder: Path) -> Iterator[Services]:
    """A Redis server that saves nothing, and the responder."""
    try:
        program = find_redis()
    except MissingExtra as error:
        sys.exit(f"the benchmark needs a Redis server: {error}")
    with ExitStack() as stack:
        with bound_socket("redis", None) as reservation:
            port = int(reservation.getsockname()[1])
        options = ["--port", str(port), "--bind", HOST, "--save", "", "--appendonly", "no", "--dir", str(folder)]
        child = ChildProcess("redis", [program, *options], log=folder / "redis.log")
        stack.callback(child.stop)
        listener = stack.enter_context(bound_socket("responder", None))
        listener.listen(16)
        responder_port, descriptor = int(listener.getsockname()[1]), listener.fileno()
        command = [sys.executable, str(Path(__file__).with_name("responder.py")), str(descriptor)]
        responder = ChildProcess("responder", command, log=folder / "responder.log", descriptors=[descriptor])
        stack.callback(responder.stop)
        wait_for_redis(child, port, _deadline())
        wait_for_http(responder, responder_port, "/", _deadline())
        yield Services(f"redis://{HOST}:{port}/0", f"http://{HOST}:{responder_port}")


def _deadline() -> float:
    return time.monotonic() + _READY_SECONDS_MAX


def task_of(way: Way, folder: Path, out: Path, events: int, redis_url: str) -> Task:
    """What this way is told."""
    return Task(
        folder=str(folder),
        log=way.log,
        events=events,
        batch=way.batch,
        candidates=way.candidates,
        at_most_every_seconds=way.at_most_every_seconds,
        onedal=way.onedal,
        out=str(out),
        redis_url=redis_url,
    )


def command_of(way: Way, task: Task) -> list[str]:
    """What starts this way. Raises PeerMissing."""
    return [
        python_of(way.peer),
        *["-W", "ignore", "-m", f"benchmarks.throughput.{way.module}"],
        msgspec.json.encode(task).decode(),
    ]


@contextmanager
def ran(way: Way, folder: Path, events: int, beside: Services) -> Iterator[tuple[Run, Path]]:
    """Run a way over the first events of its log; the folder with what it wrote is there for as long as the block.

    Raises WayFailed, and PeerMissing.
    """
    out = Path(tempfile.mkdtemp(prefix=f"{way.name}-", dir=folder))
    try:
        beside.flush()
        before = beside.dynamodb_calls()
        started = _marked_now()
        _run(command_of(way, task_of(way, folder, out, events, beside.redis_url)), beside, out)
        calls = {name: count - before.get(name, 0) for name, count in beside.dynamodb_calls().items()}
        yield run_of(way, events, out, started, calls), out
    finally:
        shutil.rmtree(out, ignore_errors=True)


def _run(command: list[str], beside: Services, out: Path) -> None:
    log = out / "log"
    with log.open("wb") as written:
        # A session of its own: what it started goes with it. And it does not outlive this process.
        process = subprocess.Popen(
            tethered(command),
            cwd=ROOT,
            env=beside.environment(),
            stdin=subprocess.DEVNULL,
            stdout=written,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = process.wait(WAY_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            raise WayFailed(f"it had not ended after {WAY_SECONDS_MAX:.0f} s") from None
        finally:
            _end_session(process.pid)
            process.wait()
    if code or not (out / "done.json").exists():
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
        raise WayFailed(f"it ended with code {code}: {lines[-1][:300] if lines else '(no output)'}")


def _end_session(leader: int) -> None:
    try:
        os.killpg(leader, signal.SIGKILL)
    except ProcessLookupError:
        return


def _marked_now() -> dict[str, float]:
    return {"wall_s": time.monotonic(), "machine_cpu_s": machine_cpu_seconds()}


def run_of(way: Way, events: int, out: Path, started: dict[str, float], calls: dict[str, int]) -> Run:
    """What a way's marks come to."""
    ready, done = (json.loads((out / f"{name}.json").read_text()) for name in ("ready", "done"))
    counter = "machine_cpu_s" if way.whole_machine else "cpu_s"
    counted = out / "counted.json"
    return Run(
        events=events,
        cpu_s=done[counter] - ready[counter],
        wall_s=done["wall_s"] - ready["wall_s"],
        start_cpu_s=ready[counter] - (started[counter] if way.whole_machine else 0.0),
        start_wall_s=ready["wall_s"] - started["wall_s"],
        peak_mb=done["peak_mb"],
        dynamodb=calls if counted.exists() else {},
        counted=json.loads(counted.read_text()) if counted.exists() else {},
    )
