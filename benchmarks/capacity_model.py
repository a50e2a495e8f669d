"""A shard's life as a queue: events arrive at random, reads come at intervals, one processor works on one batch after
the other.

- Events arrive at each shard by a Poisson process, and are in the stream a put's time later.
- A shard is read every ``poll_seconds``, from the start of one read to the start of the next, or as soon as its last
  batch is published, if that is later. A read takes all that is there.
- The shards of a process share its interpreter, so their batches are worked on one at a time, in the order of their
  reads. A batch costs so much for each event, for each of its users, and for itself.
- A batch's events are recommended when all of it is published.
- A checkpoint keeps a shard from being read for as long as its stores take.

The state of the queue is each shard's next read and the moment at which the processor is free: fifty lines say all.
"""

from __future__ import annotations

import heapq
import math
from typing import NamedTuple

import msgspec
import numpy as np

from streamproc_consumers.load.cost import Constants, distinct_users


class Surroundings(msgspec.Struct, frozen=True, kw_only=True):
    """What the services take, seconds; as measured beside the run that the model is compared with."""

    put_seconds: float = 0.005
    read_seconds: float = 0.005
    publish_seconds: float = 0.005
    #: A shard is not read while its states are made durable: for so long, every so often.
    checkpoint_seconds: float = 0.0
    checkpoint_every_seconds: float = 5.0
    poll_seconds: float = 0.21
    users: int = 5_000


class Predicted(NamedTuple):
    """Milliseconds from an event to its recommendation, and the share of the time that the processor is busy."""

    p50_ms: float
    p99_ms: float
    busy: float
    batch_events: float


def cpu_us_per_event(batch_events: float, users_per_event: float, constants: Constants) -> float:
    """What an event costs in batches of this size."""
    return (
        constants.cpu_us_per_event
        + constants.cpu_us_per_event_io
        + constants.cpu_us_per_user * users_per_event
        + constants.cpu_us_per_batch / max(1.0, batch_events)
    )


def saturation(shards: int, constants: Constants, users: int, batch_max: int = 10_000) -> float:
    """Events a second at which one process is busy all the time: its batches have grown as far as a read can.

    The larger a batch, the less an event costs, so beyond the interval of the reads the process slows down gracefully:
    batches grow until they are worth it, or a read is full.
    """
    low, high = 1.0, 1e6
    for _ in range(60):
        rate = (low + high) / 2
        # In a cycle every shard has one batch; a full read of 10,000 takes so long to come together.
        cycle = batch_max * shards / rate
        users_per_event = distinct_users(rate / shards, cycle, max(1, users // shards), constants) / batch_max
        fits = rate * cpu_us_per_event(batch_max, users_per_event, constants) / 1e6 < 1.0
        low, high = (rate, high) if fits else (low, rate)
    return low


def simulate(
    rate: float, shards: int, constants: Constants, around: Surroundings, *, seconds: float = 60.0, seed: int = 0
) -> Predicted:
    """Run the queue for so long, with the first five seconds left out."""
    rng = np.random.default_rng(seed)
    arrivals = [_arrivals(rate / shards, seconds, rng) for _ in range(shards)]
    taken = [0] * shards
    read_before = [0.0] * shards
    durable_at = [0.0] * shards
    reads = [(float(rng.uniform(0, around.poll_seconds)), shard) for shard in range(shards)]
    heapq.heapify(reads)
    free_at = worked = 0.0
    batches: list[int] = []
    latencies: list[np.ndarray[tuple[int], np.dtype[np.float64]]] = []
    while reads and reads[0][0] < seconds:
        at, shard = heapq.heappop(reads)
        end = int(np.searchsorted(arrivals[shard], at - around.put_seconds, side="right"))
        events = arrivals[shard][taken[shard] : end]
        taken[shard] = end
        done_at = at + around.read_seconds
        if len(events):
            span = max(at - read_before[shard], around.poll_seconds)
            users = distinct_users(len(events) / span, span, max(1, around.users // shards), constants)
            work = len(events) * cpu_us_per_event(len(events), users / len(events), constants) / 1e6
            free_at = max(at + around.read_seconds, free_at) + work
            worked += work
            done_at = free_at + around.publish_seconds
            batches.append(len(events))
            latencies.append((done_at - events)[events > min(5.0, seconds / 4)])
        if at - durable_at[shard] >= around.checkpoint_every_seconds:
            durable_at[shard] = at
            done_at += around.checkpoint_seconds
        read_before[shard] = at
        heapq.heappush(reads, (max(at + around.poll_seconds, done_at), shard))
    p50, p99 = np.percentile(np.concatenate(latencies) * 1000, [50, 99])
    return Predicted(round(float(p50), 1), round(float(p99), 1), worked / seconds, sum(batches) / len(batches))


def _arrivals(rate: float, seconds: float, rng: np.random.Generator) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    count = math.ceil(rate * seconds + 6 * math.sqrt(rate * seconds) + 10)
    return np.cumsum(rng.exponential(1 / rate, count))
