"""The routes that take events. An event is answered once Kinesis has stored it, and not before."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Any, NamedTuple, TypeVar, cast

import msgspec
from litestar import Request, Response, post
from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler
from litestar.params import HeaderParameter, QueryParameter

from streamproc.errors import DecodeError
from streamproc.producer import Acknowledged
from streamproc.record import Position, shard_number_of
from streamproc.state import fingerprint as id_fingerprint, is_remembered
from streamproc_consumers.api.admission import caller_of
from streamproc_consumers.api.answers import EventAnswer, EventIn, EventResult, Product, Submission, Submitted
from streamproc_consumers.api.errors import Refused
from streamproc_consumers.api.facts import EventsAnswered
from streamproc_consumers.api.idempotency import Kept, Memory, checked_key, fingerprint
from streamproc_consumers.api.lists import list_for
from streamproc_consumers.api.openapi import BATCH_ANSWERS, SEND_REFUSALS, taking
from streamproc_consumers.api.sending import event_of
from streamproc_consumers.api.services import Parts, Services
from streamproc_consumers.api.stamp import request_id
from streamproc_consumers.api.states import Found
from streamproc_models.catalogue import Catalogue
from streamproc_models.features import fold
from streamproc_models.items import PATH
from streamproc_models.scorer import RankedItem
from streamproc_producers.events import CartEvent

EVENTS_MAX = 500
_JSON = "application/json"
_RETRY = {"Retry-After": "1"}
_NOT_ACKNOWLEDGED = "not_acknowledged"
_AT = re.compile(r" - at `\$\.?(?P<path>[^`]*)`$")
#: What is said of a batch as a whole, beside its results.
_BATCH_REFUSALS = {
    400: ("no event of the batch can be used; see results", "invalid_batch"),
    503: ("some events of the batch may not be stored; send it again", _NOT_ACKNOWLEDGED),
}
_encode = msgspec.json.Encoder().encode
T = TypeVar("T", EventIn, Submission)
AnyRequest = Request[Any, Any, Any]
IdempotencyKey = Annotated[
    str | None,
    HeaderParameter(
        name="Idempotency-Key",
        # Checked by checked_key, with a code of its own.
        schema_extra={"minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
        description="Names this request for 24 h: sent again with the same body, it gets the same answer.",
    ),
]


class Reply(NamedTuple):
    """An answer that may be kept."""

    status: int
    content: EventAnswer | Submitted


def json_alone(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
    """Guard: refuses what a page of another site can send without being asked first."""
    media_type = connection.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != _JSON:
        raise Refused(415, f"the body must be {_JSON}: say so in the header Content-Type")


@post(
    "/v1/events",
    status_code=202,
    guards=[json_alone],
    operation_class=taking(EventIn, batch_max=EVENTS_MAX),
    responses=BATCH_ANSWERS,
    summary="Send one event, or a batch",
    tags=["events"],
)
async def events(request: AnyRequest, services: Parts, idempotency_key: IdempotencyKey = None) -> Response[EventAnswer]:
    """One event as an object, or up to 500 as an array: 202 once Kinesis has stored them.

    Of a batch, each event has its own result; 207 says that some were wrong and the others are stored. 503 says that
    some may not be stored: send the same again under the same Idempotency-Key, and none will count twice.
    """
    body, key = await request.body(), checked_key(idempotency_key)

    async def send() -> Reply:
        if body.lstrip()[:1] == b"[":
            return await _send_batch(request, services, body, key)
        event = _checked(_decoded(body, EventIn), caller_of(request.scope), key)
        stored = await _stored(services, event)
        answer = EventAnswer(
            ok=True,
            request_id=request_id(request.scope),
            event_id=event.event_id,
            shard_id=stored.shard_id,
            sequence_number=stored.sequence_number,
        )
        return Reply(202, answer)

    return cast("Response[EventAnswer]", await _once(request, services, key, body, send))


@post(
    "/submit",
    status_code=200,
    guards=[json_alone],
    operation_class=taking(Submission),
    responses=SEND_REFUSALS,
    summary="Send an event, and get the list that knows it",
    tags=["events"],
)
async def submit(
    request: AnyRequest,
    services: Parts,
    k: Annotated[int, QueryParameter(ge=1, le=100, description="How many items.")] = 5,
    idempotency_key: IdempotencyKey = None,
) -> Response[Submitted]:
    """Stores the event as /v1/events does, and answers the list that the recommender will publish for it.

    The event is folded into a copy of the shopper's features, which is thrown away: the recommender alone keeps them.
    """
    body, key = await request.body(), checked_key(idempotency_key)

    async def send() -> Reply:
        given = _decoded(body, Submission)
        event = _checked(
            EventIn(user_id=given.user_id, **msgspec.structs.asdict(given.event)), caller_of(request.scope), key
        )
        # The state is read meanwhile: should the recommender be faster, the state's own window tells.
        found, stored = await asyncio.gather(
            services.states.read(event.user_id), _stored(services, event), return_exceptions=True
        )
        if isinstance(stored, BaseException):
            raise stored
        if isinstance(found, BaseException):
            raise found
        found, position = _with_event(services, found, event, stored)
        listed = await list_for(services, event.user_id, found, k, position=position)
        answer = Submitted(
            message="the event is stored",
            recommendations=[_product(item, listed.served.bundle.catalogue) for item in listed.items],
            event_id=event.event_id,
            recommendation_id=listed.recommendation_id,
            model_version=listed.served.bundle.model_version,
            arm=listed.served.arm,
            fallback=listed.fallback,
            item_snapshot=listed.item_snapshot,
            request_id=request_id(request.scope),
        )
        return Reply(200, answer)

    return cast("Response[Submitted]", await _once(request, services, key, body, send))


ROUTES = (events, submit)


def _product(item: RankedItem, catalogue: Catalogue) -> Product:
    path = catalogue.category_of(item.id).split(PATH)
    return Product(item.id, item.probability, item.name or None, path[0] or None, path[-1] or None)


async def _once(
    request: AnyRequest, services: Services, key: str | None, body: bytes, send: Callable[[], Awaitable[Reply]]
) -> Response[Any]:
    """Do it, or answer as the first time. What failed in a way that passes is not kept."""
    if key is None:
        return _response(await _counted(services, send))
    memory, caller, mark = services.idempotency, caller_of(request.scope), fingerprint(request.url.path, body)
    known = await memory.begin(caller, key, mark)
    if isinstance(known, Kept):
        return _raw(known.status, known.body, {"Idempotent-Replayed": "true"})
    try:
        reply = await _counted(services, send)
    except BaseException:
        if known is Memory.FIRST:
            await asyncio.shield(memory.forget(caller, key))
        raise
    response = _response(reply)
    if known is Memory.AWAY:
        # Its events have ids made from the key: sent again, they still count once.
        response.headers["Idempotency-Store"] = "unavailable"
    elif reply.status == 503:
        await memory.forget(caller, key)
    else:
        await memory.keep(caller, key, Kept(mark, reply.status, response.content))
    return response


async def _counted(services: Services, send: Callable[[], Awaitable[Reply]]) -> Reply:
    try:
        reply = await send()
    except Refused as error:
        _tell(services, [error.code])
        raise
    results = reply.content.results if isinstance(reply.content, EventAnswer) else None
    _tell(services, [result.code for result in results] if results is not None else [None])
    return reply


def _tell(services: Services, codes: Sequence[str | None]) -> None:
    """What became of the events of a request, by the codes of those that are not stored."""
    stored, late = codes.count(None), codes.count(_NOT_ACKNOWLEDGED)
    refused = len(codes) - stored - late
    services.telemetry.emit(EventsAnswered(stored=stored, refused=refused, not_acknowledged=late))


def _response(reply: Reply) -> Response[bytes]:
    return _raw(reply.status, _encode(reply.content), _RETRY if reply.status == 503 else {})


def _raw(status: int, body: bytes, headers: dict[str, str]) -> Response[bytes]:
    return Response(body, status_code=status, media_type=_JSON, headers=headers)


async def _stored(services: Services, event: CartEvent) -> Acknowledged:
    """Where Kinesis stored the event. Raises Refused."""
    (outcome,) = await services.sending.send([event])
    if isinstance(outcome, Exception):
        raise _refusal(outcome)
    return outcome


def _refusal(error: Exception) -> Refused:
    if isinstance(error, DecodeError):
        return Refused(400, error.reason, "invalid_event")
    return Refused(503, f"the event may not be stored: {error}; send it again", _NOT_ACKNOWLEDGED, _RETRY)


async def _send_batch(request: AnyRequest, services: Services, body: bytes, key: str | None) -> Reply:
    try:
        raws = msgspec.json.decode(body, type=list[msgspec.Raw])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refused(400, f"the body is not JSON: {error}", "invalid_event") from error
    if not 1 <= len(raws) <= EVENTS_MAX:
        raise Refused(400, f"a batch has 1 to {EVENTS_MAX} events, and this one has {len(raws)}", "invalid_batch")
    caller = caller_of(request.scope)
    checked: list[CartEvent | Refused] = []
    for index, raw in enumerate(raws):
        try:
            checked.append(_checked(_decoded(bytes(raw), EventIn), caller, key, index))
        except Refused as error:
            checked.append(error)
    sent = iter(await services.sending.send([each for each in checked if isinstance(each, CartEvent)]))
    results = [_result(each, next(sent)) if isinstance(each, CartEvent) else _wrong(each) for each in checked]
    failures = {result.code for result in results if not result.ok}
    if _NOT_ACKNOWLEDGED in failures:
        status = 503
    elif not failures:
        status = 202
    else:
        status = 207 if any(result.ok for result in results) else 400
    sentence, code = _BATCH_REFUSALS.get(status, (None, None))
    answer = EventAnswer(
        ok=not failures, request_id=request_id(request.scope), results=results, error=sentence, code=code
    )
    return Reply(status, answer)


def _result(event: CartEvent, outcome: Acknowledged | Exception) -> EventResult:
    if isinstance(outcome, Exception):
        return msgspec.structs.replace(_wrong(_refusal(outcome)), event_id=event.event_id)
    return EventResult(
        ok=True, event_id=event.event_id, shard_id=outcome.shard_id, sequence_number=outcome.sequence_number
    )


def _wrong(error: Refused) -> EventResult:
    return EventResult(ok=False, error=error.error, code=error.code)


def _decoded(body: bytes, of: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=of)
    except msgspec.ValidationError as error:
        text = str(error)
        at = _AT.search(text)
        raise Refused(
            400, f"{at['path']}: {text[: at.start()]}" if at and at["path"] else text, "invalid_event"
        ) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refused(
            400, f"the body is not JSON: {error}" if body else "the body is empty", "invalid_event"
        ) from error


def _checked(given: EventIn, caller: str, key: str | None, index: int = 0) -> CartEvent:
    try:
        return event_of(given, caller=caller, idempotency_key=key, index=index)
    except DecodeError as error:
        raise Refused(400, error.reason, "invalid_event") from error


def _with_event(services: Services, found: Found, event: CartEvent, stored: Acknowledged) -> tuple[Found, Position]:
    """The state with the event in it, and its position: what the worker will have once it has read the event."""
    position = Position(shard_number_of(stored.shard_id), int(stored.sequence_number), stored.sub_sequence_number)
    if found.stored is not None:
        if is_remembered(found.stored.window, id_fingerprint(event.event_id.bytes)):
            return found, found.stored.position
        position = max(position, found.stored.position)
    try:
        return found._replace(state=fold(found.state, event)), position
    except Exception as error:  # noqa: BLE001  # the worker dead-letters such an event; it is stored all the same
        services.states.unusable(found.source, event.user_id, error)
        return found, position
