"""Values across keys: one *partial* a shard, folded from the shard's events beside the states of their keys.

What is trending, or which items are bought together, depends on all users at once. A counter that many workers
increment counts twice after every crash. So each shard keeps a partial of its own, with a position, and readers merge
the partials of all shards; see :mod:`streamproc.snapshot`.

**A partial is never behind a state.** At a checkpoint it is written before the states of its shard, so a worker that
loads a state beyond its partial (another worker was here) finds the later partial in the store. So every event beyond
the partial's position is beyond its key's state too: what the key's duplicate window decides, it decides for both, and
a replay decides the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from streamproc.errors import NewerState, StateTooLarge
from streamproc.fold import Accepted
from streamproc.processor import Rejected, SharedFold
from streamproc.record import Position, shard_number_of
from streamproc.retry import Retries
from streamproc.state import StateStore, StoredState, roll


class ShardPartial:
    """The partial of one shard: the live one, and its last encoding."""

    def __init__(
        self,
        shard_id: str,
        shared: SharedFold[Any, Any],
        store: StateStore,
        retries: Retries,
        *,
        bytes_max: int,
    ) -> None:
        self._shard_id = shard_id
        self._shared = shared
        self._store = store
        self._retries = retries
        self._bytes_max = bytes_max
        self._durable: StoredState | None = None
        # Before the first record of the shard, as a worker's own position is.
        self._committed = StoredState(
            shard_id, Position(shard_number_of(shard_id), -1, -1), 0, 0, b"", shared.version, b""
        )
        self._live: Any = None
        self._loaded = False

    def load(self, states: Iterable[StoredState]) -> None:
        """Be at least as far as each of these states that were loaded; load the partial where it may not be."""
        # A state on a child shard counts too: its parent was read to its end, by another worker.
        if self._loaded and not any(stored.position > self._committed.position for stored in states):
            return
        found = self._retries.call("loading the partial", lambda: self._store.load([self._shard_id]))
        stored = found.get(self._shard_id)
        if stored is not None and stored.position > self._committed.position:
            self._committed = self._durable = stored
        self._live = self._decoded()
        self._loaded = True

    def _decoded(self) -> Any:
        stored, shared = self._committed, self._shared
        if not stored.state:
            return shared.new_partial()
        if stored.fold_version > shared.version:
            raise NewerState(
                f"the partial of {self._shard_id} was written by version {stored.fold_version} of"
                f" {type(shared).__name__}, and this worker has {shared.version}: deploy the newer one here"
            )
        if stored.fold_version < shared.version:
            return shared.migrate(stored.state, stored.fold_version)
        return shared.decode(stored.state)

    def fold(self, accepted: Sequence[Accepted], upto: Position) -> list[Rejected]:
        """Fold the events that the states took, in log order; ``upto`` is the last record of their batch.

        An event on which the shared fold fails twice is left out and returned; its key's state has it.
        """
        before = self._committed
        if upto <= before.position:
            return []
        new = list(accepted)
        if new and new[0][0].record.position <= before.position:
            new = [item for item in new if item[0].record.position > before.position]
        rejected: list[Rejected] = []
        try:
            self._fold(new)
        except Exception:  # noqa: BLE001  # user code: found and named by the careful fold
            new, rejected = self._fold_with_care(new)
        ids_hash = roll(before.ids_hash, b"".join([id_fingerprint for _, id_fingerprint in new]))
        migrated = bool(before.state) and before.fold_version < self._shared.version
        data = self._shared.encode(self._live) if new or migrated else before.state
        if len(data) > self._bytes_max:
            raise StateTooLarge(
                f"the partial of {self._shard_id} would have {len(data)} bytes, and state_bytes_max is"
                f" {self._bytes_max}: {type(self._shared).__name__} must keep less"
            )
        self._committed = StoredState(
            self._shard_id, upto, before.events_folded + len(new), ids_hash, b"", self._shared.version, data
        )
        return rejected

    def _fold(self, items: Iterable[Accepted]) -> None:
        fold, live = self._shared.fold, self._live
        for (event, _), _ in items:
            live = fold(live, event)
        self._live = live

    def _fold_with_care(self, items: Sequence[Accepted]) -> tuple[list[Accepted], list[Rejected]]:
        """Event by event. One that fails may have left the partial half changed, so it is built again before it."""
        self._live = self._decoded()
        accepted: list[Accepted] = []
        rejected: list[Rejected] = []
        for item in items:
            for attempt in (1, 2):
                try:
                    self._fold([item])
                except Exception as error:  # noqa: BLE001  # user code
                    self._live = self._decoded()
                    self._fold(accepted)
                    if attempt == 2:
                        reason = f"the shared fold failed: {type(error).__name__}: {error}"
                        rejected.append(Rejected(item[0].record, reason, None))
                else:
                    accepted.append(item)
                    break
        return accepted, rejected

    def make_durable(self) -> None:
        """Write the partial, before any state of its shard is written. One that is refused is loaded again."""
        stored, durable = self._committed, self._durable
        if not self._loaded or stored is durable:
            return
        superseded = self._retries.call("writing the partial", lambda: self._store.store([stored]))
        self._durable = stored
        self._loaded = not superseded


def merged(shared: SharedFold[Any, Any], partials: Iterable[StoredState]) -> bytes:
    """What all shards' partials say together, as the shared fold's own encoding of a snapshot."""
    decoded = []
    for stored in sorted(partials, key=lambda stored: stored.key):
        if not stored.state:  # records, and none of them an event
            decoded.append(shared.new_partial())
        elif stored.fold_version < shared.version:
            decoded.append(shared.migrate(stored.state, stored.fold_version))
        else:
            decoded.append(shared.decode(stored.state))
    return shared.merge(decoded)
