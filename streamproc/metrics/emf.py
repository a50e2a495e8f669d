"""The registry as lines of CloudWatch's embedded metric format (EMF): no agent to scrape, no PutMetricData to pay for.

One flush writes a line for each set of dimensions; CloudWatch Logs makes metrics of them, whichever way the lines get
there (the awslogs driver, the CloudWatch agent, Fluent Bit). CloudWatch bills each combination of dimension values as a
metric of its own, so a shard is none: counters are summed over the shards of the host, and a gauge is an array with
the value of each shard, of which an alarm takes the maximum. What each shard has is in ``shards``, for Logs Insights.

A counter is its increase since the flush before. Of histograms there is the increase of their sum and count, and of
``streamproc_batch_seconds`` every single value, so that percentiles are exact.
"""

from __future__ import annotations

import logging
import socket
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TextIO, TypeVar

import msgspec

from streamproc.clock import Clock, SystemClock
from streamproc.metric import Kind
from streamproc.registry import Distribution, Family, HostView, Labels, Registry
from streamproc.telemetry import BatchCommitted, TelemetryEvent

NAMESPACE = "streamproc"
# "Specification: Embedded metric format" in the CloudWatch user guide: metrics of a line, values of an array,
# characters of a dimension's value.
METRICS_PER_LINE_MAX = 100
VALUES_MAX = 100
DIMENSION_CHARACTERS_MAX = 1024
_DISTRIBUTED = "streamproc_batch_seconds"
#: What would be a dimension of its own for every model; of shards it is a field of the line instead.
_INFO = "_info"

_logger = logging.getLogger("streamproc")
T = TypeVar("T")
Value = float | list[float]
Dimensions = tuple[tuple[str, str], ...]


class EmfWriter:
    """A subscriber that writes the registry's metrics to a stream, standard output by default, every N seconds.

    It must see the events that the registry sees. Close it to write the last interval.
    """

    def __init__(
        self,
        registry: Registry,
        application: str,
        stream: TextIO | None = None,
        *,
        interval_seconds: float = 60.0,
        clock: Clock | None = None,
    ) -> None:
        self._registry = registry
        self._fields = {"application": application, "host": socket.gethostname()}
        self._stream = stream or sys.stdout
        self._interval_seconds = interval_seconds
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._batch_seconds: list[float] = []
        self._increases = Increases()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._tick, name="streamproc-emf", daemon=True)
        self._thread.start()

    def __call__(self, event: TelemetryEvent) -> None:
        """Take an event."""
        if isinstance(event, BatchCommitted):
            with self._lock:
                self._batch_seconds.append(event.batch_seconds)

    def close(self) -> None:
        """Write what the last interval held, and stop."""
        self._closed.set()
        self._thread.join()
        self.flush()

    def flush(self) -> None:
        """Write the lines now."""
        with self._lock:
            batch_seconds, self._batch_seconds = self._batch_seconds, []
        view, families = self._registry.view(), self._registry.collect()
        lines = emf_lines(
            self._increases.since_last(families),
            batch_seconds,
            fields={**self._fields, **_by_shard(view)},
            now_ms=int(self._clock.time() * 1000),
        )
        text = b"".join(msgspec.json.encode(line) + b"\n" for line in lines).decode()
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError) as error:  # a pipe that nobody reads must not end the process, or the metrics
            _logger.warning("the metrics of the last %s s could not be written: %s", self._interval_seconds, error)

    def _tick(self) -> None:
        while not self._clock.wait(self._interval_seconds, self._closed):
            self.flush()


class Increases:
    """Turns what only grows into what it grew by. A series that begins, or begins again, grew by all it has."""

    def __init__(self) -> None:
        self._last: dict[tuple[str, Labels], float] = {}

    def since_last(self, families: Sequence[Family]) -> Iterator[tuple[str, Dimensions, Kind, float]]:
        """Name, labels, kind and value of each series; a histogram becomes the counters of its sum and its count."""
        last, self._last = self._last, {}
        for metric, values in families:
            for labels, value in values.items():
                named = tuple(zip(metric.labels, labels, strict=True))
                if metric.kind is Kind.GAUGE:
                    assert not isinstance(value, Distribution)  # noqa: S101  # narrows for mypy
                    yield metric.name, named, Kind.GAUGE, value
                    continue
                for name, grown in _grown(metric.name, value):
                    self._last[(name, labels)] = grown
                    before = last.get((name, labels), 0.0)
                    yield name, named, Kind.COUNTER, grown - before if grown >= before else grown


def _grown(name: str, value: float | Distribution) -> list[tuple[str, float]]:
    if isinstance(value, Distribution):
        return [(f"{name}_sum", value.sum), (f"{name}_count", float(value.cumulated[-1]))]
    return [(name, value)]


def emf_lines(
    series: Iterator[tuple[str, Dimensions, Kind, float]],
    batch_seconds: Sequence[float],
    *,
    fields: Mapping[str, Any],
    now_ms: int,
) -> Iterator[dict[str, Any]]:
    """The documents of one flush. ``fields`` are in each of them; ``application`` must be among them."""
    grouped: dict[Dimensions, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for name, labels, kind, value in series:
        if name.endswith(_INFO) or name.startswith(f"{_DISTRIBUTED}_"):
            continue
        dimensions = tuple((label, text) for label, text in labels if label != "shard_id")
        values = grouped[dimensions][name]
        if kind is Kind.COUNTER and values:
            values[0] += value
        else:
            values.append(value)
    for dimensions, metrics in grouped.items():
        for part in _in_parts(list(metrics.items()), METRICS_PER_LINE_MAX):
            yield _line(dict(part), dimensions, fields, now_ms)
    for values_part in _in_parts(batch_seconds, VALUES_MAX):
        yield _line({_DISTRIBUTED: list(values_part)}, (), fields, now_ms)


def _line(
    metrics: dict[str, list[float]], dimensions: Dimensions, fields: Mapping[str, Any], now_ms: int
) -> dict[str, Any]:
    directive = {
        "Namespace": NAMESPACE,
        "Dimensions": [["application", *(label for label, _ in dimensions)]],
        "Metrics": [{"Name": name, "Unit": _unit(name)} for name in metrics],
    }
    return {
        "_aws": {"Timestamp": now_ms, "CloudWatchMetrics": [directive]},
        **fields,
        **{label: text[:DIMENSION_CHARACTERS_MAX] or "-" for label, text in dimensions},
        **{name: _value(values) for name, values in metrics.items()},
    }


def _value(values: list[float]) -> Value:
    """One number, or the values of the shards: the greatest ones where there are too many, which an alarm looks at."""
    return values[0] if len(values) == 1 else sorted(values)[-VALUES_MAX:]


def _unit(name: str) -> str:
    for suffix, unit in (("_seconds", "Seconds"), ("_bytes", "Bytes"), ("_ratio", "None")):
        if name.removesuffix("_total").removesuffix("_sum").endswith(suffix):
            return unit
    return "Count"


def _by_shard(view: HostView) -> dict[str, Any]:
    shards = {
        shard_id: {
            "iterator_age_seconds": shard.iterator_age_seconds,
            "checkpoint_age_seconds": round(shard.checkpoint_age_seconds, 3),
        }
        for shard_id, shard in view.shards.items()
    }
    versions = sorted({shard.model_version for shard in view.shards.values() if shard.model_version is not None})
    return {"shards": shards, "model_versions": versions}


def _in_parts(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (items[start : start + size] for start in range(0, len(items), size))
