"""What the engine room is fed from, and what its buttons do; the demonstration implements it."""

from __future__ import annotations

from typing import Protocol

import msgspec

from streamproc.record import Position
from streamproc_consumers.live.feed import Feed


class Feature(msgspec.Struct, frozen=True):
    """A feature of a shopper."""

    name: str
    #: As :mod:`streamproc_models.features.schema` declares it.
    description: str
    #: None is missing.
    value: float | None


class ShopperState(msgspec.Struct, frozen=True):
    """What the stream knows of a shopper."""

    position: Position
    events_folded: int
    features: list[Feature]


class Worker(msgspec.Struct, frozen=True, rename="camel"):
    """The recommender's process, by its own metrics; None where it does not answer."""

    pid: int | None
    iterator_age_ms: float | None = None
    leases: int | None = None
    events_folded: int | None = None
    events_skipped: int | None = None
    dead_letters: int | None = None


class Version(msgspec.Struct, frozen=True, rename="camel"):
    """A version of the model in the registry."""

    version: str
    #: What proposes products beside the history and what is popular.
    generators: tuple[str, ...]
    #: Hit rate at 10 on the held-out baskets, of states that know the whole log; None where it was not measured.
    hit_rate: float | None
    #: The aliases that mean it now.
    aliases: list[str]


class Registered(msgspec.Struct, frozen=True, rename="camel"):
    """What the registry holds."""

    champion: str
    #: What the champion was before; a rollback goes there.
    previous: str | None
    versions: list[Version]
    #: What is under way, in words.
    note: str = ""


class Step(msgspec.Struct, frozen=True):
    """Something that happened in a drill."""

    #: Seconds after its start.
    at: float
    told: str


class Proof(msgspec.Struct, frozen=True, rename="camel"):
    """What a drill proved, at a moment when nothing was on its way."""

    sent: int
    applied: int
    lost: int
    twice: int
    shoppers: int
    equal: bool
    #: Lists that were published a second time, under the same id.
    repeated: int


class Drill(msgspec.Struct, frozen=True):
    """A worker was killed: what happened so far, and the proof when it is done."""

    number: int = 0
    running: bool = False
    steps: list[Step] = []
    proof: Proof | None = None
    #: Why it ended without a proof.
    failed: str = ""


class Engine(Protocol):
    """What the page reads."""

    @property
    def feed(self) -> Feed:
        """Events and lists."""
        ...

    @property
    def controls(self) -> Controls | None:
        """The buttons, None where there are none."""
        ...

    def worker(self) -> Worker:
        """The recommender, as of its last answer."""
        ...

    def state(self, user_id: str) -> ShopperState | None:
        """A shopper's state, read now; None where there is none."""
        ...


class Controls(Protocol):
    """What may be done to the demonstration. Raises StreamprocError with the reason where it cannot be done."""

    def registered(self) -> Registered:
        """The models, now."""
        ...

    def drill(self) -> Drill:
        """The drill that runs, or the last one."""
        ...

    def promote(self, version: str, force: str | None) -> None:
        """Make a version the champion. ``force`` is the reason to overrule the gate."""
        ...

    def rollback(self) -> None:
        """Make the champion what it was before."""
        ...

    def kill(self) -> None:
        """Kill the recommender with SIGKILL, start it again, and prove that nothing was lost."""
        ...
