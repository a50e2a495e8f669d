"""At most one output a key in an interval."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest

from streamproc.errors import SettingsError
from streamproc.record import Batch, Record
from streamproc.settings import WorkerSettings

MakeRecord = Callable[..., Record]
MakeBatch = Callable[[Iterable[Record]], Batch]

EVERY_FIVE_SECONDS = WorkerSettings(emit_at_most_every_seconds=5, checkpoint_seconds=60)


def test_a_key_emits_at_once_and_then_waits_for_its_interval_with_all_that_came_meanwhile(
    bench: Any, make_record: MakeRecord, make_batch: MakeBatch
) -> None:
    worker = bench.worker(settings=EVERY_FIVE_SECONDS)
    worker.process(make_batch([make_record(1, "a", 1), make_record(2, "b", 1)]))
    for n in (3, 4):
        bench.clock.now += 2
        worker.process(make_batch([make_record(n, "a", n)]))
    assert bench.outputs() == [{"key": "a", "n": 1}, {"key": "b", "n": 1}]
    bench.clock.now += 1
    worker.process(make_batch([]))  # an empty read is enough
    assert bench.outputs()[2:] == [{"key": "a", "n": 3}]
    bench.clock.now += 5
    worker.process(make_batch([]))
    assert len(bench.outputs()) == 3, "what did not change is not emitted again"


def test_states_are_projected_with_each_batch_all_the_same(
    bench: Any, make_record: MakeRecord, make_batch: MakeBatch
) -> None:
    worker = bench.worker(settings=EVERY_FIVE_SECONDS)
    for n in (1, 2):
        worker.process(make_batch([make_record(n, "a", n)]))
    assert bench.projection.read(["a"])["a"].events_folded == 2


@pytest.mark.parametrize("at_its_end", [True, False])
def test_what_waits_is_emitted_before_a_checkpoint_passes_it(
    bench: Any, make_record: MakeRecord, make_batch: MakeBatch, at_its_end: bool
) -> None:
    worker = bench.worker(settings=WorkerSettings(emit_at_most_every_seconds=600, checkpoint_seconds=60))
    for n in (1, 2):
        worker.process(make_batch([make_record(n, "a", n)]))
    assert bench.outputs() == [{"key": "a", "n": 1}]
    bench.clock.now += 60
    assert worker.make_durable() if at_its_end else worker.advance_checkpoint(until=0)
    assert bench.outputs()[1:] == [{"key": "a", "n": 2}]


def test_a_fold_that_fails_meanwhile_changes_nothing_in_what_waits(
    bench: Any, make_record: MakeRecord, make_batch: MakeBatch
) -> None:
    worker = bench.worker(settings=EVERY_FIVE_SECONDS)
    for n, value in ((1, 1), (2, 2), (3, "poison")):
        worker.process(make_batch([make_record(n, "a", value)]))
    bench.clock.now += 5
    worker.process(make_batch([]))
    assert bench.outputs() == [{"key": "a", "n": 1}, {"key": "a", "n": 2}]
    assert bench.letters()[3].reason == "fold failed: ValueError: poison"


def test_after_a_death_nothing_waits_until_the_first_checkpoint(
    bench: Any, make_record: MakeRecord, make_batch: MakeBatch
) -> None:
    worker = bench.worker(settings=EVERY_FIVE_SECONDS, after_death=True)
    for n in (1, 2):
        worker.process(make_batch([make_record(n, "a", n)]))
    assert len(bench.outputs()) == 2
    worker.make_durable()
    worker.process(make_batch([make_record(3, "a", 3)]))
    assert len(bench.outputs()) == 2


@pytest.mark.parametrize("seconds", [-1.0, float("inf"), float("nan")])
def test_an_interval_that_never_ends_is_refused(seconds: float) -> None:
    with pytest.raises(SettingsError, match="emit_at_most_every_seconds"):
        WorkerSettings(emit_at_most_every_seconds=seconds)
