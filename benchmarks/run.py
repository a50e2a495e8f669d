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
import json
import os
import platform
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, cast

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
from streamproc.telemetry import BatchCommitted, Telemetry, TelemetryEvent
from streamproc.worker import Ports, ShardWorker
from streamproc_consumers.recommendation import Recommendation
from streamproc_consumers.recommender import Recommender
from streamproc_models.bundle import Bundle, load, predict
from streamproc_models.features import UserState
from streamproc_models.training import train
from streamproc_producers.events import encode
from streamproc_producers.simulate import Shop, simulate

BATCH_SIZES = (100, 1_000, 5_000)
ROUNDS = 3
SHARD_ID = shard_id_of(0)
START = datetime(2026, 1, 1, tzinfo=UTC)
TRAINING_DAYS, TRAINING_EVENTS = 60, 30_000
#: Kinesis takes 1,000 records a second on a shard ("Quotas and limits", Kinesis Data Streams Developer Guide).
EVENTS_PER_SECOND = 1_000.0


class Measured(NamedTuple):
    """One run of one case."""

    events: int
    wall_seconds: float
    cpu_seconds: float


class Committed:
    """Adds up what the worker says of its batches."""

    def __init__(self) -> None:
        self.events = 0
        self.outputs = 0
        self.step_seconds: dict[str, float] = {}

    def __call__(self, event: TelemetryEvent) -> None:
        if isinstance(event, BatchCommitted):
            self.events += event.events_folded
            self.outputs += event.outputs
            for step, seconds in event.step_seconds.items():
                self.step_seconds[step] = self.step_seconds.get(step, 0.0) + seconds


class RecordingBooster:
    """Predicts as the booster does, and keeps a copy of the rows."""

    def __init__(self, booster: xgboost.Booster) -> None:
        self._booster = booster
        self.matrices: list[NDArray[np.float32]] = []

    def inplace_predict(self, rows: NDArray[np.float32], **options: Any) -> NDArray[np.float32]:
        self.matrices.append(rows.copy())
        return cast("NDArray[np.float32]", self._booster.inplace_predict(rows, **options))


class FoldOnly(Recommender):
    """Recommends nothing: makes the states of the history."""

    def emit(self, changed: Sequence[Changed[UserState]]) -> Sequence[Recommendation]:
        return cast("list[Recommendation]", [None] * len(changed))


class Bench:
    """The events, the states before them, and the cases."""

    def __init__(self, history: list[Record], measured: list[Record], bundle: Bundle, redis_url: str | None) -> None:
        self._measured = measured
        self._bundle = bundle
        self._booster = cast("xgboost.Booster", bundle.booster)
        self._redis_url = redis_url
        self._runs = 0
        self._before = history[-1].position
        states = MemoryStates(self._namespace())
        worker = self._worker(FoldOnly(bundle), states, None, Committed(), None)
        for batch in batches(history, max(BATCH_SIZES)):
            worker.process(batch)
        worker.make_durable()
        self._states = list(states.scan())

    def _namespace(self) -> Namespace:
        """One of its own for each run: the projection refuses what is earlier than what it has."""
        self._runs += 1
        return Namespace("bench", "cart-events", self._runs)

    def _projection(self, namespace: Namespace) -> Projection:
        return RedisProjection(namespace, url=self._redis_url) if self._redis_url else MemoryProjection(namespace)

    def _worker(
        self,
        processor: Recommender,
        states: MemoryStates,
        projection: Projection | None,
        committed: Committed,
        checkpoint: Position | None,
    ) -> ShardWorker:
        namespace = self._namespace()
        worker = ShardWorker(
            shard_id=SHARD_ID,
            hash_range=ALL_HASH_KEYS,
            processor=processor,
            ports=Ports(
                states=states,
                deadletters=MemoryDeadLetters(namespace),
                sink=MemorySink(namespace),
                projection=projection,
            ),
            settings=WorkerSettings(),
            clock=SystemClock(),
            telemetry=Telemetry(committed),
            abort=threading.Event(),
        )
        worker.start(checkpoint)
        return worker

    def worker(self, batch_size: int, bundle: Bundle | None = None) -> tuple[Measured, Committed]:
        """The commit protocol, with a checkpoint where one is due and at the end."""
        namespace, committed = self._namespace(), Committed()
        states = MemoryStates(namespace)
        states.store(self._states)
        processor = Recommender(bundle or self._bundle)
        worker = self._worker(processor, states, self._projection(namespace), committed, self._before)

        def run() -> None:
            for batch in batches(self._measured, batch_size):
                worker.process(batch)
                if worker.checkpoint_due():
                    worker.make_durable()
            worker.make_durable()

        measured = timed(len(self._measured), run)
        if committed.events != len(self._measured):
            raise SystemExit(f"{committed.events} of {len(self._measured)} events were folded: the figures are void")
        return measured, committed

    def one_at_a_time(self, events: int) -> Measured:
        """Decode, fold, predict, publish and project each event by itself."""
        namespace = self._namespace()
        processor, sink, projection = Recommender(self._bundle), MemorySink(namespace), self._projection(namespace)
        states = {stored.key: processor.decode_state(stored.state) for stored in self._states}

        def run() -> None:
            for record in self._measured[:events]:
                event = processor.decode(record.data)
                key = processor.key(event)
                state = states[key] = processor.fold(states.get(key) or processor.new_state(), event)
                [output] = processor.emit([Changed(key, state, record.position, processor.event_time(event), 1)])
                sink.publish([processor.encode(output)])
                encoded = processor.encode_state(state)
                projection.project([StoredState(key, record.position, 1, 0, b"", processor.fold_version, encoded)])

        return timed(events, run)

    def rows(self) -> tuple[list[NDArray[np.float32]], int]:
        """The matrices that the worker scores at batches of 1,000, and the number of users in them."""
        recording = RecordingBooster(self._booster)
        _, committed = self.worker(1_000, msgspec.structs.replace(self._bundle, booster=recording))
        return recording.matrices, committed.outputs

    def floor(self, matrices: list[NDArray[np.float32]]) -> Measured:
        """The booster alone."""

        def run() -> None:
            for rows in matrices:
                predict(self._booster, rows)

        return timed(len(self._measured), run)


def timed(events: int, run: Callable[[], None]) -> Measured:
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    return Measured(events, time.perf_counter() - wall, time.process_time() - cpu)


def batches(records: list[Record], size: int) -> Iterator[Batch]:
    return (Batch(SHARD_ID, records[start : start + size]) for start in range(0, len(records), size))


def log(options: argparse.Namespace) -> list[Record]:
    """The events of a shop as one full shard holds them."""
    shop = Shop(users=options.users, items=options.items, rate=EVENTS_PER_SECOND, seed=options.seed)
    return [
        Record(encode(event), event.user_id, Position(0, number), event.at)
        for number, event in enumerate(islice(simulate(shop, START), options.events), 1)
    ]


def trained(options: argparse.Namespace, folder: Path) -> Bundle:
    """A bundle of the same shop's earlier days, at a rate that makes them many."""
    rate = TRAINING_EVENTS / (TRAINING_DAYS * 86_400)
    shop = Shop(users=options.users, items=options.items, rate=rate, seed=options.seed)
    before = simulate(shop, START - timedelta(days=TRAINING_DAYS))
    train(islice(before, TRAINING_EVENTS), START, folder, names={})
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


def measure(bench: Bench, one_at_a_time_events: int) -> dict[str, float]:
    """All cases in turn, three rounds; the medians under the names of ``build/bench.json``."""
    matrices, users = bench.rows()
    runs: dict[str, list[dict[str, float]]] = {}

    def note(case: str, measured: Measured, **more: float) -> None:
        events, wall, cpu = measured
        rates = {"events_per_cpu_second": events / cpu, "events_per_second": events / wall}
        runs.setdefault(case, []).append({**rates, **more})

    for _ in range(ROUNDS):
        for size in BATCH_SIZES:
            measured, committed = bench.worker(size)
            steps = {f"{step}_us_per_event": s * 1e6 / committed.events for step, s in committed.step_seconds.items()}
            note(f"batch_{size}", measured, **steps, events_per_user=committed.events / committed.outputs)
        note("one_at_a_time", bench.one_at_a_time(one_at_a_time_events))
        note("floor_1000", bench.floor(matrices))
    figures = {
        f"{case}_{name}": statistics.median(run[name] for run in rounds)
        for case, rounds in runs.items()
        for name in rounds[0]
    }
    worker = figures["batch_1000_events_per_cpu_second"]
    rows = sum(len(matrix) for matrix in matrices)
    return {
        "ratio_to_one_at_a_time_1000": worker / figures["one_at_a_time_events_per_cpu_second"],
        "share_of_floor_1000": worker / figures["floor_1000_events_per_cpu_second"],
        "events_per_user_in_batch_1000": figures.pop("batch_1000_events_per_user"),
        "scored_1000_rows": rows,
        "scored_1000_rows_per_user": rows / users,
        **figures,
    }


def machine() -> dict[str, str | int]:
    """What the figures were measured on."""
    cpuinfo = Path("/proc/cpuinfo")
    models = [line.partition(": ")[2] for line in cpuinfo.open() if "model name" in line] if cpuinfo.exists() else []
    return {
        "machine_cpu": models[0].strip() if models else platform.processor() or platform.machine(),
        "machine_cores": os.cpu_count() or 1,
        "python_version": platform.python_version(),
        "xgboost_version": xgboost.__version__,
    }


def table(figures: dict[str, float], facts: dict[str, str | int]) -> str:
    """The figures in Markdown."""
    steps = [key.split("_")[2] for key in figures if key.startswith("batch_1000_") and key.endswith("us_per_event")]
    header = ["", "events/CPU s", "events/s", *(f"{step} us" for step in steps)]
    lines = [header, ["---", *["--:"] * (len(header) - 1)]]
    for case in (*(f"batch_{size}" for size in BATCH_SIZES), "one_at_a_time", "floor_1000"):
        rates = [figures[f"{case}_{name}"] for name in ("events_per_cpu_second", "events_per_second")]
        microseconds = [figures.get(f"{case}_{step}_us_per_event") for step in steps]
        cells = [f"{value:.1f}" if value is not None else "" for value in microseconds]
        lines.append([case.replace("_", " "), *(f"{rate:,.0f}" for rate in rates), *cells])
    return "\n".join(
        [
            "{machine_cpu}, {machine_cores} cores; Python {python_version}, XGBoost {xgboost_version};"
            " {trees} trees; projection: {projection}".format(**facts),
            "",
            *(f"| {' | '.join(cells)} |" for cells in lines),
            "",
            "Batches of 1,000: {ratio_to_one_at_a_time_1000:.1f} times one event at a time;"
            " {share_of_floor_1000:.0%} of the booster alone; {events_per_user_in_batch_1000:.2f} events a user in a"
            " batch; {scored_1000_rows_per_user:.0f} rows a user.".format(**figures),
        ]
    )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--events", type=int, default=200_000, help="events in the log, history included")
    parser.add_argument("--measured", type=int, default=20_000, help="how many of them, the last, are measured")
    parser.add_argument("--one-at-a-time", type=int, default=2_000, help="how many of those one at a time")
    parser.add_argument("--users", type=int, default=5_000)
    parser.add_argument("--items", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--model", type=Path, help="a bundle's folder; without it one is trained on the same shop")
    parser.add_argument("--json", type=Path, default=Path("build/bench.json"))
    options = parser.parse_args()
    if not 0 < options.one_at_a_time <= options.measured < options.events:
        parser.error("--one-at-a-time must be above 0 and within --measured, and --measured below --events")
    return options


def main() -> None:
    options = arguments()
    with tempfile.TemporaryDirectory(prefix="streamproc-bench-") as folder, redis_server(Path(folder)) as redis_url:
        say("simulating")
        records = log(options)
        if not options.model:
            say("training")
        bundle = load(options.model) if options.model else trained(options, Path(folder))
        if bundle.booster is None:
            sys.exit("the bundle has no booster, so nothing would be scored: give another one with --model")
        say("folding the history")
        bench = Bench(records[: -options.measured], records[-options.measured :], bundle, redis_url)
        say("measuring")
        figures = measure(bench, options.one_at_a_time)
    facts = machine() | {
        "trees": bundle.booster.num_boosted_rounds(),
        "projection": "Redis" if redis_url else "memory (no Redis server was found)",
    }
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps({**facts, **{k: round(v, 3) for k, v in figures.items()}}, indent=2) + "\n")
    print(table(figures, facts))


def say(what: str) -> None:
    print(f"{what} ...", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
