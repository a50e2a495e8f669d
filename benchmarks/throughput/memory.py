"""``make bench-memory``: what the worker keeps over millions of events of a million users, which its caches must bound.

The worker is fed 5,000 events a batch, made as it goes, users and items skewed by Zipf's law. Its memory is read every
100,000 events. The *slope* is that of a straight line through the second half.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import sys
import tempfile
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from statistics import linear_regression
from uuid import UUID

from benchmarks.throughput import inputs, report
from benchmarks.throughput.environments import ROOT
from benchmarks.throughput.job import Task
from benchmarks.throughput.ours import SHARD_ID, Counted, EventTime, count, records_of, worker_of
from benchmarks.throughput.runner import Services, services
from streamproc.memory import settle_memory
from streamproc.record import Batch, Position, Record
from streamproc.registry import Registry
from streamproc.telemetry import Telemetry
from streamproc_producers.events import CartEvent, EventType, encode, utc

BATCH, LOOK_EVENTS, TRAINING_EVENTS = 5_000, 100_000, 20_000
_KINDS = (EventType.VIEW,) * 6 + (EventType.ADD_TO_CART,) * 3 + (EventType.PURCHASE,)


def batches(events: int, users: int) -> Iterator[list[Record]]:
    """The log, batch by batch; nothing of it stays."""
    rng = random.Random(0)
    items = list(accumulate(1 / rank for rank in range(1, inputs.ITEMS + 1)))
    for start in range(0, events, BATCH):
        made = []
        for number in range(start, start + BATCH):
            # By the inverse of Zipf's distribution, without a table of a million weights.
            user = int(math.exp(rng.random() * math.log(users))) - 1
            made.append(
                encode(
                    CartEvent(
                        event_id=UUID(int=rng.getrandbits(128), version=4),
                        event_type=rng.choice(_KINDS),
                        user_id=f"user-{user if number % 2 else number // 2 % users}",
                        item_id=f"item-{rng.choices(range(inputs.ITEMS), cum_weights=items)[0]}",
                        ts=utc(inputs.START.timestamp() + number / inputs.EVENTS_PER_SECOND),
                        quantity=1,
                    )
                )
            )
        first = Position(0, inputs.FIRST_SEQUENCE_NUMBER + start)
        yield [
            Record(one.data, one.partition_key, Position(0, first.sequence_number + index), one.arrived_at)
            for index, one in enumerate(records_of(made))
        ]


def resident_mb() -> float:
    """Of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20


def measure(folder: Path, events: int, users: int, beside: Services) -> dict[str, float | int]:
    """Run the worker over the log; its memory and the slope."""
    # What it publishes is thrown away.
    (folder / "lists.ndjson").symlink_to(os.devnull)
    task = Task(folder=str(folder), log="", events=events, batch=BATCH, out=str(folder), redis_url=beside.redis_url)
    os.environ |= {name: value for name, value in beside.environment().items() if name.startswith("AWS_")}
    clock, counted = EventTime(), Counted()
    clock.now = inputs.START.timestamp()
    worker = worker_of(task, clock, Telemetry(Registry(), counted))
    worker.start(None)
    settle_memory()
    seen: list[tuple[float, float]] = []
    for number, records in enumerate(batches(events, users), 1):
        clock.now = records[-1].arrived_at
        worker.process(Batch(SHARD_ID, records))
        count(worker.advance_checkpoint(until=0.0), counted)
        if number * BATCH % LOOK_EVENTS == 0:
            # The projection of a million users is Redis' matter, and is not what is measured.
            beside.flush()
            seen.append((number * BATCH / 1e6, resident_mb()))
            print(f"{number * BATCH:>12,} events  {seen[-1][1]:,.0f} MB", file=sys.stderr, flush=True)
    late = seen[len(seen) // 2 :]
    slope = linear_regression(*zip(*late, strict=True)).slope if len(late) > 1 else 0.0
    return {
        "events": counted.events,
        "users": users,
        "states_written": counted.states_written,
        "rss_mb_first": round(seen[0][1], 1),
        "rss_mb_middle": round(late[0][1], 1),
        "rss_mb_last": round(seen[-1][1], 1),
        "rss_mb_peak": round(max(mb for _, mb in seen), 1),
        "rss_mb_growth_per_million_events": round(slope, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=10_000_000)
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--json", type=Path, default=ROOT / "build" / "bench-memory.json")
    options = parser.parse_args()
    if options.events < LOOK_EVENTS or options.events % BATCH:
        parser.error(f"--events must be {LOOK_EVENTS:,} or more, and a multiple of {BATCH:,}")
    with tempfile.TemporaryDirectory(prefix="streamproc-bench-") as name, services(Path(name)) as beside:
        inputs.model(Path(name) / "bundle", TRAINING_EVENTS)
        figures = report.machine() | measure(Path(name), options.events, options.users, beside)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(figures, indent=2) + "\n")
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
