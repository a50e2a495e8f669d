"""What must hold, at every moment and at the end, computed from the log alone. Each violation is a sentence."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from streamproc.deadletter import DeadLetter, Kind
from streamproc.processor import KeyedProcessor
from streamproc.record import BEGINNING, Position
from streamproc.settings import WorkerSettings
from streamproc.state import StoredState
from streamproc.testing.simulation.log import Entry, Log
from streamproc.testing.simulation.mishaps import Emission
from streamproc.testing.simulation.reference import References, alike
from streamproc.testing.simulation.shared import ShardFold

#: Sorts behind every position.
_END = Position(1 << 62, 0, 0)
#: One fault is enough to break a schedule; the rest would repeat it.
_VIOLATIONS_MAX = 5
#: Of a state that is shown.
_STATE_CHARACTERS_MAX = 300


class Violation(msgspec.Struct, frozen=True):
    """What did not hold, in the schedule of this seed."""

    seed: int
    sentence: str

    def __str__(self) -> str:
        return f"run({self.seed}): {self.sentence}"


class Oracle:
    """Sees every effect in the order of the effects, and the log."""

    def __init__(self, seed: int, log: Log, processor: KeyedProcessor[Any, Any, Any], settings: WorkerSettings) -> None:
        self.violations: list[Violation] = []
        self.dead_letters_unexpected = 0
        #: The last events of the states of which no output can be made.
        self.failed_emissions = {entry.record.position for entry in log.entries() if entry.failure == "emission"}
        self._seed = seed
        self._references = References(processor, settings, log.entries())
        self._entries = {entry.record.position: entry for entry in log.entries()}
        self._shards = {shard.number: shard.entries for shard in log.shards}
        self._partials: dict[str, ShardFold] = {}
        if (shared := processor.shared()) is not None:
            self._partials = {
                shard.shard_id: ShardFold(processor, shared, shard.entries, self._is_folded) for shard in log.shards
            }
        self._stored_partials: dict[str, Position] = {}
        self._stored: dict[str, Position] = {}
        #: The furthest output of each key that was published or put aside, or that ``emit`` saw no need for.
        self._covered: dict[str, Position] = {}
        self._leases: dict[int, int] = {}

    def violated(self, sentence: str) -> None:
        """Note that something does not hold."""
        if len(self.violations) < _VIOLATIONS_MAX:
            self.violations.append(Violation(self._seed, sentence))

    def states_stored(self, stored: Mapping[str, StoredState]) -> None:
        """These states are in the store now."""
        for key, state in stored.items():
            before = self._stored.get(key, BEGINNING)
            if state.position < before:
                self.violated(f"the stored state of {key} went back from {before} to {state.position}")
            self._stored[key] = state.position
            self._compare("stored", state)

    def _is_folded(self, key: str, position: Position) -> bool:
        return self._references.at(key, position).position == position

    def partial_stored(self, stored: StoredState) -> None:
        """This partial is in the store now."""
        before = self._stored_partials.get(stored.key, BEGINNING)
        if stored.position < before:
            self.violated(f"the partial of {stored.key} went back from {before} to {stored.position}")
        self._stored_partials[stored.key] = stored.position
        reference = self._partials[stored.key].at(stored.position)
        ours = (reference.events_folded, reference.ids_hash, reference.partial)
        if ours != (stored.events_folded, stored.ids_hash, stored.state):
            self.violated(
                f"the partial of {stored.key} at {stored.position} is not one fold of its shard: it has"
                f" {stored.events_folded} events, expected {reference.events_folded}: {_shortened(stored.state)},"
                f" expected {_shortened(reference.partial)}"
            )

    def states_projected(self, states: Sequence[StoredState]) -> None:
        """These states were given to the projection."""
        for state in states:
            self._compare("projected", state)

    def _compare(self, what: str, state: StoredState) -> None:
        what = f"the {what} state of {state.key} at {state.position}"
        ids_hash = self._references.at(state.key, state.position).ids_hash
        if self._is_one_fold(what, state.key, state.position, state.events_folded, state.state):
            if state.ids_hash != ids_hash:
                self.violated(f"{what} is not one fold of its log: ids_hash is {state.ids_hash}, expected {ids_hash}")
            else:
                self._passed(what, state.key, state.position)

    def _is_one_fold(self, what: str, key: str, position: Position, events_folded: int, state: bytes) -> bool:
        reference = self._references.at(key, position)
        wrong = ""
        if position != reference.position:
            wrong = f"its last event is at {reference.position}"
        elif events_folded != reference.events_folded:
            wrong = f"events_folded is {events_folded}, expected {reference.events_folded}"
        elif not alike(self._references.processor, state, reference.state):
            wrong = f"it is {_shortened(state)}, expected {_shortened(reference.state)}"
        if wrong:
            self.violated(f"{what} is not one fold of its log: {wrong}")
        return not wrong

    def _passed(self, what: str, key: str, upto: Position) -> None:
        fold = self._references.keys[key]
        fold.at(upto)
        for position, entry in fold.never_folded.items():
            if position <= upto:
                self.violated(f"{what} passed {_name(entry)} at {position} before its dead letter was durable")
                return

    def letters_written(self, letters: Iterable[DeadLetter]) -> None:
        """These dead letters are durable."""
        dead = self._references.dead
        for letter in letters:
            position = letter.position
            if letter.kind is Kind.EMISSION:
                self._emission_put_aside(letter)
            elif letter.kind is Kind.EVENT and position not in dead:
                entry = self._entries[position]
                fold = self._references.keys[entry.record.partition_key]
                fold.at(position)
                dead.add(position)
                for partial in self._partials.values():
                    partial.restart()
                if not fold.event_dead(position) and entry.failure != "until mended":
                    self.dead_letters_unexpected += 1
                    self.violated(f"{_name(entry)} at {position} is fine and was dead-lettered: {letter.reason}")

    def _emission_put_aside(self, letter: DeadLetter) -> None:
        key, position = letter.partition_key, letter.position
        self._cover(key, position)
        # One that the sink refused may be any.
        if not letter.reason.startswith("emit failed") or position in self.failed_emissions:
            return
        if not self._references.emission_fails(key, position):
            self.dead_letters_unexpected += 1
            self.violated(f"the output of {key} at {position} is fine and was dead-lettered: {letter.reason}")

    def emitted(self, emission: Emission) -> None:
        """The sink accepted the output of this emission, or it has none.

        What ``emit`` was given is judged, which says more than its output: that may hold the time, or depend on the
        other keys that it was given.
        """
        key, position = emission.key, emission.position
        self._cover(key, position)
        what = f"the output of {key} at {position}"
        if self._is_one_fold(what, key, position, emission.events_folded, emission.state):
            self._passed(what, key, position)

    def _cover(self, key: str, position: Position) -> None:
        self._covered[key] = max(position, self._covered.get(key, BEGINNING))

    def lease_moved(self, shard_number: int, checkpoint: Position | None) -> None:
        """The checkpoint of the shard's lease is here now; None: at the shard's end."""
        entries = self._shards[shard_number]
        before = self._leases.get(shard_number, 0)
        now = len(entries)
        if checkpoint is not None:
            now = bisect_right(entries, checkpoint, key=lambda entry: entry.record.position)
        if now < before:
            self.violated(f"the checkpoint of shard {shard_number} went back from record {before} to {now}")
        self._leases[shard_number] = now
        for entry in entries[before:now]:
            self._check_below_checkpoint(entry)

    def _check_below_checkpoint(self, entry: Entry) -> None:
        at, key = entry.record.position, entry.record.partition_key
        if at in self._references.dead:
            return
        # Of a duplicate, the first copy counts: that is where the state's position may end.
        folded_at = self._references.at(key, at).position
        what = f"the checkpoint passed {_name(entry)} at {at}"
        if at in self._references.keys[key].never_folded:
            self.violated(f"{what}, which has no dead letter")
            return
        if self._stored.get(key, BEGINNING) < folded_at:
            self.violated(f"{what}, which is in no stored state of {key}")
        if self._covered.get(key, BEGINNING) < folded_at:
            self.violated(f"{what}, which no output of {key} covers")

    def finished(
        self, stored: Mapping[str, StoredState], projected: Mapping[str, StoredState], owed: Mapping[str, Position]
    ) -> None:
        """Everything was read and the last checkpoints were made.

        ``owed``: keys, each with the position that must be projected: those that changed after the projection was last
        lost. Not owed: what a worker had not projected yet when it ended; it is projected with its key's next event.
        """
        for key, fold in self._references.keys.items():
            last = fold.at(fold.entries[-1].record.position)
            self._count(key)
            if not last.events_folded:
                continue
            if key not in stored:
                self.violated(f"nothing is stored for {key}")
            elif stored[key].position != last.position:
                self.violated(f"the stored state of {key} ends at {stored[key].position}, its log at {last.position}")
            else:
                self._compare("stored", stored[key])
        for shard_id, position in self._stored_partials.items():
            reference = self._partials[shard_id]
            if reference.at(position) != reference.at(_END):
                self.violated(f"the partial of {shard_id} ends at {position}, before the last event of its shard")
        for shard_number, entries in self._shards.items():
            if self._leases.get(shard_number, 0) != len(entries):
                self.violated(f"the checkpoint of shard {shard_number} is not at its last record")
        for key, position in owed.items():
            if key not in projected or projected[key].position < position:
                self.violated(f"the projection does not have {key} at {position}, although it is back")

    def _count(self, key: str) -> None:
        """Each event is in the state once, or its dead letter is durable, or it repeats another one."""
        fold, dead = self._references.keys[key], self._references.dead
        put_aside = {entry.given.number for entry in fold.entries if entry.record.position in dead}
        for number in sorted({entry.given.number for entry in fold.entries}):
            times = fold.folded.count(number)
            if times > 1 or not (times or number in put_aside or number in fold.repeated):
                self.violated(f"event {number} of {key} was folded {times} times and is not dead-lettered")


def _name(entry: Entry) -> str:
    return f"event {entry.given.number}"


def _shortened(state: bytes) -> str:
    text = repr(state)
    return text if len(text) <= _STATE_CHARACTERS_MAX else f"{text[:_STATE_CHARACTERS_MAX]}... ({len(state)} bytes)"
