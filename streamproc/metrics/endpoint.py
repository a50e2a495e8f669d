"""The host's HTTP endpoint: ``/healthz``, ``/readyz`` and, where there is an exporter for it, ``/metrics``."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import AF_INET6
from typing import Any

import msgspec

from streamproc.errors import SettingsError
from streamproc.health import Verdict, health, readiness
from streamproc.registry import HostView, Registry

_logger = logging.getLogger("streamproc")
#: A client that sends or reads nothing for so long is cut off, so that its thread ends.
_CLIENT_SECONDS = 10.0


class Response(msgspec.Struct, frozen=True):
    """What a path answers."""

    status: int
    content_type: str
    body: bytes


Routes = dict[str, Callable[[], Response]]


def health_routes(registry: Registry, draining: Callable[[], bool], stall_seconds: float) -> Routes:
    """``/healthz`` and ``/readyz``: 200 or 503, with the reason and each shard's figures as JSON."""

    def healthz() -> Response:
        host = registry.view()
        return _judged(health(host, draining=draining(), stall_seconds=stall_seconds), host)

    def readyz() -> Response:
        host = registry.view()
        return _judged(readiness(host, draining=draining()), host)

    return {"/healthz": healthz, "/readyz": readyz}


def _judged(verdict: Verdict, host: HostView) -> Response:
    status = "ok" if verdict.ok else "unavailable"
    body = msgspec.json.encode({"status": status, "reason": verdict.reason, **_rounded(host)})
    return Response(200 if verdict.ok else 503, "application/json", body + b"\n")


def _rounded(host: HostView) -> dict[str, Any]:
    """The fields, floats to the millisecond."""

    def rounded(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: rounded(item) for key, item in value.items()}
        return round(value, 3) if isinstance(value, float) else value

    return {key: rounded(value) for key, value in msgspec.to_builtins(host).items()}


@contextmanager
def listening(address: str, port: int, routes: Routes) -> Iterator[str]:
    """Serve the routes in threads of their own; yields the URL. Port 0 takes a free one.

    Raises SettingsError where the address cannot be used.
    """
    try:
        server = _server_class(address)((address, port), _handler(routes))
    except (OSError, OverflowError) as error:
        raise SettingsError(
            f"--metrics-port {port}, --metrics-address {address}: cannot listen there: {error}; give a free port, or 0"
            " for any"
        ) from error
    thread = threading.Thread(target=server.serve_forever, args=[0.1], name="streamproc-http", daemon=True)
    thread.start()
    try:
        host = f"[{address}]" if ":" in address else address
        yield f"http://{host}:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _server_class(address: str) -> type[ThreadingHTTPServer]:
    class Server(ThreadingHTTPServer):
        daemon_threads = True
        block_on_close = False  # a slow client must not hold up the end of the process

        def handle_error(self, request: object, client_address: object) -> None:
            """A client that went away is not worth a traceback."""

    if ":" in address:
        Server.address_family = AF_INET6
    return Server


def _answer(route: Callable[[], Response]) -> Response:
    try:
        return route()
    except Exception:  # a scrape that fails must show on both ends
        _logger.exception("the metrics or the health of this host could not be told")
        return Response(500, "text/plain", b"an error of the host; its log has it\n")


def _handler(routes: Routes) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = _CLIENT_SECONDS
        server_version = "streamproc"
        sys_version = ""

        def do_GET(self) -> None:  # http.server's name
            route = routes.get(self.path.partition("?")[0])
            if route is None:
                response = Response(404, "text/plain", f"here are {', '.join(sorted(routes))}\n".encode())
            else:
                response = _answer(route)
            self.send_response(response.status)
            self.send_header("Content-Type", response.content_type)
            self.send_header("Content-Length", str(len(response.body)))
            self.end_headers()
            self.wfile.write(response.body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # http.server's name
            """A scrape every few seconds is no news."""

    return Handler
