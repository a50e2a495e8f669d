"""Many schedules, counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import msgspec

from streamproc.testing.simulation.faults import KINDS
from streamproc.testing.simulation.mutations import MUTATIONS, mutated
from streamproc.testing.simulation.oracle import Violation
from streamproc.testing.simulation.schedule import run

#: Seeds that are tried for a mutation before it counts as survived.
SEEDS_PER_MUTATION_MAX = 1_000


class Tally(msgspec.Struct, frozen=True):
    """What came of many schedules."""

    schedules: int
    #: How many faults struck, by kind.
    faults: dict[str, int]
    #: In how many schedules each kind struck.
    schedules_with: dict[str, int]
    #: In how many schedules two or more kinds struck.
    schedules_with_several: int
    violations: list[Violation]
    dead_letters_unexpected: int


def play(seeds: Iterable[int]) -> Tally:
    """Play the schedules of these seeds."""
    schedules = several = unexpected = 0
    faults: Counter[str] = Counter(dict.fromkeys(KINDS, 0))
    schedules_with: Counter[str] = Counter(dict.fromkeys(KINDS, 0))
    violations: list[Violation] = []
    for seed in seeds:
        outcome = run(seed)
        schedules += 1
        faults.update(outcome.faults)
        schedules_with.update(outcome.faults.keys())
        several += len(outcome.faults) >= 2
        violations += outcome.violations
        unexpected += outcome.dead_letters_unexpected
    return Tally(schedules, dict(faults), dict(schedules_with), several, violations, unexpected)


def caught_by(mutation: str, seeds: Iterable[int]) -> Violation | None:
    """The first violation that shows the mutation; None where it survives these seeds."""
    with mutated(mutation):
        for seed in seeds:
            violations = run(seed).violations
            if violations:
                return violations[0]
    return None


def survivors(seed: int) -> list[str]:
    """The mutations that no schedule from this seed on shows."""
    seeds = range(seed, seed + SEEDS_PER_MUTATION_MAX)
    return [mutation for mutation in MUTATIONS if caught_by(mutation, seeds) is None]
