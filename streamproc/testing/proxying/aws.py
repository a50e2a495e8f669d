"""A proxy in front of an AWS endpoint that speaks plain HTTP/1.1: moto, kinesis-local, DynamoDB local."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import threading
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from streamproc.errors import SettingsError
from streamproc.testing.proxying.faults import Fault, FaultPlan, ProxyFaults, Strike
from streamproc.testing.proxying.server import HOST, SERVICE_SECONDS_MAX, ConnectionServer
from streamproc.testing.proxying.shapes import BATCHES, Batch, Reply, Request, end_to_end, internal_failure, throttled


@dataclass
class _Late:
    """A request whose client gave it up, and which arrives after so many further ones (None: when it is told to)."""

    request: Request
    after_requests: int | None


class FaultProxy:
    """Passes requests on, for as long as a ``with`` block lasts, and fails some of them; see :class:`Fault`.

    Which ones: those that :meth:`fail_next` names, else the shares of ``faults`` by their seed. An *operation* is the
    API's name (``PutRecords``); for S3, which has none on the wire, the method and the path (``PUT /bucket/key``).
    Only operations in batches can meet PARTIAL: PutRecords, PutRecordBatch and BatchGetItem.

    A late request arrives after so many further requests of any kind, and before the last of them is answered; one that
    was scripted without a number arrives with :meth:`release_late`. What is still to come at the end never arrives.

    A service that cannot be reached looks like a cut connection. Raises SettingsError for an endpoint that is not plain
    HTTP.
    """

    def __init__(self, endpoint: str, *, faults: ProxyFaults | None = None) -> None:
        parts = urlsplit(endpoint)
        if parts.scheme != "http" or not parts.hostname:
            raise SettingsError(
                f"the endpoint {endpoint!r} cannot be read by a proxy: give one that begins with http://"
            )
        self._address = (parts.hostname, parts.port or 80)
        self._plan = FaultPlan(faults)
        self._lock = threading.Lock()
        self._late: list[_Late] = []
        self._server = ConnectionServer(_handler(self))

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.close()

    @property
    def url(self) -> str:
        """What to give a client as ``endpoint_url``."""
        return f"http://{HOST}:{self._server.port}"

    @property
    def counts(self) -> Counter[Fault]:
        """How many requests met each fault."""
        return self._plan.counts

    def fail_next(
        self,
        operation: str,
        fault: Fault,
        *,
        after_requests: int | None = None,
        entries: Collection[int] | None = None,
    ) -> None:
        """The next request of this operation (a name, or a pattern of fnmatch) meets this fault. Calls add up.

        ``after_requests``: after how many further ones a LATE one arrives; without it, with :meth:`release_late`.
        ``entries``: the indices that fail in a PARTIAL one; without it, about half, and at least one.
        Raises SettingsError where the operation cannot fail in part.
        """
        if fault is Fault.PARTIAL and operation not in BATCHES:
            raise SettingsError(f"{operation!r} cannot fail in part: name one of {', '.join(BATCHES)}")
        self._plan.fail_next(operation, fault, after_requests=after_requests, entries=entries)

    def release_late(self) -> int:
        """Pass on, in order, every late request that has not arrived yet. Returns how many there were."""
        with self._lock:
            due, self._late = self._late, []
        for late in due:
            self._forward(late.request)
        return len(due)

    def answer(self, request: Request) -> Reply | None:
        """The reply to one request; None: the connection is cut."""
        strike = self._plan.next(request.operation)
        batch = Batch(request) if strike and strike.fault is Fault.PARTIAL and request.operation in BATCHES else None
        if strike is not None and (strike.fault is not Fault.PARTIAL or batch is not None):
            self._plan.struck(strike.fault)
        with self._lock:
            earlier = [*self._late]
        reply = self._answer(request, strike, batch)
        self._pass_on_late(earlier)
        return reply

    def _answer(self, request: Request, strike: Strike | None, batch: Batch | None) -> Reply | None:
        match strike and strike.fault:
            case Fault.THROTTLE:
                return throttled(request)
            case Fault.INTERNAL:
                return internal_failure(request)
            case Fault.CUT:
                return None
            case Fault.LATENCY:
                self._server.closing.wait(self._plan.faults.latency_seconds)
            case Fault.LOST_REPLY:
                self._forward(request)
                return None
            case Fault.LATE if strike is not None:
                with self._lock:
                    self._late.append(_Late(request, strike.after_requests))
                return None
            case Fault.DUPLICATE:
                first = self._forward(request)
                self._forward(request)
                return first
            case Fault.PARTIAL if strike is not None and batch is not None:
                failed = strike.failed(len(batch))
                rest = batch.without(failed)
                reply = self._forward(rest) if rest is not None else None
                return None if rest is not None and reply is None else batch.merged(reply, failed)
        return self._forward(request)

    def _pass_on_late(self, earlier: list[_Late]) -> None:
        """One more request was seen by these; pass on those that were waiting for it."""
        due = []
        with self._lock:
            for late in earlier:
                if late.after_requests is not None and late in self._late:
                    late.after_requests -= 1
                    if late.after_requests <= 0:
                        self._late.remove(late)
                        due.append(late)
        for late in due:
            self._forward(late.request)

    def _forward(self, request: Request) -> Reply | None:
        """One request to the service, on a connection of its own: a kept one may have been closed meanwhile."""
        connection = http.client.HTTPConnection(*self._address, timeout=SERVICE_SECONDS_MAX)
        with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
            connection.putrequest(request.method, request.path, skip_host=True, skip_accept_encoding=True)
            for name, value in end_to_end(request.headers):
                connection.putheader(name, value)
            connection.putheader("Content-Length", str(len(request.body)))
            connection.endheaders(request.body)
            response = connection.getresponse()
            headers = end_to_end(response.getheaders())
            if request.method == "HEAD":  # the length of what there would be
                headers += [("Content-Length", response.getheader("Content-Length", "0"))]
            return Reply(response.status, headers, response.read())
        return None


def _handler(proxy: FaultProxy) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"  # keeps connections open between requests, as AWS does
        disable_nagle_algorithm = True  # a reply is two writes; the second would wait for the client's delayed ACK

        def exchange(self) -> None:
            if "Transfer-Encoding" in self.headers:
                self.send_error(411)  # boto3 gives the length of all that it holds in memory
                return
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            reply = proxy.answer(Request(self.command, self.path, self.headers.items(), body))
            if reply is None:
                self.close_connection = True
                return
            self.send_response_only(reply.status)
            for name, value in reply.headers:
                self.send_header(name, value)
            bodiless = self.command == "HEAD" or reply.status in (204, 304)
            if not bodiless or not any(name == "Content-Length" for name, _ in reply.headers):
                self.send_header("Content-Length", str(len(reply.body)))
            self.end_headers()
            if not bodiless:
                self.wfile.write(reply.body)

        do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = exchange  # noqa: N815  # http.server's names

        def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
            """Log nothing for a request that was answered."""

    return Handler
