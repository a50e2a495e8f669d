"""Serves the API with uvicorn until a signal."""

from __future__ import annotations

import math
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import FrameType

import uvicorn
from litestar.types import ControllerRouterHandler

from streamproc.errors import SettingsError
from streamproc.memory import settle_memory
from streamproc.metrics.logs import LogWriter
from streamproc.telemetry import Telemetry
from streamproc_consumers.api.app import create_app
from streamproc_consumers.api.facts import ApiStarted
from streamproc_consumers.api.services import open_services
from streamproc_consumers.api.settings import ApiSettings

#: Requests under way at the end have so long beyond what an event may wait for Kinesis.
_DRAIN_SECONDS = 5


def serve(
    settings: ApiSettings,
    *,
    extra: Sequence[ControllerRouterHandler] = (),
    json_logs: bool | None = None,
    measured: Callable[[Telemetry], AbstractContextManager[object]] = nullcontext,
) -> bool:
    """Serve until SIGTERM or SIGINT; whether it was SIGINT. Requests under way are answered, but for a second signal.

    ``measured`` exports what the telemetry tells, as :func:`streamproc.metrics.serve` does. Raises what it raises,
    SettingsError where the address cannot be used, and what :func:`open_services` raises.
    """
    log = LogWriter(json=not sys.stderr.isatty() if json_logs is None else json_logs)
    telemetry = Telemetry(log)
    try:
        with _listener(settings) as listener, measured(telemetry):
            services = open_services(settings, telemetry)
            app = create_app(settings, extra=extra, services=services)
            host, port = listener.getsockname()[:2]
            config = uvicorn.Config(
                app,
                log_config=None,
                log_level="warning",
                access_log=False,
                server_header=False,
                date_header=True,
                lifespan="on",
                timeout_graceful_shutdown=math.ceil(settings.acknowledge_seconds) + _DRAIN_SECONDS,
            )
            server = _Server(config)
            interrupted = _remember_interrupt()
            settle_memory()  # as every runner does
            shown = f"[{host}]" if ":" in host else host
            telemetry.emit(
                ApiStarted(
                    url=f"http://{shown}:{port}",
                    alias=services.rankings.alias,
                    model_version=services.rankings.model_version,
                    namespace=str(services.states.namespace),
                    stores=[breaker.store for breaker in (services.states.redis, services.states.dynamodb)],
                )
            )
            server.run(sockets=[listener])
            return bool(interrupted)
    finally:
        log.close()


class _Server(uvicorn.Server):
    """Ends at once at the second signal, as every runner does: whoever sends it does not wait for Kinesis."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """See uvicorn."""
        if self.should_exit:
            os._exit(128 + sig)
        super().handle_exit(sig, frame)


def _listener(settings: ApiSettings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise SettingsError(
            f"--host {settings.host} --port {settings.port} cannot be used ({error.strerror or error}): stop what"
            " listens there, or give another port; 0 takes a free one"
        ) from error
    return listener


def _remember_interrupt() -> list[int]:
    """What uvicorn hands on after it has stopped: it raises each signal that it got once more."""
    interrupted: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            interrupted.append(number)

    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, note)
    return interrupted
