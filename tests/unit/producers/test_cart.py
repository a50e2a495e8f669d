"""The producer that apps import."""

import subprocess
import sys
import uuid
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from streamproc.errors import DecodeError, ProducerClosed, PutFailed
from streamproc.testing.kinesis import FakeKinesis
from streamproc_producers import CartEvent, CartProducer, EventType, decode

STREAM = "cart-events"


def sent(kinesis: FakeKinesis, read_all: Any) -> list[CartEvent]:
    return [decode(data) for seen in read_all(kinesis).values() for data in seen]


def test_each_action_is_one_event_with_a_new_id_and_the_time(kinesis: Any, read_all: Any) -> None:
    before = datetime.now(UTC)
    with CartProducer(STREAM, client=kinesis) as producer:
        producer.view(user_id="u1", item_id="i1", session_id="s1")
        producer.add_to_cart(user_id="u1", item_id="i1", quantity=2, price=2.55)
        producer.remove_from_cart(user_id="u1", item_id="i1", quantity=1)
        producer.purchase(user_id="u1", item_id="i1", order_id="o1", quantity=1, price=2.55)
    events = sent(kinesis, read_all)
    assert [event.event_type for event in events] == ["view", "add_to_cart", "remove_from_cart", "purchase"]
    assert [event.quantity for event in events] == [None, 2, 1, 1]
    assert (events[0].session_id, events[3].order_id) == ("s1", "o1")
    assert all(before <= event.ts <= datetime.now(UTC) for event in events)
    assert len({event.event_id for event in events}) == 4


def test_a_given_time_and_id_are_kept(kinesis: Any, read_all: Any) -> None:
    event_id, ts = uuid.uuid4(), datetime(2011, 11, 1, tzinfo=UTC)
    with CartProducer(STREAM, client=kinesis) as producer:
        producer.view(user_id="u1", item_id="i1", ts=ts, event_id=event_id)
    [event] = sent(kinesis, read_all)
    assert (event.ts, event.event_id) == (ts, event_id)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("user_id", ""),
        ("user_id", 17850),
        ("user_id", object()),
        ("user_id", "\ud800"),
        ("item_id", None),
        ("quantity", 0),
        ("quantity", True),
        ("price", float("nan")),
        ("price", float("inf")),
        ("price", -1.0),
        ("price", Decimal("2.55")),
        ("ts", datetime(2011, 11, 1)),  # the mistake that is tested
        ("session_id", 7),
        ("event_id", "7"),
    ],
)
def test_a_wrong_value_is_named_and_nothing_is_queued(kinesis: Any, field: str, value: Any) -> None:
    fields: dict[str, Any] = {"user_id": "u1", "item_id": "i1", field: value}
    with CartProducer(STREAM, client=kinesis) as producer, pytest.raises(DecodeError, match=field) as raised:
        producer.add_to_cart(**fields)
    assert raised.value.field == field
    assert kinesis.calls.get("PutRecords") is None


def test_events_made_elsewhere_are_put_in_their_order(kinesis: Any, read_all: Any) -> None:
    events = [
        CartEvent(event_id=uuid.uuid4(), event_type=EventType.VIEW, user_id="u1", item_id=f"i{n}", ts=datetime.now(UTC))
        for n in range(3)
    ]
    with CartProducer(STREAM, client=kinesis) as producer:
        futures = producer.put_many(events)
        assert producer.flush(10)
        assert all(future.done() for future in futures)
    assert sent(kinesis, read_all) == events


def test_who_keeps_no_futures_hears_of_failures_with_the_event() -> None:
    failed: list[PutFailed] = []
    with CartProducer(STREAM, client=FakeKinesis(), on_error=failed.append) as producer:
        producer.view(user_id="u1", item_id="i1")
    [error] = failed
    assert isinstance(error.event, CartEvent)
    assert error.event.item_id == "i1"


def test_a_closed_producer_says_so(kinesis: Any) -> None:
    producer = CartProducer(STREAM, client=kinesis)
    producer.close()
    with pytest.raises(ProducerClosed):
        producer.view(user_id="u1", item_id="i1")


def test_the_import_is_light() -> None:
    code = (
        "import sys, streamproc_producers\n"
        "heavy = {'numpy', 'xgboost', 'redis', 'boto3', 'click', 'rich', 'scipy', 'moto'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
