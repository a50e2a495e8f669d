"""What it costs to send an event, beside two other ways to send aggregates.

Each sender is a process of its own, and sends the same events to the same *sink*: a further process that answers
ListShards and PutRecord(s) over HTTP on 127.0.0.1, as eight shards without limits would, and keeps nothing. What counts
is the sender's CPU time, all threads, from the first event to the last acknowledgement; the sink's is not in it. The
rounds go in turn, and the median counts. The senders are

- *ours*: ``Producer``, one ``put`` an event
- *ours, put_many*: the same, 500 events a call
- *aws-kinesis-agg + boto3*: one RecordAggregator, a put_record for each aggregate that it returns, as in its README.
  It keeps no order across calls, has no futures and no retries, and KCL drops what it makes (more than one shard)
- *aiokpl*: its producer with its own defaults, but for the limits of a shard, which the sink has not, and with every
  record's outcome awaited

The import of the SDK is timed too, beyond that of boto3.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import random
import resource
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from hashlib import md5
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PEERS = ROOT / "build" / "peers"
AIOKPL = "aiokpl==0.2.*"
SHARDS = 8
USERS = 5_000
EVENT_BYTES = 200
STREAM = "bench"
SENDERS = ("ours", "ours_put_many", "aws_kinesis_agg", "aiokpl")
TARGET_EVENTS_PER_CPU_S = 250_000
_WIDTH = 2**128 // SHARDS


def sink() -> None:
    """Serve until stdin ends; the first line of stdout is the port."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)
    print(listener.getsockname()[1], flush=True)

    def accept() -> None:
        while True:
            connection, _ = listener.accept()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    sys.stdin.read()


def serve(connection: socket.socket) -> None:
    with connection, connection.makefile("rb", buffering=1 << 20) as reader:
        while True:
            headers: dict[bytes, bytes] = {}
            while line := reader.readline().strip():
                name, _, value = line.partition(b":")
                headers[name.lower()] = value.strip()
            if not headers:
                return
            body = reader.read(int(headers.get(b"content-length", b"0")))
            operation = headers[b"x-amz-target"].rpartition(b".")[2]
            answer = json.dumps(ANSWERS[operation.decode()](body)).encode()
            connection.sendall(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/x-amz-json-1.1\r\nContent-Length: %d\r\n\r\n%b"
                % (len(answer), answer)
            )


def _stored(entry: dict[str, str]) -> dict[str, str]:
    given = entry.get("ExplicitHashKey")
    hash_key = int(given) if given else int.from_bytes(md5(entry["PartitionKey"].encode()).digest())  # noqa: S324
    return {"ShardId": f"shardId-{hash_key // _WIDTH:012d}", "SequenceNumber": str(time.monotonic_ns())}


def _put_records(body: bytes) -> dict[str, Any]:
    return {"FailedRecordCount": 0, "Records": [_stored(entry) for entry in json.loads(body)["Records"]]}


def _list_shards(_: bytes) -> dict[str, Any]:
    return {
        "Shards": [
            {
                "ShardId": f"shardId-{n:012d}",
                "HashKeyRange": {"StartingHashKey": str(n * _WIDTH), "EndingHashKey": str((n + 1) * _WIDTH - 1)},
                "SequenceNumberRange": {"StartingSequenceNumber": "1"},
            }
            for n in range(SHARDS)
        ]
    }


ANSWERS: dict[str, Callable[[bytes], dict[str, Any]]] = {
    "PutRecord": lambda body: _stored(json.loads(body)),
    "PutRecords": _put_records,
    "ListShards": _list_shards,
}


def events(count: int) -> Iterator[tuple[bytes, str]]:
    """Each user's events come at random; their data does not repeat within what fits into a request."""
    rng = random.Random(7)
    keys = [f"user-{n}" for n in range(USERS)]
    data = [rng.randbytes(EVENT_BYTES // 2).hex().encode() for _ in range(1_000)]
    order = [rng.randrange(USERS) for _ in range(10_007)]
    for n in range(count):
        yield data[n % 1_000], keys[order[n % 10_007]]


def client(url: str) -> Any:
    import boto3

    return boto3.client(
        "kinesis",
        endpoint_url=url,
        region_name="eu-west-1",
        aws_access_key_id="local",
        aws_secret_access_key="local",  # noqa: S106
    )


def send_ours(url: str, count: int) -> None:
    _send_ours(url, count, 1)


def send_ours_put_many(url: str, count: int) -> None:
    _send_ours(url, count, 500)


def _send_ours(url: str, count: int, at_once: int) -> None:
    from streamproc.producer import Producer, ProducerSettings

    settings = ProducerSettings(shard_bytes_per_second=None, shard_records_per_second=None)
    failed: list[Exception] = []
    with Producer(STREAM, client=client(url), settings=settings, on_error=failed.append) as producer:
        if at_once == 1:
            for data, key in events(count):
                producer.put(data, key)
        else:
            lot: list[tuple[bytes, str]] = []
            for event in events(count):
                lot.append(event)
                if len(lot) == at_once:
                    producer.put_many(lot)
                    lot = []
            producer.put_many(lot)
    if failed:
        raise failed[0]


def send_aws_kinesis_agg(url: str, count: int) -> None:
    from aws_kinesis_agg.aggregator import RecordAggregator

    kinesis = client(url)
    aggregator = RecordAggregator()

    def put(aggregate: Any) -> None:
        partition_key, explicit_hash_key, data = aggregate.get_contents()
        given = {} if explicit_hash_key is None else {"ExplicitHashKey": explicit_hash_key}
        kinesis.put_record(StreamName=STREAM, Data=data, PartitionKey=partition_key, **given)

    for data, key in events(count):
        if (full := aggregator.add_user_record(key, data)) is not None:
            put(full)
    if (rest := aggregator.clear_and_get()) is not None:
        put(rest)


def send_aiokpl(url: str, count: int) -> None:
    sys.path.insert(0, str(PEERS))
    import aiokpl  # type: ignore[import-not-found]  # installed beside this project, for this comparison

    async def outcome(pending: Any) -> None:
        result = await pending.wait()
        if not result.success:
            raise RuntimeError(str(result))

    async def send() -> None:
        os.environ.update(AWS_ACCESS_KEY_ID="local", AWS_SECRET_ACCESS_KEY="local")  # noqa: S106
        config = aiokpl.Config(
            region="eu-west-1",
            endpoint_url=url,
            rate_limit_records_per_sec_per_shard=1e9,
            rate_limit_bytes_per_sec_per_shard=1e12,
        )
        async with aiokpl.Producer(config) as producer:
            waiting: list[Any] = []
            for data, key in events(count):
                waiting.append(await producer.put_record(stream=STREAM, partition_key=key, data=data))
                if len(waiting) == 10_000:
                    await asyncio.gather(*map(outcome, waiting))
                    waiting = []
            await producer.flush()
            await asyncio.gather(*map(outcome, waiting))

    asyncio.run(send())


def measure(sender: str, url: str, count: int) -> None:
    """In the sender's own process: send, and print the figures as JSON."""
    send: Callable[[str, int], None] = globals()[f"send_{sender}"]
    send(url, 2_000)  # imports, connections, caches
    began_cpu, began = time.process_time(), time.monotonic()
    send(url, count)
    cpu, wall = time.process_time() - began_cpu, time.monotonic() - began
    peak_rss_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        json.dumps(
            {"events_per_cpu_s": count / cpu, "events_per_s": count / wall, "cpu_s": cpu, "peak_rss_mb": peak_rss_mb}
        )
    )


@contextlib.contextmanager
def running_sink() -> Iterator[str]:
    with subprocess.Popen(
        [sys.executable, __file__, "--sink"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None  # noqa: S101
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
        process.communicate()  # ends its stdin, and so the sink


def have_aiokpl() -> bool:
    """Install it in build/, where it is not there yet: it is for the comparison alone. False where it cannot be."""
    if (PEERS / "aiokpl").is_dir() and (PEERS / "aiobotocore").is_dir():
        return True
    uv = ROOT / ".uv" / "bin" / "uv"
    command = [str(uv) if uv.exists() else "uv", "pip", "install", "--quiet", "--python", sys.executable]
    try:
        subprocess.run([*command, "--target", str(PEERS), AIOKPL], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"{AIOKPL} cannot be installed ({error}): it is left out of the comparison, and its ratio is null")
        return False
    return True


def import_seconds() -> float:
    """What the import of the SDK takes beyond boto3's, in a new process; the best of five."""
    code = (
        "import time, boto3, botocore.session; began = time.perf_counter()\n"
        "import streamproc_producers; print(time.perf_counter() - began)"
    )
    runs = [subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True) for _ in range(5)]
    return min(float(run.stdout) for run in runs)


def run(counts: dict[str, int], rounds: int) -> dict[str, Any]:
    """Every sender in turn, in processes of their own; the median round of each."""
    figures: dict[str, list[dict[str, float]]] = {sender: [] for sender in counts}
    with running_sink() as url:
        for number in range(rounds):
            for sender, count in counts.items():
                command = [sys.executable, __file__, "--sender", sender, "--url", url, "--events", str(count)]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                figures[sender].append(json.loads(done.stdout.splitlines()[-1]))
                print(f"round {number + 1}  {sender:16} {figures[sender][-1]['events_per_cpu_s']:10,.0f} events/CPU s")
    medians = {}
    for sender, measured in figures.items():
        medians[sender] = {name: statistics.median(each[name] for each in measured) for name in measured[0]}
    return medians


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=400_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, default=ROOT / "build" / "bench-producer.json")
    parser.add_argument("--sink", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--sender", choices=SENDERS, help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.sink:
        sink()
        return
    if options.sender:
        measure(options.sender, options.url, options.events)
        return
    # The slow one gets fewer events: it is measured by the event.
    counts = dict.fromkeys(SENDERS[:3], options.events)
    if have_aiokpl():
        counts["aiokpl"] = max(10_000, options.events // 20)
    medians = run(counts, options.rounds)
    ours = medians["ours"]
    rate = ours["events_per_cpu_s"]
    report = {
        "events_per_cpu_s": round(rate),
        "ratio_to_aws_kinesis_agg": round(rate / medians["aws_kinesis_agg"]["events_per_cpu_s"], 2),
        "ratio_to_aiokpl": (round(rate / medians["aiokpl"]["events_per_cpu_s"], 2) if "aiokpl" in medians else None),
        "peak_rss_mb": round(ours["peak_rss_mb"], 1),
        "import_ms_beyond_boto3": round(import_seconds() * 1000, 1),
        "target_events_per_cpu_s": TARGET_EVENTS_PER_CPU_S,
        "senders": medians,
        "events": options.events,
        "rounds": options.rounds,
        "event_bytes": EVENT_BYTES,
        "users": USERS,
        "shards": SHARDS,
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs",
    }
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps({name: value for name, value in report.items() if name != "senders"}, indent=2))


if __name__ == "__main__":
    main()
