"""The constants of the capacity model: sizes measured here, CPU from the other benchmarks' figures.

    make capacity ARGS=--measure

folds 200,000 events of the simulated shop, writes the states to a Redis of its own, and writes
``consumers/streamproc_consumers/load/constants.json`` with the date and this command. CPU comes from
``build/bench.json`` and ``build/bench-latency.json``; where they are missing, what the file had stays.
"""

from __future__ import annotations

import json
import os
import platform
import tempfile
import time
import tracemalloc
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import redis
from scipy.optimize import nnls

from streamproc.local.processes import HOST, ChildProcess, bound_socket, find_redis
from streamproc.local.readiness import wait_for_redis
from streamproc.namespace import Namespace
from streamproc.processor import Changed
from streamproc.projections.redis import RedisProjection
from streamproc.record import Position
from streamproc.state import DUPLICATE_WINDOW_EVENTS, StoredState, encode_stored
from streamproc_consumers.load.cost import Constants
from streamproc_consumers.load.system import train_model
from streamproc_consumers.recommender import Recommender
from streamproc_models.bundle import load
from streamproc_models.features import FOLD_VERSION, UserState, decode_state, encode_state, fold, new_state
from streamproc_producers.events import encode
from streamproc_producers.simulate import Shop, simulate

COMMAND = "make capacity ARGS=--measure"
EVENTS, USERS, ITEMS = 200_000, 5_000, 500
START = datetime(2026, 1, 1, tzinfo=UTC)
#: As long as those of Kinesis are.
SEQUENCE_NUMBER = 49590338271490256608559692538361571095921575989136588898
#: Of an item of the states table: names, and the values that are no envelope (streamproc/states/dynamodb.py).
ITEM_ATTRIBUTES_BYTES = len("pkat_positionfold_versionbodyevents_foldedupdated_at") + 75 + 2 + 4 + 25
#: An id and its position in the duplicate window (streamproc/state.py).
WINDOW_ENTRY_BYTES = 12
PROJECTIONS = 5


def constants_here(known: Constants, build: Path) -> Constants:
    """The constants with the CPU of this checkout's benchmarks, where they were run."""
    bench, latency, kcl = (_read(build / f"{name}.json") for name in ("bench", "bench-latency", "bench-kcl"))
    found: dict[str, Any] = {}
    if (fitted := fitted_cpu(bench)) is not None:
        event, user, batch = fitted
        found |= {"cpu_us_per_event": event, "cpu_us_per_user": user, "cpu_us_per_batch": batch}
    if rate := bench.get("one_at_a_time_events_per_cpu_second"):
        found["one_at_a_time_cpu_us"] = 1e6 / rate
    if size := latency.get("recommendation_bytes_1000"):
        found["recommendation_bytes"] = size
    if resident := kcl.get("child_rss_mb"):
        found["child_bytes"] = resident * 2**20
    constants = msgspec.structs.replace(known, **{name: round(float(value), 2) for name, value in found.items()})
    if (more := io_cpu(latency, constants)) is not None:
        constants = msgspec.structs.replace(constants, cpu_us_per_event_io=round(more, 2))
    return constants


def fitted_cpu(bench: Mapping[str, Any]) -> tuple[float, float, float] | None:
    """CPU microseconds of an event, of a user in a batch and of a batch, none below 0, from the batch sizes measured.

    A batch of n events and m users costs n * event + m * user + batch; three sizes give three equations.
    """
    rows, costs = [], []
    for size in (100, 1_000, 5_000):
        rate, per_user = (
            bench.get(name) for name in (f"ours_{size}_events_per_cpu_second", f"events_per_user_in_batch_{size}")
        )
        if rate and per_user:
            # Relative to the cost: an error of a tenth counts as much at every size.
            cost = 1e6 / rate
            rows.append([1 / cost, 1 / per_user / cost, 1 / size / cost])
            costs.append(1.0)
    if len(rows) < 3:
        return None
    event, user, batch = nnls(np.array(rows), np.array(costs))[0]
    return float(event), float(user), float(batch)


def io_cpu(latency: Mapping[str, Any], constants: Constants) -> float | None:
    """What the running consumer needs beyond the worker alone, for an event: reads, Firehose, checkpoints, threads.

    Measured at 1,000 events a second; not below 0.
    """
    measured, batch, per_event = (
        latency.get(f"{name}_1000") for name in ("consumer_cpu_us_per_event", "batch_events", "users_per_event")
    )
    if not (measured and batch and per_event):
        return None
    worker = constants.cpu_us_per_event + constants.cpu_us_per_user * per_event + constants.cpu_us_per_batch / batch
    return max(0.0, float(measured - worker))


def measure(known: Constants, build: Path) -> Constants:
    """Sizes, measured; CPU, as :func:`constants_here` finds it."""
    shop = Shop(users=USERS, items=ITEMS, rate=1_000.0)
    states: dict[str, UserState] = {}
    folded: Counter[str] = Counter()
    event_bytes = 0
    for event in islice(simulate(shop, START), EVENTS):
        event_bytes += len(encode(event))
        folded[event.user_id] += 1
        states[event.user_id] = fold(states.get(event.user_id) or new_state(), event)
    stored = [
        StoredState(
            key=user,
            position=Position(0, SEQUENCE_NUMBER + number),
            events_folded=folded[user],
            ids_hash=1 << 63,
            window=bytes(WINDOW_ENTRY_BYTES * min(folded[user], DUPLICATE_WINDOW_EVENTS)),
            fold_version=FOLD_VERSION,
            state=encode_state(state),
        )
        for number, (user, state) in enumerate(states.items())
    ]
    envelopes = [len(encode_stored(one, one.position.sortable())) for one in stored]
    body = float(np.mean(envelopes))
    redis_bytes, redis_us = _redis(stored)
    sized = msgspec.structs.replace(
        known,
        made_by=COMMAND,
        date=datetime.now(UTC).date().isoformat(),
        machine=f"{_cpu()}, {os.cpu_count()} CPUs, Python {platform.python_version()}",
        event_bytes=round(event_bytes / EVENTS, 1),
        recommendation_bytes=round(_recommendation_bytes(states), 1),
        state_item_bytes=round(body + ITEM_ATTRIBUTES_BYTES + 40, 1),
        redis_bytes_per_user=round(redis_bytes, 1),
        redis_cpu_us_per_user=round(redis_us, 2),
        state_memory_bytes=round(_state_memory(states) + body - float(np.mean([len(one.state) for one in stored])), 1),
    )
    return constants_here(sized, build)


def _recommendation_bytes(states: Mapping[str, UserState]) -> float:
    with tempfile.TemporaryDirectory(prefix="streamproc-capacity-") as folder:
        bundle = load(train_model(Path(folder), users=USERS, items=ITEMS, seed=0))
    processor = Recommender(bundle)
    now = (START + timedelta(hours=1)).timestamp()
    changed = [
        Changed(user, state, Position(0, SEQUENCE_NUMBER + number), now, 1)
        for number, (user, state) in enumerate(islice(states.items(), 500))
    ]
    return float(np.mean([len(processor.encode(output)) for output in processor.emit(changed)]))


def _redis(stored: list[StoredState]) -> tuple[float, float]:
    """Redis' memory and CPU microseconds for a user."""
    with tempfile.TemporaryDirectory(prefix="streamproc-capacity-") as name:
        folder = Path(name)
        with bound_socket("redis", None) as reservation:
            port = int(reservation.getsockname()[1])
        options = ["--port", str(port), "--bind", HOST, "--save", "", "--appendonly", "no", "--dir", name]
        child = ChildProcess("redis", [find_redis(), *options], log=folder / "redis.log")
        try:
            wait_for_redis(child, port, time.monotonic() + 20)
            url = f"redis://{HOST}:{port}/0"
            with redis.Redis.from_url(url) as client:
                projection = RedisProjection(Namespace("recommender", "cart-events", 1_700_000_000), url=url)
                before, cpu = _info(client, "memory", "used_memory"), _redis_cpu(client)
                for _ in range(PROJECTIONS):
                    projection.project(stored)
                used = _info(client, "memory", "used_memory") - before
                cpu = _redis_cpu(client) - cpu
        finally:
            child.stop()
    return used / len(stored), cpu * 1e6 / (len(stored) * PROJECTIONS)


def _info(client: redis.Redis, section: str, name: str) -> float:
    answer: Any = client.info(section)
    return float(answer[name])


def _redis_cpu(client: redis.Redis) -> float:
    return _info(client, "cpu", "used_cpu_user") + _info(client, "cpu", "used_cpu_sys")


def _state_memory(states: Mapping[str, UserState]) -> float:
    """Bytes of a decoded state with its key, as the allocator counts them."""
    encoded = {user: encode_state(state) for user, state in states.items()}
    tracemalloc.start()
    copies = {str(user.encode(), "utf-8"): decode_state(bytes(bytearray(data))) for user, data in encoded.items()}
    used = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return used / len(copies)


def _cpu() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    models = [line.partition(": ")[2].strip() for line in cpuinfo.open() if "model name" in line]
    return models[0] if models else platform.machine()


def _read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text())) if path.exists() else {}
