"""A clock that tests move, and a sender whose steps they take by hand."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, cast

import pytest

from streamproc.aggregation import expand
from streamproc.producer import Acknowledged
from streamproc.producing.bucket import TokenBucket
from streamproc.producing.outbox import Outbox
from streamproc.producing.packing import Packer
from streamproc.producing.sender import Pause, Sender
from streamproc.producing.waiting import Waiting, resolve
from streamproc.record import shard_number_of
from streamproc.shardmap import HASH_KEY_MAX, HashRange, hash_key_of
from streamproc.telemetry import Telemetry, TelemetryEvent
from streamproc.testing.clock import ManualClock
from streamproc.testing.kinesis import FakeKinesis

STREAM = "cart-events"


class Bench:
    """A sender and its outbox, without a thread."""

    def __init__(
        self,
        client: Any,
        clock: ManualClock,
        *,
        aggregate: bool = True,
        ttl: float = 600.0,
        bucket: Callable[[], TokenBucket] = TokenBucket,
        **packing: Any,
    ) -> None:
        self.clock = clock
        self.events: list[TelemetryEvent] = []
        self.outbox = Outbox(Packer(aggregate=aggregate, **packing), record_ttl_seconds=ttl, bucket=bucket)
        self.sender = Sender(
            stream=STREAM,
            client=lambda: client,
            outbox=self.outbox,
            lock=threading.RLock(),
            finish=resolve,
            clock=clock,
            telemetry=Telemetry(self.events.append),
        )

    def put(self, key: str, data: bytes, event: object = None) -> Future[Acknowledged]:
        waiting = Waiting(data, event, self.clock.now)
        self.outbox.add(key, waiting)
        return cast("Future[Acknowledged]", waiting)

    def step(self) -> Pause:
        return self.sender.step()

    def run(self, steps_max: int = 10_000) -> None:
        """Step and wait until nothing is left."""
        for _ in range(steps_max):
            pause = self.step()
            if pause.seconds is None:
                return
            self.clock.now += pause.seconds
        raise AssertionError(f"{self.outbox.events} events are left after {steps_max} steps")


@pytest.fixture
def keys_in() -> Callable[..., list[str]]:
    """The first keys that hash into one of so many equal parts of all hash keys."""

    def find(part: int, of: int, count: int = 1) -> list[str]:
        width = (HASH_KEY_MAX + 1) // of
        owned = HashRange(part * width, (part + 1) * width - 1)
        found = (key for key in (f"key-{n}" for n in itertools.count()) if owned.contains(hash_key_of(key)))
        return list(itertools.islice(found, count))

    return find


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(1_700_000_000.0)


@pytest.fixture
def kinesis(clock: ManualClock) -> FakeKinesis:
    """A stream of two shards."""
    fake = FakeKinesis(clock=clock)
    fake.create_stream(StreamName=STREAM, ShardCount=2)
    return fake


@pytest.fixture
def bench(kinesis: FakeKinesis, clock: ManualClock) -> Bench:
    return Bench(kinesis, clock)


@pytest.fixture
def make_bench() -> Callable[..., tuple[Bench, FakeKinesis]]:
    """Benches of their own, for the examples of a property."""

    def make(shards: int = 2, **options: Any) -> tuple[Bench, FakeKinesis]:
        clock = ManualClock(1_700_000_000.0)
        fake_options = {name: options.pop(name) for name in ("put_order", "throttles") if name in options}
        fake = FakeKinesis(clock=clock, **fake_options)
        fake.create_stream(StreamName=STREAM, ShardCount=shards)
        return Bench(fake, clock, **options), fake

    return make


@pytest.fixture
def read_all() -> Callable[[FakeKinesis], dict[str, list[bytes]]]:
    """What a consumer reads, de-aggregated, by partition key, in the order of the log."""

    def read(fake: FakeKinesis, *, may_drop: bool = False) -> dict[str, list[bytes]]:
        by_key: dict[str, list[bytes]] = {}
        for shard in fake.list_shards(StreamName=STREAM)["Shards"]:
            bounds = shard["HashKeyRange"]
            owned = HashRange(int(bounds["StartingHashKey"]), int(bounds["EndingHashKey"]))
            raw = fake.log(STREAM)[shard["ShardId"]]
            records, dropped = expand(raw, shard_number_of(shard["ShardId"]), owned)
            assert may_drop or dropped == []
            for record in records:
                by_key.setdefault(record.partition_key, []).append(record.data)
        return by_key

    return read
