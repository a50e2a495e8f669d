"""The application: routes, guards, and what every answer carries."""

from __future__ import annotations

from collections.abc import Sequence

from litestar import Litestar, Router
from litestar.config.cors import CORSConfig
from litestar.datastructures import ResponseHeader, State
from litestar.di import Provide
from litestar.exceptions import HTTPException
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.types import ControllerRouterHandler

import streamproc
from streamproc_consumers.api import reading, writing
from streamproc_consumers.api.admission import Admission
from streamproc_consumers.api.errors import Refused, not_served, refused, unforeseen
from streamproc_consumers.api.page import POLICY, DocsPage
from streamproc_consumers.api.services import Services, open_services
from streamproc_consumers.api.settings import ApiSettings
from streamproc_consumers.api.stamp import Stamp

_DESCRIPTION = (
    "Recommendations, scored on demand from the features that the stream keeps, and events into the stream. Every"
    " answer has a requestId; every refusal is {error, code, requestId}."
)


def create_app(
    settings: ApiSettings, *, extra: Sequence[ControllerRouterHandler] = (), services: Services | None = None
) -> Litestar:
    """The API. ``extra`` are further routes, under the same guards; ``app.state.services`` is what they work with.

    Raises what :func:`open_services` raises.
    """
    services = services or open_services(settings)
    app = Litestar(
        route_handlers=[*reading.ROUTES, *writing.ROUTES, *extra],
        guards=[Admission(settings)],
        dependencies={"services": Provide(lambda: services, sync_to_thread=False)},
        exception_handlers={Refused: refused, HTTPException: not_served, Exception: unforeseen},
        request_max_body_size=settings.body_bytes_max,
        cors_config=_cors(settings),
        openapi_config=_openapi(),
        state=State({"services": services, "telemetry": services.telemetry}),
        lifespan=[lambda _: services.running()],
        logging_config=None,
    )
    app.asgi_handler = Stamp(app.asgi_handler, services.telemetry)
    return app


def _cors(settings: ApiSettings) -> CORSConfig | None:
    if not settings.cors_origins:
        return None
    return CORSConfig(
        allow_origins=list(settings.cors_origins),
        allow_methods=["GET", "POST"],
        allow_headers=["Authorization", "Content-Type", "Idempotency-Key", "X-API-Key", "X-Request-Id"],
        expose_headers=["Idempotency-Store", "Idempotent-Replayed", "Retry-After", "X-Request-Id"],
    )


def _openapi() -> OpenAPIConfig:
    return OpenAPIConfig(
        title="streamproc",
        version=streamproc.__version__,
        description=_DESCRIPTION,
        use_handler_docstrings=True,
        openapi_router=Router(
            path="/docs",
            route_handlers=[],
            include_in_schema=False,
            opt={"public": True},
            response_headers=[ResponseHeader(name="Content-Security-Policy", value=POLICY)],
        ),
        render_plugins=[DocsPage(path="/"), JsonRenderPlugin()],
    )
