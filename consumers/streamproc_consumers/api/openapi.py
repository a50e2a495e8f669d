"""What OpenAPI says of the routes beside what their signatures say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import msgspec
from litestar.openapi import ResponseSpec
from litestar.openapi.spec import OpenAPIMediaType, Operation, RequestBody

from streamproc_consumers.api.answers import EventAnswer, Failure

_MEANINGS = {
    400: "A parameter or the body is wrong; the sentence names it.",
    401: "The API key is missing or not known.",
    409: "A request with this Idempotency-Key is under way.",
    413: "The body is too large.",
    415: "The body is not application/json.",
    421: "Without API keys, the address that was called is not a local one.",
    422: "The Idempotency-Key was used for another request.",
    429: "Too many requests a second; see Retry-After.",
    503: "Kinesis did not acknowledge in time; see Retry-After.",
}


def refusals(*statuses: int) -> Mapping[int, ResponseSpec]:
    """The refusals of a route, for its documentation."""
    return {
        status: ResponseSpec(Failure, description=_MEANINGS[status], generate_examples=False)
        for status in (421, *statuses)
    }


LIST_REFUSALS = refusals(400, 401, 429)
SEND_REFUSALS = refusals(400, 401, 409, 413, 415, 422, 429, 503)
BATCH_ANSWERS = {
    207: ResponseSpec(
        EventAnswer, description="Some events were wrong, the others are stored.", generate_examples=False
    ),
    **SEND_REFUSALS,
}


def taking(of: type[msgspec.Struct], *, batch_max: int | None = None) -> type[Operation]:
    """An operation whose body is JSON of this type, or also an array of so many. The routes decode it themselves."""
    (schema,), components = msgspec.json.schema_components((of,), ref_template="#/components/schemas/{name}")
    inline = _inlined(schema, components)
    if batch_max is not None:
        inline = {"oneOf": [inline, {"type": "array", "items": inline, "minItems": 1, "maxItems": batch_max}]}

    @dataclass
    class Taking(Operation):
        def __post_init__(self) -> None:
            content = {"application/json": OpenAPIMediaType(schema=cast("Any", inline))}
            self.request_body = RequestBody(content=content, required=True)

    return Taking


def _inlined(schema: Any, components: dict[str, Any]) -> Any:
    """The schema with its references replaced, as none of them is recursive."""
    if isinstance(schema, dict):
        if "$ref" in schema:
            return _inlined(components[schema["$ref"].rpartition("/")[2]], components)
        return {key: _inlined(value, components) for key, value in schema.items()}
    if isinstance(schema, list):
        return [_inlined(each, components) for each in schema]
    return schema
