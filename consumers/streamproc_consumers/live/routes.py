"""The page's files, its feed of server-sent events, and the demonstration's buttons, as routes of the API's process."""

from __future__ import annotations

import asyncio
import hmac
import mimetypes
import secrets
import time
from collections.abc import AsyncIterator, Mapping
from typing import Annotated, Any

import msgspec
from litestar import Request, Response, Router, get, post
from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler
from litestar.params import FromPath, JSONBody, Parameter
from litestar.response import Redirect, Stream

from streamproc.errors import StreamprocError
from streamproc_consumers.api.errors import Refused
from streamproc_consumers.live.catalogue import STATIC, Catalogue
from streamproc_consumers.live.engine import Controls, Engine

#: Where the page is, below the API's address.
PAGE = "/shop"
_LIVE = "/live"
TOKEN_HEADER = "X-Demo-Token"  # noqa: S105  # a header's name
#: Nothing but the page's own files, and styles that its scripts set through the object model.
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none';"
        " form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
#: A route that needs no API key: a browser opens it by its address.
_PUBLIC = {"public": True}
_TICK_SECONDS = 0.05
_EVENTS_SECONDS = 0.25
_FIGURES_SECONDS = 1.0
#: Of the events since the last look, at most so many are shown.
_EVENTS_MAX = 12
_FEEDS_MAX = 32
_encode = msgspec.json.Encoder().encode


def page_routes(catalogue: Catalogue, *, live: bool) -> list[Any]:
    """The page at :data:`PAGE`, with what it sells; ``live`` where there is an engine room to show."""
    products = _encode(catalogue)
    configuration = _encode({"api": "..", "catalogue": "catalogue.json", **({"live": f"..{_LIVE}"} if live else {})})

    @get("/", opt=_PUBLIC, include_in_schema=False)
    async def index() -> Redirect:
        return Redirect(f"{PAGE}/")

    @get(f"{PAGE}/config.json", opt=_PUBLIC, include_in_schema=False)
    async def config() -> Response[bytes]:
        return _json(configuration)

    @get(f"{PAGE}/catalogue.json", opt=_PUBLIC, include_in_schema=False)
    async def sold() -> Response[bytes]:
        return _json(products)

    files = {path.name: path.read_bytes() for path in STATIC.iterdir()}

    @get(f"{PAGE}/", opt=_PUBLIC, include_in_schema=False)
    async def page() -> Response[bytes]:
        return _file("index.html")

    @get(f"{PAGE}/{{name:str}}", opt=_PUBLIC, include_in_schema=False)
    async def file(name: FromPath[str]) -> Response[bytes]:
        return _file(name)

    def _file(name: str) -> Response[bytes]:
        if name not in files:
            raise Refused(404, f"the page has no file {name}")
        media_type = mimetypes.guess_type(name)[0] or "application/octet-stream"
        return Response(files[name], media_type=media_type, headers=_HEADERS)

    return [index, config, sold, page, file]


def _json(content: bytes) -> Response[bytes]:
    return Response(content, media_type="application/json", headers=_HEADERS)


def live_routes(engine: Engine) -> list[Any]:
    """The feed, and the buttons where the engine has them."""
    feeds = 0

    @get("/", opt=_PUBLIC)
    async def index() -> Response[bytes]:
        return _json(_encode({"controls": engine.controls is not None}))

    @get("/feed", opt=_PUBLIC)
    async def feed(user: Annotated[str, Parameter(max_length=256)] = "") -> Stream:
        nonlocal feeds
        if feeds >= _FEEDS_MAX:
            raise Refused(503, f"{_FEEDS_MAX} pages follow the feed already: close one")

        async def told() -> AsyncIterator[bytes]:
            nonlocal feeds
            feeds += 1
            try:
                async for message in messages(engine, user):
                    yield message
            finally:
                feeds -= 1

        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return Stream(told(), media_type="text/event-stream", headers=headers)

    routes: list[Any] = [index, feed]
    if engine.controls is not None:
        routes.append(_control_routes(engine.controls))
    return [Router(_LIVE, route_handlers=routes, include_in_schema=False)]


async def messages(engine: Engine, user: str) -> AsyncIterator[bytes]:
    """The feed of one page, without end: every kind of message when there is something new of it."""
    yield b"retry: 1000\n\n"
    number = 0
    known: object = None
    events_due = figures_due = 0.0
    while True:
        now = time.monotonic()
        if now >= events_due:
            events_due = now + _EVENTS_SECONDS
            if seen := engine.feed.seen_after(number, _EVENTS_MAX, user):
                number = seen[-1].number
                yield _message("events", seen)
        if now >= figures_due:
            figures_due = now + _FIGURES_SECONDS
            yield _message("figures", await asyncio.to_thread(_figures, engine))
        listed = engine.feed.known(user) if user else None
        if listed is not None and listed != known:
            state = await asyncio.to_thread(engine.state, user)
            # Redis is written after Firehose: until then the state is the one before, and is asked for again.
            if state is not None and state.position >= listed.position:
                known = listed
                yield _message(
                    "shopper",
                    {
                        "userId": user,
                        "eventsFolded": state.events_folded,
                        "shard": state.position.shard_number,
                        "sequenceNumber": str(state.position.sequence_number),
                        "features": state.features,
                    },
                )
        await asyncio.sleep(_TICK_SECONDS)


def _figures(engine: Engine) -> dict[str, Any]:
    told: dict[str, Any] = {"figures": engine.feed.figures(time.time()), "worker": engine.worker()}
    if engine.controls is not None:
        told |= {"models": engine.controls.registered(), "drill": engine.controls.drill()}
    return told


def _message(kind: str, content: object) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (kind.encode(), _encode(content))


class Promotion(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which version becomes the champion, and the reason to overrule the gate."""

    version: str
    force: str | None = None


def _control_routes(controls: Controls) -> Router:
    # A page of another site may send requests here: it cannot read the token, nor set a header without being asked.
    token = secrets.token_urlsafe(32)

    def from_this_page(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
        if refusal := refused(connection.headers, str(connection.base_url).rstrip("/"), token):
            raise Refused(403, refusal, "foreign_page")

    @get("/", opt=_PUBLIC)
    async def session(request: Request[Any, Any, Any]) -> Response[bytes]:
        if request.headers.get("sec-fetch-site", "same-origin") != "same-origin":
            raise Refused(403, "the demonstration's buttons are on its own page", "foreign_page")
        return Response(
            _encode({"header": TOKEN_HEADER, "token": token}),
            media_type="application/json",
            headers={"Cache-Control": "no-store"},
        )

    async def done(call: Any, *arguments: Any) -> Response[bytes]:
        try:
            await asyncio.to_thread(call, *arguments)
        except StreamprocError as error:
            # No error of the request: the gate's refusal, say, is an answer, and browsers log errors.
            return _json(_encode({"done": False, "why": str(error)}))
        return _json(b'{"done":true}')

    @post("/kill", opt=_PUBLIC, guards=[from_this_page])
    async def kill() -> Response[bytes]:
        return await done(controls.kill)

    @post("/promote", opt=_PUBLIC, guards=[from_this_page])
    async def promote(data: JSONBody[Promotion]) -> Response[bytes]:
        return await done(controls.promote, data.version, data.force)

    @post("/rollback", opt=_PUBLIC, guards=[from_this_page])
    async def rollback() -> Response[bytes]:
        return await done(controls.rollback)

    return Router("/controls", route_handlers=[session, kill, promote, rollback])


def refused(headers: Mapping[str, str], origin: str, token: str) -> str | None:
    """Why a press of a button is not one of this page, None where it is. ``origin`` is the server's own."""
    if headers.get("origin", "") != origin:
        return "the request's Origin is not this page's: press the buttons on the demonstration's own page"
    if not hmac.compare_digest(headers.get(TOKEN_HEADER.lower(), "").encode(), token.encode()):
        return f"the request has no valid {TOKEN_HEADER}: load the page again, since the demonstration was restarted"
    return None
