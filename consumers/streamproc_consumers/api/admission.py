"""Who may call, how often, and by which name."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any
from urllib.parse import urlsplit

from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler

from streamproc.clock import Clock, SystemClock
from streamproc_consumers.api.errors import Refused
from streamproc_consumers.api.settings import ApiSettings, key_named

#: What a caller is called where there are no keys.
ANYBODY = "anybody"
#: Callers whose rate is known. The one that was longest silent is forgotten, and begins anew.
_CALLERS_MAX = 10_000
_NAME = "streamproc.caller"


class Admission:
    """A guard for every route: the key, then the rate. A handler with ``opt={"public": True}`` needs no key.

    A caller has a bucket of a second's worth of requests, in this process: behind a load balancer each process counts
    for itself.
    """

    def __init__(self, settings: ApiSettings, clock: Clock | None = None) -> None:
        self._settings = settings
        self._clock = clock or SystemClock()
        #: Requests that each caller may make at once, and when that was.
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    async def __call__(self, connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
        """Raises Refused with 421, 401 or 429."""
        self._check_host(connection)
        if handler.opt.get("public"):
            return
        caller = self._caller(connection)
        connection.scope[_NAME] = caller  # type: ignore[literal-required]  # a scope is open to middleware
        if self._settings.rate:
            address = connection.client.host if connection.client else ""
            self._count(caller if self._settings.keys else address)

    def _check_host(self, connection: ASGIConnection[Any, Any, Any, Any]) -> None:
        if self._settings.hosts is None:
            return
        try:
            host = urlsplit(f"//{connection.headers.get('host', '')}").hostname
        except ValueError:
            host = None
        if host not in self._settings.hosts:
            raise Refused(421, "without API keys this API answers to its local address alone", "wrong_host")

    def _caller(self, connection: ASGIConnection[Any, Any, Any, Any]) -> str:
        if not self._settings.keys:
            return ANYBODY
        scheme, _, token = connection.headers.get("authorization", "").partition(" ")
        given = token.strip() if scheme.lower() == "bearer" else connection.headers.get("x-api-key", "")
        if not given:
            raise _unauthorized("an API key is needed: send it as Authorization: Bearer KEY, or X-API-Key: KEY")
        name = key_named(self._settings.keys, given)
        if name is None:
            raise _unauthorized("this API key is not known")
        return name

    def _count(self, caller: str) -> None:
        rate, now = self._settings.rate, self._clock.monotonic()
        burst = max(1.0, rate)
        left, at = self._buckets.pop(caller, (burst, now))
        left = min(burst, left + (now - at) * rate)
        allowed = left >= 1
        self._buckets[caller] = (left - 1 if allowed else left), now
        if len(self._buckets) > _CALLERS_MAX:
            self._buckets.popitem(last=False)
        if not allowed:
            raise Refused(
                429,
                f"more than {rate:g} requests a second: slow down",
                headers={"Retry-After": str(max(1, round((1 - left) / rate)))},
            )


def caller_of(scope: Any) -> str:
    """The name of the caller's key."""
    name: str = scope.get(_NAME, ANYBODY)
    return name


def _unauthorized(error: str) -> Refused:
    return Refused(401, error, headers={"WWW-Authenticate": "Bearer"})
