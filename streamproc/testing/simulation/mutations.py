"""The protocol with one rule taken away, to show that the oracle notices.

A mutation replaces one method or function of the product, in memory and for a while; no file is edited. Each is caught
by some seed, or the simulation would prove nothing about that rule.

Two rules are not in the table, since no invariant needs them: that a superseded state leaves memory (the stale one
would catch up, from the same log), and that an event *at* the state's position is skipped (the duplicate window
holds that event too). One is broken by one schedule in three thousand, so a test of the worker shows it: a superseded
state that changed since its checkpoint began must stay.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec

from streamproc import fold
from streamproc.checkpoint import Checkpoints
from streamproc.deadletter import Kind
from streamproc.deadletters.memory import MemoryDeadLetters
from streamproc.errors import StreamprocError, is_transient
from streamproc.fold import KeyStates
from streamproc.late import LateProjection
from streamproc.leases.memory import MemoryLeases
from streamproc.partial import ShardPartial
from streamproc.processor import Received, Rejected
from streamproc.projections.memory import MemoryProjection
from streamproc.record import BEGINNING, Position
from streamproc.sink import Delivery
from streamproc.state import StoredState, fingerprint, is_remembered, remember, roll
from streamproc.states.memory import MemoryStates
from streamproc.testing.simulation.ports import SimulatedSink, SimulatedStates
from streamproc.worker import ShardWorker


class Mutation(NamedTuple):
    """``owner.name`` is replaced by what ``make`` gives for it."""

    owner: Any
    name: str
    make: Callable[[Any], Any]


@contextlib.contextmanager
def mutated(name: str) -> Iterator[None]:
    """The product without the rule of this name in :data:`MUTATIONS`, while the context lasts."""
    with contextlib.ExitStack() as stack:
        for mutation in MUTATIONS[name]:
            original = getattr(mutation.owner, mutation.name)
            stack.callback(setattr, mutation.owner, mutation.name, original)
            setattr(mutation.owner, mutation.name, mutation.make(original))
        yield


def _store_unconditionally(_: Any) -> Any:
    def store(self: Any, states: Sequence[StoredState]) -> set[str]:
        self._states.update({state.key: state for state in states})
        return set()

    return store


def _project_unconditionally(_: Any) -> Any:
    def project(self: Any, states: Sequence[StoredState]) -> int:
        self._states.update({state.key: state for state in states})
        return 0

    return project


def _checkpoint_unconditionally(_: Any) -> Any:
    def checkpoint(self: Any, lease: Any, checkpoint: str, sub_sequence_number: int) -> Any:
        now = self._leases[lease.shard_id]
        return self._write(now, checkpoint=checkpoint, checkpoint_sub_sequence_number=sub_sequence_number)

    return checkpoint


def _durable_one_checkpoint_late(_: Any) -> Any:
    def late_write(self: Any, part: Sequence[StoredState]) -> None:
        behind = getattr(self, "_behind", [])
        self._behind = part
        if behind:
            self._retries.call("writing states", lambda: self._store.store(behind))

    return late_write


def _ended_by_its_first_part(advance: Any) -> Any:
    def end(self: Any, done: Position, until: float) -> Any:
        durable = advance(self, done, until)
        return self._end(done) if durable is None and self._position is not None else durable

    return end


def _at_what_is_done(advance_checkpoint: Any) -> Any:
    def ahead(self: Any, until: float) -> Any:
        durable = advance_checkpoint(self, until)
        return durable and durable._replace(position=self._done)

    return ahead


def _only_when_its_time_is_over(emit_waiting: Any) -> Any:
    def emit(self: Any, *, at_once: bool = False) -> None:
        del at_once
        emit_waiting(self)

    return emit


def _what_changed_since_is_clean(_: Any) -> Any:
    def stored(self: Any, states: Sequence[StoredState], superseded: set[str]) -> None:
        for state in states:
            self._dirty.pop(state.key, None)
            if state.key in superseded:
                self._entries.pop(state.key, None)

    return stored


def _all_but_the_last(dirty: Any) -> Any:
    return lambda self: dirty(self)[:-1]


def _failed_writes_are_clean(_: Any) -> Any:
    def write(self: Any, part: Sequence[StoredState]) -> None:
        superseded: set[str] = set()
        try:
            superseded = self._store.store(part)
        except StreamprocError as error:
            if not is_transient(error):
                raise
        self._keyed.states.stored(part, superseded)

    return write


def _publish_after_the_checkpoint(_: Any) -> Any:
    def hold_back(self: Any, outputs: Sequence[bytes]) -> list[tuple[int, str]]:
        self._held = [*getattr(self, "_held", []), *outputs]
        return []

    return hold_back


def _flush_at_the_next_checkpoint(checkpointed: Any) -> Any:
    def flush(self: Any, durable: Any) -> Any:
        if checkpointed(self, durable) is None:
            return None
        ready, self._ready, self._held = getattr(self, "_ready", []), getattr(self, "_held", []), []
        if ready:
            self._retries.call("publishing", lambda: self._ports.sink.publish(ready))
        return durable

    return flush


def _pending_is_acknowledged(publish: Any) -> Any:
    def once(self: Any, outputs: Sequence[bytes]) -> Delivery:
        return Delivery([], publish(self, outputs).refused)

    return once


def _refused_is_acknowledged(publish: Any) -> Any:
    return lambda self, outputs: publish(self, outputs) and []


def _letters_after_the_states(_: Any) -> Any:
    def hold_back(self: Any, rejected: list[Rejected]) -> None:
        self._rejected_late = [*getattr(self, "_rejected_late", []), *rejected]

    return hold_back


def _write_held_letters(checkpointed: Any) -> Any:
    def write(self: Any, durable: Any) -> Any:
        checkpointed(self, durable)
        if durable is None:
            return None
        rejected, self._rejected_late = getattr(self, "_rejected_late", []), []
        self._write_letters([self._letter(item.record, Kind.EVENT, item.reason, b"") for item in rejected])
        return durable

    return write


def _nothing_rejected_is_kept(_: Any) -> Any:
    return lambda *_: None


def _no_dead_letters_ahead(_: Any) -> Any:
    return lambda *_: set()


def _rewind_keeps_the_live_state(rewind: Any) -> Any:
    def keep(self: Any, state: Any) -> None:
        rewind(self, getattr(self, "state", state))

    return keep


def _reject_the_whole_key(_: Any) -> Any:
    def reject(self: Any, key: str, entry: Any, received: Sequence[Received[Any]]) -> Any:
        self._sealed.pop(key, None)
        entry.rewind(self._decoded(entry.committed))
        return [], [Rejected(record, "fold failed", None) for _, record in received]

    return reject


def _rebuild_without_the_accepted(fold_with_care: Any) -> Any:
    def rebuild(self: Any, key: str, entry: Any, received: Sequence[Received[Any]]) -> Any:
        return fold_with_care(self, key, entry, received[-1:])

    return rebuild


def _put_all_aside(_: Any) -> Any:
    def attempt_once(self: Any, what: str, items: Sequence[Any], attempt: Any) -> Any:
        try:
            return self._retries.call(what, lambda: attempt(items)), []
        except ValueError as error:
            return [], [(item, str(error)) for item in items]

    return attempt_once


def _apply_where(is_new: Callable[[Position, Position], bool]) -> Callable[[Any], Any]:
    def make(_: Any) -> Any:
        def apply(self: Any, entry: Any, received: Sequence[Received[Any]]) -> Any:
            taken: list[Any] = []
            for item in received:
                if not is_new(item.record.position, entry.position):
                    continue
                event_id = fingerprint(self._processor.event_id(item.event))
                if is_remembered(entry.window, event_id):
                    continue
                entry.state = self._processor.fold(entry.state, item.event)
                entry.position = item.record.position
                entry.events_folded += 1
                entry.ids_hash = roll(entry.ids_hash, event_id)
                entry.window = remember(entry.window, event_id, item.record.position)
                taken.append((item, event_id))
            return taken

        return apply

    return make


def _remember_four(_: Any) -> Any:
    def short(window: bytes, event_id: bytes, position: Position) -> bytes:
        return remember(window, event_id, position)[-4 * 12 :]

    return short


def _evict_dirty(commit: Any) -> Any:
    def forget(self: Any) -> Any:
        committed = commit(self)
        for key in list(self._entries)[: len(self._entries) // 2]:
            self._dirty.pop(key, None)
            del self._entries[key]
        return committed

    return forget


def _only_the_last_batch_is_dirty(commit: Any) -> Any:
    def forget(self: Any) -> Any:
        self._dirty.clear()
        return commit(self)

    return forget


def _keep_what_was_stored_before(store: Any) -> Any:
    def keep(self: Any, states: Sequence[StoredState]) -> set[str]:
        self.before = dict(self._states)
        superseded: set[str] = store(self, states)
        return superseded

    return keep


def _load_what_was_stored_before(_: Any) -> Any:
    def late(self: Any, keys: Sequence[str]) -> dict[str, StoredState]:
        before = getattr(self, "before", {})
        return {key: before[key] for key in keys if key in before}

    return late


def _load_the_projected(load: Any) -> Any:
    def projected_first(self: Any, keys: Sequence[str]) -> dict[str, StoredState]:
        projected: dict[str, StoredState] = self.projection.read(keys)
        return {**load(self, keys), **projected}

    return projected_first


def _forget_what_waits(_: Any) -> Any:
    def forget(self: Any) -> None:
        self._waiting.clear()
        self._try_again_at = None

    return forget


def _one_waiting_key_at_most(project: Any) -> Any:
    def project_some(self: Any, states: Sequence[StoredState]) -> None:
        project(self, states)
        while len(self._waiting) > 1:
            self._waiting.popitem()

    return project_some


def _the_first_changed(changed: Any) -> Any:
    return lambda self: changed(self)[:1]


_write_partial = ShardPartial.make_durable


def _write_no_partial(_: Any) -> Any:
    return lambda _: None


def _partial_after_the_states(end: Any) -> Any:
    def write(self: Any, done: Position) -> Any:
        _write_partial(self._keyed.partial)
        return end(self, done)

    return write


def _load_once(load: Any) -> Any:
    return lambda self, states: load(self, () if self._loaded else states)


def _fold_what_is_in_the_partial(fold: Any) -> Any:
    def fold_again(self: Any, accepted: Any, upto: Position) -> Any:
        self._committed = msgspec.structs.replace(self._committed, position=BEGINNING)
        return fold(self, accepted, upto)

    return fold_again


#: One rule each. The name says what the product would do without it.
MUTATIONS: dict[str, list[Mutation]] = {
    "states are stored without a condition": [Mutation(MemoryStates, "store", _store_unconditionally)],
    "the projection has no fence": [Mutation(MemoryProjection, "project", _project_unconditionally)],
    "anybody moves the lease": [Mutation(MemoryLeases, "checkpoint", _checkpoint_unconditionally)],
    "the lease moves before the states are durable": [Mutation(Checkpoints, "_write", _durable_one_checkpoint_late)],
    "a checkpoint ends with its first part": [Mutation(Checkpoints, "advance", _ended_by_its_first_part)],
    "the lease moves to what was done since the checkpoint began": [
        Mutation(ShardWorker, "advance_checkpoint", _at_what_is_done)
    ],
    "a state that changed since a checkpoint began is clean": [
        Mutation(KeyStates, "stored", _what_changed_since_is_clean)
    ],
    "one dirty state is left out of a checkpoint": [Mutation(KeyStates, "dirty", _all_but_the_last)],
    "a failed write counts as written": [Mutation(Checkpoints, "_write", _failed_writes_are_clean)],
    "outputs are published after the checkpoint": [
        Mutation(ShardWorker, "_publish", _publish_after_the_checkpoint),
        Mutation(ShardWorker, "_checkpointed", _flush_at_the_next_checkpoint),
    ],
    "keys that wait for their turn are not emitted before a checkpoint": [
        Mutation(ShardWorker, "_emit_waiting", _only_when_its_time_is_over)
    ],
    "pending outputs count as acknowledged": [Mutation(SimulatedSink, "publish", _pending_is_acknowledged)],
    "refused outputs are forgotten": [Mutation(ShardWorker, "_publish", _refused_is_acknowledged)],
    "only one changed key of a batch is emitted": [Mutation(KeyStates, "changed", _the_first_changed)],
    "dead letters are written after the states": [
        Mutation(ShardWorker, "_write_rejected", _letters_after_the_states),
        Mutation(ShardWorker, "_checkpointed", _write_held_letters),
    ],
    "rejected records are dropped": [Mutation(ShardWorker, "_write_rejected", _nothing_rejected_is_kept)],
    "dead letters are not read at the start": [
        Mutation(MemoryDeadLetters, "event_positions_after", _no_dead_letters_ahead)
    ],
    "a failed fold is not undone": [Mutation(fold._Entry, "rewind", _rewind_keeps_the_live_state)],
    "one failed fold rejects its whole key": [Mutation(KeyStates, "_fold_with_care", _reject_the_whole_key)],
    "a failed fold drops the events before it": [Mutation(KeyStates, "_fold_with_care", _rebuild_without_the_accepted)],
    "one failed emission puts all of its batch aside": [Mutation(ShardWorker, "_bisected", _put_all_aside)],
    "events below the state's position are folded": [Mutation(KeyStates, "_apply", _apply_where(lambda *_: True))],
    "positions are compared without the shard": [
        Mutation(KeyStates, "_apply", _apply_where(lambda position, done: position[1:] > done[1:]))
    ],
    "a producer's duplicate is folded": [Mutation(fold, "is_remembered", lambda _: lambda *_: False)],
    "the window remembers four events": [Mutation(fold, "remember", _remember_four)],
    "dirty states leave memory": [Mutation(KeyStates, "commit", _evict_dirty)],
    "dirty states are clean at the next commit": [Mutation(KeyStates, "commit", _only_the_last_batch_is_dirty)],
    "the store's reads are a write behind": [
        Mutation(MemoryStates, "store", _keep_what_was_stored_before),
        Mutation(SimulatedStates, "load", _load_what_was_stored_before),
    ],
    "the worker trusts the projection": [Mutation(SimulatedStates, "load", _load_the_projected)],
    "keys that wait for the projection are forgotten": [Mutation(LateProjection, "_catch_up", _forget_what_waits)],
    "one key at most waits for the projection": [Mutation(LateProjection, "project", _one_waiting_key_at_most)],
    "the partial is written after the states": [
        Mutation(ShardPartial, "make_durable", _write_no_partial),
        Mutation(Checkpoints, "_end", _partial_after_the_states),
    ],
    "a partial behind a state is not loaded again": [Mutation(ShardPartial, "load", _load_once)],
    "events that a partial holds are folded into it again": [
        Mutation(ShardPartial, "fold", _fold_what_is_in_the_partial)
    ],
}
