"""What an audit costs: a sink with planted faults is written, and ``streamproc audit`` must find those alone.

The sink has lists of 20,000 users on four shards, over four days, of two model versions and two arms, in objects of
64 MB; the archive has the event of every sixteenth list. Planted are repeats, ids that are used twice, an event
without a list, objects that are cut (plain and gzip), a foreign object and lines of an older schema. The audit runs in
a process of its own with one Polars thread; its CPU seconds and its memory are the kernel's count for that process.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec

from streamproc.record import Position
from streamproc_consumers.recommendation import LogPosition, Recommendation, RecommendedItem, recommendation_id

USERS, SHARDS, DAYS = 20_000, 4, 4
OBJECT_BYTES = 64 * 1024 * 1024
START = datetime(2026, 11, 1, tzinfo=UTC)
#: Kinesis' sequence numbers have 56 digits.
FIRST = 49_650_000_000_000_000_000_000_000_000_000_000_000_000_000_000_000_000_000
_EVENT_EVERY = 16
PLANTED = {
    "repeat": 3,
    "rewind": 1,  # the repeats are behind later lists of their user
    "conflicting_id": 2,
    "missing_position": 1,
    "truncated_object": 2,
    "foreign_object": 1,
    "unknown_schema": 2,
}


def a_list(number: int, user: str, **more: Any) -> Recommendation:
    """The list after event ``number``."""
    position = Position(number % USERS % SHARDS, FIRST + number, 0)
    at = START + timedelta(seconds=number)
    fields: dict[str, Any] = {
        "recommendation_id": recommendation_id(user, position, "v1"),
        "user_id": user,
        "items": [
            RecommendedItem(f"item-{rank}", f"ITEM NUMBER {rank}", 0.1, "popular", rank) for rank in range(1, 11)
        ],
        "model_version": "v1",
        "arm": "champion",
        "features_as_of": at,
        "position": LogPosition.of(position),
        "event_ts": at,
        "published_ts": at + timedelta(milliseconds=150),
        "item_snapshot": "bundle:v1",
        "fallback": None,
    }
    return Recommendation(**(fields | more))


def _bodies(count: int) -> list[tuple[bytes, str]]:
    """Lists of items as JSON, and one item of each."""
    rng = random.Random(1)
    made = []
    for _ in range(count):
        ids = rng.sample(range(4_000), 10)
        scores = sorted((rng.random() / 4 for _ in ids), reverse=True)
        items = [
            RecommendedItem(f"{20_000 + item}", "WHITE HANGING HEART T-LIGHT HOLDER", score, "covisit", rank)
            for rank, (item, score) in enumerate(zip(ids, scores, strict=True), 1)
        ]
        made.append((msgspec.json.encode(items), items[rng.randrange(10)].id))
    return made


def lines(lists: int) -> Iterator[tuple[bytes, bytes | None]]:
    """Lines of the sink, each with the archive's line of its event where it has one; put together from parts."""
    bodies = _bodies(997)
    for number in range(lists):
        user, (items, item) = number % USERS, bodies[number * 31 % 997]
        seconds = number * (DAYS * 86_400 - 1) // lists
        day, second = divmod(seconds, 86_400)
        at = b"2026-11-%02dT%02d:%02d:%02d" % (day + 1, second // 3600, second // 60 % 60, second % 60)
        version = b"v2" if number * 2 >= lists else b"v1"
        arm, propensity = (b"challenger", b"0.1") if user % 10 == 0 else (b"champion", b"0.9")
        position = b'{"shard_id":"shardId-%012d","sequence_number":"%d","sub_sequence_number":%d}' % (
            user % SHARDS,
            FIRST + number,
            number % 40,
        )
        line = (
            b'{"recommendation_id":"%032x","user_id":"user-%d","items":%b,"model_version":"%b","arm":"%b","propensity":%b,'
            b'"features_as_of":"%bZ","position":%b,"event_ts":"%bZ","published_ts":"%b.%06dZ",'
            b'"item_snapshot":"bundle:%b","fallback":%b}\n'
        ) % (
            number * 0x9E3779B97F4A7C15F39CC0605CEDC835 % 2**128,
            *(user, items, version, arm, propensity, at, position, at, at, 100_000 + number % 300_000, version),
            b'"few_candidates"' if number % 50 == 0 else b"null",
        )
        event = None
        if number % _EVENT_EVERY == 0:
            kind = (b"view", b"add_to_cart", b"purchase")[number // _EVENT_EVERY % 3]
            event = (
                b'{"position":%b,"arrived_at":"%b.050000Z","event":{"event_id":"%08x-0000-7000-8000-000000000000",'
                b'"event_type":"%b","user_id":"user-%d","item_id":"%b","ts":"%bZ"}}\n'
            ) % (position, at, number, kind, user, item.encode(), at)
        yield line, event


def write_sink(folder: Path, megabytes: int, *, compressed: bool) -> None:
    """``recommendations`` and ``archive`` below the folder, with what is planted."""
    sink, archive = folder / "recommendations", folder / "archive"
    for each in (sink, archive):
        each.mkdir(parents=True)
    length = sum(len(line) for line, _ in lines(1000)) / 1000
    objects = 0
    held: list[bytes] = []
    held_bytes = 0
    suffix = ".gz" if compressed else ""

    def write() -> None:
        nonlocal held, held_bytes, objects
        content = b"".join(held)
        (sink / f"{objects:05d}{suffix}").write_bytes(gzip.compress(content, 1) if compressed else content)
        held, held_bytes, objects = [], 0, objects + 1

    with (archive / "00000").open("wb") as events:
        for line, event in lines(int(megabytes * 1e6 / length)):
            held.append(line)
            held_bytes += len(line)
            if event is not None:
                events.write(event)
            if held_bytes >= OBJECT_BYTES:
                write()
        plant(sink, events, held)
        write()


def plant(sink: Path, events: Any, last: list[bytes]) -> None:
    """Write what is to be found: :data:`PLANTED`."""
    encode = msgspec.json.encode
    mine = [a_list(number, "planted") for number in range(0, 40, 4)]
    again = [msgspec.structs.replace(each, published_ts=each.published_ts + timedelta(minutes=1)) for each in mine[:3]]
    other = [msgspec.structs.replace(each, items=each.items[1:]) for each in mine[4:6]]
    old = [msgspec.to_builtins(each) for each in mine[:2]]
    for each in old:
        del each["arm"]
    last += [encode(each) + b"\n" for each in (*mine, *again, *other, *old)]
    (sink / "cut").write_bytes(encode(a_list(100, "cut")) + b"\n" + encode(a_list(104, "cut"))[:-30])
    whole = b"".join(encode(a_list(number, "cut-gzip")) + b"\n" for number in range(200, 600, 4))
    (sink / "cut.gz").write_bytes(gzip.compress(whole)[:-200])
    (sink / "report.csv").write_text("day,lists\n2026-11-01,12\n" * 100)
    position = LogPosition.of(Position(1, FIRST + 1, 0))
    event = {"event_id": "0" * 31 + "1", "event_type": "view", "user_id": "lost", "item_id": "a", "ts": START}
    events.write(encode({"position": position, "arrived_at": START, "event": event}) + b"\n")


def measure(folder: Path, out: Path) -> dict[str, Any]:
    """Audit in a process of its own: what it found, its memory and its CPU seconds."""
    # As pip installs it: with compiled modules. Compiling them anew at each start takes a second.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-m", "streamproc", "audit", str(folder / "recommendations")]
    command += ["--archive", str(folder / "archive"), "--json", str(out)]
    began = time.monotonic()
    process = subprocess.Popen(command, env=environment | {"POLARS_MAX_THREADS": "1"}, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.monotonic() - began
    report = json.loads(out.read_text())
    cpu_seconds = usage.ru_utime + usage.ru_stime
    return {
        "exit_code": process.returncode,
        "found": {each["kind"]: each["count"] for each in (*report["faults"], *report["notes"])},
        "text_mb": round(report["text_bytes"] / 1e6, 1),
        "rss_mb_max": round(usage.ru_maxrss / 1024, 1),
        "seconds": round(seconds, 2),
        "cpu_seconds": round(cpu_seconds, 2),
        "mb_per_cpu_second": round(report["text_bytes"] / 1e6 / cpu_seconds, 1),
    }


def main() -> None:
    """Plain and gzip; the figures under the names of ``build/bench-audit.json``."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--megabytes", type=int, default=2000, help="of plain text")
    parser.add_argument("--gzip-megabytes", type=int, default=600, help="of text in gzip; 0 leaves it out")
    parser.add_argument("--json", type=Path, default=Path("build/bench-audit.json"))
    options = parser.parse_args()
    figures: dict[str, Any] = {"planted": PLANTED}
    for name, megabytes in (("plain", options.megabytes), ("gzip", options.gzip_megabytes)):
        if megabytes:
            with tempfile.TemporaryDirectory(prefix="streamproc-bench-audit-") as folder:
                began = time.monotonic()
                write_sink(Path(folder), megabytes, compressed=name == "gzip")
                written = time.monotonic() - began
                figures[name] = measure(Path(folder), Path(folder) / "report.json")
            print(f"{name} (written in {written:.0f} s): {figures[name]}")
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
