"""A record that kills the process is found in three deaths, and nothing else is ever blamed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from streamproc.deadletter import Attempt
from streamproc.record import Batch, Position, Record
from streamproc.worker import WorkerAborted

MakeRecord = Callable[..., Record]
MakeBatch = Callable[[Iterable[Record]], Batch]


class Death(BaseException):
    """Stands for the end of the process: nothing after it is durable."""


class Mortal:
    """A bench whose application dies on the value "deadly", and which is started again as a runner would."""

    def __init__(self, bench: Any, make_batch: MakeBatch, log: Sequence[Record]) -> None:
        self.bench, self.make_batch, self.log = bench, make_batch, log
        self.deaths = 0
        fold, note = bench.processor.fold, bench.deadletters.note_attempt
        self.dead = False

        def deadly_fold(state: Any, event: Any) -> Any:
            if event["value"] == "deadly":
                self.dead = True
                raise Death
            return fold(state, event)

        def note_while_alive(shard_id: str, attempt: Attempt | None) -> None:
            if not self.dead:
                note(shard_id, attempt)

        bench.processor.fold = deadly_fold
        bench.deadletters.note_attempt = note_while_alive

    def run(self) -> None:
        """One life: from the beginning, to the end of the log or to a death."""
        self.dead = False
        worker = self.bench.worker(after_death=self.deaths > 0)
        try:
            worker.process(self.make_batch(self.log))
        except Death:
            self.deaths += 1
        else:
            worker.make_durable()
        finally:
            worker.close()

    def live_until_it_lives(self, lives_max: int = 20) -> None:
        for _ in range(lives_max):
            before = self.deaths
            self.run()
            if self.deaths == before:
                return
        raise AssertionError("it dies for ever")


@given(st.lists(st.tuples(st.sampled_from("ab"), st.booleans()), min_size=1, max_size=12))
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])  # it only gives a class
def test_exactly_the_records_that_kill_are_quarantined_and_all_others_are_folded_once(
    make_bench: Callable[[], Any],
    make_record: MakeRecord,
    make_batch: MakeBatch,
    events: list[tuple[str, bool]],
) -> None:
    bench = make_bench()
    log = [make_record(n, key, "deadly" if deadly else n) for n, (key, deadly) in enumerate(events)]
    Mortal(bench, make_batch, log).live_until_it_lives(lives_max=40)
    condemned = {letter.position.sequence_number for letter in bench.deadletters.scan()}
    assert condemned == {n for n, (_, deadly) in enumerate(events) if deadly}
    for key in "ab":
        assert bench.values(key) == [n for n, (owner, deadly) in enumerate(events) if owner == key and not deadly]


def test_it_takes_three_deaths_to_condemn_a_record(bench: Any, make_record: MakeRecord, make_batch: MakeBatch) -> None:
    mortal = Mortal(bench, make_batch, [make_record(1, "a", 1), make_record(2, "a", "deadly"), make_record(3, "a", 3)])
    mortal.live_until_it_lives()
    assert mortal.deaths == 3
    (letter,) = bench.deadletters.scan()
    assert "died in the application's code" in letter.reason


def test_a_worker_that_follows_no_death_notes_nothing(
    bench: Any, make_record: MakeRecord, make_batch: MakeBatch
) -> None:
    noted: list[Attempt | None] = []
    bench.deadletters.note_attempt = lambda _shard_id, attempt: noted.append(attempt)
    bench.worker().process(make_batch([make_record(1, "a", 1)]))
    assert noted == []


def test_a_worker_is_careful_until_its_first_checkpoint(
    bench: Any, make_record: MakeRecord, make_batch: MakeBatch
) -> None:
    noted: list[Attempt | None] = []
    bench.deadletters.note_attempt = lambda _shard_id, attempt: noted.append(attempt)
    worker = bench.worker(after_death=True)
    worker.process(make_batch([make_record(1, "a", 1)]))
    assert noted
    assert noted[-1] is None
    worker.make_durable()
    noted.clear()
    worker.process(make_batch([make_record(2, "a", 2)]))
    assert noted == []


def test_waiting_for_a_service_is_outside_the_applications_code_even_where_emit_waits(
    bench: Any, make_record: MakeRecord, make_batch: MakeBatch
) -> None:
    def away(_changed: object) -> Any:
        raise ConnectionError("the model's service is away")

    bench.processor.emit = away
    bench.abort.set()
    worker = bench.worker(after_death=True)
    with pytest.raises(WorkerAborted):
        worker.process(make_batch([make_record(1, "a", 1)]))
    worker.close()
    assert bench.deadletters.attempt(worker.shard_id) is None


def test_an_exception_is_no_death(bench: Any, make_record: MakeRecord, make_batch: MakeBatch) -> None:
    worker = bench.worker(after_death=True)
    worker.process(make_batch([make_record(1, "a", "poison")]))
    worker.close()
    assert bench.deadletters.attempt(worker.shard_id) is None


def test_suspects_are_tried_alone_and_the_records_around_them_together(
    bench: Any, make_record: MakeRecord, make_batch: MakeBatch
) -> None:
    worker = bench.worker()
    bench.deadletters.note_attempt(worker.shard_id, Attempt(first=Position(0, 3), last=Position(0, 4)))
    worker = bench.worker(after_death=True)
    worker.process(make_batch([make_record(n, f"k{n}", n) for n in range(1, 8)]))
    worker.close()
    assert bench.processor.emit_calls == [2, 1, 1, 3]
