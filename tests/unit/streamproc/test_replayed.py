"""A dead letter that comes back in the stream: folded once, by the application whose it is."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

import msgspec
import pytest
from hypothesis import given, strategies as st

from streamproc.deadletter import Kind, Status
from streamproc.errors import DecodeError
from streamproc.namespace import Namespace
from streamproc.record import Batch, Position, Record
from streamproc.replayed import MAGIC, unwrap, wrap
from streamproc.telemetry import ReplayedSkipped

MakeRecord = Callable[..., Record]
MakeBatch = Callable[[Iterable[Record]], Batch]
NAMESPACE = Namespace("app", "stream", 1)


@given(st.integers(0, 5), st.integers(0, 2**180), st.integers(0, 9), st.binary())
def test_an_envelope_gives_back_what_was_put_into_it(shard: int, sequence: int, sub: int, data: bytes) -> None:
    position = Position(shard, sequence, sub)
    replayed = unwrap(wrap(NAMESPACE, position, data))
    assert (replayed.namespace, replayed.first_position, replayed.data) == (str(NAMESPACE), position, data)


@given(st.binary(max_size=40))
def test_a_broken_envelope_is_a_decode_error(rest: bytes) -> None:
    with pytest.raises(DecodeError, match="the envelope of a replayed dead letter is broken"):
        unwrap(MAGIC + b"\xc1" + rest)


def again(original: Record, sequence_number: int, namespace: Namespace = NAMESPACE) -> Record:
    """The record as `deadletter replay` puts it."""
    data = wrap(namespace, original.position, original.data)
    return msgspec.structs.replace(original, data=data, position=Position(0, sequence_number))


@pytest.fixture
def poisoned(bench: Any, make_record: MakeRecord, make_batch: MakeBatch) -> Record:
    """A record that was put aside; then the cause was mended."""
    poison = make_record(1, "a", "poison")
    worker = bench.worker()
    worker.process(make_batch([make_record(0, "a", 0), poison, make_record(2, "a", 2)]))
    worker.make_durable()
    bench.processor.fold = lambda state, event: {"values": [*state["values"], event["value"]]}
    return poison


def test_a_replayed_event_is_folded_where_it_stands_now_and_its_entry_says_so(
    bench: Any, make_record: MakeRecord, make_batch: MakeBatch, poisoned: Record
) -> None:
    worker = bench.worker(Position(0, 2))
    worker.process(make_batch([make_record(3, "a", 3), again(poisoned, 4), make_record(5, "a", 5)]))
    worker.make_durable()
    assert bench.values("a") == [0, 2, 3, "poison", 5]
    (letter,) = bench.deadletters.scan()
    assert (letter.status, letter.replayed_at) == (Status.REPLAYED, Position(0, 4))


def test_however_often_it_is_put_and_however_far_apart_it_is_folded_once(
    bench: Any, make_record: MakeRecord, make_batch: MakeBatch, poisoned: Record
) -> None:
    worker = bench.worker(Position(0, 2))
    worker.process(make_batch([again(poisoned, 3), again(poisoned, 4)]))
    worker.process(make_batch([make_record(number, "a", number) for number in range(5, 105)]))
    worker.process(make_batch([again(poisoned, 105)]))
    worker.make_durable()
    assert bench.values("a").count("poison") == 1
    assert [event.position for event in bench.telemetry if isinstance(event, ReplayedSkipped)] == [
        str(Position(0, 4)),
        str(Position(0, 105)),
    ]


def test_a_worker_that_reads_it_again_after_a_crash_folds_it_where_the_first_one_did(
    bench: Any, make_record: MakeRecord, make_batch: MakeBatch, poisoned: Record
) -> None:
    log = [again(poisoned, 3), make_record(4, "a", 4), again(poisoned, 5)]
    bench.worker(Position(0, 2)).process(make_batch(log))  # killed before its checkpoint
    worker = bench.worker(Position(0, 2))
    worker.process(make_batch(log))
    worker.make_durable()
    assert bench.values("a") == [0, 2, "poison", 4]


def test_a_replayed_event_that_fails_again_is_put_aside_again_with_its_own_data_and_first_position(
    bench: Any, make_record: MakeRecord, make_batch: MakeBatch
) -> None:
    poison = make_record(1, "a", "poison")
    worker = bench.worker()
    worker.process(make_batch([poison]))
    worker.process(make_batch([again(poison, 2)]))
    worker.make_durable()
    first, second = sorted(bench.deadletters.scan(), key=lambda letter: letter.position)
    assert (first.status, first.replayed_at) == (Status.REPLAYED, Position(0, 2))
    assert (second.status, second.first_position) == (Status.OPEN, Position(0, 1))
    assert json.loads(second.data)["value"] == "poison"


def test_an_envelope_of_another_application_and_a_dropped_entrys_are_not_folded(
    bench: Any, make_batch: MakeBatch, poisoned: Record
) -> None:
    (letter,) = bench.deadletters.scan()
    assert bench.deadletters.drop(letter)
    worker = bench.worker(Position(0, 2))
    worker.process(make_batch([again(poisoned, 3), again(poisoned, 4, Namespace("other", "stream", 1))]))
    worker.make_durable()
    assert bench.values("a") == [0, 2]


def test_a_record_that_only_begins_as_an_envelope_is_put_aside(bench: Any, make_batch: MakeBatch) -> None:
    worker = bench.worker()
    worker.process(make_batch([Record(MAGIC + b"?", "a", Position(0, 1), 1_000.0)]))
    (letter,) = bench.deadletters.scan()
    assert (letter.kind, letter.reason[:34]) == (Kind.EVENT, "the envelope of a replayed dead le")
