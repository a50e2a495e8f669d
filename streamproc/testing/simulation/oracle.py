"""What must hold, at every moment and at the end, computed from the log alone.

The *reference* of a key at a position is the plain, single-threaded fold of its log up to there, without dead-lettered
records and producer's duplicates. Each violation is a sentence.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from streamproc.deadletter import DeadLetter, Kind
from streamproc.record import BEGINNING, Position
from streamproc.state import DUPLICATE_WINDOW_EVENTS, StoredState, fingerprint, roll
from streamproc.testing.simulation.application import Output
from streamproc.testing.simulation.log import Entry, Log

#: What must be dead-lettered, and what may be.
_NEVER_FOLDED = ("undecodable", "always")
_MAY_BE_DEAD = (*_NEVER_FOLDED, "until mended")
#: One fault is enough to break a schedule; the rest would repeat it.
_VIOLATIONS_MAX = 5


class Violation(msgspec.Struct, frozen=True):
    """What did not hold, in the schedule of this seed."""

    seed: int
    sentence: str

    def __str__(self) -> str:
        return f"run({self.seed}): {self.sentence}"


class Reference(msgspec.Struct, frozen=True):
    """A key's fold up to a position."""

    #: Of the last folded event.
    position: Position
    letters: list[str]
    ids: list[str]
    ids_hash: int


class Oracle:
    """Sees every effect in the order of the effects, and the log."""

    def __init__(self, seed: int, log: Log) -> None:
        self.violations: list[Violation] = []
        self.dead_letters_unexpected = 0
        self._seed = seed
        self._entries = {entry.record.position: entry for shard in log.shards for entry in shard.entries}
        self._by_key: dict[str, list[Entry]] = {}
        for entry in self._entries.values():
            self._by_key.setdefault(entry.record.partition_key, []).append(entry)
        self._shards = {shard.number: shard.entries for shard in log.shards}
        self._dead: set[Position] = set()
        self._references: dict[tuple[str, Position], Reference] = {}
        self._stored: dict[str, Position] = {}
        #: The furthest output of each key that was published or put aside.
        self._covered: dict[str, Position] = {}
        self._leases: dict[int, int] = {}

    def violated(self, sentence: str) -> None:
        """Note that something does not hold."""
        if len(self.violations) < _VIOLATIONS_MAX:
            self.violations.append(Violation(self._seed, sentence))

    def reference(self, key: str, upto: Position) -> Reference:
        """The fold of the key's log up to this position."""
        known = self._references.get((key, upto))
        if known is not None:
            return known
        position, ids_hash = BEGINNING, 0
        letters: list[str] = []
        ids: list[str] = []
        window: deque[str] = deque(maxlen=DUPLICATE_WINDOW_EVENTS)
        for entry in self._by_key.get(key, []):
            at = entry.record.position
            if at > upto:
                break
            if at in self._dead or entry.fails in _NEVER_FOLDED or entry.id in window:
                continue
            position = at
            letters.append(entry.id + "!" if entry.fails == "emission" else entry.id)
            ids.append(entry.id)
            window.append(entry.id)
            ids_hash = roll(ids_hash, fingerprint(entry.id.encode()))
        reference = self._references[key, upto] = Reference(position, letters, ids, ids_hash)
        return reference

    def states_stored(self, stored: Mapping[str, StoredState]) -> None:
        """These states are in the store now."""
        for key, state in stored.items():
            before = self._stored.get(key, BEGINNING)
            if state.position < before:
                self.violated(f"the stored state of {key} went back from {before} to {state.position}")
            self._stored[key] = state.position
            self._compare("stored", state)

    def states_projected(self, states: Sequence[StoredState]) -> None:
        """These states were given to the projection."""
        for state in states:
            self._compare("projected", state)

    def _compare(self, what: str, state: StoredState) -> None:
        reference = self.reference(state.key, state.position)
        ours = (reference.position, len(reference.ids), reference.ids_hash, _encoded(reference.letters))
        theirs = (state.position, state.events_folded, state.ids_hash, state.state)
        names = ("position", "events_folded", "ids_hash", "state")
        for name, expected, found in zip(names, ours, theirs, strict=True):
            if expected != found:
                self.violated(
                    f"the {what} state of {state.key} at {state.position} is not one fold of its log:"
                    f" {name} is {found!r}, expected {expected!r}"
                )
                return
        self._passed(f"the {what} state of {state.key}", state.key, state.position)

    def _passed(self, what: str, key: str, upto: Position) -> None:
        for entry in self._by_key.get(key, []):
            at = entry.record.position
            if at > upto:
                break
            if entry.fails in _NEVER_FOLDED and at not in self._dead:
                self.violated(f"{what} at {upto} passed {entry.id} at {at} before its dead letter was durable")
                return

    def letters_written(self, letters: Iterable[DeadLetter]) -> None:
        """These dead letters are durable."""
        for letter in letters:
            if letter.kind is Kind.EMISSION:
                self._emission_put_aside(letter)
            elif letter.position not in self._dead:
                self._dead.add(letter.position)
                self._references.clear()
                entry = self._entries[letter.position]
                if entry.fails not in _MAY_BE_DEAD:
                    self.dead_letters_unexpected += 1
                    self.violated(f"{entry.id} at {letter.position} is fine and was dead-lettered: {letter.reason}")

    def _emission_put_aside(self, letter: DeadLetter) -> None:
        self._cover(letter.partition_key, letter.position)
        # One that the sink refused may be any; of the others the last letter of the box must be the cause.
        if letter.reason.startswith("emit failed"):
            letters = self.reference(letter.partition_key, letter.position).letters
            if not letters or not letters[-1].endswith("!"):
                self.dead_letters_unexpected += 1
                self.violated(
                    f"the output of {letter.partition_key} at {letter.position} is fine and was dead-lettered:"
                    f" {letter.reason}"
                )

    def output_published(self, output: Output, position: Position) -> None:
        """The sink accepted this output."""
        self._cover(output.key, position)
        reference = self.reference(output.key, position)
        if (reference.position, len(reference.letters), reference.letters[-1:]) != (
            position,
            output.letters,
            [output.last],
        ):
            self.violated(f"the output of {output.key} at {position} does not come from one fold of its log")
        self._passed(f"the output of {output.key}", output.key, position)

    def _cover(self, key: str, position: Position) -> None:
        self._covered[key] = max(position, self._covered.get(key, BEGINNING))

    def lease_moved(self, shard_number: int, checkpoint: Position | None) -> None:
        """The checkpoint of the shard's lease is here now; None: at the shard's end."""
        entries = self._shards[shard_number]
        before = self._leases.get(shard_number, 0)
        now = len(entries)
        if checkpoint is not None:
            now = sum(entry.record.position <= checkpoint for entry in entries)
        if now < before:
            self.violated(f"the checkpoint of shard {shard_number} went back from record {before} to {now}")
        self._leases[shard_number] = now
        for entry in entries[before:now]:
            self._check_below_checkpoint(entry)

    def _check_below_checkpoint(self, entry: Entry) -> None:
        at, key = entry.record.position, entry.record.partition_key
        if at in self._dead:
            return
        if entry.fails in _NEVER_FOLDED:
            self.violated(f"the checkpoint passed {entry.id} at {at}, which has no dead letter")
            return
        # Of a duplicate, the first copy counts: that is where the state's position may end.
        folded_at = self.reference(key, at).position
        if self._stored.get(key, BEGINNING) < folded_at:
            self.violated(f"the checkpoint passed {entry.id} at {at}, which is in no stored state of {key}")
        if self._covered.get(key, BEGINNING) < folded_at:
            self.violated(f"the checkpoint passed {entry.id} at {at}, which no output of {key} covers")

    def finished(
        self, stored: Mapping[str, StoredState], projected: Mapping[str, StoredState], owed: Mapping[str, Position]
    ) -> None:
        """Everything was read and the last checkpoints were made.

        ``owed``: keys, each with the position that must be projected: those that changed after the projection was last
        lost. Not owed: what a worker had not projected yet when it ended; it is projected with its key's next event.
        """
        for key, entries in self._by_key.items():
            last = self.reference(key, entries[-1].record.position)
            if not last.ids:
                continue
            if key not in stored:
                self.violated(f"nothing is stored for {key}")
            elif stored[key].position != last.position:
                self.violated(f"the stored state of {key} ends at {stored[key].position}, its log at {last.position}")
            else:
                self._compare("stored", stored[key])
                self._count(key, json.loads(stored[key].state))
        for shard_number, entries in self._shards.items():
            if self._leases.get(shard_number, 0) != len(entries):
                self.violated(f"the checkpoint of shard {shard_number} is not at its last record")
        for key, position in owed.items():
            if key not in projected or projected[key].position < position:
                self.violated(f"the projection does not have {key} at {position}, although it is back")

    def _count(self, key: str, letters: list[str]) -> None:
        """Each event is in the state once or dead-lettered, never both."""
        folded = [letter.removesuffix("!") for letter in letters]
        dead = {entry.id for entry in self._by_key[key] if entry.record.position in self._dead}
        for event in sorted({entry.id for entry in self._by_key[key]}):
            if folded.count(event) + (event in dead) != 1:
                self.violated(
                    f"{event} of {key} was folded {folded.count(event)} times and is"
                    f" {'' if event in dead else 'not '}dead-lettered"
                )


def _encoded(letters: list[str]) -> bytes:
    return json.dumps(letters, separators=(",", ":")).encode()
