"""One stream of typed events about what the library does. Logs and metrics subscribe; nothing else writes them.

Events are facts in the past participle. Their fields carry the unit last. Emitting costs a loop over the subscribers,
and hot loops emit once a batch, never once a record.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from functools import lru_cache

import msgspec


class TelemetryEvent(msgspec.Struct, frozen=True, kw_only=True):
    """The base of all telemetry events."""


class LeaseAcquired(TelemetryEvent, frozen=True, kw_only=True):
    """This worker took a shard's lease."""

    shard_id: str
    checkpoint: str


class LeaseLost(TelemetryEvent, frozen=True, kw_only=True):
    """Another worker took the lease, or it could not be renewed in time. The shard is dropped without a write."""

    shard_id: str
    owner: str | None


class ShardEnded(TelemetryEvent, frozen=True, kw_only=True):
    """A shard was closed by a reshard and read to its end."""

    shard_id: str


class BatchCommitted(TelemetryEvent, frozen=True, kw_only=True):
    """One batch went through the commit protocol: folded, published, projected."""

    shard_id: str
    records: int
    events_folded: int
    events_skipped: int
    outputs: int
    batch_seconds: float
    #: Seconds by step: decode, load, fold, emit, publish, project.
    step_seconds: dict[str, float]
    millis_behind_latest: int


class Checkpointed(TelemetryEvent, frozen=True, kw_only=True):
    """Dirty states became durable and the lease's checkpoint moved."""

    shard_id: str
    position: str
    states_written: int
    seconds: float


class DeadLettered(TelemetryEvent, frozen=True, kw_only=True):
    """A record or an emission was put aside, durably, with its reason."""

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

    shard_id: str
    sequence_number: str
    user_records: int


class Retried(TelemetryEvent, frozen=True, kw_only=True):
    """Something failed in a way that passes and is tried again after a wait."""

    what: str
    error: str
    attempt: int
    wait_seconds: float


class ProjectionUnavailable(TelemetryEvent, frozen=True, kw_only=True):
    """The projection (Redis) cannot be written. The stream goes on; the states are projected when it is back."""

    shard_id: str
    error: str
    keys_waiting: int


class ProjectionCaughtUp(TelemetryEvent, frozen=True, kw_only=True):
    """The projection is back and holds the latest states again."""

    shard_id: str
    keys: int


class RetentionGapFound(TelemetryEvent, frozen=True, kw_only=True):
    """The checkpoint's record is gone: it is older than the stream's retention, and what came after it may be too."""

    shard_id: str
    checkpoint: str


class RecordsSent(TelemetryEvent, frozen=True, kw_only=True):
    """The producer finished one PutRecords call."""

    stream: str
    events: int
    entries: int
    entries_failed: int
    request_bytes: int
    seconds: float
    #: Events accepted by ``put`` and not yet acknowledged or failed.
    events_waiting: int


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
