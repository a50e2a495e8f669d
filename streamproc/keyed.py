"""What a worker has for a keyed processor: its states, the rule of which events they take, the shard's partial."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from streamproc.admission import Admission
from streamproc.fold import KeyStates
from streamproc.partial import ShardPartial
from streamproc.processor import KeyedProcessor
from streamproc.retry import Retries
from streamproc.settings import WorkerSettings
from streamproc.shardmap import HashRange
from streamproc.state import StateStore, StoredState


class Keyed(msgspec.Struct, frozen=True):
    """What a worker has for a keyed processor."""

    processor: KeyedProcessor[Any, Any, Any]
    states: KeyStates
    admission: Admission
    partial: ShardPartial | None

    def load(self, keys: Iterable[str], store: StateStore, retries: Retries) -> None:
        """Have the states of these keys in memory, and the partial at least as far as each that was loaded."""
        missing = self.states.missing(keys)
        loaded: dict[str, StoredState] = {}
        if missing:
            loaded = retries.call("loading states", lambda: store.load(missing))
            self.states.admit(missing, loaded)
        if self.partial is not None:
            self.partial.load(loaded.values())


def keyed_of(
    shard_id: str,
    processor: KeyedProcessor[Any, Any, Any],
    settings: WorkerSettings,
    hash_range: HashRange,
    partials: StateStore | None,
    retries: Retries,
) -> Keyed:
    """For a new worker of this shard: nothing is in memory yet."""
    states = KeyStates(processor, settings)
    shared = processor.shared()
    partial = None
    if shared is not None and partials is not None:
        bytes_max = settings.state_bytes_max
        partial = ShardPartial(shard_id, shared, partials, retries, bytes_max=bytes_max)
    return Keyed(processor, states, Admission(processor, settings, hash_range, states), partial)
