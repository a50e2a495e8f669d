"""The public API as users write it: type-checked by ``make lint`` and by ``test_api.py``, never run.

An ignored error here is a promise too: mypy complains when that line stops being wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import assert_type

from mypy_boto3_kinesis import KinesisClient

from streamproc.application import Application
from streamproc.deadletters.dynamodb import DynamoDBDeadLetters
from streamproc.errors import DecodeError, PutFailed
from streamproc.local import LocalStack
from streamproc.processor import Changed, KeyedProcessor
from streamproc.projections.redis import RedisProjection
from streamproc.sinks.firehose import FirehoseSink
from streamproc.states.dynamodb import DynamoDBStates
from streamproc.telemetry import Telemetry, TelemetryEvent
from streamproc_producers import (
    Acknowledged,
    CartEvent,
    CartProducer,
    EventType,
    ProducerSettings,
    decode,
    new_event_id,
)


def send() -> None:
    """What an app that only sends events writes."""
    failed: list[PutFailed] = []

    with CartProducer("cart-events", settings=ProducerSettings(aggregate=False), on_error=failed.append) as producer:
        future = producer.add_to_cart(user_id="u1", item_id="85123A", quantity=2, price=2.55)
        assert_type(future, Future[Acknowledged])
        assert_type(future.result(timeout=5).shard_id, str)
        producer.purchase(user_id="u1", item_id="85123A", order_id="536365")
        producer.purchase(user_id="u1", item_id="85123A")  # type: ignore[call-arg] # a purchase belongs to an order
        producer.view("u1", "85123A")  # type: ignore[call-arg] # ids are easily swapped, so they are given by name
        producer.put(
            CartEvent(
                event_id=new_event_id(),
                event_type=EventType.VIEW,
                user_id="u1",
                item_id="85123A",
                ts=datetime.now(UTC),
            )
        )


def read(data: bytes) -> str | None:
    """What a consumer of the raw stream writes."""
    try:
        event = decode(data)
    except DecodeError as error:
        return error.field
    event.price = 2.55  # type: ignore[misc] # an event is a fact
    return event.user_id


class Count(KeyedProcessor[CartEvent, int, str]):
    """The smallest application: how many units each user touched."""

    fold_version = 1

    def decode(self, data: bytes) -> CartEvent:
        return decode(data)

    def key(self, event: CartEvent) -> str:
        return event.user_id

    def event_id(self, event: CartEvent) -> bytes:
        return event.event_id.bytes

    def event_time(self, event: CartEvent) -> float:
        return event.at

    def new_state(self) -> int:
        return 0

    def fold(self, state: int, event: CartEvent) -> int:
        return state + (event.quantity or 1)

    def emit(self, changed: Sequence[Changed[int]]) -> Sequence[str | None]:
        return [f"{each.key}: {each.state}" for each in changed]

    def encode(self, output: str) -> bytes:
        return output.encode()

    def encode_state(self, state: int) -> bytes:
        return str(state).encode()

    def decode_state(self, data: bytes) -> int:
        return int(data)


def print_event(event: TelemetryEvent) -> None:
    """A subscriber."""


application = Application(
    name="count",
    stream="cart-events",
    processor=Count,
    states=DynamoDBStates,
    deadletters=partial(DynamoDBDeadLetters, bucket="shop"),
    sink=partial(FirehoseSink, delivery_stream="counts"),
    projection=partial(RedisProjection, url="redis://127.0.0.1:6379/0"),
)
telemetry = Telemetry(print_event)


def test_against_the_local_stack(folder: Path) -> None:
    """What a user's integration test writes."""
    with LocalStack(folder) as stack:
        stack.create_stream("cart-events", shards=2)
        assert_type(stack.client("kinesis"), KinesisClient)
        assert_type(stack.environment(), dict[str, str])
        CartProducer("cart-events", client=stack.client("kinesis")).close()
        stack.client("sqs")  # type: ignore[call-overload] # not a part of the stack
