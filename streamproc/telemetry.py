"""One stream of typed events about what the library does. Logs and metrics subscribe; nothing else writes them.

Events are facts in the past participle. Their fields carry the unit last. Emitting costs a loop over the subscribers,
and hot loops emit once a batch, never once a record.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from functools import lru_cache
from typing import ClassVar

import msgspec


class TelemetryEvent(msgspec.Struct, frozen=True, kw_only=True):
    """The base of all telemetry events."""

    #: How a log line says it: ``warning`` is what a person should look at, though the worker goes on; ``debug`` comes
    #: too often for a line each, and is for metrics.
    level: ClassVar[str] = "info"


class LeaseAcquired(TelemetryEvent, frozen=True, kw_only=True):
    """This worker took a shard's lease."""

    shard_id: str
    checkpoint: str


class LeaseLost(TelemetryEvent, frozen=True, kw_only=True):
    """Another worker took the lease, or it could not be renewed in time. The shard is dropped without a write."""

    level: ClassVar[str] = "warning"
    shard_id: str
    owner: str | None


class ShardEnded(TelemetryEvent, frozen=True, kw_only=True):
    """A shard was closed by a reshard and read to its end."""

    shard_id: str


class BatchRead(TelemetryEvent, frozen=True, kw_only=True):
    """A read of a shard reached its worker, maybe an empty one. It is what tells an idle shard from one that hangs."""

    shard_id: str
    records: int
    millis_behind_latest: int


class BatchCommitted(TelemetryEvent, frozen=True, kw_only=True):
    """One batch went through the commit protocol: folded, published, projected; or outputs that waited (no records)."""

    shard_id: str
    records: int
    events_folded: int
    events_skipped: int
    outputs: int
    batch_seconds: float
    #: Seconds by step: decode, load, fold, emit, publish, project.
    step_seconds: dict[str, float]
    #: Of emit, seconds by part: encode, and those that the application tells; see :func:`streamproc.steps.part_ended`.
    emit_seconds: dict[str, float] = {}
    millis_behind_latest: int
    #: The last record of the batch.
    position: str | None = None


class Checkpointed(TelemetryEvent, frozen=True, kw_only=True):
    """Dirty states became durable and the lease's checkpoint moved."""

    shard_id: str
    position: str
    states_written: int
    #: How long its parts held the shard.
    seconds: float
    #: How long ago the oldest event was read that is processed and not durable; 0 where there is none.
    age_seconds: float = 0.0


class DeadLettered(TelemetryEvent, frozen=True, kw_only=True):
    """A record or an emission was put aside, durably, with its reason."""

    level: ClassVar[str] = "warning"
    shard_id: str
    position: str
    kind: str
    reason: str


class StateSuperseded(TelemetryEvent, frozen=True, kw_only=True):
    """A conditional write found a later state: another worker was here. The keys are loaded again."""

    shard_id: str
    keys: int


class AggregateDropped(TelemetryEvent, frozen=True, kw_only=True):
    """A KPL aggregate held a record that hashes outside the shard, so all of it was dropped, as KCL drops it."""

    level: ClassVar[str] = "warning"
    shard_id: str
    sequence_number: str
    user_records: int


class Retried(TelemetryEvent, frozen=True, kw_only=True):
    """Something failed in a way that passes and is tried again after a wait."""

    level: ClassVar[str] = "warning"
    what: str
    error: str
    attempt: int
    wait_seconds: float


class ProjectionUnavailable(TelemetryEvent, frozen=True, kw_only=True):
    """The projection (Redis) cannot be written. The stream goes on; the states are projected when it is back."""

    level: ClassVar[str] = "warning"
    shard_id: str
    error: str
    keys_waiting: int


class ProjectionCaughtUp(TelemetryEvent, frozen=True, kw_only=True):
    """The projection is back and holds the latest states again."""

    shard_id: str
    keys: int


class RetentionGapFound(TelemetryEvent, frozen=True, kw_only=True):
    """The checkpoint's record is gone: it is older than the stream's retention, and what came after it may be too."""

    level: ClassVar[str] = "warning"
    shard_id: str
    checkpoint: str


class SnapshotAdded(TelemetryEvent, frozen=True, kw_only=True):
    """The partials of all shards were merged into the next item snapshot."""

    number: int
    shards: int
    snapshot_bytes: int


class SnapshotRefused(TelemetryEvent, frozen=True, kw_only=True):
    """The application could not use a snapshot, and goes on with the one before."""

    shard_id: str
    number: int
    reason: str


class ReplayedSkipped(TelemetryEvent, frozen=True, kw_only=True):
    """A replayed dead letter was not folded: an earlier copy was, or it was dropped, or is another application's."""

    shard_id: str
    position: str
    first_position: str


class ChildFailed(TelemetryEvent, frozen=True, kw_only=True):
    """The process of a shard ends, and the daemon with it. Everything beyond the checkpoints is replayed."""

    level: ClassVar[str] = "error"
    shard_id: str
    reason: str
    exit_code: int


class ModelLoaded(TelemetryEvent, frozen=True, kw_only=True):
    """From this batch on the outputs of the shard come from this version of the application's model."""

    shard_id: str
    model_version: str


class RunnerStarted(TelemetryEvent, frozen=True, kw_only=True):
    """The runner looked for shards once. A host that holds no lease from here on has nothing to do, and is ready."""

    runner: str


class ChildStarted(TelemetryEvent, frozen=True, kw_only=True):
    """A shard's process was heard of for the first time."""

    pid: int


class ChildEnded(TelemetryEvent, frozen=True, kw_only=True):
    """A shard's process is gone, in order or not."""

    pid: int
    #: The shard that it served, None where it served none yet.
    shard_id: str | None


class TelemetryDropped(TelemetryEvent, frozen=True, kw_only=True):
    """Events of a shard's process did not reach the host's metrics: it was gone, or too slow. Batches go on."""

    level: ClassVar[str] = "warning"
    pid: int
    events: int


class MetricsServed(TelemetryEvent, frozen=True, kw_only=True):
    """The host's health and metrics can be asked for there."""

    url: str


class RecordsSent(TelemetryEvent, frozen=True, kw_only=True):
    """The producer finished one PutRecords call."""

    level: ClassVar[str] = "debug"
    stream: str
    events: int
    entries: int
    entries_failed: int
    request_bytes: int
    seconds: float
    #: Events accepted by ``put`` and not yet acknowledged or failed.
    events_waiting: int


class PutsDelayed(TelemetryEvent, frozen=True, kw_only=True):
    """Since the last time this was said, ``put`` found the producer's memory full: Kinesis is slower than the app."""

    level: ClassVar[str] = "warning"
    stream: str
    #: Calls of ``put`` that waited for room, those included that then raised QueueFull.
    puts_delayed: int
    puts_refused: int
    #: All their waits together.
    delay_seconds: float
    buffered_bytes: int


class ShardsListed(TelemetryEvent, frozen=True, kw_only=True):
    """The producer learned which shards are open: at its first event, and after a reshard."""

    stream: str
    open_shards: int


class ShardsUnknown(TelemetryEvent, frozen=True, kw_only=True):
    """The producer cannot list the shards. It goes on with aggregates of one key each, which cost more requests."""

    level: ClassVar[str] = "warning"
    stream: str
    error: str


class AggregateMisrouted(TelemetryEvent, frozen=True, kw_only=True):
    """An aggregate went into a shard that not all its events hash into, after a reshard. They are sent again."""

    stream: str
    shard_id: str
    expected_shard_id: str
    events: int


Subscriber = Callable[[TelemetryEvent], None]


_logger = logging.getLogger("streamproc")


class Telemetry:
    """Hands each event to every subscriber, in the thread that emits it. Subscribers must be quick and thread-safe.

    A subscriber that raises is logged and does not disturb what is being reported.
    """

    def __init__(self, *subscribers: Subscriber) -> None:
        self._subscribers: tuple[Subscriber, ...] = subscribers

    def subscribe(self, subscriber: Subscriber) -> None:
        """Add a subscriber; it sees the events from now on."""
        self._subscribers = (*self._subscribers, subscriber)

    def emit(self, event: TelemetryEvent) -> None:
        """Hand the event to every subscriber."""
        for subscriber in self._subscribers:
            try:
                subscriber(event)
            except Exception:  # a metric that cannot be written must not cost a batch
                _logger.exception("a telemetry subscriber failed on %s", event_name(type(event)))


@lru_cache
def event_name(event_type: type[TelemetryEvent]) -> str:
    """The stable, dotted name of an event in logs and metrics: ``streamproc.lease_lost``."""
    return "streamproc." + re.sub(r"(?<!^)(?=[A-Z])", "_", event_type.__name__).lower()
