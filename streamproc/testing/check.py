"""Check that a processor survives everything: its states equal one fold of the log under every schedule of faults."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Self

import msgspec

from streamproc.application import Application
from streamproc.errors import SettingsError
from streamproc.processor import AnyProcessor, KeyedProcessor
from streamproc.settings import WorkerSettings
from streamproc.testing.contract import fold_alone, mistake
from streamproc.testing.simulation.application import Given, Played
from streamproc.testing.simulation.faults import KINDS
from streamproc.testing.simulation.oracle import Violation
from streamproc.testing.simulation.schedule import run

#: A schedule plays a stretch of so many consecutive events, where more are given: a second of work at most.
EVENTS_PER_SCHEDULE_MAX = 300

Checkable = Application | Callable[[], AnyProcessor] | Callable[[], Application]


class Faults(msgspec.Struct, frozen=True):
    """Which schedules of faults are played: one a seed, from the first seed on."""

    seed: int
    runs: int

    def __post_init__(self) -> None:
        if self.runs < 1:
            raise SettingsError(f"runs is {self.runs}: at least one schedule must be played")

    @classmethod
    def seeded(cls, seed: int, *, runs: int = 100) -> Self:
        """``runs`` schedules. The same seed plays the same schedule of the same events, alone or among others."""
        return cls(seed, runs)


class NotExactlyFolded(AssertionError):
    """The processor breaks what the library asks of it, or a schedule ended otherwise than one fold of its log."""

    def __init__(self, message: str, violations: Sequence[Violation] = ()) -> None:
        super().__init__(message)
        #: What did not hold in the schedule that failed; empty where the processor failed alone.
        self.violations = list(violations)


class ExactlyFolded(msgspec.Struct, frozen=True):
    """What was played without a violation."""

    schedules: int
    #: How many were given, and how many of them the processor itself refuses: they are dead-lettered.
    events: int
    events_refused: int
    #: How many faults struck, by kind.
    faults: dict[str, int]

    def __str__(self) -> str:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in self.faults.items() if count)
        return (
            f"{self.schedules:,} schedules of {self.events:,} events with {sum(self.faults.values()):,} faults"
            f" ({kinds}): each event was folded exactly once or dead-lettered;"
            f" the processor refuses {self.events_refused:,}"
        )


def check_exactly_folded(
    app: Checkable, events: Sequence[bytes] | Sequence[tuple[str, bytes]], *, faults: Faults
) -> ExactlyFolded:
    """Play schedules of faults with this application's processor and these events, and judge every effect.

    ``app`` is an Application, whose ports are left alone (those in memory are used), or a KeyedProcessor's class, or a
    function that makes either. ``events`` are the data of records in the order of the log; as pairs, each with its
    partition key, and without, under the key that the processor gives. An event that the processor cannot decode must
    come with its partition key.

    First the processor is run alone: a fold that is not deterministic, an id that is not unique and the like are said
    in a sentence. Raises NotExactlyFolded at the first thing that does not hold, with the seed that shows it, and
    SettingsError where there is nothing to check.
    """
    make, settings = _maker(app)
    given = _given(make(), events)
    if wrong := mistake(make, given):
        raise NotExactlyFolded(f"the processor alone, before any fault: {wrong}")

    def stretch(rng: random.Random, _: bool) -> Sequence[Given]:
        start = rng.randint(0, max(0, len(given) - EVENTS_PER_SCHEDULE_MAX))
        return given[start : start + EVENTS_PER_SCHEDULE_MAX]

    played = Played(make, stretch, settings)
    counts: Counter[str] = Counter(dict.fromkeys(KINDS, 0))
    for seed in range(faults.seed, faults.seed + faults.runs):
        outcome = run(seed, played)
        counts.update(outcome.faults)
        if outcome.violations:
            sentences = "\n".join(f"  {violation.sentence}" for violation in outcome.violations)
            raise NotExactlyFolded(
                f"the schedule of seed {seed} does not hold:\n{sentences}\n"
                f"play it alone: check_exactly_folded(app, events, faults=Faults.seeded({seed}, runs=1))",
                outcome.violations,
            )
    refused = len(fold_alone(make(), given).refused)
    return ExactlyFolded(faults.runs, len(given), refused, dict(counts))


def _maker(app: Checkable) -> tuple[Callable[[], KeyedProcessor[Any, Any, Any]], WorkerSettings]:
    wanted = "an Application, a KeyedProcessor's class or a function that makes one was expected"
    if not callable(app) and not isinstance(app, Application):
        raise SettingsError(
            f"{type(app).__name__} cannot be checked: {wanted}; each worker gets a processor of its own"
        )
    made: object = app() if not isinstance(app, Application) else app
    factory: Any = made.processor if isinstance(made, Application) else app
    processor = factory() if isinstance(made, Application) else made
    if not isinstance(processor, KeyedProcessor):
        raise SettingsError(f"{type(processor).__name__} cannot be checked, since it keeps no states: {wanted}")
    return factory, made.worker if isinstance(made, Application) else WorkerSettings()


def _given(
    processor: KeyedProcessor[Any, Any, Any], events: Sequence[bytes] | Sequence[tuple[str, bytes]]
) -> list[Given]:
    if not events:
        raise SettingsError("no events were given, so nothing would be checked")
    given: list[Given] = []
    for number, item in enumerate(events):
        key, data = item if isinstance(item, tuple) else (None, item)
        arrived_at = 0.0
        try:
            event = processor.decode(data)
            if key is None:
                key = processor.key(event)
            arrived_at = processor.event_time(event)
        except Exception as error:
            if key is None:
                raise SettingsError(
                    f"event {number} has no partition key and the processor gives none"
                    f" ({type(error).__name__}: {error}): give it as (partition key, data)"
                ) from error
        given.append(Given(number, key, data, arrived_at))
    return given
