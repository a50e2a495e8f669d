"""The child of the MultiLangDaemon beside amazon-kclpy's own loop, on one transcript of a daemon, in one run.

- *the loop*: our protocol, decoding into typed cart events and ``ShardWorker``, with a processor that does nothing else
- *kclpy*: ``amazon_kclpy.kcl.KCLProcess`` with a processor that does ``json.loads`` of each record and nothing else
- *the floor*: msgspec decoding the same lines and the same events, one call each, and nothing else
- *the child*: the real process of a shard, with the recommender and its model, until it says that it is ready; its
  resident memory on an idle shard; and its start beside importing NumPy, XGBoost, boto3 and redis alone

Events are cart events of about 200 B as the SDK writes them. CPU seconds are those of this process.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
from amazon_kclpy import kcl
from amazon_kclpy.v3.processor import RecordProcessorBase

from streamproc.clock import SystemClock
from streamproc.deadletters.memory import MemoryDeadLetters
from streamproc.local import LocalStack
from streamproc.namespace import Namespace
from streamproc.ports import Ports
from streamproc.processor import Processor, Received
from streamproc.record import shard_id_of
from streamproc.runners.kcl.child import ENVIRONMENT_VARIABLE, Child, ChildSettings
from streamproc.runners.kcl.protocol import Action, ProcessRecords, Protocol
from streamproc.settings import WorkerSettings
from streamproc.shardmap import ALL_HASH_KEYS
from streamproc.states.memory import MemoryStates
from streamproc.stream import stream_created_at
from streamproc.telemetry import Telemetry
from streamproc.worker import ShardWorker
from streamproc_consumers.recommender import app
from streamproc_models.training import train
from streamproc_producers.events import CartEvent, decode, encode
from streamproc_producers.simulate import Shop, simulate

ROUNDS = 5
SHARD_ID = shard_id_of(0)
FIRST_SEQUENCE_NUMBER = 49590338271490256608559692538361571095921575989136588898
START = datetime(2026, 1, 1, tzinfo=UTC)
IMPORTS = "import numpy, xgboost, boto3, redis"


class DecodesOnly(Processor[CartEvent, bytes]):
    """The typed events that a fold takes, and nothing done with them."""

    def decode(self, data: bytes) -> CartEvent:
        return decode(data)

    def process(self, batch: Sequence[Received[CartEvent]]) -> Sequence[bytes]:
        return [] if batch else ()

    def encode(self, output: bytes) -> bytes:
        return output


class LoadsOnly(RecordProcessorBase):  # type: ignore[misc]  # amazon-kclpy has no types
    """What a kclpy consumer does at least."""

    def initialize(self, initialize_input: Any) -> None:
        """Nothing to do."""

    def process_records(self, process_records_input: Any) -> None:
        for record in process_records_input.records:
            json.loads(record.binary_data)

    def lease_lost(self, lease_lost_input: Any) -> None:
        """Nothing to do."""

    def shard_ended(self, shard_ended_input: Any) -> None:
        """Nothing to do."""

    def shutdown_requested(self, shutdown_requested_input: Any) -> None:
        """Nothing to do."""


def initialize() -> bytes:
    return b'{"action":"initialize","shardId":"%s","sequenceNumber":"TRIM_HORIZON","subSequenceNumber":0}\n' % (
        SHARD_ID.encode()
    )


def transcript(records: int, batch: int) -> tuple[bytes, float]:
    """What the daemon writes, as Jackson writes it, and the mean bytes of an event."""
    shop = Shop(users=5_000, items=500, seed=7)
    events = [encode(event) for event in islice(simulate(shop, START), records)]
    lines = [initialize()]
    for start in range(0, records, batch):
        wire = [
            {
                "data": base64.b64encode(event).decode(),
                "partitionKey": msgspec.json.decode(event)["user_id"],
                "sequenceNumber": str(FIRST_SEQUENCE_NUMBER + start + index),
                "approximateArrivalTimestamp": 1_767_225_600_000 + start + index,
                "subSequenceNumber": 0,
                "action": "record",
            }
            for index, event in enumerate(events[start : start + batch])
        ]
        action = {"action": "processRecords", "records": wire, "millisBehindLatest": 0}
        lines.append(json.dumps(action, separators=(",", ":")).encode() + b"\n")
    return b"".join(lines), statistics.fmean(map(len, events))


def our_loop(script: bytes) -> None:
    namespace = Namespace("bench", "stream", 1)

    def start(_action: Any) -> ShardWorker:
        ports = Ports(states=MemoryStates(namespace), deadletters=MemoryDeadLetters(namespace))
        worker = ShardWorker(
            shard_id=SHARD_ID,
            hash_range=ALL_HASH_KEYS,
            processor=DecodesOnly(),
            ports=ports,
            settings=WorkerSettings(checkpoint_seconds=3600),
            clock=SystemClock(),
            telemetry=Telemetry(),
            abort=threading.Event(),
        )
        worker.start(None)
        return worker

    written = io.BytesIO()
    Child(Protocol(io.BytesIO(script), written), start, clock=SystemClock(), telemetry=Telemetry()).run()
    if written.getvalue().count(b"status") != script.count(b"\n"):
        raise AssertionError("an action has no status")


def kclpys_loop(script: bytes) -> None:
    written = io.StringIO()
    kcl.KCLProcess(LoadsOnly(), io.StringIO(script.decode()), written, sys.stderr).run()
    if written.getvalue().count("status") != script.count(b"\n"):
        raise AssertionError("an action has no status")


def floor(script: bytes) -> None:
    actions = msgspec.json.Decoder(Action)
    for line in io.BytesIO(script):
        action: Action = actions.decode(line)
        if isinstance(action, ProcessRecords):
            for record in action.records:
                decode(record.data)


LOOPS: dict[str, Callable[[bytes], None]] = {"ours": our_loop, "kclpy": kclpys_loop, "floor": floor}


def cpu_seconds(loop: str, script: Path) -> float:
    """CPU seconds of one loop over the transcript, in a process of its own."""
    command = [sys.executable, __file__, "--loop", loop, "--transcript", str(script)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def run_loop(loop: str, script: Path) -> None:
    data = script.read_bytes()
    LOOPS[loop](data[: data.index(b"\n", 1_000) + 1])  # the first batch warms up
    started = time.process_time()
    LOOPS[loop](data)
    print(time.process_time() - started)  # read by cpu_seconds


def resident_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def seconds_to_import() -> float:
    started = time.monotonic()
    subprocess.run([sys.executable, "-c", IMPORTS], check=True)
    return time.monotonic() - started


def measure_child(stack: LocalStack, model: Path) -> tuple[float, float]:
    """Seconds until the child of an idle shard is ready, and its resident megabytes then."""
    name = f"bench-{uuid.uuid4().hex[:8]}"
    stack.create_stream(name, 1)
    stack.client("s3").create_bucket(Bucket=name)
    created_at = stream_created_at(stack.client("kinesis"), name)
    settings = ChildSettings(
        app="streamproc_consumers.recommender:app", name=name, stream=name, stream_created_at=created_at
    )
    environment = {
        **os.environ,
        **stack.environment(),
        "STREAMPROC_MODEL": str(model),
        "STREAMPROC_BUCKET": name,
        "STREAMPROC_REDIS_URL": stack.redis_url,
        ENVIRONMENT_VARIABLE: msgspec.json.encode(settings).decode(),
    }
    ports = ports_of(name, created_at, environment)
    ports.states.prepare()
    ports.deadletters.prepare()
    started = time.monotonic()
    child = subprocess.Popen(
        [sys.executable, "-m", "streamproc.runners.kcl.child"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
    )
    if child.stdin is None or child.stdout is None:
        raise AssertionError("the pipes were asked for")
    with child:
        child.stdin.write(initialize())
        child.stdin.flush()
        while b"status" not in (line := child.stdout.readline()):
            if not line:
                raise AssertionError("the child did not become ready")
        ready = time.monotonic() - started
        for _ in range(20):  # an idle shard: empty batches
            child.stdin.write(b'{"action":"processRecords","records":[],"millisBehindLatest":0}\n')
            child.stdin.flush()
            while b"status" not in child.stdout.readline():
                pass
        resident = resident_mb(child.pid)
        child.stdin.close()
    return ready, resident


def ports_of(name: str, created_at: int, environment: dict[str, str]) -> Ports:
    os.environ.update({key: value for key, value in environment.items() if key.startswith(("AWS_", "STREAMPROC_"))})
    return app().ports(Namespace(name, name, created_at))


def small_model(folder: Path) -> Path:
    shop = Shop(users=500, items=500, seed=7)
    events = list(islice(simulate(shop, START), 30_000))
    train(events, START + timedelta(days=25), folder, items={})
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=100_000, help="records in the transcript (default: 100000)")
    parser.add_argument("--batch", type=int, default=1_000, help="records a batch (default: 1000)")
    parser.add_argument("--json", type=Path, default=Path("build/bench-kcl.json"))
    parser.add_argument("--loop", choices=LOOPS, help=argparse.SUPPRESS)
    parser.add_argument("--transcript", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.loop:
        run_loop(options.loop, options.transcript)
        return
    ours, theirs, floors = [], [], []
    with tempfile.TemporaryDirectory(prefix="streamproc-bench-") as folder:
        lines, event_bytes = transcript(options.records, options.batch)
        script = Path(folder, "transcript")
        script.write_bytes(lines)
        for _ in range(ROUNDS):  # in turn, so that both meet the same machine
            ours.append(cpu_seconds("ours", script))
            theirs.append(cpu_seconds("kclpy", script))
            floors.append(cpu_seconds("floor", script))
    with tempfile.TemporaryDirectory(prefix="streamproc-bench-") as folder, LocalStack() as stack:
        model = small_model(Path(folder))
        starts, imports, resident = [], [], 0.0
        for _ in range(ROUNDS):
            imports.append(seconds_to_import())
            ready, resident = measure_child(stack, model)
            starts.append(ready)
    rate, rate_kclpy, rate_floor = (options.records / statistics.median(each) for each in (ours, theirs, floors))
    figures = {
        "records_per_cpu_s": round(rate),
        "kclpy_records_per_cpu_s": round(rate_kclpy),
        "ratio_to_kclpy_loop": round(rate / rate_kclpy, 2),
        "share_of_decode_floor": round(rate / rate_floor, 2),
        "child_rss_mb": round(resident, 1),
        "child_start_s": round(statistics.median(starts), 2),
        "imports_s": round(statistics.median(imports), 2),
        "child_start_over_imports": round(statistics.median(starts) / statistics.median(imports), 2),
        "event_bytes": round(event_bytes),
        "batch_records": options.batch,
        "machine_cores": os.cpu_count(),
        "python_version": platform.python_version(),
    }
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(figures, indent=2) + "\n")
    for name, value in figures.items():
        print(f"{name:<26} {value:,}" if isinstance(value, (int, float)) else f"{name:<26} {value}")


if __name__ == "__main__":
    main()
