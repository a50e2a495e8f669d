"""The routes that answer lists."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from litestar import Request, get
from litestar.params import PathParameter, QueryParameter

import streamproc
from streamproc_consumers.api.answers import (
    Health,
    Personalized,
    Recommended,
    Related,
    StoreHealth,
    UserRecommendations,
)
from streamproc_consumers.api.facts import ListAnswered
from streamproc_consumers.api.lists import list_for
from streamproc_consumers.api.openapi import LIST_REFUSALS, refusals
from streamproc_consumers.api.ranking import items_of
from streamproc_consumers.api.services import Parts
from streamproc_consumers.api.stamp import request_id

AnyRequest = Request[Any, Any, Any]
UserQuery = Annotated[str, QueryParameter(name="userId", min_length=1, max_length=256, description="The shopper.")]
ItemQuery = Annotated[str, QueryParameter(name="itemId", min_length=1, max_length=256, description="The product.")]
K = Annotated[int, QueryParameter(ge=1, le=100, description="How many items.")]
Count = Annotated[int, QueryParameter(name="numResults", ge=1, le=100, description="How many items.")]


@get("/v1/recommendations/personalized", responses=LIST_REFUSALS, summary="A shopper's list", tags=["lists"])
async def personalized(
    request: AnyRequest,
    services: Parts,
    user_id: UserQuery,
    k: K = 5,
    explain: Annotated[bool, QueryParameter(description="Say of each item why it is there.")] = False,
    exclude: Annotated[
        Literal["purchased"] | None, QueryParameter(description="Leave out what the shopper has bought.")
    ] = None,
) -> Personalized:
    """The items that the shopper most likely takes next, scored now from all events that the recommender has folded."""
    found = await services.states.read(user_id)
    listed = await list_for(services, user_id, found, k, exclude_purchased=exclude is not None, explain=explain)
    return Personalized(
        user_id=user_id, items=items_of(listed.items, listed.why), **listed.about(request_id(request.scope))
    )


@get("/v1/recommendations/related", responses=LIST_REFUSALS, summary="What goes with a product", tags=["lists"])
async def related(request: AnyRequest, services: Parts, item_id: ItemQuery, k: K = 5) -> Related:
    """The items that go best with an item. The popular ones follow where nothing more is known of it."""
    items, version, lacks = services.rankings.related(item_id, k)
    services.telemetry.emit(ListAnswered(fallback=lacks or "none", state_source="item"))
    return Related(
        item_id=item_id,
        related=items_of(items, {}),
        model_version=version,
        fallback=lacks,
        request_id=request_id(request.scope),
    )


@get("/recommendations/{userId:str}", responses=LIST_REFUSALS, summary="A shopper's list, briefly", tags=["lists"])
async def recommendations(
    request: AnyRequest,
    services: Parts,
    user_id: Annotated[str, PathParameter(name="userId", min_length=1, max_length=256, description="The shopper.")],
    num_results: Count = 5,
) -> UserRecommendations:
    """The list of /v1/recommendations/personalized in the words of Amazon Personalize."""
    listed = await list_for(services, user_id, await services.states.read(user_id), num_results)
    return UserRecommendations(
        user_id=user_id,
        recommendations=[Recommended(item.id, item.probability, item.name, item.rank) for item in listed.items],
        **listed.about(request_id(request.scope)),
    )


@get("/v1/health", opt={"public": True}, responses=refusals(), summary="Whether lists are answered", tags=["health"])
async def health(request: AnyRequest, services: Parts) -> Health:
    """200 as long as lists can be answered; ``degraded`` says that a store is away, and they come from what is left.

    A model that was promoted and cannot be used is in ``modelsRejected``; the one before goes on serving.
    """
    states = services.states
    await states.look()
    stores = [StoreHealth(breaker.store, breaker.answers) for breaker in (states.redis, states.dynamodb)]
    return Health(
        ok=True,
        alive=True,
        ready=True,
        degraded=not all(store.ok for store in stores),
        version=streamproc.__version__,
        model_version=services.rankings.model_version,
        models_rejected=dict(services.rankings.unusable),
        namespace=str(states.namespace),
        stores=stores,
        request_id=request_id(request.scope),
    )


ROUTES = (personalized, related, recommendations, health)
