"""A proxy in front of any server that answers over TCP; made for Redis."""

from __future__ import annotations

import select
import socket
import socketserver
from collections import Counter
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit, urlunsplit

from streamproc.errors import SettingsError
from streamproc.testing.proxying.faults import Fault, FaultPlan, ProxyFaults
from streamproc.testing.proxying.server import HOST, SERVICE_SECONDS_MAX, ConnectionServer

_KINDS = (Fault.LATENCY, Fault.CUT, Fault.LOST_REPLY)
_CHUNK_BYTES = 64 * 1024
#: The name of what a client sends, for the plan: the bytes are not understood.
_OPERATION = "request"


class TcpProxy:
    """Passes bytes on, for as long as a ``with`` block lasts, and can be told to fail.

    A *request* is what arrives from a client at once. It can meet LATENCY, CUT (the connection ends, and nothing of the
    request reaches the server) and LOST_REPLY (it reaches the server, and the connection ends where the reply begins).
    A new connection's first requests are the client library's own greeting, so script faults for an open one.

    :meth:`away` cuts every connection and each new one until :meth:`back`. :meth:`point_to` puts the proxy in front of
    another server, as a failover does.

    Raises SettingsError for a URL without host and port, and for faults that only HTTP can have.
    """

    def __init__(self, url: str, *, faults: ProxyFaults | None = None) -> None:
        self._plan = FaultPlan(faults)
        for fault in Fault:
            if fault not in _KINDS and self._plan.faults.share(fault):
                raise SettingsError(f"{fault} cannot be done to bytes that are not understood: use {', '.join(_KINDS)}")
        self._service_url = url
        self._address = _address_of(url)
        proxy = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                proxy._pass(self.request)

        self._server = ConnectionServer(Handler)

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.close()

    @property
    def url(self) -> str:
        """The server's URL, with the proxy's host and port."""
        return urlunsplit(urlsplit(self._service_url)._replace(netloc=f"{HOST}:{self._server.port}"))

    @property
    def counts(self) -> Counter[Fault]:
        """How many requests met each fault."""
        return self._plan.counts

    def fail_next(self, fault: Fault) -> None:
        """The next request meets this fault. Calls add up. Raises SettingsError for a fault that only HTTP can have."""
        if fault not in _KINDS:
            raise SettingsError(f"{fault} cannot be done to bytes that are not understood: use {', '.join(_KINDS)}")
        self._plan.fail_next(_OPERATION, fault)

    def away(self) -> None:
        """Cut every connection, and each new one."""
        self._server.refusing.set()
        self._server.cut_connections()

    def back(self) -> None:
        """Serve new connections again."""
        self._server.refusing.clear()

    def point_to(self, url: str) -> None:
        """Stand in front of this server from now on: open connections are cut, and new ones go there."""
        self._address = _address_of(url)
        self._service_url = url
        self._server.cut_connections()

    def _pass(self, client: socket.socket) -> None:
        """Serve one connection to its end; returning cuts it."""
        with socket.create_connection(self._address, timeout=SERVICE_SECONDS_MAX) as server:
            for side in (client, server):
                side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            losing_reply = False
            while True:
                ready, _, _ = select.select([client, server], [], [])
                if server in ready:
                    reply = server.recv(_CHUNK_BYTES)
                    if not reply or losing_reply:
                        return
                    client.sendall(reply)
                if client in ready:
                    request = client.recv(_CHUNK_BYTES)
                    strike = self._plan.next(_OPERATION) if request else None
                    if strike is not None:
                        self._plan.struck(strike.fault)
                    if not request or (strike is not None and strike.fault is Fault.CUT):
                        return
                    if strike is not None and strike.fault is Fault.LATENCY:
                        self._server.closing.wait(self._plan.faults.latency_seconds)
                    losing_reply = losing_reply or (strike is not None and strike.fault is Fault.LOST_REPLY)
                    server.sendall(request)


def _address_of(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    if not parts.hostname or not parts.port:
        raise SettingsError(f"the URL {url!r} has no host and port: write it as redis://127.0.0.1:6379/0")
    return parts.hostname, parts.port
