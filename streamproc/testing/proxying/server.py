"""The threaded server below both proxies."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import sys
import threading
from collections.abc import Callable
from typing import Any

HOST = "127.0.0.1"
#: How long a service may take over one request before its connection counts as cut.
SERVICE_SECONDS_MAX = 30.0


class ConnectionServer(socketserver.ThreadingTCPServer):
    """Serves each connection in a thread of its own, knows the open ones, and can cut them.

    When :meth:`close` returns, every thread has ended: nothing more reaches the service.
    """

    daemon_threads = False
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, handler: Callable[..., socketserver.BaseRequestHandler]) -> None:
        #: Refuses new connections while it is set: they are cut at once.
        self.refusing = threading.Event()
        #: Set at the end, for whatever waits.
        self.closing = threading.Event()
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        super().__init__((HOST, 0), handler)
        self._thread = threading.Thread(target=self.serve_forever, args=[0.02], name="fault-proxy", daemon=True)

    @property
    def port(self) -> int:
        """Where it listens."""
        port: int = self.socket.getsockname()[1]
        return port

    def start(self) -> None:
        """Accept connections from now on."""
        self._thread.start()

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept a connection, and note that it is open."""
        connection, address = super().get_request()
        with self._lock:
            self._open.add(connection)
        return connection, address

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Whether the connection is served."""
        del request, client_address
        return not self.refusing.is_set()

    def shutdown_request(self, request: Any) -> None:
        """A connection ends."""
        with self._lock:
            self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up in the middle of an exchange is no error; a mistake in the proxy is shown."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)

    def cut_connections(self) -> None:
        """Cut every open connection. What was read of them before may still reach the service."""
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):  # it ended by itself
                    connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Accept no more, cut every connection, and wait for the threads."""
        self.closing.set()
        self.shutdown()
        self.cut_connections()
        self.server_close()
        self._thread.join()
