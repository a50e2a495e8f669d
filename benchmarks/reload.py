"""What a reload costs the batches that are under way: p99 of batch times with and without, at a steady rate.

A bundle is trained on the sample of Online Retail, and filled up to the size of a large shop's in two ways, which are
two versions. The shards of one process, each a worker in a thread of its own with states in memory, take turns
of *steady* seconds and of seconds with *reloads*, in which the alias moves between the two versions every four seconds:
files copied, digests, schema and golden rows proven, warmed up, swapped. That is far more often than anybody promotes,
so that the p99 is one of batches beside a reload.

Batches come when they are due, ready or not, as from Kinesis: *batch* is the time that a batch takes, *done* the time
from when it was due until it is through, with whatever it waited for.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import cycle, islice
from pathlib import Path

import msgspec
import numpy as np

from streamproc.clock import SystemClock
from streamproc.deadletters.memory import MemoryDeadLetters
from streamproc.memory import settle_memory
from streamproc.namespace import Namespace
from streamproc.record import Batch, Position, Record, shard_id_of
from streamproc.settings import WorkerSettings
from streamproc.shardmap import ALL_HASH_KEYS
from streamproc.sink import Delivery
from streamproc.states.memory import MemoryStates
from streamproc.telemetry import BatchCommitted, Telemetry, TelemetryEvent
from streamproc.worker import Ports, ShardWorker
from streamproc_consumers.facts import ModelOffered
from streamproc_consumers.recommender import Recommender
from streamproc_consumers.reload import FollowedModels
from streamproc_models import bundle as bundles
from streamproc_models.bundle import load
from streamproc_models.catalogue import UNKNOWN
from streamproc_models.items import named
from streamproc_models.registry import Alias
from streamproc_models.registry.folder import FolderRegistry
from streamproc_models.retrieval.links import Links
from streamproc_models.training import train
from streamproc_producers.events import CartEvent, encode, new_event_id, utc
from streamproc_producers.retail import RetailLog, default_data_path, item_names

CUT = datetime(2011, 11, 1, tzinfo=UTC)
#: Kinesis takes 1,000 records a second on a shard; five reads a second.
SHARDS, POLL_SECONDS = 5, 0.2
RELOAD_SECONDS = 4.0


def padded(folder: Path, items: int, links: int, seed: int, out: Path) -> str:
    """The bundle with made-up items up to so many, each linked to so many others; returns its version.

    Nobody meets them, so its lists are the same. What grows is what a reload reads, proves and builds.
    """
    found = load(folder)
    catalogue, random = found.catalogue, np.random.default_rng(seed)
    more = max(0, items - len(catalogue))
    generators = []
    for generator in catalogue.generators:
        if isinstance(generator, Links):
            own = ((0, 0), (0, max(0, links - generator.neighbours.shape[1])))
            neighbours = np.pad(generator.neighbours, own, constant_values=UNKNOWN)
            width = neighbours.shape[1]
            made_up = random.integers(len(catalogue), len(catalogue) + max(more, 1), (more, width), dtype=np.int32)
            generator = Links(
                generator.name,
                generator.weighting,
                np.vstack([neighbours, made_up]),
                np.vstack([np.pad(generator.links, own), random.random((more, width), dtype=np.float32)]),
            )
        generators.append(generator)
    bundles.write(
        out,
        msgspec.structs.replace(
            catalogue,
            ids=[*catalogue.ids, *(f"made-up-{number}" for number in range(more))],
            names=[*catalogue.names, *(f"Made up {number}" for number in range(more))],
            features=np.vstack([catalogue.features, np.zeros((more, catalogue.features.shape[1]), np.float32)]),
            generators=tuple(generators),
        ),
        found.booster,
        golden_rows=np.zeros((100, len(found.manifest.features)), np.float32),
        trained_from=found.manifest.trained_from,
        trained_until=found.manifest.trained_until,
        metrics=found.manifest.metrics,
    )
    return load(out).model_version


class Turn(msgspec.Struct):
    """The batches of one kind of seconds."""

    batch_ms: list[float] = msgspec.field(default_factory=list)
    done_ms: list[float] = msgspec.field(default_factory=list)

    def figures(self) -> dict[str, float]:
        """Percentiles."""
        found = {}
        for name in ("batch_ms", "done_ms"):
            for share in (50, 99, 100):
                found[f"{name}_p{share}"] = round(float(np.percentile(getattr(self, name), share)), 1)
        return {"batches": len(self.batch_ms)} | found


class NoSink:
    """Takes everything and keeps nothing."""

    def check(self) -> str:
        return ""

    def publish(self, outputs: Sequence[bytes]) -> Delivery:
        del outputs
        return Delivery([], [])


class Shard:
    """A worker, fed with events when they are due."""

    def __init__(self, number: int, models: FollowedModels, events: list[CartEvent], rate: float) -> None:
        namespace = Namespace("reload", "stream", 1)
        self._took: list[float] = []
        self._worker = ShardWorker(
            shard_id=shard_id_of(number),
            hash_range=ALL_HASH_KEYS,
            processor=Recommender(models),
            ports=Ports(states=MemoryStates(namespace), deadletters=MemoryDeadLetters(namespace), sink=NoSink()),
            settings=WorkerSettings(),
            clock=SystemClock(),
            telemetry=Telemetry(self._hear),
            abort=threading.Event(),
        )
        self._worker.start(None)
        self._number = number
        self._records = self._numbered(events)
        self._batch_size = round(rate * POLL_SECONDS)

    def _numbered(self, events: list[CartEvent]) -> Iterator[Record]:
        """The events for ever; each time later, as other events, so that none is a duplicate."""
        span = events[-1].ts - events[0].ts + timedelta(days=1)
        for number, event in enumerate(cycle(events)):
            again = msgspec.structs.replace(
                event, event_id=new_event_id(), ts=event.ts + span * (number // len(events))
            )
            yield Record(encode(again), event.user_id, Position(self._number, number), again.at)

    def _hear(self, event: TelemetryEvent) -> None:
        if isinstance(event, BatchCommitted):
            self._took.append(event.batch_seconds)

    def prepare(self, seconds: float) -> None:
        """Make the records of that time, so that making them is not measured."""
        count = round(seconds / POLL_SECONDS)
        self._batches = [
            Batch(self._worker.shard_id, list(islice(self._records, self._batch_size))) for _ in range(count)
        ]

    def run(self, started: float, turn: Turn) -> None:
        """Process what was prepared, each batch when it is due."""
        for number, batch in enumerate(self._batches):
            due = started + (number + self._number / SHARDS) * POLL_SECONDS
            time.sleep(max(0.0, due - time.perf_counter()))
            self._took.clear()
            self._worker.process(batch)
            turn.done_ms.append((time.perf_counter() - due) * 1000)
            turn.batch_ms.append(sum(self._took) * 1000)
        self._worker.make_durable()


def turn_of(shards: list[Shard], seconds: float, turn: Turn) -> None:
    """All shards at once, for so long."""
    for shard in shards:
        shard.prepare(seconds)
    settle_memory()  # as every runner does
    started = time.perf_counter() + 0.1
    threads = [threading.Thread(target=shard.run, args=(started, turn)) for shard in shards]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def point(registry: FolderRegistry, version: str) -> None:
    held = registry.alias("champion")
    moved = Alias(version=version, previous=None, moved_at=utc(time.time()), by="benchmark", why="")
    registry.move("champion", moved, held.token if held else None)


def reload_until(stop: threading.Event, registry: FolderRegistry, versions: list[str], models: FollowedModels) -> None:
    """Move the alias and follow it. The bundle before is forgotten, so that each time all of it is done."""
    wait = RELOAD_SECONDS / 2
    for version in cycle(versions):
        if stop.wait(wait):
            return
        wait = RELOAD_SECONDS
        models._previous.clear()
        point(registry, version)
        models.once()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=5_000.0, help="events a second, over all shards")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of a turn")
    parser.add_argument("--rounds", type=int, default=3, help="each is a turn of either kind")
    parser.add_argument("--items", type=int, default=50_000, help="made-up items fill the bundles up to so many")
    parser.add_argument("--links", type=int, default=300, help="of each item; 300 of 50,000 items are 60 MB")
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    options = parser.parse_args()
    data = default_data_path()
    with tempfile.TemporaryDirectory(prefix="streamproc-reload-") as folder:
        registry, versions = FolderRegistry(Path(folder) / "registry"), []
        trained = Path(folder) / "trained"
        train(RetailLog(data, until=CUT), CUT, trained, items=named(item_names(data)))
        for seed in (1, 2):
            out = Path(folder) / f"bundle-{seed}"
            versions.append(padded(trained, options.items, options.links, seed, out))
            registry.add(versions[-1], out)
        size = sum(path.stat().st_size for path in out.rglob("*.*"))
        point(registry, versions[1])
        reloads: list[float] = []
        models = FollowedModels(registry, "champion", poll_seconds=3600)
        models.start(
            Telemetry(lambda event: reloads.append(event.seconds) if isinstance(event, ModelOffered) else None)
        )
        live = list(RetailLog(data, since=CUT))
        by_shard: list[list[CartEvent]] = [[] for _ in range(SHARDS)]
        for event in live:
            by_shard[hash(event.user_id) % SHARDS].append(event)
        shards = [Shard(number, models, each, options.rate / SHARDS) for number, each in enumerate(by_shard)]
        turn_of(shards, options.seconds / 2, Turn())  # states, caches
        reloads.clear()
        steady, reloading = Turn(), Turn()
        for _ in range(options.rounds):
            turn_of(shards, options.seconds, steady)
            stop = threading.Event()
            thread = threading.Thread(target=reload_until, args=(stop, registry, versions, models))
            thread.start()
            turn_of(shards, options.seconds, reloading)
            stop.set()
            thread.join()
    without, beside = steady.figures(), reloading.figures()
    figures = {
        "machine": f"{platform.machine()}, {len(live):,} live events, bundle of {size / 1e6:.1f} MB",
        "events_per_second": options.rate,
        "steady": without,
        "with_reloads": beside,
        "reloads": len(reloads),
        "reload_ms_mean": round(float(np.mean(reloads)) * 1000, 1),
        "batch_ms_p99_added": round(beside["batch_ms_p99"] - without["batch_ms_p99"], 2),
        "done_ms_p99_added": round(beside["done_ms_p99"] - without["done_ms_p99"], 2),
    }
    print(json.dumps(figures, indent=2))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
