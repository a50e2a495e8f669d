"""A dead letter that comes back in the stream: folded once, by the application whose it is."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from streamproc.deadletter import Kind, Status
from streamproc.errors import DecodeError, TransientServiceError
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


class Died(BaseException):
    """The process dies here."""


def flaky(store: Any, name: str, dice: Callable[[], str]) -> None:
    """Make this method die before or after its effect, or lose its reply, as the dice say."""
    call = getattr(store, name)

    def struck(*arguments: Any) -> Any:
        what = dice()
        if what == "die before":
            raise Died
        result = call(*arguments)
        if what == "die after":
            raise Died
        if what == "lose the reply":
            raise TransientServiceError("lost")
        return result

    setattr(store, name, struck)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None)
@given(seed=st.integers(0, 1_000_000))
def test_whoever_dies_and_however_copies_are_put_each_mended_event_is_folded_once_where_its_first_copy_stands(
    seed: int, make_bench: Callable[[], Any], make_record: MakeRecord, make_batch: MakeBatch
) -> None:
    rng = random.Random(seed)
    bench = make_bench()
    mended = False

    def fold(state: dict[str, Any], event: dict[str, Any]) -> dict[str, Any]:
        if event["value"].endswith("hard") or (event["value"].endswith("soft") and not mended):
            raise ValueError(event["value"])
        return {"values": [*state["values"], event["value"]]}

    bench.processor.fold = fold
    faults = ["", "", "", "", "die before", "die after", "lose the reply"]
    active = True
    for store, name in ((bench.states, "store"), (bench.deadletters, "claim"), (bench.deadletters, "write")):
        flaky(store, name, lambda: rng.choice(faults) if active else "")
    kinds = ["", "", "", "soft", "hard"]
    log = [make_record(number, rng.choice("abc"), f"{number}{rng.choice(kinds)}") for number in range(30)]

    def work(lease: Position | None) -> Position | None:
        """Workers, one or two at a time, each from the lease on, until all is below it."""
        lives: list[tuple[Any, int]] = []
        while lease is None or lease.sequence_number < len(log) - 1:
            try:
                if not lives or (len(lives) < 2 and rng.random() < 0.15):
                    lives.append((bench.worker(lease), lease.sequence_number + 1 if lease else 0))
                worker, at = lives.pop(rng.randrange(len(lives)))
                upto = min(len(log), at + rng.randint(1, 12))
                worker.process(make_batch(log[at:upto]))
                if rng.random() < 0.5 or upto == len(log):
                    durable = worker.make_durable()
                    lease = max(lease or durable[0], durable[0]) if durable else lease
                lives.append((worker, upto))
            except Died:
                continue
        return lease

    lease = work(None)
    put_aside = sorted(bench.deadletters.scan(), key=lambda letter: letter.position)
    dropped = {letter.position for letter in put_aside if rng.random() < 0.15 and bench.deadletters.drop(letter)}
    mended = True
    copies = [letter for letter in put_aside for _ in range(rng.choice([1, 1, 2, 3]))]
    rng.shuffle(copies)
    values = [json.loads(record.data)["value"] for record in log]
    expected = [(record.partition_key, value) for record, value in zip(log, values, strict=True) if value.isdigit()]
    claimed: set[Position] = set()
    for letter in copies:
        record, value = log[letter.position.sequence_number], values[letter.position.sequence_number]
        log.append(again(record, len(log)))
        if letter.position not in claimed | dropped:
            claimed.add(letter.position)
            expected += [] if value.endswith("hard") else [(letter.partition_key, value)]
    work(lease)
    active = False
    for key in "abc":
        assert bench.values(key) == [value for owner, value in expected if owner == key]
    replayed = {letter.position for letter in bench.deadletters.scan() if letter.status is Status.REPLAYED}
    assert replayed == claimed
