"""Every refusal as ``{"error", "code", "requestId"}``: one clear sentence, a word for programs, and what to quote."""

from __future__ import annotations

import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from litestar import Request, Response
from litestar.exceptions import HTTPException, ValidationException

from streamproc.telemetry import Telemetry
from streamproc_consumers.api.answers import Failure
from streamproc_consumers.api.facts import RequestFailed
from streamproc_consumers.api.stamp import request_id

#: What a parameter must be, where it is not.
_MUST = {
    "k": "be between 1 and 100",
    "numResults": "be between 1 and 100",
    "userId": "have 1 to 256 characters",
    "itemId": "have 1 to 256 characters",
    "explain": "be true or false",
    "exclude": "be purchased, or be left out",
}
_CODES = {
    400: "invalid_request",
    401: "unauthorized",
    404: "not_found",
    405: "method_not_allowed",
    413: "body_too_large",
    415: "unsupported_media_type",
    429: "too_many_requests",
    503: "unavailable",
}
_PARAMETERS = {
    "user_id": "userId",
    "item_id": "itemId",
    "num_results": "numResults",
    "idempotency_key": "Idempotency-Key",
}
_MISSING = re.compile(r"^Missing required \w+ parameter '(?P<name>[^']+)'")


class Refused(Exception):
    """A request that is not answered, and why."""

    def __init__(
        self, status: int, error: str, code: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(error)
        self.status = status
        self.error = error
        self.code = code or _CODES[status]
        self.headers = dict(headers or {})


def refused(request: Request[Any, Any, Any], error: Refused) -> Response[Failure]:
    """The answer to a refusal of ours."""
    return _answer(request, error.status, error.error, error.code, error.headers)


def not_served(request: Request[Any, Any, Any], error: HTTPException) -> Response[Failure]:
    """The answer to a refusal of the framework's: no such path, a parameter that is wrong, too large a body ..."""
    status = error.status_code
    if status >= 500:
        return unforeseen(request, error)
    return _answer(request, status, _sentence(request, error), _CODES.get(status, "refused"), dict(error.headers or {}))


def unforeseen(request: Request[Any, Any, Any], error: Exception) -> Response[Failure]:
    """The answer to what must not happen. The log says more, under the same request id."""
    telemetry: Telemetry = request.app.state.telemetry
    path = request.url.path
    telemetry.emit(
        RequestFailed(request_id=request_id(request.scope), path=path, error=f"{type(error).__name__}: {error}")
    )
    return _answer(request, 500, "the request failed; quote its requestId to whoever runs this API", "internal", {})


def _answer(
    request: Request[Any, Any, Any], status: int, error: str, code: str, headers: dict[str, str]
) -> Response[Failure]:
    return Response(
        Failure(error, code, request_id(request.scope)),
        status_code=status,
        headers=headers,
        media_type="application/json",
    )


def _sentence(request: Request[Any, Any, Any], error: HTTPException) -> str:
    if isinstance(error, ValidationException):
        if isinstance(error.extra, list) and error.extra:
            first: Any = error.extra[0]
            # The framework tells the handler's argument, and the client knows the parameter.
            name, message = str(first.get("key", "")), str(first.get("message", error.detail))
            name = _PARAMETERS.get(name, name)
            if name in _MUST:
                return f"{name} must {_MUST[name]}"
            return f"{name}: {message}" if name else message
        if missing := _MISSING.match(error.detail):
            return f"{missing['name']} is missing"
        return error.detail
    if error.status_code == 404:
        return f"there is nothing at {request.url.path}: see /docs"
    if error.status_code == 405:
        return f"{request.method} is not for {request.url.path}: see /docs"
    if error.status_code == 413:
        return "the body is too large: send fewer events at once"
    return error.detail or HTTPStatus(error.status_code).phrase
