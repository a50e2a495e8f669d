"""Settings: frozen, one class a component, checked when they are made. Each message says what would have happened."""

from __future__ import annotations

import math

import msgspec

from streamproc.errors import SettingsError
from streamproc.lease import LATEST, TRIM_HORIZON


class WorkerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How a worker keeps states and when it checkpoints."""

    #: A checkpoint begins after so long, and ends before the next one is due: a take-over replays at most twice that.
    checkpoint_seconds: float = 10.0
    #: ... or after so many keys changed since the last one.
    dirty_keys_max: int = 20_000
    #: Clean states beyond this many leave the worker's memory, the least recently used first.
    states_in_memory_max: int = 200_000
    #: A state that grows beyond it fails its event. DynamoDB ends at 400 KB; far below it costs less to write.
    state_bytes_max: int = 64 * 1024
    #: An event dated later than its arrival by more than this is dead-lettered: it would move every window ahead.
    ahead_seconds_max: float = 24 * 3600.0
    #: A key emits at most once in so long, and before a checkpoint that passes it; 0: with each batch that changes it.
    #: Nothing waits before the first checkpoint of a worker that is careful (after a death, and of each KCL child).
    emit_at_most_every_seconds: float = 0.0
    #: Time from one snapshot of the values across keys to the next.
    snapshot_seconds: float = 60.0

    def __post_init__(self) -> None:
        if not self.checkpoint_seconds > 0:
            raise SettingsError(f"checkpoint_seconds is {self.checkpoint_seconds}: it must be above 0")
        if not 1 <= self.dirty_keys_max <= self.states_in_memory_max:
            raise SettingsError(
                f"dirty_keys_max is {self.dirty_keys_max} and states_in_memory_max {self.states_in_memory_max}: dirty"
                " states are never evicted, so memory would grow beyond its bound before a checkpoint is due"
            )
        if not 0 <= self.emit_at_most_every_seconds < math.inf:
            raise SettingsError(
                f"emit_at_most_every_seconds is {self.emit_at_most_every_seconds}: it must be 0 or more, and end"
            )
        if not self.snapshot_seconds > 0:
            raise SettingsError(f"snapshot_seconds is {self.snapshot_seconds}: it must be above 0")
        if not self.ahead_seconds_max >= 0:
            raise SettingsError(f"ahead_seconds_max is {self.ahead_seconds_max}: it must be 0 or more")
        if not 1024 <= self.state_bytes_max <= 350 * 1024:
            raise SettingsError(
                f"state_bytes_max is {self.state_bytes_max}: it must be from 1024 to {350 * 1024}; DynamoDB refuses"
                " items above 400 KB, and then no checkpoint would ever succeed"
            )


class LocalRunnerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How the local runner reads and holds leases."""

    #: Time from one GetRecords call on a shard to the next. Kinesis allows five a second a shard, over all readers.
    poll_seconds: float = 0.2
    #: GetRecords' Limit; the service's own is 10,000.
    records_max: int = 10_000
    #: A lease whose counter stands still for so long is taken over; KCL's failoverTimeMillis.
    failover_seconds: float = 10.0
    #: Where a stream is read from that this application never read: TRIM_HORIZON or LATEST.
    initial_position: str = TRIM_HORIZON
    #: How often new shards are looked for.
    shard_sync_seconds: float = 60.0

    def __post_init__(self) -> None:
        if not self.poll_seconds >= 0.2:
            raise SettingsError(
                f"poll_seconds is {self.poll_seconds}: below 0.2 Kinesis throttles, at five reads a second a shard"
            )
        if not self.shard_sync_seconds > 0:
            raise SettingsError(f"shard_sync_seconds is {self.shard_sync_seconds}: it must be above 0")
        if not 1 <= self.records_max <= 10_000:
            raise SettingsError(f"records_max is {self.records_max}: GetRecords takes a Limit from 1 to 10000")
        if not self.failover_seconds >= 1:
            raise SettingsError(
                f"failover_seconds is {self.failover_seconds}: below 1 a short pause would hand the shard to another"
                " worker, which replays it"
            )
        if self.initial_position not in (TRIM_HORIZON, LATEST):
            raise SettingsError(f"initial_position is {self.initial_position!r}: it must be {TRIM_HORIZON} or {LATEST}")
