"""The memory ports, with faults on the wire to them. Their conditions and fences are kept."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Sequence
from typing import TypeVar

from streamproc.deadletter import Attempt, DeadLetter
from streamproc.deadletters.memory import MemoryDeadLetters
from streamproc.errors import ServiceUnreachable, Throttled, TransientServiceError
from streamproc.namespace import Namespace
from streamproc.projections.memory import MemoryProjection
from streamproc.record import Position
from streamproc.sink import Delivery
from streamproc.sinks.memory import MemorySink
from streamproc.state import StoredState
from streamproc.states.memory import MemoryStates
from streamproc.testing.simulation.faults import Crash, Dice
from streamproc.testing.simulation.mishaps import Mishaps
from streamproc.testing.simulation.oracle import Oracle

NAMESPACE = Namespace("simulation", "log", 1)
T = TypeVar("T")


class Wire:
    """What every call to a service goes through: faults strike here, before or after the call's effect.

    ``meanwhile`` is called before a call takes effect, so that another worker can act in between.
    """

    def __init__(self, rng: random.Random, dice: Dice, meanwhile: Callable[[], None]) -> None:
        self.dice = dice
        #: The outputs that the worker at work had acknowledged, by key.
        self.acknowledged: dict[str, Position] = {}
        self._rng = rng
        self._meanwhile = meanwhile
        self._late: list[Callable[[], object]] = []

    def call(self, effect: Callable[[], T], *, can_be_late: bool = False) -> T:
        """One call. Raises Throttled, TransientServiceError or Crash where a fault strikes."""
        dice = self.dice
        if not dice.active:
            return effect()
        self._meanwhile()
        if self._late and self._rng.random() < 0.1:
            self._arrive(self._rng.randrange(len(self._late)))
        if dice.strikes("throttle", 0.06):
            raise Throttled("too many requests")
        if can_be_late and dice.strikes("late_request", 0.12):
            self._late.append(effect)
            if self._rng.random() < 0.3:
                raise TransientServiceError("timed out; the request is still on its way")
        result = self.crashing(effect)
        if dice.strikes("lost_reply", 0.06):
            raise TransientServiceError("the reply was lost")
        return result

    def crashing(self, effect: Callable[[], T]) -> T:
        """One call at which the process may die, before or after."""
        if self.dice.strikes("crash", 0.015):
            raise Crash
        result = effect()
        if self.dice.strikes("crash", 0.015):
            raise Crash
        return result

    def deliver_late(self) -> None:
        """Everything that is still on its way arrives."""
        while self._late:
            self._arrive(0)

    def _arrive(self, index: int) -> None:
        with contextlib.suppress(ServiceUnreachable):  # nobody waits for the answer
            self._late.pop(index)()


class SimulatedProjection(MemoryProjection):
    """A projection behind the wire that can be lost."""

    def __init__(self, wire: Wire, oracle: Oracle) -> None:
        super().__init__(NAMESPACE)
        self.is_away = False
        self._wire = wire
        self._oracle = oracle
        self._copy: dict[str, StoredState] = {}

    def project(self, states: Sequence[StoredState]) -> int:
        """See :class:`streamproc.projection.Projection`."""
        return self._wire.call(lambda: self._project(states), can_be_late=True)

    def _project(self, states: Sequence[StoredState]) -> int:
        if self.is_away:
            raise ServiceUnreachable("the projection is away")
        self._oracle.states_projected(states)
        return super().project(states)

    def copy(self) -> None:
        """Remember what is projected now, to go back to."""
        self._copy = dict(self._states)

    def empty(self) -> None:
        """Lose everything."""
        self._states.clear()

    def roll_back(self) -> None:
        """Go back to the copy."""
        self._states = dict(self._copy)


class SimulatedStates(MemoryStates):
    """States behind the wire. The oracle sees every state that is stored."""

    def __init__(self, wire: Wire, oracle: Oracle, projection: SimulatedProjection) -> None:
        super().__init__(NAMESPACE)
        #: Only a mutation reads it.
        self.projection = projection
        self._wire = wire
        self._oracle = oracle

    def load(self, keys: Sequence[str]) -> dict[str, StoredState]:
        """See :class:`streamproc.state.StateStore`."""
        return self._wire.call(lambda: self.at_rest(keys))

    def at_rest(self, keys: Sequence[str]) -> dict[str, StoredState]:
        """What is stored, for the oracle."""
        return super().load(keys)

    def store(self, states: Sequence[StoredState]) -> set[str]:
        """See :class:`streamproc.state.StateStore`."""
        return self._wire.call(lambda: self._store(states), can_be_late=True)

    def _store(self, states: Sequence[StoredState]) -> set[str]:
        superseded = super().store(states)
        self._oracle.states_stored(self.at_rest([state.key for state in states]))
        return superseded


class SimulatedPartials(MemoryStates):
    """The shards' partials behind the wire. The oracle sees every one that is stored."""

    def __init__(self, wire: Wire, oracle: Oracle) -> None:
        super().__init__(NAMESPACE.of_partials())
        self._wire = wire
        self._oracle = oracle

    def load(self, keys: Sequence[str]) -> dict[str, StoredState]:
        """See :class:`streamproc.state.StateStore`."""
        ask = super().load
        return self._wire.call(lambda: ask(keys))

    def store(self, states: Sequence[StoredState]) -> set[str]:
        """See :class:`streamproc.state.StateStore`."""
        return self._wire.call(lambda: self._store(states), can_be_late=True)

    def _store(self, states: Sequence[StoredState]) -> set[str]:
        superseded = super().store(states)
        for stored in super().load([state.key for state in states]).values():
            self._oracle.partial_stored(stored)
        return superseded


class SimulatedDeadLetters(MemoryDeadLetters):
    """Dead letters behind the wire."""

    def __init__(self, wire: Wire, oracle: Oracle) -> None:
        super().__init__(NAMESPACE)
        self._wire = wire
        self._oracle = oracle
        self._deaths_in_user_code = 0

    def write(self, letters: Sequence[DeadLetter]) -> None:
        """See :class:`streamproc.deadletter.DeadLetterStore`."""
        self._wire.call(lambda: self._write(letters))

    def _write(self, letters: Sequence[DeadLetter]) -> None:
        super().write(letters)
        self._oracle.letters_written(letters)

    def event_positions_after(self, shard_id: str, after: Position) -> set[Position]:
        """See :class:`streamproc.deadletter.DeadLetterStore`."""
        ask = super().event_positions_after
        return self._wire.call(lambda: ask(shard_id, after))

    def note_attempt(self, shard_id: str, attempt: Attempt | None) -> None:
        """A schedule has one death here at most: after two the product blames a record, as DESIGN.md says."""
        super().note_attempt(shard_id, attempt)
        if not self._deaths_in_user_code and self._wire.dice.strikes("crash", 0.01):
            self._deaths_in_user_code += 1
            raise Crash


class SimulatedSink(MemorySink):
    """A sink behind the wire that accepts some outputs of a call. The oracle sees those it accepted."""

    def __init__(self, rng: random.Random, wire: Wire, oracle: Oracle, mishaps: Mishaps) -> None:
        super().__init__(NAMESPACE)
        self._rng = rng
        self._wire = wire
        self._oracle = oracle
        self._mishaps = mishaps

    def publish(self, outputs: Sequence[bytes]) -> Delivery:
        """See :class:`streamproc.sink.Sink`."""
        return self._wire.call(lambda: self._publish(outputs))

    def _publish(self, outputs: Sequence[bytes]) -> Delivery:
        pending: list[int] = []
        refused: list[tuple[int, str]] = []
        if self._wire.dice.strikes("partial_sink", 0.15):
            pending = sorted(self._rng.sample(range(len(outputs)), self._rng.randint(1, len(outputs))))
        if self._wire.dice.strikes("refused_output", 0.05):
            index = self._rng.randrange(len(outputs))
            pending = [other for other in pending if other != index]
            refused = [(index, "too large")]
        left = {*pending, *(index for index, _ in refused)}
        accepted = [output for index, output in enumerate(outputs) if index not in left]
        super().publish(accepted)
        for emission in map(self._mishaps.emission, accepted):
            self._oracle.emitted(emission)
            self._wire.acknowledged[emission.key] = emission.position
        return Delivery(pending, refused, "throttled" if pending else "")
