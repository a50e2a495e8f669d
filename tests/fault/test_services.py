"""An application and its producer, whose calls go through proxies that fail by a seed; an oracle reads the log."""

from __future__ import annotations

import contextlib
import json
import random
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import msgspec
import pytest

from streamproc.aggregation import expand
from streamproc.application import Application
from streamproc.aws import aws_client
from streamproc.clock import Clock
from streamproc.deadletter import DeadLetter
from streamproc.deadletters.dynamodb import INLINE_BYTES_MAX, DynamoDBDeadLetters
from streamproc.local import LocalStack, read_journal
from streamproc.namespace import Namespace
from streamproc.processor import AnyProcessor
from streamproc.producer import Producer
from streamproc.record import Position, shard_number_of
from streamproc.settings import WorkerSettings
from streamproc.sinks.firehose import FirehoseSink
from streamproc.state import fingerprint, roll
from streamproc.states.dynamodb import DynamoDBStates
from streamproc.stream import list_shards, stream_created_at
from streamproc.telemetry import LeaseAcquired
from streamproc.testing.proxy import Fault, FaultProxy, ProxyFaults

SEEDS = range(6)
SERVICES = ("kinesis", "dynamodb", "firehose", "s3")
SHARDS, EVENTS, EVENTS_PER_FLUSH, KEYS = 2, 300, 10, 24
UNDECODABLE = b"\xff"
SHARES = {
    "throttle": 0.03,
    "internal": 0.03,
    "latency": 0.02,
    "cut": 0.03,
    "lost_reply": 0.03,
    "late": 0.03,
    "duplicate": 0.03,
    "partial": 0.15,  # of the few batches; no other request can meet it
}


class Expected(msgspec.Struct):
    """A key's single-threaded fold of the log."""

    ids: list[str] = msgspec.field(default_factory=list)
    ids_hash: int = 0
    position: Position = Position(-1, -1, -1)


class Shop:
    """An application on the local stack, and the proxies between the two."""

    def __init__(
        self, stack: LocalStack, name: str, processor: Callable[[], AnyProcessor], proxies: dict[str, FaultProxy]
    ) -> None:
        self.name = name
        self.proxies = proxies
        self._stack = stack
        # Through the proxies; made once, though the application starts more than once.
        self.kinesis, self.dynamodb = aws_client("kinesis"), aws_client("dynamodb")
        # Past the proxies, for the oracle.
        self._kinesis, dynamodb = stack.client("kinesis"), stack.client("dynamodb")
        namespace = Namespace(name, name, stream_created_at(self._kinesis, name))
        self._states = DynamoDBStates(namespace, client=dynamodb)
        self._letters = DynamoDBDeadLetters(namespace, bucket=name, client=dynamodb, s3=stack.client("s3"))
        self._states.prepare()
        self._letters.prepare()
        self.application = Application(
            name=name,
            stream=name,
            processor=processor,
            states=partial(DynamoDBStates, client=self.dynamodb),
            deadletters=partial(DynamoDBDeadLetters, bucket=name, client=self.dynamodb, s3=aws_client("s3")),
            sink=partial(FirehoseSink, delivery_stream=name, client=aws_client("firehose")),
            # Small enough that states are written, evicted and loaded again all the time.
            worker=WorkerSettings(checkpoint_seconds=1.0, dirty_keys_max=4, states_in_memory_max=6),
        )

    def log(self) -> Iterator[tuple[Position, str, bytes]]:
        """Every user record in the stream: its position, its partition key and its data."""
        for shard in list_shards(self._kinesis, self.name):
            iterator = self._kinesis.get_shard_iterator(
                StreamName=self.name, ShardId=shard.shard_id, ShardIteratorType="TRIM_HORIZON"
            )["ShardIterator"]
            raw = self._kinesis.get_records(ShardIterator=iterator)["Records"]
            for record in expand(raw, shard_number_of(shard.shard_id), shard.hash_range).records:
                yield record.position, record.partition_key, record.data

    def expected(self) -> dict[str, Expected]:
        """What each key's state must be, by the log alone: each event once, where it comes first."""
        expected: dict[str, Expected] = {}
        for position, key, data in self.log():
            if data.startswith(UNDECODABLE):
                continue
            event = json.loads(data)
            found = expected.setdefault(key, Expected())
            if not event["broken"] and event["id"] not in found.ids:
                found.ids.append(event["id"])
                found.ids_hash = roll(found.ids_hash, fingerprint(event["id"].encode()))
                found.position = position
        return expected

    def stored(self) -> dict[str, Expected]:
        """What each key's state is."""
        return {
            state.key: Expected(json.loads(state.state), state.ids_hash, state.position)
            for state in self._states.scan()
        }

    def outputs(self) -> list[dict[str, Any]]:
        """What Firehose accepted."""
        accepted = (line.data for line in read_journal(self._stack.firehose_journal) if line.stream == self.name)
        return [json.loads(line) for data in accepted for line in data.splitlines()]

    def letters(self) -> list[DeadLetter]:
        """What was dead-lettered."""
        return list(self._letters.scan())


@pytest.fixture
def shop(
    stack: LocalStack, seed: int, processor: Callable[[], AnyProcessor], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Shop]:
    name = f"faults-{uuid.uuid4().hex[:8]}"
    stack.create_stream(name, SHARDS)
    stack.create_delivery_stream(name, name, "outputs/")
    environment = stack.environment()
    with contextlib.ExitStack() as started:
        proxies = {
            service: started.enter_context(
                FaultProxy(environment[f"AWS_ENDPOINT_URL_{service.upper()}"], faults=ProxyFaults(seed, **SHARES))  # type: ignore[arg-type] # shares alone
            )
            for service in SERVICES
        }
        for variable, value in environment.items():
            monkeypatch.setenv(variable, value)
        for service, proxy in proxies.items():
            monkeypatch.setenv(f"AWS_ENDPOINT_URL_{service.upper()}", proxy.url)
        yield Shop(stack, name, processor, proxies)


def put_events(shop: Shop, seed: int, clock: Clock) -> tuple[dict[str, list[str]], set[bytes]]:
    """Put through the proxy: the ids that were put for each key, in order, and the records that must be put aside."""
    rng = random.Random(seed)
    put: dict[str, list[str]] = {f"key-{number}": [] for number in range(KEYS)}
    broken = set()
    with Producer(shop.name, client=shop.kinesis, clock=clock) as producer:
        for number in range(EVENTS):
            key, event_id, is_broken = rng.choice(list(put)), f"event-{number}", number % 100 == 7
            data = json.dumps({"key": key, "id": event_id, "broken": is_broken}).encode()
            if number % 150 == 3:
                data = UNDECODABLE + data + b" " * INLINE_BYTES_MAX  # its dead letter goes to S3
            if is_broken or data.startswith(UNDECODABLE):
                broken.add(data)
            else:
                put[key].append(event_id)
            producer.put(data, key)
            if number % EVENTS_PER_FLUSH == 0:
                producer.flush()
    return put, broken


@pytest.mark.parametrize("seed", SEEDS, ids="seed-{}".format)
def test_however_the_services_fail_the_states_are_the_fold_of_the_log_and_every_last_output_is_published(
    seed: int,
    shop: Shop,
    running: Callable[..., Any],
    until: Callable[[Callable[[], bool]], None],
    hurried_clock: Clock,
) -> None:
    run = running(shop.application, shop.kinesis, shop.dynamodb)
    until(lambda: run.failure is not None or len(run.of(LeaseAcquired)) == SHARDS)
    put, broken = put_events(shop, seed, hurried_clock)
    expected = shop.expected()
    assert {key: found.ids for key, found in expected.items() if found.ids} == {
        key: ids for key, ids in put.items() if ids
    }

    def settled() -> bool:
        done = shop.stored() == expected and {letter.data for letter in shop.letters()} == broken
        return run.failure is not None or done

    until(settled)
    run.stop()
    assert run.failure is None
    for proxy in shop.proxies.values():
        proxy.release_late()

    assert shop.stored() == expected
    assert {letter.data for letter in shop.letters()} == broken
    outputs = shop.outputs()
    latest = {key: max(output["events"] for output in outputs if output["key"] == key) for key in expected}
    assert latest == {key: len(found.ids) for key, found in expected.items()}
    for output in outputs:
        assert output["last"] == expected[output["key"]].ids[output["events"] - 1], "an output repeats the same fold"
    struck: Counter[Fault] = Counter()
    for proxy in shop.proxies.values():
        struck += proxy.counts
    assert set(struck) == set(Fault)
