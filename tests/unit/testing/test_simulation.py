"""The simulation itself: it repeats, it covers what it says, and it notices when a rule of the protocol is missing."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings, strategies as st

from streamproc.errors import DecodeError
from streamproc.fold import KeyStates
from streamproc.processor import Changed
from streamproc.record import BEGINNING, Position
from streamproc.settings import WorkerSettings
from streamproc.testing.simulation import KINDS, MUTATIONS, mutated, run
from streamproc.testing.simulation.__main__ import main
from streamproc.testing.simulation.application import LETTERS, Letter, LetterBox
from streamproc.testing.simulation.faults import Dice
from streamproc.testing.simulation.log import Log, make_log
from streamproc.testing.simulation.mishaps import Emission, MishapProcessor, Mishaps, with_failure
from streamproc.testing.simulation.reference import References, alike
from streamproc.testing.simulation.report import caught_by

SEEDS = range(1_000)


@given(st.integers(min_value=0, max_value=2**32))
@settings(max_examples=60, deadline=None)
def test_any_seed_plays_without_a_violation_and_plays_the_same_again(seed: int) -> None:
    outcome = run(seed)
    assert [str(violation) for violation in outcome.violations] == []
    assert run(seed) == outcome


def test_a_schedule_leaves_the_modules_random_generator_as_it_was() -> None:
    random.seed(5)
    expected = random.random()
    random.seed(5)
    run(1)
    assert random.random() == expected


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_a_rule_that_is_taken_away_is_noticed(mutation: str) -> None:
    violation = caught_by(mutation, SEEDS)
    assert violation is not None
    assert "a worker ended with" not in violation.sentence  # a mutation that does not even run would prove nothing
    with mutated(mutation):
        assert violation in run(violation.seed).violations
    assert run(violation.seed).violations == []


def test_a_mutation_is_undone_after_its_context() -> None:
    before = KeyStates.dirty
    with mutated("one dirty state is left out of a checkpoint"):
        assert KeyStates.dirty is not before
    assert KeyStates.dirty is before


@given(st.integers(min_value=0, max_value=2**32))
@settings(max_examples=60, deadline=None)
def test_a_log_has_one_to_three_open_shards_and_the_positions_of_each_key_only_grow(seed: int) -> None:
    rng = random.Random(seed)
    log = make_log(rng, Dice(rng), LETTERS, mendable=True)
    assert 1 <= len(log.shards) <= 3
    last: dict[str, Position] = {}
    for entry in log.entries():
        key, position = entry.record.partition_key, entry.record.position
        assert key not in last or last[key] < position
        last[key] = position


def references(log: Log) -> References:
    return References(LetterBox(), WorkerSettings(), log.entries())


@given(st.integers(min_value=0, max_value=2**32))
@settings(max_examples=60, deadline=None)
def test_the_reference_drops_duplicates_and_what_is_never_folded(seed: int) -> None:
    rng = random.Random(seed)
    log = make_log(rng, Dice(rng), LETTERS, mendable=False)
    found = references(log)
    for key in found.keys:
        entries = [entry for entry in log.entries() if entry.record.partition_key == key]
        good = dict.fromkeys(
            f"event-{entry.given.number}" for entry in entries if entry.failure not in ("always", "undecodable")
        )
        reference = found.at(key, entries[-1].record.position)
        assert reference.events_folded == len(good)
        if good:
            assert msgspec.json.decode(reference.state) == [*good]


def test_the_reference_goes_on_without_an_event_once_that_is_dead_lettered() -> None:
    rng = random.Random(3)
    log = make_log(rng, Dice(rng), LETTERS, mendable=False)
    found = references(log)
    entry = next(entry for entry in log.entries() if not entry.failure)
    key, position = entry.record.partition_key, entry.record.position
    before = found.at(key, position)
    found.dead.add(position)
    assert not found.keys[key].event_dead(position)  # nothing was wrong with it
    assert found.at(key, position).events_folded == before.events_folded - 1


def test_before_its_first_event_a_key_has_nothing_folded() -> None:
    rng = random.Random(3)
    found = references(make_log(rng, Dice(rng), LETTERS, mendable=False))
    assert found.at("key-0", BEGINNING).events_folded == found.at("nobody", BEGINNING).events_folded == 0


def test_states_are_alike_in_another_order_only_where_they_are_equal_when_read() -> None:
    class Sets(LetterBox):
        def decode_state(self, data: bytes) -> Any:
            return set(super().decode_state(data))

    one, other = b'["a","b"]', b'["b","a"]'
    assert alike(Sets(), one, other)
    assert not alike(LetterBox(), one, other)
    assert not alike(Sets(), one, b'["a","b","a"]')  # equal when read, but something was lost there


def test_a_violation_says_how_it_is_played_again() -> None:
    violation = caught_by("states are stored without a condition", SEEDS)
    assert violation is not None
    assert str(violation).startswith(f"run({violation.seed}): the ")


def failing(failed_emissions: set[Position]) -> tuple[MishapProcessor, Mishaps, list[Emission]]:
    without_output: list[Emission] = []
    mishaps = Mishaps(failed_emissions, without_output.append)
    return MishapProcessor(LetterBox(), mishaps), mishaps, without_output


def letter(failure: str) -> bytes:
    return with_failure(failure, 5, msgspec.json.encode(Letter("k", "a")))


def test_a_fold_fails_as_the_record_says_and_after_it_changed_the_state() -> None:
    box, mishaps, _ = failing(set())
    once, always, until_mended = (box.decode(letter(failure)) for failure in ("once", "always", "until mended"))
    state: list[str] = []
    with pytest.raises(ValueError, match="once on event 5"):
        box.fold(state, once)
    assert state == ["a"]
    assert box.fold([], once) == ["a"]
    with pytest.raises(ValueError, match="fails on event 5"):
        box.fold([], until_mended)
    mishaps.mended = True
    assert box.fold([], until_mended) == ["a"]
    with pytest.raises(ValueError, match="fails on event 5"):
        box.fold([], always)


def test_an_undecodable_record_is_not_decoded_and_a_fine_one_is_the_processors() -> None:
    box, _, _ = failing(set())
    with pytest.raises(DecodeError):
        box.decode(letter("undecodable"))
    fine = box.decode(letter(""))
    assert (box.key(fine), box.event_id(fine)) == ("k", b"a")


def test_an_output_tells_what_it_was_made_of_and_fails_where_it_must() -> None:
    box, mishaps, _ = failing({Position(0, 9)})
    (output,) = box.emit([Changed("k", ["a"], Position(0, 1), 0.0, 1)])
    assert output is not None
    assert mishaps.emission(box.encode(output)) == Emission("k", Position(0, 1), 1, b'["a"]')
    with pytest.raises(ValueError, match="no output"):
        box.emit([Changed("k", ["a"], Position(0, 9), 0.0, 1)])


def test_the_command_writes_its_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamproc.testing.simulation.__main__.survivors", lambda _: [])
    path = tmp_path / "build" / "chaos.json"
    assert main(["--runs", "20", "--seed", "7", "--json", str(path)]) == 0
    figures = json.loads(path.read_text())
    assert [*figures] == [
        "schedules",
        "faults_injected",
        "faults_by_kind",
        "violations",
        "dead_letters_unexpected",
        "mutations",
        "mutations_survived",
    ]
    assert figures["schedules"] == 20
    assert figures["mutations"] == len(MUTATIONS)
    assert figures["violations"] == figures["mutations_survived"] == figures["dead_letters_unexpected"] == 0
    assert figures["faults_by_kind"].keys() == KINDS.keys()
    assert figures["faults_injected"] == sum(figures["faults_by_kind"].values()) > 0


def test_the_command_fails_and_names_a_mutation_that_survived(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("streamproc.testing.simulation.__main__.survivors", lambda _: ["a rule"])
    assert main(["--runs", "1"]) == 1
    assert "no schedule shows it: a rule" in capsys.readouterr().err
