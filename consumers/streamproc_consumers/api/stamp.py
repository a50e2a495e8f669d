"""What every answer carries: its request id, and headers that keep browsers from misusing it. Each is counted."""

from __future__ import annotations

import re
import secrets
import time
from typing import Any

from litestar.enums import ScopeType
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from streamproc.telemetry import Telemetry
from streamproc_consumers.api.facts import RequestAnswered

_KEY = "streamproc.request_id"
_GIVEN = re.compile(rb"[A-Za-z0-9._-]{1,64}")
#: Where a handler did not say otherwise.
_HEADERS: dict[bytes, bytes] = {
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"x-frame-options": b"DENY",
    b"content-security-policy": b"default-src 'none'; frame-ancestors 'none'",
    b"cache-control": b"no-store",  # lists are personal, and as new as the last event
}


def request_id(scope: Any) -> str:
    """The id of this request: the client's own, where it gave one that can be logged."""
    found: str = scope.get(_KEY, "")
    return found


#: What no route answers. A path of the client's is no label of a metric.
_NO_ROUTE = "other"


class Stamp:
    """Outermost: it also stamps and counts what no handler answers. HEAD is answered as GET, without the body."""

    def __init__(self, app: ASGIApp, telemetry: Telemetry) -> None:
        self._app = app
        self._telemetry = telemetry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != ScopeType.HTTP:
            await self._app(scope, receive, send)
            return
        given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
        name = given if _GIVEN.fullmatch(given) else secrets.token_hex(8).encode()
        scope[_KEY] = name.decode()  # type: ignore[literal-required]  # a scope is open to middleware
        head = scope["method"] == "HEAD"
        if head:
            # The server's own scope stays as it is.
            scope = {**scope, "method": "GET"}
        started, status = time.perf_counter(), 0

        async def stamped(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = list(message.get("headers", []))
                known = {header.lower() for header, _ in headers}
                headers += [pair for pair in _HEADERS.items() if pair[0] not in known]
                headers.append((b"x-request-id", name))
                message["headers"] = headers
            elif head and message["type"] == "http.response.body":
                message["body"] = b""
            await send(message)

        try:
            await self._app(scope, receive, stamped)
        finally:
            if status:
                route, seconds = scope.get("path_template", _NO_ROUTE), time.perf_counter() - started
                self._telemetry.emit(RequestAnswered(route=route, status=status, seconds=seconds))
