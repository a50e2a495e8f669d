"""The registry, and health and readiness as judged from it, on synthetic events and a clock that the tests move."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

import streamproc_consumers.api.facts
import streamproc_consumers.facts  # noqa: F401  # their events are metrics, too
from streamproc import telemetry as facts
from streamproc.health import health, readiness
from streamproc.metric import METRICS, Kind
from streamproc.registry import RELEASED_KEPT_SECONDS, Distribution, Registry
from streamproc.runners.kcl.runner import DaemonDied
from streamproc.runners.kcl.watchdog import ShardStuck
from streamproc.telemetry import TelemetryEvent

PAGE = Path(__file__).parents[3] / "docs" / "telemetry.md"
ONE, TWO = "shardId-000000000001", "shardId-000000000002"


def read(shard_id: str = ONE, records: int = 0, behind: int = 0) -> facts.BatchRead:
    return facts.BatchRead(shard_id=shard_id, records=records, millis_behind_latest=behind)


def committed(shard_id: str = ONE, **changes: Any) -> facts.BatchCommitted:
    fields: dict[str, Any] = {
        "records": 12,
        "events_folded": 10,
        "events_skipped": 1,
        "outputs": 7,
        "batch_seconds": 0.04,
        "step_seconds": {"decode": 0.01, "emit": 0.03},
        "millis_behind_latest": 1500,
    }
    return facts.BatchCommitted(shard_id=shard_id, **(fields | changes))


def checkpointed(shard_id: str = ONE) -> facts.Checkpointed:
    return facts.Checkpointed(shard_id=shard_id, position="p", states_written=5, seconds=0.2)


def acquired(shard_id: str = ONE) -> facts.LeaseAcquired:
    return facts.LeaseAcquired(shard_id=shard_id, checkpoint="TRIM_HORIZON")


def retried(what: str) -> facts.Retried:
    return facts.Retried(what=what, error="slow down", attempt=1, wait_seconds=0.1)


class Host:
    """A registry that was given events."""

    def __init__(self, clock: Any) -> None:
        self.clock = clock
        self.registry = Registry(clock)

    def take(self, *events: TelemetryEvent) -> None:
        for event in events:
            self.registry(event)

    def value(self, name: str, *labels: str) -> float | None:
        found = self.values(name).get(labels)
        assert not isinstance(found, Distribution)
        return found

    def values(self, name: str) -> dict[tuple[str, ...], float | Distribution]:
        return next(dict(values) for metric, values in self.registry.collect() if metric.name == name)

    def healthy(self, *, draining: bool = False) -> tuple[bool, str]:
        verdict = health(self.registry.view(), draining=draining, stall_seconds=60)
        return verdict.ok, verdict.reason

    def ready(self, *, draining: bool = False) -> tuple[bool, str]:
        verdict = readiness(self.registry.view(), draining=draining)
        return verdict.ok, verdict.reason


@pytest.fixture
def host(manual_clock: Callable[[], Any]) -> Host:
    return Host(manual_clock())


def test_batches_are_summed_by_shard(host: Host) -> None:
    host.take(committed(), committed(), committed(TWO, events_folded=3))
    assert host.value("streamproc_events_folded_total", ONE) == 20
    assert host.value("streamproc_events_folded_total", TWO) == 3
    assert host.value("streamproc_events_skipped_total", ONE) == 2
    assert host.value("streamproc_outputs_published_total", ONE) == 14
    assert host.value("streamproc_iterator_age_seconds", ONE) == 1.5
    step = host.values("streamproc_batch_step_seconds")[(ONE, "emit")]
    assert isinstance(step, Distribution)
    assert step.sum == pytest.approx(0.06)
    assert step.cumulated[-1] == 2


def test_a_value_on_a_buckets_bound_is_in_the_bucket(host: Host) -> None:
    host.take(committed(records=10), committed(records=11), committed(records=99_999))
    sizes = host.values("streamproc_batch_records")[(ONE,)]
    assert isinstance(sizes, Distribution)
    bounds = METRICS["streamproc_batch_records"].buckets
    assert dict(zip(bounds, sizes.cumulated, strict=False))[10.0] == 1
    assert dict(zip(bounds, sizes.cumulated, strict=False))[30.0] == 2
    assert sizes.cumulated[-2:] == (2, 3)


def test_the_checkpoint_age_is_that_of_the_oldest_batch_that_is_not_durable(host: Host) -> None:
    host.take(acquired(), read())
    host.clock.now += 500  # nothing to make durable
    assert host.value("streamproc_checkpoint_age_seconds", ONE) == 0
    host.take(committed())
    host.clock.now += 3
    host.take(committed())
    host.clock.now += 4
    assert host.value("streamproc_checkpoint_age_seconds", ONE) == 7
    host.take(checkpointed())
    assert host.value("streamproc_checkpoint_age_seconds", ONE) == 0
    assert host.value("streamproc_states_written_total", ONE) == 5
    # A batch came while it was written.
    host.take(committed(), msgspec.structs.replace(checkpointed(), age_seconds=2.0))
    assert host.value("streamproc_checkpoint_age_seconds", ONE) == 2


def test_an_empty_read_moves_the_iterator_age(host: Host) -> None:
    host.take(committed(millis_behind_latest=90_000), read(behind=0))
    assert host.value("streamproc_iterator_age_seconds", ONE) == 0


def test_a_lost_lease_takes_the_shards_gauges_away_and_leaves_its_counters_for_the_next_scrapes(host: Host) -> None:
    host.take(acquired(), committed(), facts.LeaseLost(shard_id=ONE, owner="other"))
    assert host.values("streamproc_iterator_age_seconds") == {}
    assert host.value("streamproc_leases_held") == 0
    assert host.value("streamproc_leases_lost_total", ONE) == 1
    assert host.value("streamproc_events_folded_total", ONE) == 10
    host.clock.now += RELEASED_KEPT_SECONDS + 1
    assert host.value("streamproc_events_folded_total", ONE) is None
    assert host.values("streamproc_batch_step_seconds") == {}


def test_a_shard_that_comes_back_keeps_counting_where_it_was(host: Host) -> None:
    host.take(acquired(), committed(), facts.LeaseLost(shard_id=ONE, owner=None), acquired(), committed())
    host.clock.now += RELEASED_KEPT_SECONDS + 1
    assert host.value("streamproc_events_folded_total", ONE) == 20


def test_retries_are_labelled_without_the_shard_and_without_numbers(host: Host) -> None:
    host.take(
        retried(f"writing states ({ONE})"),
        retried(f"writing states ({TWO})"),
        retried(f"publishing 17 outputs again ({ONE})"),
        retried(f"reading {ONE}"),
        retried("renewing leases"),
    )
    assert host.values("streamproc_retries_total") == {
        ("writing states",): 2,
        ("publishing outputs again",): 1,
        ("reading",): 1,
        ("renewing leases",): 1,
    }


def test_what_goes_wrong_is_counted(host: Host) -> None:
    host.take(
        acquired(),
        facts.DeadLettered(shard_id=ONE, position="p", kind="event", reason="not JSON"),
        facts.StateSuperseded(shard_id=ONE, keys=3),
        facts.ProjectionUnavailable(shard_id=ONE, error="refused", keys_waiting=4),
        DaemonDied(reason="it ended with 1", exit_code=1, wait_seconds=1.0),
        facts.TelemetryDropped(pid=7, events=9),
        facts.RetentionGapFound(shard_id=ONE, checkpoint="c"),
    )
    assert host.value("streamproc_dead_letters_total", ONE, "event") == 1
    assert host.value("streamproc_states_superseded_total", ONE) == 3
    assert host.value("streamproc_projection_away", ONE) == 1
    assert host.value("streamproc_daemon_restarts_total") == 1
    assert host.value("streamproc_telemetry_dropped_total") == 9
    assert host.value("streamproc_retention_gaps_total", ONE) == 1
    host.take(facts.ProjectionCaughtUp(shard_id=ONE, keys=4))
    assert host.value("streamproc_projection_away", ONE) == 0


def test_the_emit_share_and_the_event_rate_are_of_the_last_minute(host: Host) -> None:
    host.clock.now += 100
    host.take(committed(batch_seconds=1.0, step_seconds={"emit": 0.5}, events_folded=60))
    assert host.value("streamproc_emit_time_ratio") == 0.5
    assert host.registry.view().events_per_second == 1
    host.clock.now += 61
    assert host.value("streamproc_emit_time_ratio") == 0
    assert host.registry.view().events_per_second == 0


def test_the_model_version_in_force_is_the_last_one_that_a_shard_loaded(host: Host) -> None:
    host.take(acquired(), facts.ModelLoaded(shard_id=ONE, model_version="v1"))
    host.take(facts.ModelLoaded(shard_id=ONE, model_version="v2"))
    assert host.values("streamproc_model_info") == {(ONE, "v2"): 1}


def test_a_model_that_was_loaded_before_its_lease_was_reported_counts(host: Host) -> None:
    host.take(facts.ModelLoaded(shard_id=ONE, model_version="v1"), acquired())
    assert host.values("streamproc_model_info") == {(ONE, "v1"): 1}


def test_children_are_counted_while_they_live_and_a_dead_ones_shard_is_not_held(host: Host) -> None:
    host.take(facts.ChildStarted(pid=1), facts.ChildStarted(pid=2), acquired(), acquired(TWO))
    assert host.value("streamproc_children") == 2
    host.take(
        facts.ChildFailed(shard_id=ONE, reason="boom", exit_code=8),
        facts.ChildEnded(pid=1, shard_id=ONE),
        facts.ChildEnded(pid=2, shard_id=TWO),
    )
    assert host.value("streamproc_children") == 0
    assert host.value("streamproc_child_starts_total") == 2
    assert host.value("streamproc_child_failures_total", "8") == 1
    assert host.value("streamproc_leases_held") == 0


def test_the_producers_calls_are_counted_by_stream(host: Host) -> None:
    sent = facts.RecordsSent(
        stream="s", events=9, entries=4, entries_failed=1, request_bytes=800, seconds=0.02, events_waiting=5
    )
    host.take(sent, sent)
    assert host.value("streamproc_producer_events_total", "s") == 18
    assert host.value("streamproc_producer_request_bytes_total", "s") == 1600
    assert host.value("streamproc_producer_events_waiting", "s") == 5


def test_a_host_is_healthy_while_its_shards_are_read_and_not_once_one_hangs(host: Host) -> None:
    assert host.healthy() == (True, "no shard is held")
    host.take(acquired(), acquired(TWO), read(), read(TWO))
    host.clock.now += 61
    host.take(read(TWO))
    ok, reason = host.healthy()
    assert not ok
    assert reason == f"nothing was heard of {ONE} for 61 s"
    host.take(read())
    assert host.healthy() == (True, "all shards move: 2")


def test_what_a_watchdog_says_of_a_shard_is_counted_and_is_no_sign_of_progress(host: Host) -> None:
    host.take(acquired(), read())
    host.clock.now += 75
    host.take(ShardStuck(shard_id=ONE, pid=1, seconds=75.0, why="the daemon sends nothing", iterator_age_ms=75_000))
    assert not host.healthy()[0]
    assert host.value("streamproc_shards_stuck_total", ONE) == 1


def test_a_shard_that_waits_for_a_service_and_says_so_is_healthy(host: Host) -> None:
    host.take(acquired(), read())
    for _ in range(10):
        host.clock.now += 30
        host.take(retried(f"writing states ({ONE})"))
        assert host.healthy()[0]


def test_a_shard_is_judged_from_its_first_read_on(host: Host) -> None:
    host.take(acquired())
    host.clock.now += 600  # a model that loads slowly
    assert host.healthy()[0]
    assert host.ready() == (False, f"starting: {ONE} not read yet")


def test_a_host_is_ready_once_each_of_its_shards_was_read(host: Host) -> None:
    assert host.ready() == (False, "starting: no lease is held yet")
    host.take(acquired(), acquired(TWO), read())
    assert not host.ready()[0]
    host.take(committed(TWO))
    assert host.ready() == (True, "all shards are read: 2")


def test_a_host_without_a_lease_is_ready_once_its_runner_looked_for_one(host: Host) -> None:
    host.take(facts.RunnerStarted(runner="kcl"))
    assert host.ready() == (True, "nothing to do: no lease is held")


def test_a_draining_host_is_not_ready_and_not_judged(host: Host) -> None:
    host.take(acquired(), read())
    host.clock.now += 600
    assert not host.ready(draining=True)[0]
    assert host.healthy(draining=True)[0]


def test_every_event_is_taken_and_every_metric_moves_or_is_said_to_be_a_gauge(host: Host) -> None:
    for event_type in TelemetryEvent.__subclasses__():
        if not event_type.__module__.startswith(("streamproc.", "streamproc_consumers.")):
            continue
        fields = {name: _any(hint) for name, hint in event_type.__annotations__.items() if "ClassVar" not in str(hint)}
        host.take(event_type(**fields))
    still = {name for name in METRICS if METRICS[name].kind is not Kind.GAUGE and not any(host.values(name).values())}
    assert still == set()


def _any(hint: str) -> object:
    by_hint: dict[str, object] = {"int": 1, "float": 1.0, "dict[str, float]": {"emit": 1.0}}
    return by_hint.get(hint, ONE)


def test_the_page_names_every_metric_with_its_type_and_labels() -> None:
    rows = re.findall(r"^\| `(streamproc_\w+)` \| (\w+) \|([^|]*)\|", PAGE.read_text(), re.MULTILINE)
    described = {name: (kind, tuple(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}
    assert described == {name: (metric.kind.value, metric.labels) for name, metric in METRICS.items()}


def test_names_follow_prometheus() -> None:
    for metric in METRICS.values():
        assert metric.name.endswith("_total") == (metric.kind is Kind.COUNTER)
        assert list(metric.buckets) == sorted(set(metric.buckets))
