"""Half a million events through reshards, throttles and lost replies, read back by both runners' readers."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from streamproc.lease import Lease
from streamproc.leases.dynamodb import DynamoDBLeases
from streamproc.local import LocalStack
from streamproc.local.kinesis_local import KinesisLocal
from streamproc.namespace import Namespace
from streamproc.producer import Producer, ProducerSettings
from streamproc.runners.reader import ShardReader
from streamproc.state import DUPLICATE_WINDOW_EVENTS, fingerprint, roll
from streamproc.states.dynamodb import DynamoDBStates
from streamproc.stream import list_shards, stream_created_at
from streamproc.telemetry import AggregateMisrouted, RecordsSent, Telemetry, TelemetryEvent
from streamproc.testing.proxy import Fault, FaultProxy, ProxyFaults
from streamproc_producers.verify import read_stream, verify

EVENTS = int(os.environ.get("PRODUCER_RESHARDS_EVENTS", "500000"))
USERS = 500
#: The number of shards from this share of the events on. No call may take it below half: 3 comes by way of 4.
RESHARDS = ((0.1, 4), (0.35, 8), (0.6, 4), (0.8, 3))
SEND_SECONDS_MAX = 180.0
READ_SECONDS_MAX = 240.0

pytestmark = pytest.mark.long
_logger = logging.getLogger(__name__)


def event(n: int) -> tuple[bytes, str]:
    key = f"user-{n * n % 7919 % USERS}"
    return json.dumps({"id": f"id-{n}", "key": key, "value": n, "at": 1_700_000_000 + n}).encode(), key


@pytest.fixture
def kinesis(tmp_path: Path) -> Iterator[KinesisLocal]:
    with KinesisLocal(tmp_path) as started:
        yield started


def waited(reached: Callable[[], bool], seconds: float, log: Path | None = None) -> None:
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline, log.read_text()[-6000:] if log else "it did not happen in time"
        time.sleep(0.2)


class Sent:
    """What was sent to a stream, and what was told about it."""

    def __init__(self, client: Any, name: str) -> None:
        self.client = client
        self.name = name
        self.telemetry: list[TelemetryEvent] = []
        self.by_key: defaultdict[str, list[bytes]] = defaultdict(list)
        self.seconds = 0.0

    def send(self, url: str, make_client: Callable[[str], Any]) -> None:
        """All events, from one thread, while another one reshards."""
        client = make_client(url)
        done = 0
        over = threading.Event()

        def reshard() -> None:
            for share, count in RESHARDS:
                while done < share * EVENTS and not over.wait(0.05):
                    pass
                self.client.update_shard_count(
                    StreamName=self.name, TargetShardCount=count, ScalingType="UNIFORM_SCALING"
                )
                waited(self.active, 60)

        resharding = threading.Thread(target=reshard)
        resharding.start()
        # A small buffer: what is put is not far ahead of what is stored, so that reshards meet events on their way.
        settings = ProducerSettings(buffer_bytes_max=8 * 1024 * 1024)
        started = time.monotonic()
        try:
            with Producer(
                self.name, client=client, settings=settings, telemetry=Telemetry(self.telemetry.append)
            ) as producer:
                futures = []
                for n in range(EVENTS):
                    data, key = event(n)
                    self.by_key[key].append(data)
                    futures.append(producer.put(data, key))
                    done = n
                assert producer.flush(SEND_SECONDS_MAX)
            self.seconds = time.monotonic() - started
        finally:
            over.set()
            resharding.join()
        failed = [future.exception(0) for future in futures if future.exception(0) is not None]
        assert failed == []

    def active(self) -> bool:
        summary = self.client.describe_stream_summary(StreamName=self.name)["StreamDescriptionSummary"]
        return bool(summary["StreamStatus"] == "ACTIVE")

    def told(self, kind: type[TelemetryEvent]) -> list[Any]:
        return [each for each in self.telemetry if isinstance(each, kind)]


def read_back(client: Any, name: str) -> dict[str, list[bytes]]:
    """Every record as the local runner reads it, by key; a child's number is greater than its parents'."""
    read: defaultdict[str, list[bytes]] = defaultdict(list)
    for shard in sorted(list_shards(client, name), key=lambda shard: shard.shard_id):
        reader = ShardReader(client, name, shard, records_max=10_000, telemetry=Telemetry())
        reader.seek(Lease(shard_id=shard.shard_id), time.time())
        while (batch := reader.read()) is not None:
            for record in batch.records:
                read[record.partition_key].append(record.data)
            if not shard.closed and not batch.records and not batch.millis_behind_latest:
                break
    return read


def without_duplicates(seen: list[bytes]) -> tuple[list[bytes], int]:
    """What a consumer keeps that remembers the last 64 ids of a key, and how many it drops."""
    kept: list[bytes] = []
    for data in seen:
        if data not in kept[-DUPLICATE_WINDOW_EVENTS:]:
            kept.append(data)
    return kept, len(seen) - len(kept)


def test_half_a_million_events_through_reshards_throttles_and_lost_replies_are_all_read_back_in_order(
    kinesis: KinesisLocal, stack: LocalStack, tmp_path: Path, make_client: Callable[[str], Any]
) -> None:
    name = f"reshards-{uuid.uuid4().hex[:8]}"
    client = kinesis.client()
    client.create_stream(StreamName=name, ShardCount=2)
    sent = Sent(client, name)
    waited(sent.active, 30)
    faults = ProxyFaults(11, throttle=0.02, lost_reply=0.02, partial=0.02, cut=0.01)
    with FaultProxy(kinesis.url, faults=faults) as proxy:
        # At the beginning of each third at least, whatever the seed's draws.
        for _ in range(2):
            proxy.fail_next("PutRecords", Fault.LATENCY)
            proxy.fail_next("PutRecords", Fault.LOST_REPLY)
        sent.send(proxy.url, make_client)
        lost_replies = proxy.counts[Fault.LOST_REPLY]

    assert sum(not shard.closed for shard in list_shards(client, name)) == 3
    read = read_back(client, name)
    duplicates = 0
    for key, expected in sent.by_key.items():
        kept, dropped = without_duplicates(read[key])
        assert kept == expected, f"{key}: all of its events, in the order of its puts"
        duplicates += dropped
    failed_calls = [each for each in sent.told(RecordsSent) if each.entries == each.entries_failed]
    assert lost_replies >= 2
    assert 0 < duplicates <= sum(each.events for each in failed_calls)
    verdict = verify(partial(read_stream, client, name, None, datetime.now(UTC)))
    misrouted = sum(each.events for each in sent.told(AggregateMisrouted))
    assert verdict.user_records_dropped >= misrouted > 0
    assert verdict.user_records_sent_again == verdict.user_records_dropped, "what KCL drops is there again"
    _logger.info(
        "%d events in %.0f s; %d duplicates of %d lost replies; %d events sent again after reshards; faults: %s",
        EVENTS,
        sent.seconds,
        duplicates,
        lost_replies,
        misrouted,
        dict(proxy.counts),
    )
    read_by_kcl(sent, kinesis, stack, tmp_path)


def read_by_kcl(sent: Sent, kinesis: KinesisLocal, stack: LocalStack, folder: Path) -> None:
    """The fleet's daemon reads the stream; each key's state says how many events there were, and in which order."""
    stack.create_delivery_stream(sent.name, sent.name, "outputs/")
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "STREAMPROC_"))},
        **stack.environment(),
        "AWS_ENDPOINT_URL_KINESIS": kinesis.url,
        "KCL_APP_NAME": sent.name,
        "KCL_APP_TRAP": str(folder / "trap"),
    }
    log = folder / "kcl.log"
    states = DynamoDBStates(
        Namespace(sent.name, sent.name, stream_created_at(sent.client, sent.name)), client=stack.client("dynamodb")
    )
    with log.open("ab") as output:
        worker = subprocess.Popen(
            [sys.executable, "-m", "streamproc", "run", "-A", "kcl_app:app"],
            cwd=Path(__file__).parent,
            env=environment,
            stdout=output,
            stderr=output,
        )
    try:
        waited(lambda: '"event":"streamproc.checkpointed"' in log.read_text(), 120, log)
        waited(lambda: sum(state.events_folded for state in states.scan()) >= EVENTS, READ_SECONDS_MAX, log)
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(60) == 0
    finally:
        worker.kill()
        worker.wait()
    counts: Counter[str] = Counter()
    hashes: Counter[str] = Counter()
    for key, events in sent.by_key.items():
        counts[key] = len(events)
        for data in events:
            hashes[key] = roll(hashes[key], fingerprint(json.loads(data)["id"].encode()))
    stored = {state.key: state for state in states.scan()}
    assert {key: state.events_folded for key, state in stored.items()} == counts
    assert {key: state.ids_hash for key, state in stored.items()} == hashes, "in the order of each user's puts"
    ended = [lease for lease in DynamoDBLeases(sent.name, client=stack.client("dynamodb")).list() if lease.ended]
    assert len(ended) >= 2


@pytest.fixture
def make_client() -> Callable[[str], Any]:
    """A client as the library makes them: no retries of boto3's own."""
    import boto3.session
    from botocore.config import Config

    def make(url: str) -> Any:
        session = boto3.session.Session(
            aws_access_key_id="local",
            aws_secret_access_key="local",  # noqa: S106
            region_name="us-east-1",
        )
        return session.client("kinesis", endpoint_url=url, config=Config(retries={"total_max_attempts": 1}))

    return make
