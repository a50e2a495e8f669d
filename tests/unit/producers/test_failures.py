"""What can go wrong for an app, each with its own error or outcome, and what it says to do."""

import threading
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from botocore.exceptions import EndpointConnectionError

from streamproc.errors import (
    AccessDenied,
    ClockSkewed,
    KeyUnavailable,
    ProducerClosed,
    PutFailed,
    QueueFull,
    RecordTooLarge,
    StreamNotFound,
    is_transient,
)
from streamproc.local import LocalStack
from streamproc.producer import Producer, ProducerSettings
from streamproc.telemetry import Retried
from streamproc.testing.kinesis import CallRefused
from streamproc.testing.proxy import Fault, FaultProxy

STREAM = "cart-events"
SECONDS = 20.0


@pytest.mark.parametrize(
    ("fault", "cause", "says"),
    [
        (CallRefused("ResourceNotFoundException"), StreamNotFound, "create the stream"),
        (
            CallRefused("AccessDeniedException", message="not authorized to perform: kinesis:PutRecords"),
            AccessDenied,
            "PutRecords",
        ),
        (CallRefused("ExpiredTokenException"), AccessDenied, "PutRecords"),
        (CallRefused("KMSDisabledException"), KeyUnavailable, "KMS key"),
        (CallRefused("KMSInvalidStateException"), KeyUnavailable, "KMS key"),
        (CallRefused("KMSAccessDeniedException"), AccessDenied, "KMSAccessDenied"),
        (
            CallRefused("InvalidSignatureException", message="Signature expired: 20260101T000000Z is now earlier"),
            ClockSkewed,
            "clock",
        ),
        (CallRefused("InvalidSignatureException", message="Signature not yet current: 2026"), ClockSkewed, "clock"),
        (CallRefused("RequestExpired"), ClockSkewed, "clock"),
        (CallRefused("InvalidSignatureException", message="the signature we calculated"), AccessDenied, "PutRecords"),
    ],
)
def test_a_call_refused_for_good_fails_its_events_at_once_with_a_cause_of_its_own(
    bench: Any, kinesis: Any, fault: CallRefused, cause: type[Exception], says: str
) -> None:
    event = object()
    future = bench.put("u1", b"1", event)
    kinesis.script("PutRecords", [fault])
    bench.run()
    error = future.exception(timeout=0)
    assert isinstance(error, PutFailed)
    assert type(error.__cause__) is cause
    assert (error.code, error.event) == (fault.code, event)
    assert says in str(error)
    assert kinesis.calls["PutRecords"] == 1
    assert not is_transient(error.__cause__)


@pytest.mark.parametrize("code", ["KMSThrottlingException", "KMSNotFoundException", "ThrottlingException"])
def test_what_passes_by_itself_is_tried_again(bench: Any, kinesis: Any, code: str) -> None:
    kinesis.script("PutRecords", [CallRefused(code)] * 3)
    future = bench.put("u1", b"1")
    bench.run()
    assert future.result(timeout=0)


def test_a_network_that_is_gone_for_a_minute_costs_no_event_and_no_order(
    bench: Any, kinesis: Any, read_all: Any
) -> None:
    began = bench.clock.now

    class Cut:
        def __getattr__(self, name: str) -> Any:
            if 5 < bench.clock.now - began < 65:
                raise EndpointConnectionError(endpoint_url="https://kinesis.eu-west-1.amazonaws.com")
            return getattr(kinesis, name)

    bench.sender._client = Cut
    futures = []
    for n in range(700):
        futures.append(bench.put(f"u{n % 20}", b"%d" % n))
        bench.clock.now += 0.1
        if n % 7 == 0:
            bench.clock.now += bench.step().seconds or 0.0
    bench.run()
    assert all(future.result(timeout=0) for future in futures)
    stored = read_all(kinesis)
    assert stored == {f"u{key}": [b"%d" % n for n in range(key, 700, 20)] for key in range(20)}
    waits = [event.wait_seconds for event in bench.events if isinstance(event, Retried)]
    assert len(waits) > 3
    assert max(waits) <= 5


def test_what_put_refuses_itself_has_errors_of_its_own(kinesis: Any) -> None:
    opened = threading.Event()

    class Slow:
        def put_records(self, **request: Any) -> Any:
            assert opened.wait(SECONDS)
            return kinesis.put_records(**request)

    settings = ProducerSettings(buffer_bytes_max=2 * 1024 * 1024, full_wait_seconds_max=0)
    with Producer(STREAM, client=Slow(), settings=settings) as producer:
        with pytest.raises(RecordTooLarge, match="put the large part elsewhere"):
            producer.put(b"x" * 1024 * 1024, "u1")
        producer.put(b"x" * 1_000_000, "u1")
        producer.put(b"x" * 1_000_000, "u1")
        with pytest.raises(QueueFull, match="more slowly"):
            producer.put(b"x" * 1_000_000, "u1")
        opened.set()
    with pytest.raises(ProducerClosed, match="create a new one"):
        producer.put(b"x", "u1")


@pytest.fixture
def real(stack: LocalStack, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, FaultProxy]]:
    """A stream of moto's behind a proxy, which the environment names: the producer makes its own client."""
    name = f"failures-{uuid.uuid4().hex[:8]}"
    stack.client("kinesis").create_stream(StreamName=name, ShardCount=2)
    environment = stack.environment()
    with FaultProxy(environment["AWS_ENDPOINT_URL_KINESIS"]) as proxy:
        for key, value in environment.items():
            monkeypatch.setenv(key, value)
        monkeypatch.setenv("AWS_ENDPOINT_URL_KINESIS", proxy.url)
        yield name, proxy


def test_a_stream_that_is_deleted_fails_later_events_and_says_so(
    real: tuple[str, FaultProxy], stack: LocalStack
) -> None:
    name, _ = real
    with Producer(name) as producer:
        assert producer.put(b"1", "u1").result(SECONDS)
        stack.client("kinesis").delete_stream(StreamName=name)
        error = producer.put(b"2", "u1").exception(SECONDS)
    assert isinstance(error, PutFailed)
    assert isinstance(error.__cause__, StreamNotFound)
    assert error.event == b"2"


def test_over_the_wire_throttles_cuts_lost_replies_and_parts_end_well(real: tuple[str, FaultProxy]) -> None:
    name, proxy = real
    for fault in (Fault.THROTTLE, Fault.CUT, Fault.LOST_REPLY, Fault.INTERNAL, Fault.PARTIAL, Fault.LATENCY):
        proxy.fail_next("PutRecords", fault)
    with Producer(name) as producer:
        futures = [producer.put(b"%d" % n, f"u{n % 40}") for n in range(400)]
        assert producer.flush(SECONDS)
    assert {future.result(0).shard_id for future in futures} == {"shardId-000000000000", "shardId-000000000001"}
    assert sum(proxy.counts.values()) == 6
