"""Subscribers to telemetry, logs and metrics; and :func:`serve`, which puts a host's metrics together."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Literal

from streamproc.errors import MissingExtra, SettingsError
from streamproc.health import STALL_SECONDS
from streamproc.metrics.emf import EmfWriter
from streamproc.metrics.endpoint import Response, health_routes, listening
from streamproc.registry import Registry
from streamproc.telemetry import MetricsServed, Telemetry

Exporter = Literal["none", "prometheus", "emf"]


@contextmanager
def serve(
    telemetry: Telemetry,
    *,
    application: str,
    exporter: Exporter | None = None,
    port: int | None = None,
    address: str = "127.0.0.1",
    stop: threading.Event | None = None,
    stall_seconds: float = STALL_SECONDS,
    shards: bool = True,
) -> Iterator[Telemetry]:
    """Export the metrics and the health of this host while the block runs.

    With a port there are ``/healthz`` and ``/readyz``, and ``/metrics`` with the exporter ``prometheus``, which is the
    default then. ``emf`` writes lines to standard output. Once ``stop`` is set the host counts as draining.
    Without ``shards`` there is no health, which is judged by them: for a process that reads no stream.

    Yields the telemetry that feeds the metrics and nothing else: where events of other processes go, which wrote their
    own logs. Raises SettingsError where the options do not fit or the address cannot be used, and MissingExtra.
    """
    exporter = exporter or ("none" if port is None else "prometheus")
    registry = Registry()
    measured = Telemetry()
    with ExitStack() as stack:
        draining = stop.is_set if stop is not None else lambda: False
        routes = health_routes(registry, draining, stall_seconds) if shards else {}
        if exporter == "prometheus":
            if port is None:
                raise SettingsError("--metrics prometheus needs --metrics-port, the port that Prometheus scrapes")
            routes["/metrics"] = _exposition(registry)
        if port is not None:
            if not routes:
                raise SettingsError(
                    f"--metrics-port is for --metrics prometheus, and {exporter} has nothing to serve there"
                )
            url = stack.enter_context(listening(address, port, routes))
            telemetry.emit(MetricsServed(url=url))
        if exporter != "none" or port is not None:
            measured.subscribe(registry)
        if exporter == "emf":
            emf = EmfWriter(registry, application)
            stack.callback(emf.close)
            measured.subscribe(emf)
        telemetry.subscribe(measured.emit)
        yield measured


def _exposition(registry: Registry) -> Callable[[], Response]:
    try:
        from streamproc.metrics.prometheus import exposition
    except ModuleNotFoundError as error:
        raise MissingExtra(
            f"the metrics for Prometheus need an extra ({error.name} is missing): pip install 'streamproc[prometheus]',"
            " or take --metrics emf or none"
        ) from error
    content_type, render = exposition(registry)
    return lambda: Response(200, content_type, render())
