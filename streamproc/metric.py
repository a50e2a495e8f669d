"""What is measured: every metric by name, with its kind, its labels and its meaning in a few words.

Names follow Prometheus: base units, ``_total`` for what only grows, ``_info`` for a 1 whose labels say something.
"""

from __future__ import annotations

from enum import Enum

import msgspec


class Kind(Enum):
    """How a metric behaves."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Metric(msgspec.Struct, frozen=True):
    """The definition of a metric. ``buckets`` are upper bounds, inclusive."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
#: Of every metric that a shard has for itself.
SHARD = ("shard_id",)
#: Coarser, since there are many: six steps a shard.
_STEP_SECONDS = (0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10.0)
_RECORDS = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1_000.0, 3_000.0, 10_000.0)
_COUNTER, _GAUGE, _HISTOGRAM = Kind.COUNTER, Kind.GAUGE, Kind.HISTOGRAM

METRICS = {
    metric.name: metric
    for metric in (
        Metric("streamproc_iterator_age_seconds", _GAUGE, "How far the last read was behind the newest record", SHARD),
        Metric("streamproc_batch_records", _HISTOGRAM, "Records of a batch", SHARD, _RECORDS),
        Metric("streamproc_batch_seconds", _HISTOGRAM, "One batch, from decode to project", SHARD, _SECONDS),
        Metric(
            "streamproc_batch_step_seconds",
            _HISTOGRAM,
            "One step of one batch: decode, load, fold, emit, publish, project",
            ("shard_id", "step"),
            _STEP_SECONDS,
        ),
        Metric("streamproc_events_folded_total", _COUNTER, "Events that went into a state", SHARD),
        Metric("streamproc_events_skipped_total", _COUNTER, "Events that their state held already", SHARD),
        Metric("streamproc_outputs_published_total", _COUNTER, "Outputs that the sink acknowledged", SHARD),
        Metric("streamproc_dead_letters_total", _COUNTER, "Records and outputs put aside", ("shard_id", "kind")),
        Metric("streamproc_checkpoint_seconds", _HISTOGRAM, "Making one checkpoint durable", SHARD, _SECONDS),
        Metric("streamproc_checkpoint_age_seconds", _GAUGE, "How long the oldest batch waits to be durable", SHARD),
        Metric("streamproc_states_written_total", _COUNTER, "States made durable", SHARD),
        Metric("streamproc_states_superseded_total", _COUNTER, "Writes refused: a later state was there", SHARD),
        Metric("streamproc_leases_held", _GAUGE, "Shards that this host reads"),
        Metric("streamproc_leases_acquired_total", _COUNTER, "Leases taken", SHARD),
        Metric("streamproc_leases_lost_total", _COUNTER, "Leases that another worker took", SHARD),
        Metric("streamproc_shards_ended_total", _COUNTER, "Shards read to their end", SHARD),
        Metric("streamproc_projection_away", _GAUGE, "1 while the projection cannot be written", SHARD),
        Metric("streamproc_aggregates_dropped_total", _COUNTER, "KPL aggregates dropped as KCL drops them", SHARD),
        Metric("streamproc_retention_gaps_total", _COUNTER, "Checkpoints older than the retention", SHARD),
        Metric("streamproc_replays_skipped_total", _COUNTER, "Replayed dead letters not folded", SHARD),
        Metric("streamproc_model_info", _GAUGE, "1, the model version in force", ("shard_id", "model_version")),
        Metric("streamproc_models_offered_total", _COUNTER, "Bundles fetched and proven", ("alias",)),
        Metric("streamproc_models_rejected_total", _COUNTER, "Bundles that cannot be used", ("alias",)),
        Metric(
            "streamproc_alias_info", _GAUGE, "1, the model version that serves an alias", ("alias", "model_version")
        ),
        Metric("streamproc_shadow_users_total", _COUNTER, "Users whom the shadow ranked for, too"),
        Metric("streamproc_shadow_overlap_ratio", _GAUGE, "Share of the published items that the shadow has, too"),
        Metric("streamproc_shadow_score_drift", _GAUGE, "The shadow's probabilities less the published ones"),
        Metric("streamproc_retries_total", _COUNTER, "Calls tried again after an error that passes", ("what",)),
        Metric("streamproc_emit_time_ratio", _GAUGE, "Share of batch time in the application's emit, last minute"),
        Metric("streamproc_children", _GAUGE, "Processes of shards that are alive"),
        Metric("streamproc_child_starts_total", _COUNTER, "Processes of shards that were started"),
        Metric("streamproc_child_failures_total", _COUNTER, "Processes of shards that failed", ("exit_code",)),
        Metric("streamproc_daemon_restarts_total", _COUNTER, "KCL's daemon ended and was started again"),
        Metric("streamproc_children_killed_total", _COUNTER, "Processes that hung in the application's code"),
        Metric("streamproc_shards_stuck_total", _COUNTER, "Shards that stood still for long", SHARD),
        Metric("streamproc_leader_locks_stale_total", _COUNTER, "Locks of a leader that is gone"),
        Metric("streamproc_telemetry_dropped_total", _COUNTER, "Events of children lost on their way here"),
        Metric("streamproc_snapshot_number", _GAUGE, "The last snapshot that this host added"),
        Metric("streamproc_snapshot_bytes", _GAUGE, "Its size"),
        Metric("streamproc_producer_events_total", _COUNTER, "Events in PutRecords calls", ("stream",)),
        Metric("streamproc_producer_entries_failed_total", _COUNTER, "Entries that Kinesis refused", ("stream",)),
        Metric("streamproc_producer_puts_delayed_total", _COUNTER, "Puts that waited for room in memory", ("stream",)),
        Metric("streamproc_producer_misrouted_total", _COUNTER, "Events sent again after a reshard", ("stream",)),
        Metric("streamproc_producer_request_bytes_total", _COUNTER, "Bytes in PutRecords calls", ("stream",)),
        Metric("streamproc_producer_put_seconds", _HISTOGRAM, "One PutRecords call", ("stream",), _SECONDS),
        Metric("streamproc_producer_events_waiting", _GAUGE, "Events put and not yet acknowledged", ("stream",)),
        Metric("streamproc_api_requests_total", _COUNTER, "HTTP requests answered", ("route", "status")),
        Metric("streamproc_api_request_seconds", _HISTOGRAM, "One HTTP request", ("route",), _SECONDS),
        Metric("streamproc_api_lists_total", _COUNTER, "Lists by what they lack", ("fallback", "state_source")),
        Metric("streamproc_api_events_total", _COUNTER, "Events sent to the API", ("outcome",)),
        Metric("streamproc_api_store_away", _GAUGE, "1 while lists are made without the store", ("store",)),
    )
}
