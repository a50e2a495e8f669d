"""What a host measures: all telemetry events of its processes, summed into metrics, whoever exports them.

What a metric means is said once, in :mod:`streamproc.metric`; ``docs/telemetry.md`` adds when to be alarmed.
"""

from __future__ import annotations

import re
import threading
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Mapping
from itertools import accumulate
from typing import Any

import msgspec

from streamproc import telemetry as facts
from streamproc.clock import Clock, SystemClock
from streamproc.metric import METRICS, SHARD, Kind, Metric
from streamproc.telemetry import TelemetryEvent, event_name

#: A shard that left this host stays in the metrics for so long: more than any scraper's interval.
RELEASED_KEPT_SECONDS = 900.0
#: Over how long rates and ratios are taken.
WINDOW_SECONDS = 60


class Distribution(msgspec.Struct):
    """A histogram's value: observations up to each bound, cumulated, with the total last; and their sum."""

    cumulated: tuple[int, ...]
    sum: float


#: Label values, in the order of the metric's labels.
Labels = tuple[str, ...]
Family = tuple[Metric, Mapping[Labels, float | Distribution]]


class ShardView(msgspec.Struct, frozen=True):
    """A shard that this host reads, as of now. Ages in seconds."""

    iterator_age_seconds: float
    checkpoint_age_seconds: float
    #: None before its first read.
    read_seconds_ago: float | None
    #: Since anything was heard of it. A retry counts: it waits for a service, and says so.
    quiet_seconds: float
    projection_away: bool
    model_version: str | None


class HostView(msgspec.Struct, frozen=True):
    """What health is judged by."""

    uptime_seconds: float
    started: bool
    events_per_second: float
    emit_time_ratio: float
    children: int
    daemon_restarts: int
    shards: dict[str, ShardView]


class _Shard:
    def __init__(self, now: float) -> None:
        self.iterator_age_seconds = 0.0
        self.undurable_since: float | None = None
        self.read_at: float | None = None
        self.heard_at = now
        self.away = False
        self.model_version: str | None = None


class _Observed:
    """A histogram that grows."""

    def __init__(self, buckets: tuple[float, ...]) -> None:
        self._bounds = buckets
        self._counts = [0] * (len(buckets) + 1)
        self._sum = 0.0

    def add(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def distribution(self) -> Distribution:
        return Distribution(tuple(accumulate(self._counts)), self._sum)


class _Slot(msgspec.Struct):
    """Sums of one second."""

    second: int
    events: int = 0
    emit_seconds: float = 0.0
    batch_seconds: float = 0.0


_SHARD_ID = re.compile(r"shardId-\d+")
# What is retried names its shard, and how many outputs; a label must not grow with either.
_VARYING = re.compile(r" ?\(?shardId-\d+\)?|\b\d+ ")


class Registry:
    """A subscriber that sums events into metrics. Thread-safe, and quick: a few microseconds a batch.

    A shard is *held* from its LeaseAcquired, or from its first batch, until its lease is lost, it ends, or its process
    does. Gauges speak of held shards alone; counters of a released shard stay for a while, so that a scrape sees the
    last of them.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._started_at = self._clock.monotonic()
        self._started = False
        self._counters: dict[str, dict[Labels, float]] = {name: {} for name in _named(Kind.COUNTER)}
        self._histograms: dict[str, dict[Labels, _Observed]] = {name: {} for name in _named(Kind.HISTOGRAM)}
        self._gauges: dict[str, dict[Labels, float]] = {}
        self._shards: dict[str, _Shard] = {}
        self._released_at: dict[str, float] = {}
        self._children: set[int] = set()
        self._window: deque[_Slot] = deque(maxlen=WINDOW_SECONDS)
        for metric in METRICS.values():
            if metric.kind is Kind.COUNTER and not metric.labels:
                self._counters[metric.name][()] = 0.0

    def __call__(self, event: TelemetryEvent) -> None:
        """Take an event."""
        handle = _HANDLERS.get(type(event)) or _HANDLERS_BY_NAME.get(event_name(type(event)))
        with self._lock:
            if handle is not None:
                handle(self, event)
            shard = self._shards.get(getattr(event, "shard_id", None) or "")
            if shard is not None and type(event) in _HANDLERS:
                shard.heard_at = self._clock.monotonic()

    def collect(self) -> list[Family]:
        """All metrics with their values, in the order of ``METRICS``."""
        with self._lock:
            self._forget_released()
            gauges = {**self._gauges, **self._current_gauges()}
            families: list[Family] = []
            for name, metric in METRICS.items():
                if metric.kind is Kind.COUNTER:
                    families.append((metric, dict(self._counters[name])))
                elif metric.kind is Kind.HISTOGRAM:
                    observed = self._histograms[name].items()
                    families.append((metric, {labels: each.distribution() for labels, each in observed}))
                else:
                    families.append((metric, dict(gauges.get(name, {}))))
            return families

    def view(self) -> HostView:
        """The host as of now."""
        with self._lock:
            now = self._clock.monotonic()
            events, ratio = self._rates()
            return HostView(
                uptime_seconds=now - self._started_at,
                started=self._started,
                events_per_second=events,
                emit_time_ratio=ratio,
                children=len(self._children),
                daemon_restarts=int(self._counters["streamproc_daemon_restarts_total"][()]),
                shards={shard_id: self._shard_view(shard, now) for shard_id, shard in sorted(self._shards.items())},
            )

    def _shard_view(self, shard: _Shard, now: float) -> ShardView:
        return ShardView(
            iterator_age_seconds=shard.iterator_age_seconds,
            checkpoint_age_seconds=now - shard.undurable_since if shard.undurable_since is not None else 0.0,
            read_seconds_ago=now - shard.read_at if shard.read_at is not None else None,
            quiet_seconds=now - shard.heard_at,
            projection_away=shard.away,
            model_version=shard.model_version,
        )

    def _current_gauges(self) -> dict[str, dict[Labels, float]]:
        now = self._clock.monotonic()
        views = {shard_id: self._shard_view(shard, now) for shard_id, shard in self._shards.items()}
        return {
            "streamproc_leases_held": {(): len(views)},
            "streamproc_children": {(): len(self._children)},
            "streamproc_emit_time_ratio": {(): self._rates()[1]},
            "streamproc_iterator_age_seconds": {(key,): view.iterator_age_seconds for key, view in views.items()},
            "streamproc_checkpoint_age_seconds": {(key,): view.checkpoint_age_seconds for key, view in views.items()},
            "streamproc_projection_away": {(key,): float(view.projection_away) for key, view in views.items()},
            "streamproc_model_info": {
                (key, view.model_version): 1.0 for key, view in views.items() if view.model_version is not None
            },
        }

    def _rates(self) -> tuple[float, float]:
        """Events a second, and the share of batch time in ``emit``, over the window."""
        now = self._clock.monotonic()
        slots = [slot for slot in self._window if slot.second > now - WINDOW_SECONDS]
        batch_seconds = sum(slot.batch_seconds for slot in slots)
        ratio = sum(slot.emit_seconds for slot in slots) / batch_seconds if batch_seconds else 0.0
        return sum(slot.events for slot in slots) / min(WINDOW_SECONDS, max(1.0, now - self._started_at)), ratio

    def _forget_released(self) -> None:
        now = self._clock.monotonic()
        gone = {key for key, at in self._released_at.items() if now - at > RELEASED_KEPT_SECONDS}
        if not gone:
            return
        for shard_id in gone:
            del self._released_at[shard_id]
        series: dict[str, dict[Labels, Any]] = {**self._counters, **self._histograms}
        for name, values in series.items():
            if METRICS[name].labels[:1] == SHARD:
                for labels in [labels for labels in values if labels[0] in gone]:
                    del values[labels]

    def _held(self, shard_id: str) -> _Shard:
        shard = self._shards.get(shard_id)
        if shard is None:
            shard = self._shards[shard_id] = _Shard(self._clock.monotonic())
            self._released_at.pop(shard_id, None)
        return shard

    def _release(self, shard_id: str) -> None:
        if self._shards.pop(shard_id, None) is not None:
            self._released_at[shard_id] = self._clock.monotonic()

    def _count(self, name: str, *labels: str, by: float = 1) -> None:
        values = self._counters[name]
        values[labels] = values.get(labels, 0.0) + by

    def _observe(self, name: str, value: float, *labels: str) -> None:
        values = self._histograms[name]
        observed = values.get(labels)
        if observed is None:
            observed = values[labels] = _Observed(METRICS[name].buckets)
        observed.add(value)

    def _on_read(self, event: facts.BatchRead) -> None:
        shard = self._held(event.shard_id)
        shard.read_at = self._clock.monotonic()
        shard.iterator_age_seconds = event.millis_behind_latest / 1000

    def _on_batch(self, event: facts.BatchCommitted) -> None:
        shard_id, now = event.shard_id, self._clock.monotonic()
        shard = self._held(shard_id)
        shard.read_at = now
        shard.iterator_age_seconds = event.millis_behind_latest / 1000
        if shard.undurable_since is None:
            shard.undurable_since = now
        self._count("streamproc_events_folded_total", shard_id, by=event.events_folded)
        self._count("streamproc_events_skipped_total", shard_id, by=event.events_skipped)
        self._count("streamproc_outputs_published_total", shard_id, by=event.outputs)
        if event.records:
            self._observe("streamproc_batch_records", event.records, shard_id)
            self._observe("streamproc_batch_seconds", event.batch_seconds, shard_id)
        for step, seconds in event.step_seconds.items():
            self._observe("streamproc_batch_step_seconds", seconds, shard_id, step)
        if not self._window or self._window[-1].second != int(now):
            self._window.append(_Slot(int(now)))
        slot = self._window[-1]
        slot.events += event.events_folded
        slot.emit_seconds += event.step_seconds.get("emit", 0.0)
        slot.batch_seconds += event.batch_seconds

    def _on_checkpoint(self, event: facts.Checkpointed) -> None:
        if (shard := self._shards.get(event.shard_id)) is not None:
            age = event.age_seconds
            shard.undurable_since = self._clock.monotonic() - age if age else None
        self._count("streamproc_states_written_total", event.shard_id, by=event.states_written)
        self._observe("streamproc_checkpoint_seconds", event.seconds, event.shard_id)

    def _on_acquired(self, event: facts.LeaseAcquired) -> None:
        self._held(event.shard_id)
        self._count("streamproc_leases_acquired_total", event.shard_id)

    def _on_lost(self, event: facts.LeaseLost) -> None:
        self._count("streamproc_leases_lost_total", event.shard_id)
        self._release(event.shard_id)

    def _on_shard_ended(self, event: facts.ShardEnded) -> None:
        self._count("streamproc_shards_ended_total", event.shard_id)
        self._release(event.shard_id)

    def _on_retry(self, event: facts.Retried) -> None:
        self._count("streamproc_retries_total", _VARYING.sub("", event.what))
        found = _SHARD_ID.search(event.what)
        if found is not None and (shard := self._shards.get(found[0])) is not None:
            shard.heard_at = self._clock.monotonic()

    def _on_away(self, event: facts.ProjectionUnavailable) -> None:
        if (shard := self._shards.get(event.shard_id)) is not None:
            shard.away = True

    def _on_caught_up(self, event: facts.ProjectionCaughtUp) -> None:
        if (shard := self._shards.get(event.shard_id)) is not None:
            shard.away = False

    def _on_model(self, event: facts.ModelLoaded) -> None:
        self._held(event.shard_id).model_version = event.model_version

    def _on_shadow(self, event: Any) -> None:
        self._count("streamproc_shadow_users_total", by=event.users)
        self._gauges["streamproc_shadow_overlap_ratio"] = {(): event.overlap_at_10}
        self._gauges["streamproc_shadow_score_drift"] = {(): event.score_drift}

    def _on_started(self, _event: facts.RunnerStarted) -> None:
        self._started = True

    def _on_child_started(self, event: facts.ChildStarted) -> None:
        self._children.add(event.pid)
        self._count("streamproc_child_starts_total")

    def _on_child_ended(self, event: facts.ChildEnded) -> None:
        self._children.discard(event.pid)
        if event.shard_id is not None:
            self._release(event.shard_id)

    def _on_child_failed(self, event: facts.ChildFailed) -> None:
        self._count("streamproc_child_failures_total", str(event.exit_code))
        self._release(event.shard_id)

    def _on_snapshot(self, event: facts.SnapshotAdded) -> None:
        self._gauges["streamproc_snapshot_number"] = {(): event.number}
        self._gauges["streamproc_snapshot_bytes"] = {(): event.snapshot_bytes}

    def _on_sent(self, event: facts.RecordsSent) -> None:
        self._count("streamproc_producer_events_total", event.stream, by=event.events)
        self._count("streamproc_producer_entries_failed_total", event.stream, by=event.entries_failed)
        self._count("streamproc_producer_request_bytes_total", event.stream, by=event.request_bytes)
        self._observe("streamproc_producer_put_seconds", event.seconds, event.stream)
        self._gauges.setdefault("streamproc_producer_events_waiting", {})[(event.stream,)] = event.events_waiting

    def _on_model_offered(self, event: Any) -> None:
        self._count("streamproc_models_offered_total", event.alias)
        self._serves(event.alias, event.model_version)

    def _on_model_rejected(self, event: Any) -> None:
        self._count("streamproc_models_rejected_total", event.alias)
        self._serves(event.alias, event.serving)

    def _serves(self, alias: str, model_version: str | None) -> None:
        others = {labels: 1.0 for labels in self._gauges.get("streamproc_alias_info", {}) if labels[0] != alias}
        self._gauges["streamproc_alias_info"] = (
            others if model_version is None else {**others, (alias, model_version): 1.0}
        )

    def _on_api_started(self, event: Any) -> None:
        self._serves(event.alias, event.model_version)
        for store in event.stores:
            self._on_store(store, away=False)

    def _on_store(self, store: str, *, away: bool) -> None:
        self._gauges.setdefault("streamproc_api_store_away", {})[(store,)] = float(away)

    def _on_request(self, event: Any) -> None:
        self._count("streamproc_api_requests_total", event.route, str(event.status))
        self._observe("streamproc_api_request_seconds", event.seconds, event.route)

    def _on_events(self, event: Any) -> None:
        for outcome in ("stored", "refused", "not_acknowledged"):
            self._count("streamproc_api_events_total", outcome, by=getattr(event, outcome))


def _named(kind: Kind) -> list[str]:
    return [metric.name for metric in METRICS.values() if metric.kind is kind]


def _counting(name: str, *, by: str | None = None, labels: tuple[str, ...] = ("shard_id",)) -> Callable[..., None]:
    """A handler that counts the event, or one of its fields."""

    def handle(registry: Registry, event: Any) -> None:
        values = [str(getattr(event, label)) for label in labels]
        registry._count(name, *values, by=getattr(event, by) if by else 1)

    return handle


_HANDLERS: dict[type[TelemetryEvent], Callable[[Registry, Any], None]] = {
    facts.BatchRead: Registry._on_read,
    facts.BatchCommitted: Registry._on_batch,
    facts.Checkpointed: Registry._on_checkpoint,
    facts.LeaseAcquired: Registry._on_acquired,
    facts.LeaseLost: Registry._on_lost,
    facts.ShardEnded: Registry._on_shard_ended,
    facts.Retried: Registry._on_retry,
    facts.ProjectionUnavailable: Registry._on_away,
    facts.ProjectionCaughtUp: Registry._on_caught_up,
    facts.ModelLoaded: Registry._on_model,
    facts.RunnerStarted: Registry._on_started,
    facts.ChildStarted: Registry._on_child_started,
    facts.ChildEnded: Registry._on_child_ended,
    facts.ChildFailed: Registry._on_child_failed,
    facts.SnapshotAdded: Registry._on_snapshot,
    facts.RecordsSent: Registry._on_sent,
    facts.DeadLettered: _counting("streamproc_dead_letters_total", labels=("shard_id", "kind")),
    facts.StateSuperseded: _counting("streamproc_states_superseded_total", by="keys"),
    facts.AggregateDropped: _counting("streamproc_aggregates_dropped_total"),
    facts.PutsDelayed: _counting("streamproc_producer_puts_delayed_total", by="puts_delayed", labels=("stream",)),
    facts.AggregateMisrouted: _counting("streamproc_producer_misrouted_total", by="events", labels=("stream",)),
    facts.RetentionGapFound: _counting("streamproc_retention_gaps_total"),
    facts.ReplayedSkipped: _counting("streamproc_replays_skipped_total"),
    facts.TelemetryDropped: _counting("streamproc_telemetry_dropped_total", by="events", labels=()),
}
#: Events of the KCL runner, of the recommender and of the API, by name: what sums knows nothing that runs.
_HANDLERS_BY_NAME: dict[str, Callable[[Registry, Any], None]] = {
    "streamproc.model_offered": Registry._on_model_offered,
    "streamproc.model_rejected": Registry._on_model_rejected,
    "streamproc.shadow_compared": Registry._on_shadow,
    "streamproc.daemon_died": _counting("streamproc_daemon_restarts_total", labels=()),
    "streamproc.child_killed": _counting("streamproc_children_killed_total", labels=()),
    "streamproc.shard_stuck": _counting("streamproc_shards_stuck_total"),
    "streamproc.leader_lock_stale": _counting("streamproc_leader_locks_stale_total", labels=()),
    "streamproc.api_started": Registry._on_api_started,
    "streamproc.request_answered": Registry._on_request,
    "streamproc.list_answered": _counting("streamproc_api_lists_total", labels=("fallback", "state_source")),
    "streamproc.events_answered": Registry._on_events,
    "streamproc.store_away": lambda registry, event: registry._on_store(event.store, away=True),
    "streamproc.store_back": lambda registry, event: registry._on_store(event.store, away=False),
}
