"""The registry in Prometheus' exposition format, with the process' own memory, CPU and descriptors."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric as PrometheusMetric,
)
from prometheus_client.registry import Collector

from streamproc.metric import Kind
from streamproc.registry import Distribution, Registry


class _Families(Collector):
    """What prometheus_client asks at each scrape."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def collect(self) -> Iterator[PrometheusMetric]:
        for metric, values in self._registry.collect():
            family: CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily
            if metric.kind is Kind.HISTOGRAM:
                family = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
            elif metric.kind is Kind.COUNTER:
                family = CounterMetricFamily(metric.name, metric.help, labels=metric.labels)
            else:
                family = GaugeMetricFamily(metric.name, metric.help, labels=metric.labels)
            for labels, value in values.items():
                if isinstance(family, HistogramMetricFamily):
                    assert isinstance(value, Distribution)  # noqa: S101  # narrows for mypy: what a histogram holds
                    bounds = [*map(str, metric.buckets), "+Inf"]
                    family.add_metric(labels, list(zip(bounds, value.cumulated, strict=True)), value.sum)
                else:
                    assert not isinstance(value, Distribution)  # noqa: S101  # likewise
                    family.add_metric(labels, value)
            yield family


def exposition(registry: Registry) -> tuple[str, Callable[[], bytes]]:
    """The content type, and what renders a scrape."""
    collectors = CollectorRegistry()
    collectors.register(_Families(registry))
    ProcessCollector(registry=collectors)
    return CONTENT_TYPE_LATEST, lambda: generate_latest(collectors)
