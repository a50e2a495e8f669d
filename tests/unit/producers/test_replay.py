"""When events are put, and what is written down about them."""

import io
import itertools
import threading
import uuid
from concurrent.futures import Future
from datetime import UTC, datetime, timedelta
from itertools import repeat
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, strategies as st

from streamproc.errors import QueueFull, SettingsError, StreamNotFound
from streamproc.producer import Acknowledged
from streamproc.testing.kinesis import EntriesRefused, FakeKinesis
from streamproc_producers import CartEvent, CartProducer, EventType
from streamproc_producers.replay import JournalLine, Pace, ReplayReport, read_journal, replay

STREAM = "cart-events"
START = datetime(2011, 11, 1, tzinfo=UTC)
T0 = 1_700_000_000.0  # where the clock of the tests begins


def make_events(count: int, seconds_apart: float = 1.0, users: int = 3) -> list[CartEvent]:
    return [
        CartEvent(
            event_id=uuid.UUID(int=n),
            event_type=EventType.VIEW,
            user_id=f"u{n % users}",
            item_id=f"i{n}",
            ts=START + timedelta(seconds=n * seconds_apart),
        )
        for n in range(count)
    ]


class Recorder:
    """A producer that acknowledges at once and notes when each event was put. A put may take its time."""

    def __init__(self, clock: Any, put_seconds: float = 0.0) -> None:
        self.clock = clock
        self.put_seconds = put_seconds
        self.put_at: list[float] = []
        self.full = 0

    def put(self, event: CartEvent) -> Future[Acknowledged]:
        del event
        if self.full:
            self.full -= 1
            raise QueueFull("full")
        self.put_at.append(round(self.clock.now - T0, 6))
        self.clock.now += self.put_seconds
        future: Future[Acknowledged] = Future()
        future.set_result(Acknowledged("shardId-000000000000", str(len(self.put_at))))
        return future

    def flush(self, timeout_seconds: float | None = None) -> bool:
        del timeout_seconds
        return True


def put_times(clock: Any, events: list[CartEvent], pace: Pace, put_seconds: float = 0.0) -> list[float]:
    recorder: Any = Recorder(clock, put_seconds)
    replay(events, recorder, pace, clock=clock)
    times: list[float] = recorder.put_at
    return times


def test_without_a_pace_nothing_waits(clock: Any) -> None:
    assert put_times(clock, make_events(3), Pace()) == [0, 0, 0]


def test_a_rate_spaces_the_events(clock: Any) -> None:
    assert put_times(clock, make_events(4), Pace(rate=2)) == [0, 0.5, 1, 1.5]


def test_a_speed_keeps_the_spaces_of_event_time(clock: Any) -> None:
    assert put_times(clock, make_events(3, seconds_apart=90), Pace(speed=60)) == [0, 1.5, 3]


def test_a_rate_ends_after_its_seconds_and_the_rest_goes_at_once(clock: Any) -> None:
    assert put_times(clock, make_events(7), Pace(rate=2, rate_seconds=2)) == [0, 0.5, 1, 1.5, 1.5, 1.5, 1.5]


def test_a_slow_put_does_not_move_the_schedule(clock: Any) -> None:
    # The third put takes three periods' time; what became due meanwhile goes at once, then the schedule holds again.
    class Slow(Recorder):
        def put(self, event: CartEvent) -> Future[Acknowledged]:
            self.put_seconds = 0.3 if len(self.put_at) == 2 else 0.0
            return super().put(event)

    recorder: Any = Slow(clock)
    replay(make_events(7), recorder, Pace(rate=10), clock=clock)
    assert recorder.put_at == [0, 0.1, 0.2, 0.5, 0.5, 0.5, 0.6]


@given(st.integers(0, 10**6), st.floats(0.1, 1e5), st.floats(0.1, 1e4))
def test_due_times_never_go_back_and_keep_the_rate(index: int, rate: float, rate_seconds: float) -> None:
    pace = Pace(rate=rate, rate_seconds=rate_seconds)
    due, later = pace.due_seconds(index, 0, 0), pace.due_seconds(index + 1, 0, 0)
    assert due is None or due == index / rate < rate_seconds
    assert later is None or (due is not None and due <= later)


@pytest.mark.parametrize(
    ("wrong", "names"),
    [
        ({"speed": 0}, "speed"),
        ({"rate": -1}, "rate"),
        ({"rate": float("nan")}, "rate"),
        ({"rate": 1, "speed": 1}, "speed and rate"),
        ({"rate_seconds": 5}, "rate_seconds"),
    ],
)
def test_a_pace_that_cannot_be_kept_is_refused_by_name(wrong: dict[str, float], names: str) -> None:
    with pytest.raises(SettingsError, match=names):
        Pace(**wrong)


def test_the_journal_has_every_event_in_put_order_with_its_place(clock: Any, kinesis: Any, tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    events = make_events(50)
    with path.open("wb") as file, CartProducer(STREAM, client=kinesis) as producer:
        report = replay(events, producer, Pace(rate=10), journal=file, clock=clock)
    assert (report.sent, report.acknowledged, report.failed, report.stopped) == (50, 50, {}, False)
    lines = list(read_journal(path))
    assert [line.event for line in lines] == events
    assert [(line.event_id, line.user_id) for line in lines] == [(e.event_id, e.user_id) for e in events]
    assert [line.due_at for line in lines] == pytest.approx([T0 + n / 10 for n in range(50)])
    assert all(line.due_at is not None and line.put_at >= line.due_at - 0.001 for line in lines)
    stored = {(shard, r["SequenceNumber"]) for shard, log in kinesis.log(STREAM).items() for r in log}
    assert {(line.shard_id, line.sequence_number) for line in lines} == stored


def test_the_journal_names_what_failed(kinesis: Any) -> None:
    kinesis.script("PutRecords", repeat(EntriesRefused(frozenset(range(500)), "KMSNotValidHere"), 1))
    journal = io.BytesIO()
    with CartProducer(STREAM, client=kinesis) as producer:
        report = replay(make_events(1), producer, Pace(), journal=journal)
    line = msgspec.json.decode(journal.getvalue(), type=JournalLine)
    assert (line.error, line.shard_id) == ("KMSNotValidHere", None)
    assert report.failed == {"KMSNotValidHere": 1}
    assert report.error is None


def test_a_stream_that_does_not_exist_ends_the_replay_with_that_error() -> None:
    with CartProducer(STREAM, client=FakeKinesis()) as producer:
        report = replay(itertools.cycle(make_events(10)), producer, Pace(rate=1000))
    assert isinstance(report.error, StreamNotFound)
    assert report.failed == {"ResourceNotFoundException": report.sent}


def test_a_stop_ends_it_and_what_was_put_is_flushed_and_counted(clock: Any, kinesis: Any) -> None:
    stop = threading.Event()
    with CartProducer(STREAM, client=kinesis) as producer:

        def stopping() -> Any:
            yield from make_events(5)
            stop.set()
            yield from make_events(5)

        report = replay(stopping(), producer, Pace(), stop=stop, clock=clock)
    assert (report.sent, report.acknowledged, report.stopped) == (5, 5, True)


def test_a_stop_that_cannot_flush_counts_the_rest_as_not_acknowledged(clock: Any) -> None:
    class Never(Recorder):
        def put(self, event: CartEvent) -> Future[Acknowledged]:
            super().put(event)
            return Future()

    stop = threading.Event()
    recorder: Any = Never(clock)

    def stopping() -> Any:
        yield from make_events(2)
        stop.set()
        yield from make_events(1)

    report = replay(stopping(), recorder, Pace(), stop=stop, clock=clock)
    assert (report.sent, report.failed) == (2, {"NotAcknowledged": 2})


def test_a_full_buffer_is_waited_out_unless_it_is_stopped(clock: Any) -> None:
    recorder: Any = Recorder(clock)
    recorder.full = 3
    assert replay(make_events(2), recorder, Pace(), clock=clock).sent == 2


def test_progress_is_told_ten_times_a_second_and_at_the_end(clock: Any) -> None:
    told: list[ReplayReport] = []
    recorder: Any = Recorder(clock)
    replay(make_events(101), recorder, Pace(rate=100), on_progress=told.append, clock=clock)
    assert 9 <= len(told) <= 12
    assert told[-1].sent == 101


def test_a_journal_with_a_broken_line_is_refused_with_its_number(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_text("{}\n")
    with pytest.raises(SettingsError, match="line 1"):
        list(read_journal(path))
