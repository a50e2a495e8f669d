"""Which events of a batch the states may take. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from streamproc.fold import KeyStates
from streamproc.processor import KeyedProcessor, Received, Rejected
from streamproc.settings import WorkerSettings
from streamproc.shardmap import HashRange, hash_key_of


class Admission:
    """The rules for one shard. A position grows within a key only if the key is the record's partition key and hashes
    into the shard; and an event from the future would move every window ahead.
    """

    def __init__(
        self,
        processor: KeyedProcessor[Any, Any, Any],
        settings: WorkerSettings,
        hash_range: HashRange,
        states: KeyStates,
    ) -> None:
        self._processor = processor
        self._states = states
        self._settings = settings
        self._hash_range = hash_range

    def by_key(self, events: Sequence[Received[Any]], rejected: list[Rejected]) -> dict[str, list[Received[Any]]]:
        """The events by key, in log order; adds to ``rejected`` those that break a rule."""
        key_of, time_of = self._processor.key, self._processor.event_time
        ahead_seconds_max = self._settings.ahead_seconds_max
        by_key: dict[str, list[Received[Any]]] = {}
        for received in events:
            event, record = received
            try:
                key, ahead_seconds = key_of(event), time_of(event) - record.arrived_at
            except Exception as error:  # noqa: BLE001  # user code
                rejected.append(Rejected(record, f"no key or time: {type(error).__name__}: {error}", None))
                continue
            if key != record.partition_key:
                reason = f"the partition key {record.partition_key!r} is not the state key {key!r}"
                rejected.append(Rejected(record, reason, "partition_key"))
            elif ahead_seconds > ahead_seconds_max:
                reason = f"dated {ahead_seconds:.0f} s after its arrival; ahead_seconds_max is {ahead_seconds_max:.0f}"
                rejected.append(Rejected(record, reason, "ts"))
            elif key in by_key:
                by_key[key].append(received)
            else:
                by_key[key] = [received]
        for key in self._states.missing(by_key):
            if not self._hash_range.contains(hash_key_of(key)):
                for received in by_key.pop(key):
                    reason = f"the partition key does not hash into this shard ({self._hash_range})"
                    rejected.append(Rejected(received.record, reason, "partition_key"))
        return by_key
