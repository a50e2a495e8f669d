"""The input of all ways: one shop's events in two orders, in the form that each way reads, and a model.

- ``zipf``: 2,000 events a second of 5,000 users, of whom few do much (Zipf's law); 200,000 events are 100 seconds
- ``distinct``: the same events with their users dealt in turn, so that none is twice in 5,000 events
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from random import Random

import msgspec

from benchmarks.throughput.job import CHECKPOINT_SECONDS
from streamproc_models.training import TrainingSettings, train
from streamproc_producers.events import CartEvent, encode
from streamproc_producers.simulate import Shop, simulate

USERS, ITEMS, EVENTS_PER_SECOND = 5_000, 500, 2_000.0
START = datetime(2026, 1, 1, tzinfo=UTC)
#: As long as those of Kinesis are, since they travel as text.
FIRST_SEQUENCE_NUMBER = 49590338271490256608559692538361571095921575989136588898
SHARD_ID = "shardId-000000000000"
TRAINING = timedelta(days=60)
#: One tree after the other helps a little, so that training does not stop before the last one; and popular items fill
#: up every list of candidates.
MODEL = TrainingSettings(
    trees_max=100, tree_depth=6, learning_rate=0.01, candidates_max=100, proposed_max=100, negatives_max=10
)
#: KCL asks for at most so many records by default, maxRecords of the MultiLangDaemon's properties being 10,000.
MULTILANG_BATCH = 1_000
SPARK_BATCH = 5_000

Logs = dict[str, list[CartEvent]]


def logs(events: int) -> Logs:
    """Both logs, of so many events."""
    shop = Shop(users=USERS, items=ITEMS, rate=EVENTS_PER_SECOND)
    zipf = list(islice(simulate(shop, START), events))
    turn = [f"user-{number}" for number in range(USERS)]
    Random(0).shuffle(turn)
    dealt = [msgspec.structs.replace(event, user_id=turn[number % USERS]) for number, event in enumerate(zipf)]
    return {"zipf": zipf, "distinct": dealt}


def model(folder: Path, events: int) -> int:
    """Train on so many events of the shop's earlier days. Returns the number of trees."""
    shop = Shop(users=USERS, items=ITEMS, rate=events / TRAINING.total_seconds())
    report = train(islice(simulate(shop, START - TRAINING), events), START, folder, items={}, settings=MODEL)
    return report.trees


def write(folder: Path, written: Logs, peers: Sequence[str]) -> float:
    """The logs as the ways read them. Returns the mean bytes of an event."""
    encoded = {name: [encode(event) for event in events] for name, events in written.items()}
    for name, lines in encoded.items():
        (folder / f"{name}.ndjson").write_bytes(b"".join(line + b"\n" for line in lines))
        if "kclpy" in peers:
            _multilang(folder / f"{name}.multilang", written[name], lines)
    if "spark" in peers:
        _spark(folder / "zipf.spark", written["zipf"], encoded["zipf"])
    return sum(map(len, encoded["zipf"])) / len(encoded["zipf"])


def checkpoints(event_times: Sequence[float], batch: int) -> list[int]:
    """After which batches a consumer makes a checkpoint."""
    after, due = [], event_times[0] + CHECKPOINT_SECONDS
    for number, last in enumerate(range(batch, len(event_times) + batch, batch)):
        at = event_times[min(last, len(event_times)) - 1]
        if at >= due:
            after.append(number)
            due = at + CHECKPOINT_SECONDS
    return after


def _multilang(path: Path, events: list[CartEvent], lines: list[bytes]) -> None:
    """What KCL's daemon writes to its child, as Jackson writes it, its answers to checkpoints among it."""
    due = checkpoints([event.at for event in events], MULTILANG_BATCH)
    initialize = {"action": "initialize", "shardId": SHARD_ID, "sequenceNumber": "TRIM_HORIZON"}
    actions: list[dict[str, object]] = [initialize | {"subSequenceNumber": 0}]
    for number, start in enumerate(range(0, len(events), MULTILANG_BATCH)):
        records = [
            {
                "data": base64.b64encode(lines[index]).decode(),
                "partitionKey": events[index].user_id,
                "sequenceNumber": str(FIRST_SEQUENCE_NUMBER + index),
                "approximateArrivalTimestamp": round(events[index].at * 1000),
                "subSequenceNumber": 0,
                "action": "record",
            }
            for index in range(start, min(start + MULTILANG_BATCH, len(events)))
        ]
        actions.append({"action": "processRecords", "records": records, "millisBehindLatest": 0})
        if number in due:
            last = {"sequenceNumber": records[-1]["sequenceNumber"], "subSequenceNumber": 0}
            actions.append({"action": "checkpoint"} | last)
    path.write_text("".join(json.dumps(action, separators=(",", ":")) + "\n" for action in actions))


def _spark(folder: Path, events: list[CartEvent], lines: list[bytes]) -> None:
    """One file a micro-batch, with the columns of Spark's Kinesis connectors."""
    folder.mkdir()
    for start in range(0, len(events), SPARK_BATCH):
        rows = [
            {"partitionKey": events[index].user_id, "sequenceNumber": index, "data": lines[index].decode()}
            for index in range(start, min(start + SPARK_BATCH, len(events)))
        ]
        (folder / f"part-{start:08d}.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
