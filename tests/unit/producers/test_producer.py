"""The producer as apps see it, with its thread."""

import threading
from concurrent.futures import Future, wait
from itertools import repeat
from typing import Any

import pytest

from streamproc.errors import (
    ProducerClosed,
    PutFailed,
    QueueFull,
    RecordTooLarge,
    SettingsError,
    StreamNotFound,
)
from streamproc.producer import Acknowledged, Producer, ProducerSettings
from streamproc.telemetry import PutsDelayed, RecordsSent, Telemetry
from streamproc.testing.kinesis import CallRefused, FakeKinesis, ServiceAway

STREAM = "cart-events"
SECONDS = 10.0  # far beyond what anything here takes


class Gate:
    """A client whose calls wait until the gate is opened."""

    def __init__(self, kinesis: FakeKinesis) -> None:
        self.kinesis = kinesis
        self.reached = threading.Event()
        self.opened = threading.Event()

    def put_records(self, **request: Any) -> dict[str, Any]:
        self.reached.set()
        assert self.opened.wait(SECONDS)
        return self.kinesis.put_records(**request)


def test_every_event_is_acknowledged_by_the_time_the_block_ends(kinesis: Any, read_all: Any) -> None:
    with Producer(STREAM, client=kinesis) as producer:
        futures = [producer.put(b"%d" % n, f"u{n % 7}") for n in range(1000)]
    assert all(future.done() for future in futures)
    assert sum(len(seen) for seen in read_all(kinesis).values()) == 1000
    assert all(seen == sorted(seen, key=int) for seen in read_all(kinesis).values())


def test_events_of_many_threads_are_all_stored_each_threads_in_its_order(kinesis: Any, read_all: Any) -> None:
    with Producer(STREAM, client=kinesis) as producer:

        def put_all(name: str) -> None:
            for n in range(200):
                producer.put(b"%d" % n, name)

        threads = [threading.Thread(target=put_all, args=(f"t{n}",)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert read_all(kinesis) == {f"t{n}": [b"%d" % i for i in range(200)] for n in range(8)}


def test_put_does_not_wait_for_the_network(kinesis: Any) -> None:
    gate = Gate(kinesis)
    with Producer(STREAM, client=gate) as producer:
        producer.put(b"1", "u1")
        assert gate.reached.wait(SECONDS)
        later = producer.put(b"2", "u1")
        assert not later.done()
        gate.opened.set()


def test_a_full_buffer_raises_at_once_where_no_wait_is_allowed(kinesis: Any) -> None:
    gate = Gate(kinesis)
    settings = ProducerSettings(buffer_bytes_max=2 * 1024 * 1024, full_wait_seconds_max=0)
    with Producer(STREAM, client=gate, settings=settings) as producer:
        producer.put(b"x" * 1_000_000, "u1")
        producer.put(b"x" * 1_000_000, "u2")
        with pytest.raises(QueueFull, match="buffer_bytes_max"):
            producer.put(b"x" * 1_000_000, "u3")
        gate.opened.set()
        assert producer.flush(SECONDS)
        producer.put(b"x" * 1_000_000, "u3")


def test_a_put_waits_for_room_until_events_are_done(kinesis: Any) -> None:
    gate = Gate(kinesis)
    settings = ProducerSettings(buffer_bytes_max=2 * 1024 * 1024, full_wait_seconds_max=SECONDS)
    with Producer(STREAM, client=gate, settings=settings) as producer:
        producer.put(b"x" * 1_000_000, "u1")
        assert gate.reached.wait(SECONDS)
        producer.put(b"x" * 1_000_000, "u2")
        threading.Timer(0.02, gate.opened.set).start()
        assert producer.put(b"x" * 1_000_000, "u3").result(SECONDS)


def put_all(producer: Producer, events: int) -> None:
    for n in range(events):
        producer.put(b"x" * 1000, f"u{n}")


def test_small_events_count_with_what_they_cost_in_memory(kinesis: Any) -> None:
    gate = Gate(kinesis)
    settings = ProducerSettings(buffer_bytes_max=2 * 1024 * 1024, full_wait_seconds_max=0)
    with Producer(STREAM, client=gate, settings=settings) as producer:
        with pytest.raises(QueueFull, match="events wait for cart-events"):
            put_all(producer, 1000)  # 1 MB of data
        gate.opened.set()


def test_flush_waits_for_what_was_put_before_and_not_for_what_comes_later(kinesis: Any) -> None:
    gate = Gate(kinesis)
    with Producer(STREAM, client=gate) as producer:
        before = producer.put(b"1", "u1")
        assert not producer.flush(0.01)
        gate.opened.set()
        assert producer.flush(SECONDS)
        assert before.done()
        assert producer.flush(0)


def test_close_fails_what_was_not_acknowledged_in_time(kinesis: Any) -> None:
    gate = Gate(kinesis)
    producer = Producer(STREAM, client=gate)
    futures = [producer.put(b"%d" % n, "u1", n) for n in range(3)]
    assert gate.reached.wait(SECONDS)
    producer.close(0.01)
    errors = [future.exception(timeout=0) for future in futures]
    assert [(error.event, error.code) for error in errors if isinstance(error, PutFailed)] == [
        (n, "ProducerClosed") for n in range(3)
    ]
    gate.opened.set()


def test_close_gives_up_on_a_service_that_is_away(kinesis: Any) -> None:
    kinesis.script("PutRecords", repeat(ServiceAway()))
    producer = Producer(STREAM, client=kinesis)
    future = producer.put(b"1", "u1")
    producer.close(0.05)
    error = future.exception(timeout=0)
    assert "kinesis.invalid" in str(error)


def test_put_after_close_raises_and_closing_again_does_nothing(kinesis: Any) -> None:
    producer = Producer(STREAM, client=kinesis)
    producer.close()
    producer.close()
    with pytest.raises(ProducerClosed):
        producer.put(b"1", "u1")


def test_a_put_that_waits_for_room_learns_that_the_producer_was_closed(kinesis: Any) -> None:
    gate = Gate(kinesis)
    producer = Producer(STREAM, client=gate, settings=ProducerSettings(buffer_bytes_max=2 * 1024 * 1024))
    producer.put(b"x" * 1_000_000, "u1")
    producer.put(b"x" * 1_000_000, "u2")
    threading.Timer(0.02, producer.close, [0.01]).start()
    with pytest.raises(ProducerClosed):
        producer.put(b"x" * 1_000_000, "u3")
    gate.opened.set()


def test_the_first_permanent_failure_reaches_the_future_with_its_cause() -> None:
    with Producer(STREAM, client=FakeKinesis()) as producer:
        error = producer.put(b"1", "u1").exception(SECONDS)
    assert isinstance(error, PutFailed)
    assert error.code == "ResourceNotFoundException"
    assert isinstance(error.__cause__, StreamNotFound)


def test_without_a_client_the_configuration_is_read_at_the_first_call(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "nowhere")
    monkeypatch.setattr("boto3.DEFAULT_SESSION", None)
    with Producer(STREAM) as producer:
        error = producer.put(b"1", "u1").exception(SECONDS)
    assert isinstance(error, PutFailed)
    assert isinstance(error.__cause__, SettingsError)
    assert "AWS_REGION" in str(error)


def test_callbacks_may_put_and_may_neither_wait_for_room_nor_flush_nor_close(kinesis: Any) -> None:
    settings = ProducerSettings(buffer_bytes_max=2 * 1024 * 1024, full_wait_seconds_max=SECONDS)
    raised: list[type[BaseException]] = []
    with Producer(STREAM, client=kinesis, settings=settings) as producer:

        def again(_: Future[Acknowledged]) -> None:
            producer.put(b"2", "u1")
            for call in (producer.flush, producer.close, lambda: fill(producer)):
                try:
                    call()
                except (SettingsError, QueueFull) as error:
                    raised.append(type(error))

        def fill(producer: Producer) -> None:
            for n in range(3):
                producer.put(b"x" * 1_000_000, f"f{n}")

        producer.put(b"1", "u1").add_done_callback(again)
        assert producer.flush(SECONDS)
    assert raised == [SettingsError, SettingsError, QueueFull]


def test_events_put_within_the_linger_go_in_one_call(kinesis: Any) -> None:
    events: list[Any] = []
    settings = ProducerSettings(linger_seconds=SECONDS)
    with Producer(STREAM, client=kinesis, settings=settings, telemetry=Telemetry(events.append)) as producer:
        for n in range(3):
            producer.put(b"x", f"u{n}")
        assert producer.flush(SECONDS)  # a flush ends the linger
    assert [event.events for event in events if isinstance(event, RecordsSent)] == [3]


def test_a_full_aggregate_for_every_shard_does_not_linger(kinesis: Any) -> None:
    with Producer(STREAM, client=kinesis, settings=ProducerSettings(linger_seconds=600)) as producer:
        futures = [producer.put(b"x" * 1000, f"u{n}") for n in range(200)]
        done, _ = wait(futures[:10], SECONDS)
        assert len(done) == 10


def test_a_full_request_of_plain_records_does_not_linger(kinesis: Any) -> None:
    settings = ProducerSettings(linger_seconds=600, aggregate=False, shard_records_per_second=None)
    with Producer(STREAM, client=kinesis, settings=settings) as producer:
        futures = [producer.put(b"x", f"u{n}") for n in range(500)]
        done, _ = wait(futures, SECONDS)
        assert len(done) == 500


def test_a_future_cannot_be_cancelled_since_the_event_may_be_on_its_way(kinesis: Any) -> None:
    gate = Gate(kinesis)
    with Producer(STREAM, client=gate) as producer:
        assert not producer.put(b"1", "u1").cancel()
        gate.opened.set()


def test_a_telemetry_subscriber_that_raises_costs_no_event(kinesis: Any) -> None:
    def broken(_: object) -> None:
        raise ValueError("broken")

    kinesis.script("PutRecords", [CallRefused("InternalFailure", 500)])
    with Producer(STREAM, client=kinesis, telemetry=Telemetry(broken)) as producer:
        assert producer.put(b"1", "u1").result(SECONDS)


@pytest.mark.parametrize(
    ("data", "key", "names"), [(b"", "", "partition key"), (b"", "k" * 257, "257"), (b"x" * 1_048_576, "k", "1048577")]
)
def test_what_kinesis_could_never_take_is_refused_by_put(kinesis: Any, data: bytes, key: str, names: str) -> None:
    with Producer(STREAM, client=kinesis) as producer, pytest.raises(SettingsError, match=names):
        producer.put(data, key)


def test_the_largest_record_is_taken(kinesis: Any) -> None:
    with Producer(STREAM, client=kinesis) as producer:
        assert producer.put(b"x" * (1_048_576 - 256), "k" * 256).result(SECONDS)


@pytest.mark.parametrize(
    "wrong",
    [
        {"buffer_bytes_max": 1},
        {"record_ttl_seconds": 0},
        {"linger_seconds": -1},
        {"full_wait_seconds_max": -1},
        {"aggregate_bytes_max": 1},
        {"aggregate_bytes_max": 2_000_000},
        {"aggregate_events_max": 0},
        {"shard_bytes_per_second": 0},
        {"shard_records_per_second": -1},
    ],
)
def test_settings_are_checked_with_the_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=next(iter(wrong))):
        ProducerSettings(**wrong)


@pytest.mark.parametrize("name", ["", "a b", "x" * 129])
def test_a_stream_name_that_cannot_be_is_refused(name: str) -> None:
    with pytest.raises(SettingsError, match="stream"):
        Producer(name)


def test_put_many_takes_all_events_or_none(kinesis: Any, read_all: Any) -> None:
    gate = Gate(kinesis)
    settings = ProducerSettings(buffer_bytes_max=2 * 1024 * 1024, full_wait_seconds_max=0)
    with Producer(STREAM, client=gate, settings=settings) as producer:
        futures = producer.put_many([(b"%d" % n, "u1") for n in range(3)])
        with pytest.raises(RecordTooLarge):
            producer.put_many([(b"3", "u1"), (b"x" * 1_048_576, "u1")])
        with pytest.raises(SettingsError, match="partition key"):
            producer.put_many([(b"3", "u1"), (b"x", "")])
        producer.put(b"y" * 1_000_000, "u2")
        with pytest.raises(QueueFull, match="buffer_bytes_max"):
            producer.put_many([(b"3", "u1"), (b"x" * 1_040_000, "u1"), (b"x" * 500_000, "u1")])
        with pytest.raises(QueueFull, match="put fewer at once"):
            producer.put_many([(b"x" * 1_000_000, "u1")] * 3)
        gate.opened.set()
        assert len({future.result(SECONDS) for future in futures}) == 3
    assert read_all(kinesis)["u1"] == [b"0", b"1", b"2"]


def test_data_may_be_any_bytes_and_no_text(kinesis: Any, read_all: Any) -> None:
    with Producer(STREAM, client=kinesis) as producer:
        producer.put(bytearray(b"1"), "u1")  # type: ignore[arg-type]
        producer.put(memoryview(b"22"), "u1")  # type: ignore[arg-type]
        with pytest.raises(SettingsError, match="encode it"):
            producer.put("3", "u1")  # type: ignore[arg-type]
    assert read_all(kinesis) == {"u1": [b"1", b"22"]}


def test_on_error_gets_every_failure_and_may_raise() -> None:
    failed: list[PutFailed] = []

    def on_error(error: PutFailed) -> None:
        failed.append(error)
        raise ValueError("broken")

    with Producer(STREAM, client=FakeKinesis(), on_error=on_error) as producer:
        producer.put(b"1", "u1", "one")
        producer.put(b"2", "u1", "two")
    assert [error.event for error in failed] == ["one", "two"]


def test_puts_that_wait_for_room_are_told(kinesis: Any) -> None:
    gate = Gate(kinesis)
    events: list[Any] = []
    settings = ProducerSettings(buffer_bytes_max=2 * 1024 * 1024, full_wait_seconds_max=0)
    with Producer(STREAM, client=gate, settings=settings, telemetry=Telemetry(events.append)) as producer:
        for n in range(2):
            producer.put(b"x" * 1_000_000, f"u{n}")
        for n in range(3):
            with pytest.raises(QueueFull):
                producer.put(b"x" * 1_000_000, f"u{n}")
        gate.opened.set()
    [delayed] = [event for event in events if isinstance(event, PutsDelayed)]
    assert (delayed.stream, delayed.puts_delayed, delayed.puts_refused) == (STREAM, 3, 3)
