"""The commit protocol under 2,000 seeded schedules of faults. ``run(seed)`` plays a failed one again."""

from __future__ import annotations

import pytest

from streamproc.testing.simulation.faults import KINDS
from streamproc.testing.simulation.report import Tally, play

SCHEDULES = 2_000


@pytest.fixture(scope="module")
def tally() -> Tally:
    return play(range(SCHEDULES))


def test_nothing_is_lost_folded_twice_or_put_aside_without_reason_under_any_schedule_of_faults(tally: Tally) -> None:
    assert [str(violation) for violation in tally.violations] == []
    assert tally.dead_letters_unexpected == 0


def test_every_kind_of_fault_strikes_in_a_tenth_of_the_schedules_and_several_in_half_of_them(tally: Tally) -> None:
    shares = {kind: tally.schedules_with[kind] / SCHEDULES for kind in KINDS}
    assert {kind: share for kind, share in shares.items() if share < 0.1} == {}
    assert tally.schedules_with_several >= SCHEDULES / 2
