"""What one core processes: the worker at three batch sizes, beside a consumer that takes one event at a time.

A *history* of simulated events is folded first, so that users have states. What follows it is *measured*: each case
processes the same events from the same states, three rounds in turn, and the median counts. The cases are

- the worker, at batches of 100, 1,000 and 5,000 events: the whole commit protocol, with states, sink and dead letters
  in memory and, where a server is found, the projection in Redis
- *one event at a time*: the same fold, scorer and projection without the worker, one user a prediction and a write.
  It keeps states in a dictionary, drops no duplicate and makes nothing durable, so it does less than a consumer must
- *the floor*: the booster alone, on the rows that the worker scored at batches of 1,000

CPU seconds are those of this process with its threads. Redis is another process, whose CPU is not in them.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import statistics
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import count, islice
from pathlib import Path
from typing import Any, cast

import msgspec
import numpy as np
import xgboost
from numpy.typing import NDArray

from streamproc.clock import SystemClock
from streamproc.deadletters.memory import MemoryDeadLetters
from streamproc.errors import MissingExtra
from streamproc.local.processes import HOST, ChildProcess, bound_socket, find_redis
from streamproc.local.readiness import wait_for_redis
from streamproc.namespace import Namespace
from streamproc.processor import Changed
from streamproc.projection import Projection
from streamproc.projections.memory import MemoryProjection
from streamproc.projections.redis import RedisProjection
from streamproc.record import Batch, Position, Record, shard_id_of
from streamproc.settings import WorkerSettings
from streamproc.shardmap import ALL_HASH_KEYS
from streamproc.sinks.memory import MemorySink
from streamproc.state import StoredState
from streamproc.states.memory import MemoryStates
from streamproc.telemetry import BatchCommitted, Telemetry
from streamproc.worker import Ports, ShardWorker
from streamproc_consumers.recommender import Recommender
from streamproc_models.bundle import Bundle, load, predict
from streamproc_models.training import train
from streamproc_producers.events import encode
from streamproc_producers.simulate import Shop, simulate

BATCH_SIZES = (100, 1_000, 5_000)
ROUNDS = 3
#: It takes some ten times longer an event, so fewer do.
ONE_AT_A_TIME_EVENTS = 2_000
CPU_RATE = "events_per_cpu_second"
Figures = dict[str, float]
SHARD_ID = shard_id_of(0)
START, TRAINING, TRAINING_EVENTS = datetime(2026, 1, 1, tzinfo=UTC), timedelta(days=60), 30_000
#: Kinesis takes 1,000 records a second on a shard ("Quotas and limits", Kinesis Data Streams Developer Guide).
EVENTS_PER_SECOND = 1_000.0
#: As long as those of Kinesis are, since they travel as text.
FIRST_SEQUENCE_NUMBER = 49590338271490256608559692538361571095921575989136588898


class RecordingBooster:
    """Predicts as the booster does, and keeps a copy of the rows."""

    def __init__(self, booster: xgboost.Booster) -> None:
        self._booster = booster
        self.matrices: list[NDArray[np.float32]] = []

    def inplace_predict(self, rows: NDArray[np.float32], **options: Any) -> NDArray[np.float32]:
        self.matrices.append(rows.copy())
        return cast("NDArray[np.float32]", self._booster.inplace_predict(rows, **options))


class Bench(msgspec.Struct, frozen=True):
    """What all cases share."""

    events: list[Record]
    #: The states before the first event.
    states: list[StoredState]
    bundle: Bundle
    booster: xgboost.Booster
    redis_url: str | None

    def projection(self) -> Projection:
        """An empty one: it refuses what is earlier than what it has."""
        namespace = namespaces()
        return RedisProjection(namespace, url=self.redis_url) if self.redis_url else MemoryProjection(namespace)

    def batches(self, size: int, bundle: Bundle | None = None) -> Figures:
        """The worker, at batches of this size."""
        processor, events = Recommender(bundle or self.bundle), len(self.events)
        rates, committed, _ = worked(self.events, size, processor, self.states, self.projection())
        per_user = {"events_per_user": events / sum(batch.outputs for batch in committed)}
        seconds = {step: sum(batch.step_seconds[step] for batch in committed) for step in committed[0].step_seconds}
        return rates | per_user | {f"{step}_us_per_event": value * 1e6 / events for step, value in seconds.items()}

    def one_at_a_time(self) -> Figures:
        """Decode, fold, predict, publish and project each event by itself, of the first ones."""
        records = self.events[:ONE_AT_A_TIME_EVENTS]
        processor, sink, projection = Recommender(self.bundle), MemorySink(namespaces()), self.projection()
        states = {stored.key: processor.decode_state(stored.state) for stored in self.states}

        def run() -> None:
            for record in records:
                event = processor.decode(record.data)
                key = processor.key(event)
                state = states[key] = processor.fold(states.get(key) or processor.new_state(), event)
                [output] = processor.emit([Changed(key, state, record.position, processor.event_time(event), 1)])
                sink.publish([processor.encode(output)])
                encoded = processor.encode_state(state)
                projection.project([StoredState(key, record.position, 1, 0, b"", processor.fold_version, encoded)])

        return timed(len(records), run)


def worked(
    records: list[Record], size: int, processor: Recommender, before: list[StoredState], projection: Projection | None
) -> tuple[Figures, list[BatchCommitted], list[StoredState]]:
    """A worker's run over these records, with a checkpoint where one is due and at the end; and the states then."""
    namespace = namespaces()
    committed: list[BatchCommitted] = []
    states, sink, letters = MemoryStates(namespace), MemorySink(namespace), MemoryDeadLetters(namespace)
    states.store(before)
    worker = ShardWorker(
        shard_id=SHARD_ID,
        hash_range=ALL_HASH_KEYS,
        processor=processor,
        ports=Ports(states=states, deadletters=letters, sink=sink, projection=projection),
        settings=WorkerSettings(),
        clock=SystemClock(),
        telemetry=Telemetry(lambda event: committed.append(event) if isinstance(event, BatchCommitted) else None),
        abort=threading.Event(),
    )
    worker.start(None)

    def run() -> None:
        for start in range(0, len(records), size):
            worker.process(Batch(SHARD_ID, records[start : start + size]))
            if worker.checkpoint_due():
                worker.make_durable()
        worker.make_durable()

    rates = timed(len(records), run)
    folded = sum(batch.events_folded for batch in committed)
    if folded != len(records):
        sys.exit(f"{folded} of {len(records)} events were folded, so the figures would mean nothing")
    return rates, committed, list(states.scan())


def timed(events: int, run: Callable[[], object]) -> Figures:
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {CPU_RATE: events / cpu, "events_per_second": events / wall}


def namespaces(numbers: Iterator[int] = count()) -> Namespace:  # noqa: B008  # one count for the whole run
    return Namespace("bench", "cart-events", next(numbers))


def log(options: argparse.Namespace) -> list[Record]:
    """The events of a shop as one full shard holds them."""
    shop = Shop(users=options.users, rate=EVENTS_PER_SECOND)
    return [
        Record(encode(event), event.user_id, Position(0, FIRST_SEQUENCE_NUMBER + number), event.at)
        for number, event in enumerate(islice(simulate(shop, START), options.events))
    ]


def trained(options: argparse.Namespace, folder: Path) -> Bundle:
    """A bundle of the same shop's earlier days, at a rate that makes them many."""
    shop = Shop(users=options.users, rate=TRAINING_EVENTS / TRAINING.total_seconds())
    train(islice(simulate(shop, START - TRAINING), TRAINING_EVENTS), START, folder, names={})
    return load(folder)


@contextmanager
def redis_server(folder: Path) -> Iterator[str | None]:
    """The URL of a Redis server that saves nothing, or None where no server is installed."""
    try:
        program = find_redis()
    except MissingExtra:
        yield None
        return
    with bound_socket("redis", None) as reservation:
        port = int(reservation.getsockname()[1])
    options = ["--port", str(port), "--bind", HOST, "--save", "", "--appendonly", "no", "--dir", str(folder)]
    child = ChildProcess("redis", [program, *options], log=folder / "redis.log")
    try:
        wait_for_redis(child, port, time.monotonic() + 20)
        yield f"redis://{HOST}:{port}/0"
    finally:
        child.stop()


def measure(bench: Bench) -> dict[str, Any]:
    """All cases in turn, three rounds; the medians under the names of ``build/bench.json``."""
    recording = RecordingBooster(bench.booster)
    bench.batches(1_000, msgspec.structs.replace(bench.bundle, booster=recording))
    matrices = recording.matrices
    # The log and the bundle are not the worker's, so its garbage collections need not walk them.
    gc.freeze()
    runs: dict[str, list[Figures]] = defaultdict(list)
    for _ in range(ROUNDS):
        for size in BATCH_SIZES:
            runs[f"batch_{size}"].append(bench.batches(size))
        runs["one_at_a_time"].append(bench.one_at_a_time())
        runs["floor_1000"].append(timed(len(bench.events), lambda: [predict(bench.booster, rows) for rows in matrices]))
    figures = {
        f"{case}_{name}": round(statistics.median(run[name] for run in rounds), 1)
        for case, rounds in runs.items()
        for name in rounds[0]
    }
    worker, one, floor = (figures[f"{case}_{CPU_RATE}"] for case in ("batch_1000", "one_at_a_time", "floor_1000"))
    per_user = runs["batch_1000"][0]["events_per_user"]
    return {
        "ratio_to_one_at_a_time_1000": round(worker / one, 2),
        "share_of_floor_1000": round(worker / floor, 3),
        "events_per_user_in_batch_1000": round(per_user, 3),
        "rows_per_user_1000": round(sum(map(len, matrices)) * per_user / len(bench.events), 2),
        **figures,
    }


def facts(booster: xgboost.Booster, redis_url: str | None) -> dict[str, str | int]:
    """What the figures were measured on."""
    cpuinfo = Path("/proc/cpuinfo")
    models = [line.partition(": ")[2] for line in cpuinfo.open() if "model name" in line] if cpuinfo.exists() else []
    return {
        "machine_cpu": models[0].strip() if models else platform.processor() or platform.machine(),
        "machine_cores": os.cpu_count() or 1,
        "python_version": platform.python_version(),
        "xgboost_version": xgboost.__version__,
        "trees": booster.num_boosted_rounds(),
        "projection": "Redis" if redis_url else "memory (no Redis server was found)",
    }


def table(figures: dict[str, Any]) -> str:
    """The figures in Markdown."""
    names = [key.removeprefix("batch_1000_") for key in figures if key.startswith("batch_1000_")]
    lines = [["", *(name.replace("_", " ") for name in names)], ["---", *["--:"] * len(names)]]
    for case in (*(f"batch_{size}" for size in BATCH_SIZES), "one_at_a_time", "floor_1000"):
        values = [figures.get(f"{case}_{name}") for name in names]
        cells = ["" if value is None else f"{value:,.{0 if value > 100 else 1}f}" for value in values]
        lines.append([case.replace("_", " "), *cells])
    machine = "{machine_cpu}, {machine_cores} cores; Python {python_version}, XGBoost {xgboost_version}; {trees} trees"
    ratios = (
        "Batches of 1,000: {ratio_to_one_at_a_time_1000} times one event at a time, {share_of_floor_1000:.0%} of the"
        " booster alone, {events_per_user_in_batch_1000} events and {rows_per_user_1000} rows a user in a batch."
    )
    rows = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    return f"{machine}; projection in {{projection}}.\n\n{rows}\n\n{ratios}".format(**figures)


def main() -> None:
    parser = argparse.ArgumentParser(description="What one core processes.")
    parser.add_argument("--events", type=int, default=200_000, help="events in the log, history included")
    parser.add_argument("--measured", type=int, default=20_000, help="how many of them, the last, are measured")
    parser.add_argument("--users", type=int, default=5_000)
    parser.add_argument("--model", type=Path, help="a bundle's folder; without it one is trained on the same shop")
    parser.add_argument("--json", type=Path, default=Path("build/bench.json"))
    options = parser.parse_args()
    if not 0 < options.measured < options.events:
        parser.error("--measured must be above 0 and below --events: users without a history would be measured")
    with tempfile.TemporaryDirectory(prefix="streamproc-bench-") as folder, redis_server(Path(folder)) as redis_url:
        records = log(options)
        bundle = load(options.model) if options.model else trained(options, Path(folder))
        if bundle.booster is None:
            sys.exit("the bundle has no booster, so nothing would be scored: give another one with --model")
        print("measuring ...", file=sys.stderr)
        # Without its booster the bundle ranks by popularity, which costs next to nothing.
        folds = Recommender(msgspec.structs.replace(bundle, booster=None))
        _, _, states = worked(records[: -options.measured], max(BATCH_SIZES), folds, [], None)
        bench = Bench(records[-options.measured :], states, bundle, bundle.booster, redis_url)
        figures = facts(bundle.booster, redis_url) | measure(bench)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(figures, indent=2) + "\n")
    print(table(figures))


if __name__ == "__main__":
    main()
