"""Reshards under load, on an emulator whose reshards are right, with the real recommender and the real producer."""

from __future__ import annotations

import threading
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from streamproc.application import Application
from streamproc.deadletters.dynamodb import DynamoDBDeadLetters
from streamproc.local import LocalStack
from streamproc.local.kinesis_local import KinesisLocal
from streamproc.namespace import Namespace
from streamproc.projections.redis import RedisProjection
from streamproc.settings import LocalRunnerSettings, WorkerSettings
from streamproc.sinks.memory import MemorySink
from streamproc.state import fingerprint, roll
from streamproc.states.dynamodb import DynamoDBStates
from streamproc.stream import stream_created_at
from streamproc.telemetry import ShardEnded
from streamproc_consumers.recommender import Recommender
from streamproc_models import bundle
from streamproc_models.features import encode_state, fold, new_state
from streamproc_producers import CartProducer
from streamproc_producers.events import CartEvent, EventType, new_event_id, utc

EVENTS = 6000
USERS = 40
EVENTS_PER_SECOND = 250.0
SHARD_COUNTS = (4, 2, 3)

pytestmark = pytest.mark.long


@pytest.fixture
def kinesis_local(tmp_path: Path, local_aws: LocalStack, monkeypatch: pytest.MonkeyPatch) -> Iterator[KinesisLocal]:
    del local_aws  # DynamoDB, S3 and Redis; only Kinesis is another one
    with KinesisLocal(tmp_path) as kinesis:
        monkeypatch.setenv("AWS_ENDPOINT_URL_KINESIS", kinesis.url)
        yield kinesis


def events() -> list[CartEvent]:
    return [
        CartEvent(
            event_id=new_event_id(),
            event_type=EventType.ADD_TO_CART if n % 3 else EventType.VIEW,
            user_id=f"user-{n * n % USERS}",
            item_id=f"item-{n % 17}",
            ts=utc(1_700_000_000 + n),
        )
        for n in range(EVENTS)
    ]


def test_splits_and_merges_under_load_lose_nothing_and_apply_nothing_twice(
    kinesis_local: KinesisLocal,
    local_aws: LocalStack,
    model: Path,
    running: Callable[[Application], Any],
    until: Callable[[Callable[[], bool]], None],
) -> None:
    name = f"reshard-{uuid.uuid4().hex[:8]}"
    client = kinesis_local.client()
    client.create_stream(StreamName=name, ShardCount=2)
    until(
        lambda: client.describe_stream_summary(StreamName=name)["StreamDescriptionSummary"]["StreamStatus"] == "ACTIVE"
    )
    local_aws.client("s3").create_bucket(Bucket=name)
    loaded = bundle.load(model)
    run = running(
        Application(
            name=name,
            stream=name,
            processor=lambda: Recommender(loaded),
            states=DynamoDBStates,
            deadletters=partial(DynamoDBDeadLetters, bucket=name),
            sink=MemorySink,
            projection=partial(RedisProjection, url=local_aws.redis_url),
            worker=WorkerSettings(checkpoint_seconds=1),
            local=LocalRunnerSettings(shard_sync_seconds=2),
        )
    )
    sent = events()
    stop_resharding = threading.Event()

    def reshard() -> None:
        for count in SHARD_COUNTS:
            if stop_resharding.wait(5):
                return
            client.update_shard_count(StreamName=name, TargetShardCount=count, ScalingType="UNIFORM_SCALING")

    resharding = threading.Thread(target=reshard)
    resharding.start()
    try:
        with CartProducer(name) as producer:
            started = time.monotonic()
            futures = []
            for n, event in enumerate(sent):
                time.sleep(max(0.0, started + n / EVENTS_PER_SECOND - time.monotonic()))
                futures.append(producer.put(event))
        shards_that_took_events = {future.result().shard_id for future in futures}
    finally:
        stop_resharding.set()
        resharding.join()
    assert len(shards_that_took_events) >= 2 + len(SHARD_COUNTS), "events went to the children of every reshard"

    namespace = Namespace(name, name, stream_created_at(client, name))
    states = DynamoDBStates(namespace, client=local_aws.client("dynamodb"))

    def folded() -> int:
        return sum(state.events_folded for state in states.scan())

    until(lambda: run.failure is not None or folded() == EVENTS)
    run.stop()
    assert run.failure is None
    ended = [event.shard_id for event in run.telemetry if isinstance(event, ShardEnded)]
    assert len(ended) == len(set(ended)) >= 4

    expected: defaultdict[str, Any] = defaultdict(new_state)
    counts: Counter[str] = Counter()
    hashes: Counter[str] = Counter()
    for event in sent:
        expected[event.user_id] = fold(expected[event.user_id], event)
        counts[event.user_id] += 1
        hashes[event.user_id] = roll(hashes[event.user_id], fingerprint(event.event_id.bytes))
    stored = {state.key: state for state in states.scan()}
    assert {key: state.events_folded for key, state in stored.items()} == counts
    assert {key: state.ids_hash for key, state in stored.items()} == hashes, "in the order of each user's puts"
    assert {key: state.state for key, state in stored.items()} == {
        key: encode_state(state) for key, state in expected.items()
    }
    projected = RedisProjection(namespace, url=local_aws.redis_url).read(list(stored))
    assert projected == stored
