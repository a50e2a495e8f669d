"""The states that a worker holds in memory, and the fold of a batch into them. No I/O: the worker does that.

An *entry* is one key's live state beside the last *committed* one. A batch changes live states only, and
:meth:`KeyStates.commit` makes them the committed ones once the batch is published. A committed state that the store
does not have yet is *dirty*; dirty states are never evicted.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from streamproc.errors import NewerState, StateTooLarge
from streamproc.processor import Changed, KeyedProcessor, Received, Rejected
from streamproc.record import BEGINNING
from streamproc.settings import WorkerSettings
from streamproc.state import StoredState, fingerprint, is_remembered, remember, roll


class _Entry:
    """One key: the live state with its envelope, and what it was when the last batch was committed."""

    __slots__ = ("committed", "event_time", "events_folded", "ids_hash", "position", "state", "window")

    def __init__(self, committed: StoredState | None, state: Any) -> None:
        self.committed = committed
        self.rewind(state)

    def rewind(self, state: Any) -> None:
        """Make the committed state the live one; ``state`` is it, decoded."""
        self.state = state
        self.event_time = 0.0
        if self.committed is None:
            self.position, self.events_folded, self.ids_hash, self.window = BEGINNING, 0, 0, b""
        else:
            self.position = self.committed.position
            self.events_folded = self.committed.events_folded
            self.ids_hash = self.committed.ids_hash
            self.window = self.committed.window


#: An event that a state took, and the fingerprint of its id. A plain tuple: one is made for every event.
Accepted = tuple[Received[Any], bytes]


class Folded(msgspec.Struct, frozen=True):
    """What became of the events of a batch."""

    #: Key by key, each key's in log order.
    accepted: list[Accepted]
    #: In the state already, or a producer's duplicate.
    events_skipped: int
    rejected: list[Rejected]


def in_log_order(accepted: Iterable[Accepted], events: Iterable[Received[Any]]) -> list[Accepted]:
    """Those of the events that were accepted. To find each again takes a tenth of what sorting by position would."""
    found = {id(item[0]): item for item in accepted}
    return [found[number] for number in map(id, events) if number in found]


class KeyStates:
    """The states of the keys of one shard."""

    def __init__(self, processor: KeyedProcessor[Any, Any, Any], settings: WorkerSettings) -> None:
        self._processor = processor
        self._settings = settings
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._sealed: dict[str, StoredState] = {}
        #: The one that waits longest for the store first.
        self._dirty: dict[str, None] = {}

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def dirty_keys(self) -> int:
        """How many committed states the store does not have yet."""
        return len(self._dirty)

    def missing(self, keys: Iterable[str]) -> list[str]:
        """Those of the keys that are not in memory."""
        return [key for key in keys if key not in self._entries]

    def admit(self, keys: Iterable[str], loaded: Mapping[str, StoredState]) -> None:
        """Take the stored states of these keys into memory; a key without one starts anew.

        A state of an older fold is migrated; it becomes durable as migrated with its next event. Raises NewerState
        where a state was written by a newer fold: to go on would undo its changes.
        """
        for key in keys:
            stored = loaded.get(key)
            if stored is not None and stored.fold_version > self._processor.fold_version:
                raise NewerState(
                    f"the state of {stored.key!r} was written by fold version {stored.fold_version}, and this worker"
                    f" has {self._processor.fold_version}: deploy the newer version here; an older one would undo its"
                    " changes"
                )
            self._entries[key] = _Entry(stored, self._decoded(stored))

    def _decoded(self, stored: StoredState | None) -> Any:
        processor = self._processor
        if stored is None:
            return processor.new_state()
        if stored.fold_version < processor.fold_version:
            return processor.migrate_state(stored.state, stored.fold_version)
        return processor.decode_state(stored.state)

    def fold(self, events: Mapping[str, Sequence[Received[Any]]]) -> Folded:
        """Fold a batch, given by key, each key's events in log order. Every key must have been admitted.

        Keys do not depend on each other, so their order does not matter. A key whose fold fails is folded again with
        care: from the committed state, each event tried twice and left out where it fails twice.
        """
        accepted: list[Accepted] = []
        rejected: list[Rejected] = []
        given = 0
        entries = self._entries
        for key, received in events.items():
            given += len(received)
            entry = entries[key]
            entries.move_to_end(key)
            try:
                taken = self._apply(entry, received)
                if taken:
                    self._seal(key, entry, taken[-1][0][0])
            except Exception:  # noqa: BLE001  # user code: found and named by the careful fold
                taken, failed = self._fold_with_care(key, entry, received)
                rejected += failed
            accepted += taken
        return Folded(accepted, given - len(accepted) - len(rejected), rejected)

    def _apply(self, entry: _Entry, received: Iterable[Received[Any]]) -> list[Accepted]:
        """Fold those of the events that the state does not contain; return them."""
        fold, event_id = self._processor.fold, self._processor.event_id
        taken: list[Accepted] = []
        for item in received:
            event, record = item
            position = record.position
            if position <= entry.position:
                continue
            id_fingerprint = fingerprint(event_id(event))
            if is_remembered(entry.window, id_fingerprint):
                continue
            entry.state = fold(entry.state, event)
            entry.position = position
            entry.window = remember(entry.window, id_fingerprint, position)
            taken.append((item, id_fingerprint))
        entry.events_folded += len(taken)
        entry.ids_hash = roll(entry.ids_hash, b"".join([id_fingerprint for _, id_fingerprint in taken]))
        return taken

    def _fold_with_care(
        self, key: str, entry: _Entry, received: Sequence[Received[Any]]
    ) -> tuple[list[Accepted], list[Rejected]]:
        """Fold event by event. One that fails may have left the state half changed, so it is built again before it."""
        self._sealed.pop(key, None)
        entry.rewind(self._decoded(entry.committed))
        accepted: list[Accepted] = []
        rejected: list[Rejected] = []
        for candidate in received:
            for attempt in (1, 2):
                try:
                    taken = self._apply(entry, [candidate])
                    if taken:
                        self._seal(key, entry, candidate.event)
                except Exception as error:  # noqa: BLE001  # user code
                    entry.rewind(self._decoded(entry.committed))
                    self._apply(entry, [item for item, _ in accepted])
                    if attempt == 2:
                        reason = str(error) if isinstance(error, StateTooLarge) else f"{type(error).__name__}: {error}"
                        rejected.append(Rejected(candidate.record, f"fold failed: {reason}", None))
                else:
                    accepted += taken
                    break
        if accepted:
            self._seal(key, entry, accepted[-1][0].event)
        return accepted, rejected

    def _seal(self, key: str, entry: _Entry, last_event: Any) -> None:
        """Encode the live state. It is what will be committed, and shows now whether it is too large."""
        entry.event_time = self._processor.event_time(last_event)
        state = self._processor.encode_state(entry.state)
        if len(state) > self._settings.state_bytes_max:
            raise StateTooLarge(
                f"the state of {key!r} would have {len(state)} bytes, and state_bytes_max is"
                f" {self._settings.state_bytes_max}"
            )
        self._sealed[key] = StoredState(
            key,
            entry.position,
            entry.events_folded,
            entry.ids_hash,
            entry.window,
            self._processor.fold_version,
            state,
        )

    def changed(self) -> list[Changed[Any]]:
        """The keys that the batch changed, with their live states."""
        return [
            Changed(key, entry.state, entry.position, entry.event_time, entry.events_folded)
            for key, entry in ((key, self._entries[key]) for key in self._sealed)
        ]

    def live(self, keys: Iterable[tuple[str, float]]) -> list[Changed[Any]]:
        """These dirty keys, each with the event time of its last event, as :meth:`changed` would give them."""
        entries = ((key, self._entries[key], event_time) for key, event_time in keys)
        return [
            Changed(key, entry.state, entry.position, event_time, entry.events_folded)
            for key, entry, event_time in entries
        ]

    def commit(self) -> list[StoredState]:
        """Make the live states the committed ones; return those that the batch changed."""
        committed = list(self._sealed.values())
        for stored in committed:
            self._entries[stored.key].committed = stored
        self._dirty.update(dict.fromkeys(self._sealed))
        self._sealed.clear()
        return committed

    def dirty(self) -> list[StoredState]:
        """The committed states that the store does not have yet."""
        states = (self._entries[key].committed for key in self._dirty)
        return [stored for stored in states if stored is not None]

    def stored(self, states: Iterable[StoredState], superseded: set[str]) -> None:
        """Note what the store answered. A key whose state was superseded leaves memory, to be loaded again.

        A key that changed since is neither: it stays dirty, and is written, or refused, as it is then.
        """
        for state in states:
            if self._entries[state.key].committed is not state:
                continue
            self._dirty.pop(state.key, None)
            if state.key in superseded:
                del self._entries[state.key]

    def committed(self, keys: Iterable[str]) -> list[StoredState]:
        """The committed states of these keys, as far as they are in memory."""
        entries = (self._entries.get(key) for key in keys)
        return [entry.committed for entry in entries if entry is not None and entry.committed is not None]

    def evict(self) -> None:
        """Drop clean states beyond the bound, the least recently used first."""
        surplus = len(self._entries) - self._settings.states_in_memory_max
        if surplus <= 0:
            return
        clean = (key for key in self._entries if key not in self._dirty)
        for key in [key for key, _ in zip(clean, range(surplus), strict=False)]:
            del self._entries[key]
