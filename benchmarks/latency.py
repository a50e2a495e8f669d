"""How soon an event is in a recommendation that Firehose accepted, at several rates, and where that time goes.

For each rate a fresh stream and a recommender of its own, a ramp of five seconds, and sixty seconds that count. The
generator is the open loop of ``streamproc load``: latencies count from the intended time of each event. The local stack
is moto and Redis for the embedded runner; under KCL, kinesis-local takes moto's place, since KCL needs HTTP/2.

Each event's time is parted without a gap or an overlap:

- *late*: from the intended time until the event was put
- *put*: until Kinesis acknowledged it, or until the read that found it began, if that was earlier
- then until the read that found it began: *queue* while the shard's batch before it was worked on, *checkpoint* while
  the read was due and DynamoDB was waited for, and *poll* for the rest, the wait for the next of five reads a second
  and shard
- *read*: the GetRecords call. Under KCL, which reads in Java, *poll* and *read* are one
- *decode*, *load*, *fold*, *emit*: the worker's steps over the whole batch; *load* reads the states of users who are
  not in memory, *emit* is candidates, matrix and booster
- *publish*: until Firehose accepted it

CPU is that of whole processes by /proc, so it is measured on Linux alone.
"""

from __future__ import annotations

import argparse
import bisect
import gc
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from benchmarks.latency_app import ENVIRONMENT_VARIABLE, Batch, Checkpoint
from streamproc.errors import MissingExtra, StreamprocError
from streamproc.local import LocalStack
from streamproc.local.kinesis_local import KinesisLocal
from streamproc.record import Position, shard_id_of, shard_number_of
from streamproc_consumers.load.generator import OpenLoop, Sent, Tally, shoppers
from streamproc_consumers.load.latency import Matcher
from streamproc_consumers.load.published import Journal
from streamproc_consumers.load.shape import Shape
from streamproc_consumers.load.system import System, running, train_model
from streamproc_producers.cart import CartProducer

ROOT = Path(__file__).parents[1]
RATES = (100, 1_000, 5_000)
STEPS = ("late", "put", "queue", "checkpoint", "poll", "read", "decode", "load", "fold", "emit", "publish")
USERS, ITEMS, SEED = 5_000, 500, 0
WAIT_SECONDS_MAX = 60.0
TARGET_P50_MS, TARGET_P99_MS, TARGET_BEYOND_POLL_MS = 150.0, 300.0, 60.0
Figures = dict[str, Any]


class Work(msgspec.Struct):
    """What the consumer did, by shard, in the order of the log."""

    batches: dict[str, list[tuple[Position, Batch]]]
    checkpoints: list[Checkpoint]


class Measured(msgspec.Struct):
    """One rate's run."""

    tally: Tally
    matched: list[tuple[Sent, float]]
    journal: Work
    recommendations: int
    recommendation_bytes: int
    without_recommendation: int
    #: CPU seconds while events were sent, by process.
    cpu_seconds: dict[str, float]
    seconds: float


def cpu_seconds(pid: int) -> float:
    """CPU seconds of a process and of its descendants that are alive; 0 where there is no /proc."""
    parents: defaultdict[int, list[int]] = defaultdict(list)
    used: dict[int, float] = {}
    ticks = os.sysconf("SC_CLK_TCK")
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it ended meanwhile
        child = int(path.parent.name)
        parents[int(fields[1])].append(child)
        used[child] = (int(fields[11]) + int(fields[12])) / ticks
    total, left = 0.0, [pid]
    while left:
        one = left.pop()
        total += used.get(one, 0.0)
        left += parents[one]
    return total


def measure(system: System, rate: float, seconds: float, ramp: float, batches: Path) -> Measured:
    """Load the system at this rate and join what was sent with what came out and with the batches."""
    matched: list[tuple[Sent, float]] = []
    sent: list[Sent] = []
    matcher = Matcher(lambda event, at: matched.append((event, at)))
    outcome = Journal(system.journal, system.delivery_stream)
    shape = Shape(rate=rate, seconds=seconds, ramp_seconds=ramp)
    processes = {**system.process_ids, "producer": os.getpid()}
    gc.collect()
    gc.freeze()
    with CartProducer(system.stream, client=system.kinesis) as producer:
        loop = OpenLoop(producer, on_sent=sent.append)
        before = {name: own_cpu(name, pid) for name, pid in processes.items()}
        started = time.monotonic()
        tally = loop.run(shoppers(USERS, ITEMS, rate, SEED, datetime.now(UTC)), shape.due_seconds())
        elapsed = time.monotonic() - started
        used = {name: own_cpu(name, pid) - before[name] for name, pid in processes.items()}
    if tally.error is not None:
        raise tally.error
    for event in sent:
        matcher.sent(event)
    count = size = 0
    deadline = time.monotonic() + WAIT_SECONDS_MAX
    while True:
        for item in outcome.look():
            count, size = count + 1, size + item.data_bytes
            matcher.published(item.user_id, item.position, item.at)
        if not matcher.waiting or time.monotonic() > deadline:
            break
        system.check()
        time.sleep(0.2)
    counted_from = loop.started_at + ramp
    return Measured(
        tally,
        [(event, at) for event, at in matched if event.due_at >= counted_from],
        read_work(batches),
        count,
        size,
        matcher.waiting,
        used,
        elapsed,
    )


def own_cpu(name: str, pid: int) -> float:
    """CPU of a process with its children; of the producer, which is this one, without them."""
    return time.process_time() if name == "producer" else cpu_seconds(pid)


def read_work(path: Path) -> Work:
    """The batches of each shard by the position of their last record, and its checkpoints."""
    decode = msgspec.json.Decoder(Batch | Checkpoint).decode
    batches: defaultdict[str, list[tuple[Position, Batch]]] = defaultdict(list)
    checkpoints: list[Checkpoint] = []
    for line in path.read_bytes().splitlines():
        item = decode(line)
        if isinstance(item, Batch):
            batches[item.shard_id].append((position_of(item.position), item))
        else:
            checkpoints.append(item)
    for each in batches.values():
        each.sort(key=lambda item: item[0])
    return Work(dict(batches), checkpoints)


def position_of(text: str) -> Position:
    """The position that a telemetry event names: shard, sequence number, sub-sequence number."""
    shard_id, sequence_number, sub_sequence_number = text.split(":")
    return Position(shard_number_of(shard_id), int(sequence_number), int(sub_sequence_number))


def parted(event: Sent, accepted_at: float, batch: Batch, before: Batch | None) -> list[float]:
    """The seconds of each of :data:`STEPS`; their sum is the latency.

    ``before`` is the shard's batch before this one, None for its first.
    """
    began = batch.ended - batch.seconds
    read_ended = min(batch.read_ended or began, began)
    read_started = min(batch.read_started or began, read_ended)
    put_at = max(event.put_at, event.due_at)
    # The reply to a put may come after a reader has found the event.
    stored_at = max(put_at, min(event.acknowledged_at, read_started))
    read_started = max(read_started, stored_at)
    read_ended = max(read_ended, read_started)
    queued = durable = 0.0
    if before is not None:
        queued = _overlap(stored_at, read_started, before.ended - before.seconds, before.ended)
        late = max(before.ended, before.next_read or before.ended)
        durable = sum(_overlap(max(stored_at, late), read_started, *call) for call in batch.calls)
    wait = read_started - stored_at
    durable = min(durable, wait - queued)
    steps = [batch.steps.get(step, 0.0) for step in ("decode", "load", "fold", "emit")]
    publish = accepted_at - read_ended - sum(steps)
    return [
        put_at - event.due_at,
        stored_at - put_at,
        queued,
        durable,
        wait - queued - durable,
        read_ended - read_started,
        *steps,
        publish,
    ]


def _overlap(begins: float, ends: float, other_begins: float, other_ends: float) -> float:
    return max(0.0, min(ends, other_ends) - max(begins, other_begins))


def figures(measured: Measured, rate: int) -> Figures:
    """The figures of one rate, without their suffix."""
    rows, latencies = [], []
    for event, at in measured.matched:
        shard_id = shard_id_of(event.position.shard_number)
        batches = measured.journal.batches.get(shard_id, [])
        index = bisect.bisect_left(batches, event.position, key=lambda item: item[0])
        if index < len(batches):
            before = batches[index - 1][1] if index else None
            rows.append(parted(event, at, batches[index][1], before))
            latencies.append(at - event.due_at)
    if not rows:
        sys.exit(f"at {rate} events/s no event was found in a recommendation, so there is nothing to report")
    parts, total = np.array(rows) * 1000, np.array(latencies) * 1000
    beyond = total - parts[:, STEPS.index("poll")]
    p50, p95, p99 = np.percentile(total, [50, 95, 99])
    every = [batch for batches in measured.journal.batches.values() for _, batch in batches]
    durable = [checkpoint.seconds for checkpoint in measured.journal.checkpoints]
    events = measured.tally.acknowledged
    found: Figures = {
        "p50_ms": p50,
        "p95_ms": p95,
        "p99_ms": p99,
        "max_ms": total.max(),
        "beyond_poll_p50_ms": np.percentile(beyond, 50),
        "beyond_poll_p99_ms": np.percentile(beyond, 99),
        **{f"{step}_mean_ms": parts[:, number].mean() for number, step in enumerate(STEPS)},
        **{f"{step}_share": parts[:, number].mean() / total.mean() for number, step in enumerate(STEPS)},
        "events": len(rows),
        "events_without_recommendation": measured.without_recommendation,
        "late_ms_max": measured.tally.late_seconds_max * 1000,
        "batch_events": sum(batch.records for batch in every) / len(every),
        "checkpoint_ms": sum(durable) / max(1, len(durable)) * 1000,
        "users_per_event": sum(batch.users for batch in every) / sum(batch.records for batch in every),
        "recommendation_bytes": measured.recommendation_bytes / max(1, measured.recommendations),
        "consumer_cpu_us_per_event": measured.cpu_seconds["recommender"] / events * 1e6,
        # Of one core. moto's Kinesis has one interpreter lock, so 1 is all that it can do; kinesis-local can do more.
        **{f"{name}_cpu_share": used / measured.seconds for name, used in sorted(measured.cpu_seconds.items())},
        "machine_cpu_share": sum(measured.cpu_seconds.values()) / measured.seconds / (os.cpu_count() or 1),
    }
    return {name: round(float(value), 4 if name.endswith("share") else 1) for name, value in found.items()}


def embedded(
    options: argparse.Namespace, stack: LocalStack, model: Path, folder: Path
) -> Iterator[tuple[int, Figures]]:
    """The embedded runner at each rate."""
    for rate in options.rates:
        yield rate, at_rate(options, stack, model, folder, rate, f"latency-{rate}")


def under_kcl(
    options: argparse.Namespace, stack: LocalStack, model: Path, folder: Path
) -> Iterator[tuple[int, Figures]]:
    """KCL's daemon on kinesis-local, at each rate."""
    with KinesisLocal(folder / "kinesis-local") as kinesis:
        for rate in options.kcl_rates:
            yield rate, at_rate(options, stack, model, folder, rate, f"latency-kcl-{rate}", kinesis)


def at_rate(
    options: argparse.Namespace,
    stack: LocalStack,
    model: Path,
    folder: Path,
    rate: int,
    stream: str,
    kinesis: KinesisLocal | None = None,
) -> Figures:
    """One rate on a new stream; with ``kinesis`` under KCL on that, else the embedded runner on the stack's."""
    journal = folder / f"{stream}-batches.jsonl"
    runner = ["--runner", "kcl"] if kinesis else []
    with running(
        stack,
        model,
        folder,
        stream=stream,
        shards=options.shards,
        app="benchmarks.latency_app:app",
        options=[*runner, "--checkpoint-seconds", str(options.checkpoint_seconds)],
        environment={ENVIRONMENT_VARIABLE: str(journal), "PYTHONPATH": str(ROOT)},
        kinesis=(kinesis.client(), kinesis.url) if kinesis else None,
    ) as system:
        if kinesis:
            system.process_ids["kinesis"] = kinesis.process_id
        return figures(measure(system, rate, options.seconds, options.ramp, journal), rate)


def table(results: dict[str, Figures], rates: Sequence[int], prefix: str = "") -> str:
    """The figures in Markdown."""
    names = ["p50_ms", "p95_ms", "p99_ms", "max_ms", "beyond_poll_p50_ms", "beyond_poll_p99_ms"]
    names += [f"{step}_mean_ms" for step in STEPS]
    lines = [f"| {prefix}ms | " + " | ".join(f"{rate:,} events/s" for rate in rates) + " |"]
    lines.append("| --- |" + " --: |" * len(rates))
    for name in names:
        cells = []
        for rate in rates:
            value = results.get(f"{prefix}{name}_{rate}")
            share = results.get(f"{prefix}{name.removesuffix('_mean_ms')}_share_{rate}")
            cells.append("" if value is None else f"{value:,}" + (f" ({share:.0%})" if share is not None else ""))
        lines.append(f"| {name.removesuffix('_ms').replace('_', ' ')} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def limits(results: Figures, rates: Sequence[int]) -> list[str]:
    """Where something else than the recommender was the limit: said with its figure."""
    found = []
    for rate in rates:
        emulator, machine = results.get(f"kinesis_cpu_share_{rate}"), results.get(f"machine_cpu_share_{rate}")
        if emulator is not None and emulator > 0.7:
            found.append(
                f"at {rate:,} events/s the Kinesis emulator was busy for {emulator:.0%} of one core, which is all that"
                f" its interpreter can use; puts took {results[f'put_mean_ms_{rate}']} ms and reads"
                f" {results[f'read_mean_ms_{rate}']} ms on average"
            )
        stores = results.get(f"checkpoint_share_{rate}", 0.0) + results.get(f"load_share_{rate}", 0.0)
        if stores > 0.3:
            found.append(
                f"at {rate:,} events/s {stores:.0%} of the time is DynamoDB's: a checkpoint took"
                f" {results[f'checkpoint_ms_{rate}']} ms on average, and its emulator"
                f" {results[f'dynamodb_cpu_share_{rate}']:.0%} of one core"
            )
        if machine is not None and machine > 0.9:
            found.append(f"at {rate:,} events/s all processes together kept the machine's cores {machine:.0%} busy")
        if (late := results.get(f"late_ms_max_{rate}", 0.0)) > 100:
            found.append(f"at {rate:,} events/s the generator itself was up to {late:,.0f} ms late")
    return found


def rates_of(text: str) -> list[int]:
    """Rates as ``100,1000``; empty for none."""
    return [int(rate) for rate in text.split(",") if rate]


def runs(options: argparse.Namespace) -> Iterator[tuple[str, int, Figures]]:
    """Each runner at each of its rates, as it was measured."""
    with ExitStack() as ending:
        folder = Path(ending.enter_context(tempfile.TemporaryDirectory(prefix="streamproc-latency-")))
        stack = ending.enter_context(LocalStack(folder / "stack"))
        print("training a model of the simulated shop ...", file=sys.stderr)
        model = train_model(folder / "model", users=USERS, items=ITEMS, seed=SEED)
        for rate, found in embedded(options, stack, model, folder):
            yield "embedded", rate, found
        if options.kcl_rates and shutil.which("java") is None:
            print("not measured under KCL: Java was not found", file=sys.stderr)
        elif options.kcl_rates:
            try:
                for rate, found in under_kcl(options, stack, model, folder):
                    yield "KCL", rate, found
            except MissingExtra as error:
                print(f"not measured under KCL: {error}", file=sys.stderr)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rates", type=rates_of, default=list(RATES), help="events a second (100,1000,5000)")
    parser.add_argument("--kcl-rates", type=rates_of, default=list(RATES), help="the same under KCL; '' for none")
    parser.add_argument("--seconds", type=float, default=60.0, help="a rate (60)")
    parser.add_argument("--ramp", type=float, default=5.0, help="seconds before them that do not count (5)")
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--checkpoint-seconds", type=float, default=5.0, help="the recommender's own is 5")
    parser.add_argument("--json", type=Path, default=ROOT / "build" / "bench-latency.json")
    options = parser.parse_args()
    results: Figures = {
        "p50_ms_1000": None,
        "p99_ms_1000": None,
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs",
        "python_version": platform.python_version(),
        "seconds_per_rate": options.seconds,
        "shards": options.shards,
        "checkpoint_seconds": options.checkpoint_seconds,
        "users": USERS,
        "rates": options.rates,
        "kcl_rates": [],
    }
    options.json.parent.mkdir(parents=True, exist_ok=True)
    try:
        for runner, rate, found in runs(options):
            prefix = "" if runner == "embedded" else "kcl_"
            results |= {f"{prefix}{name}_{rate}": value for name, value in found.items()}
            if prefix:
                results["kcl_rates"].append(rate)
            # Each rate as it ends: one that fails must not take the others with it.
            options.json.write_text(json.dumps(results, indent=2) + "\n")
            print(f"{runner}, {rate:,} events/s: p50 {found['p50_ms']} ms, p99 {found['p99_ms']} ms", flush=True)
    except StreamprocError as error:
        print(f"the benchmark failed: {error}", file=sys.stderr)
        return error.exit_code
    if options.rates:
        print(table(results, options.rates))
    if results["kcl_rates"]:
        print("\n" + table(results, results["kcl_rates"], "kcl_"))
    for sentence in limits(results, options.rates):
        print(f"\n{sentence}")
    if 1_000 in options.rates:
        print(
            f"\nat 1,000 events/s: p50 {results['p50_ms_1000']} ms (target {TARGET_P50_MS:.0f}), p99"
            f" {results['p99_ms_1000']} ms ({TARGET_P99_MS:.0f}), without the wait for the next read p50"
            f" {results['beyond_poll_p50_ms_1000']} ms and p99 {results['beyond_poll_p99_ms_1000']} ms"
            f" ({TARGET_BEYOND_POLL_MS:.0f})"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
