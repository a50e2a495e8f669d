"""The simulation itself: it repeats, it covers what it says, and it notices when a rule of the protocol is missing."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from streamproc.fold import KeyStates
from streamproc.record import Position
from streamproc.testing.simulation import MUTATIONS, mutated, run
from streamproc.testing.simulation.__main__ import main
from streamproc.testing.simulation.application import LetterBox
from streamproc.testing.simulation.faults import Faults
from streamproc.testing.simulation.log import make_log
from streamproc.testing.simulation.oracle import Oracle
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
    log = make_log(rng, Faults(rng), mendable=True)
    assert 1 <= len(log.shards) <= 3
    last: dict[str, Position] = {}
    for entry in (entry for shard in log.shards for entry in shard.entries):
        key, position = entry.record.partition_key, entry.record.position
        assert key not in last or last[key] < position
        last[key] = position


def test_the_reference_drops_duplicates_and_dead_letters() -> None:
    rng = random.Random(3)
    log = make_log(rng, Faults(rng), mendable=False)
    entries = [entry for shard in log.shards for entry in shard.entries]
    key = entries[0].record.partition_key
    reference = Oracle(3, log).reference(key, entries[-1].record.position)
    of_key = [entry for entry in entries if entry.record.partition_key == key]
    assert reference.ids == [
        *dict.fromkeys(entry.id for entry in of_key if entry.fails not in ("always", "undecodable"))
    ]


def test_a_violation_says_how_it_is_played_again() -> None:
    violation = caught_by("states are stored without a condition", SEEDS)
    assert violation is not None
    assert str(violation).startswith(f"run({violation.seed}): the stored state of key-")


def test_the_letter_box_fails_as_its_letters_say() -> None:
    box = LetterBox()
    once = box.decode(b'{"key": "k", "id": "a", "fails": "once"}')
    with pytest.raises(ValueError, match="once on a"):
        box.fold([], once)
    assert box.fold([], once) == ["a"]
    until_mended = box.decode(b'{"key": "k", "id": "b", "fails": "until mended"}')
    with pytest.raises(ValueError, match="fails on b"):
        box.fold([], until_mended)
    box.mended = True
    assert box.fold([], until_mended) == ["b"]


def test_the_command_writes_flat_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamproc.testing.simulation.__main__.survivors", lambda _: [])
    path = tmp_path / "build" / "chaos.json"
    assert main(["--runs", "20", "--seed", "7", "--json", str(path)]) == 0
    figures = json.loads(path.read_text())
    assert figures["schedules"] == 20
    assert figures["mutations"] == len(MUTATIONS)
    assert figures["violations"] == figures["mutations_survived"] == figures["dead_letters_unexpected"] == 0
    assert figures["faults_injected"] == sum(
        count for name, count in figures.items() if name.startswith("faults_") and name != "faults_injected"
    )


def test_the_command_fails_and_names_a_mutation_that_survived(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("streamproc.testing.simulation.__main__.survivors", lambda _: ["a rule"])
    assert main(["--runs", "1"]) == 1
    assert "no schedule shows it: a rule" in capsys.readouterr().err
