"""What every way has in common: the input, the output, and the marks between which it is measured.

It runs in the environment of each peer, so it imports nothing but what the job needs: events, fold, scorer, redis-py.

A way runs in a process of its own, with processes below it where its framework starts some. It reads the *log*, calls
:func:`mark` once it is ready to take the first event, and once more when the last list is written. What is counted lies
between these two marks.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO
from uuid import UUID

import msgspec
import redis

from streamproc_models.booster import Booster
from streamproc_models.bundle import Bundle, load
from streamproc_models.scorer import Ranked, RankedItem, Scorer

#: How many items are recommended.
ITEMS_PER_LIST = 10
#: Checkpoints are so far apart, in event time.
CHECKPOINT_SECONDS = 30.0
_TICKS = os.sysconf("SC_CLK_TCK")


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """What a way is told, as JSON in its first argument."""

    #: What was prepared for all ways; see ``inputs.py``.
    folder: str
    #: Which of its logs: ``zipf`` or ``distinct``.
    log: str
    #: How many of its events, the first ones.
    events: int
    #: How many a batch, where the way takes batches.
    batch: int
    #: Candidates a user at most.
    candidates: int = 100
    #: An empty folder for what it writes.
    out: str
    redis_url: str
    #: Ours: a user's list is made at most once in so long, of event time.
    at_most_every_seconds: float = 0.0
    #: A peer: oneDAL adds up the trees, as it does with us, and not XGBoost.
    onedal: bool = False
    #: The way waits for a line on standard input before it takes the first event.
    waits: bool = False


class Listed(msgspec.Struct, frozen=True):
    """What a peer writes of a list. The event is the last one in the user's features."""

    user_id: str
    event_id: UUID
    items: list[RankedItem]


def task() -> Task:
    """The task of this process."""
    # Processes below this one find the root of the tree and where the marks go.
    decoded = msgspec.json.decode(sys.argv[1], type=Task)
    os.environ.setdefault("BENCH_ROOT", str(os.getpid()))
    os.environ["BENCH_OUT"] = decoded.out
    return decoded


def log_lines(of: Task) -> list[bytes]:
    """The events, one JSON object each."""
    with Path(of.folder, f"{of.log}.ndjson").open("rb") as lines:
        return [line.rstrip() for line, _ in zip(lines, range(of.events), strict=False)]


def bundle_of(of: Task) -> Bundle:
    """The model, with as many candidates as the task says."""
    bundle = load(Path(of.folder, "bundle"))
    if bundle.booster is None:
        raise SystemExit("the bundle has no booster, so nothing would be scored")
    if of.candidates == bundle.catalogue.candidates_max:
        return bundle
    fewer = msgspec.structs.replace(bundle.catalogue, candidates_max=of.candidates)
    return msgspec.structs.replace(bundle, catalogue=fewer)


def booster_of(of: Task, bundle: Bundle) -> Booster:
    """The bundle's trees, added up by what the task says: the floor's and the peers'."""
    assert bundle.booster is not None  # noqa: S101  # narrows for mypy: bundle_of() refuses it
    return Booster(bundle.booster.trained, onedal=of.onedal)


class Peer:
    """Scorer and Redis of a peer: what it does with the states that it keeps."""

    def __init__(self, of: Task) -> None:
        bundle = bundle_of(of)
        self._scorer = Scorer(msgspec.structs.replace(bundle, booster=booster_of(of, bundle)))
        self.redis = redis.Redis.from_url(of.redis_url)
        self._encode = msgspec.json.Encoder().encode

    def lists(self, users: list[tuple[str, Any]], event_ids: Iterable[UUID]) -> list[bytes]:
        """One line a user."""
        ranked: list[Ranked] = self._scorer.rank(users, ITEMS_PER_LIST)
        return [
            self._encode(Listed(one.user_id, event_id, one.items))
            for one, event_id in zip(ranked, event_ids, strict=True)
        ]


@cache
def peer_of(encoded: bytes) -> Peer:
    """The peer of a task, in a process that a framework started: made at the first call, and then it is ready."""
    peer = Peer(msgspec.json.decode(encoded, type=Task))
    mark("ready")
    return peer


def output(of: Task) -> BinaryIO:
    """Where lists go, one a line."""
    return Path(of.out, "lists.ndjson").open("ab")


def freeze() -> None:
    """Take what exists out of the collector's sight: the log in memory is the benchmark's, not the way's."""
    gc.collect()
    gc.freeze()


def mark(name: str) -> None:
    """Note clocks and counters; of marks with one name the first counts."""
    path = Path(os.environ["BENCH_OUT"], f"{name}.json")
    if path.exists():
        return
    cpu, peak = _tree(int(os.environ["BENCH_ROOT"]))
    noted = {"wall_s": time.monotonic(), "cpu_s": cpu, "machine_cpu_s": machine_cpu_seconds(), "peak_mb": peak}
    path.write_text(json.dumps(noted))


def wait_for_start(of: Task) -> None:
    """Say that the way is ready, and wait where the task says so."""
    freeze()
    if of.waits:
        print("ready", flush=True)
        sys.stdin.readline()
    mark("ready")


def machine_cpu_seconds() -> float:
    """What all cores did since the machine came up, waiting and idling left out."""
    user, nice, system, _idle, _iowait, irq, softirq, *_ = map(int, Path("/proc/stat").read_text().split()[1:11])
    return (user + nice + system + irq + softirq) / _TICKS


def _tree(root: int) -> tuple[float, float]:
    """CPU seconds of a process and all below it, the ended ones too, and the sum of their peaks of memory, in MB."""
    found = dict(_processes())
    cpu, peak, level = 0.0, 0.0, [root]
    while level:
        for pid in level:
            ticks = found[pid][1] if pid in found else 0
            if pid == os.getpid():  # to the microsecond
                reaped = os.times()
                cpu += time.process_time() + reaped.children_user + reaped.children_system
            else:
                cpu += ticks / _TICKS
            peak += _peak_mb(pid)
        level = [pid for pid, (parent, _) in found.items() if parent in level]
    return cpu, peak


def _processes() -> Iterable[tuple[int, tuple[int, int]]]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue  # it has ended
            yield int(entry.name), (int(fields[1]), sum(map(int, fields[11:15])))


def _peak_mb(pid: int) -> float:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    words: Mapping[str, str] = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    return int(words.get("VmHWM", "0").split()[0]) / 1024
