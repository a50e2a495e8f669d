"""The lines for CloudWatch: within the limits of the specification, sums that add up, and no bill for shards."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from streamproc import telemetry as facts
from streamproc.metric import Kind, Metric
from streamproc.metrics.emf import EmfWriter, Increases, emf_lines
from streamproc.registry import Registry

# From the JSON schema of the "Specification: Embedded metric format".
UNITS = re.compile(r"Seconds|Microseconds|Milliseconds|Bytes|Kilobytes|Megabytes|Percent|Count|Count/Second|None")
SHARDS = [f"shardId-{number:012d}" for number in range(3)]


def check_against_the_specification(line: dict[str, Any]) -> None:
    metadata = line["_aws"]
    assert isinstance(metadata["Timestamp"], int)
    assert metadata["CloudWatchMetrics"]
    for directive in metadata["CloudWatchMetrics"]:
        assert 1 <= len(directive["Namespace"]) <= 1024
        assert len(directive["Metrics"]) <= 100
        for dimensions in directive["Dimensions"]:
            assert len(dimensions) <= 30
            for name in dimensions:
                assert isinstance(line[name], str)
                assert 1 <= len(line[name]) <= 1024
        for metric in directive["Metrics"]:
            assert UNITS.fullmatch(metric["Unit"])
            value = line[metric["Name"]]
            values = value if isinstance(value, list) else [value]
            assert len(values) <= 100
            assert all(isinstance(each, (int, float)) and not isinstance(each, bool) for each in values)
    assert len(json.dumps(line)) < 256 * 1024


def committed(shard_id: str, seconds: float = 0.04, behind: int = 0) -> facts.BatchCommitted:
    return facts.BatchCommitted(
        shard_id=shard_id,
        records=10,
        events_folded=10,
        events_skipped=0,
        outputs=4,
        batch_seconds=seconds,
        step_seconds={"emit": seconds / 2, "fold": seconds / 2},
        millis_behind_latest=behind,
    )


class Written:
    """A writer that flushes when it is told to, and what it wrote."""

    def __init__(self, clock: Any) -> None:
        self.registry = Registry(clock)
        self._stream = io.StringIO()
        self.writer = EmfWriter(self.registry, "shop", self._stream, interval_seconds=3600)

    def take(self, *events: facts.TelemetryEvent) -> None:
        for event in events:
            self.registry(event)
            self.writer(event)

    def lines(self) -> list[dict[str, Any]]:
        """What a flush writes."""
        self._stream.seek(0)
        self._stream.truncate()
        self.writer.flush()
        return [json.loads(line) for line in self._stream.getvalue().splitlines()]


@pytest.fixture
def written(manual_clock: Callable[[], Any]) -> Any:
    written = Written(manual_clock())
    yield written
    written.writer.close()


def metric(lines: list[dict[str, Any]], name: str, **dimensions: str) -> Any:
    """The value of a metric with exactly these dimensions beside the application."""
    for line in lines:
        (directive,) = line["_aws"]["CloudWatchMetrics"]
        names = [each["Name"] for each in directive["Metrics"]]
        (keys,) = directive["Dimensions"]
        if name in names and {key: line[key] for key in keys} == {"application": "shop", **dimensions}:
            return line[name]
    return None


def test_every_line_is_within_the_specification(written: Any) -> None:
    for number in range(250):
        written.take(committed(f"shardId-{number:012d}", behind=number * 1000))
        written.take(facts.Retried(what="x" * 2000 + "y" * (number % 3), error="e", attempt=1, wait_seconds=0.1))
    written.take(facts.ModelLoaded(shard_id=SHARDS[0], model_version="v7"))
    lines = written.lines()
    for line in lines:
        check_against_the_specification(line)
    ages = metric(lines, "streamproc_iterator_age_seconds")
    assert len(ages) == 100
    assert max(ages) == 249, "an alarm on the maximum sees the shard that is furthest behind"


def test_more_than_a_hundred_metrics_are_several_lines() -> None:
    series = ((f"m{number}", (), Kind.COUNTER, 1.0) for number in range(250))
    lines = list(emf_lines(series, [], fields={"application": "shop"}, now_ms=1))
    assert [len(line["_aws"]["CloudWatchMetrics"][0]["Metrics"]) for line in lines] == [100, 100, 50]
    for line in lines:
        check_against_the_specification(line)


def test_counters_are_summed_over_the_shards_and_are_what_came_since_the_last_flush(written: Any) -> None:
    written.take(*map(committed, SHARDS), committed(SHARDS[0]))
    lines = written.lines()
    assert metric(lines, "streamproc_events_folded_total") == 40
    assert metric(lines, "streamproc_batch_step_seconds_sum", step="emit") == pytest.approx(0.08)
    written.take(committed(SHARDS[1]))
    assert metric(written.lines(), "streamproc_events_folded_total") == 10
    assert metric(written.lines(), "streamproc_events_folded_total") == 0


def test_batch_seconds_have_every_value_once(written: Any) -> None:
    seconds = [number / 1000 for number in range(1, 231)]
    written.take(*(committed(SHARDS[0], each) for each in seconds))
    values = [line["streamproc_batch_seconds"] for line in written.lines() if "streamproc_batch_seconds" in line]
    assert [len(each) for each in values] == [100, 100, 30]
    assert sorted(value for each in values for value in each) == seconds
    assert not any("streamproc_batch_seconds" in line for line in written.lines())


def test_a_shard_and_a_model_version_are_fields_and_not_dimensions(written: Any) -> None:
    written.take(committed(SHARDS[0], behind=1500), facts.ModelLoaded(shard_id=SHARDS[0], model_version="v7"))
    for line in written.lines():
        (directive,) = line["_aws"]["CloudWatchMetrics"]
        assert set(directive["Dimensions"][0]) <= {"application", "step", "kind", "what", "exit_code", "stream"}
        assert line["shards"][SHARDS[0]]["iterator_age_seconds"] == 1.5
        assert line["model_versions"] == ["v7"]


def test_a_series_that_begins_again_is_not_negative() -> None:
    increases = Increases()
    counter = Metric("c_total", Kind.COUNTER, "c", ("shard_id",))
    assert [value for *_, value in increases.since_last([(counter, {("a",): 5.0})])] == [5]
    assert [*increases.since_last([(counter, {})])] == []
    assert [value for *_, value in increases.since_last([(counter, {("a",): 2.0})])] == [2]
    assert [value for *_, value in increases.since_last([(counter, {("a",): 1.0})])] == [1]


def test_closing_writes_the_last_interval() -> None:
    registry, stream = Registry(), io.StringIO()
    writer = EmfWriter(registry, "shop", stream, interval_seconds=3600)
    registry(committed(SHARDS[0]))
    writer.close()
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert metric(lines, "streamproc_events_folded_total") == 10


def test_a_stream_that_is_closed_is_a_warning_and_the_next_interval_is_tried(
    written: Any, caplog: pytest.LogCaptureFixture
) -> None:
    broken = io.StringIO()
    broken.close()
    working, written.writer._stream = written.writer._stream, broken
    written.take(committed(SHARDS[0]))
    written.writer.flush()
    assert "could not be written" in caplog.text
    written.writer._stream = working
    written.take(committed(SHARDS[0]))
    assert metric(written.lines(), "streamproc_events_folded_total") == 10
