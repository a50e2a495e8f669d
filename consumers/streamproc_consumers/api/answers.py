"""What the API takes and answers; OpenAPI is generated from these types."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Annotated, Literal

import msgspec

from streamproc_producers.events import ItemId, UserId

EventName = Literal["view", "add_to_cart", "remove_from_cart", "purchase"]
StateSource = Literal["redis", "dynamodb", "none", "unavailable"]


class _Action(msgspec.Struct, frozen=True, kw_only=True):
    event_type: EventName
    item_id: ItemId
    #: When the shopper did it, RFC 3339 with an offset; now where it is missing. At most a day ahead.
    ts: Annotated[datetime, msgspec.Meta(tz=True)] | None = None
    #: Names the event, so that it counts once however often it is sent. Made from the Idempotency-Key where missing.
    event_id: uuid.UUID | None = None
    session_id: str | None = None
    order_id: str | None = None
    quantity: Annotated[int, msgspec.Meta(ge=1, le=1_000_000_000)] | None = None
    #: Of one unit.
    price: Annotated[float, msgspec.Meta(ge=0, le=1e12)] | None = None


class EventIn(_Action, frozen=True, kw_only=True):
    """One action of one shopper on one item."""

    user_id: UserId


class Submission(msgspec.Struct, frozen=True, kw_only=True):
    """An action, and whose it is."""

    user_id: UserId
    event: _Action


class Reason(msgspec.Struct, frozen=True, rename="camel"):
    """A feature of an item's row, and what it adds to the margin (SHAP value)."""

    feature: str
    #: None is missing.
    value: float | None
    contribution: float


class Contributions(msgspec.Struct, frozen=True, rename="camel"):
    """Why an item has its score: bias, reasons and other add up to the margin of the model."""

    sources: list[str]
    bias: float
    #: Those that add or take the most, first.
    reasons: list[Reason]
    #: What the features that are not listed add together.
    other: float


class Item(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """One place in a list."""

    id: str
    name: str
    score: float
    #: 1 is the first.
    rank: int
    #: What proposed it: history, a generator's name, popular, or trending.
    source: str
    #: With explain=true, where a model ranked.
    why: Contributions | None = None
    #: Whether it was drawn at random from the candidates behind the list; see docs/models.md.
    explored: bool = False
    #: The probability with which the place went to this item; only where that is not 1.
    propensity: float | None = None


class _About(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Where a list comes from."""

    #: As published for this user, position and model version; None for a user without events.
    recommendation_id: str | None
    model_version: str
    arm: str
    #: Event time up to which the features know the user.
    features_as_of: datetime | None
    #: What the list lacks, the most first; None for nothing. See docs/api.md.
    fallback: str | None
    #: As records have it; only where trending items are offered.
    item_snapshot: str | msgspec.UnsetType = msgspec.UNSET
    #: Where the user's state was read: none is a user without events.
    state_source: StateSource
    request_id: str


class Personalized(_About, frozen=True, kw_only=True, rename="camel"):
    """A user's list."""

    user_id: str
    items: list[Item]


class Recommended(msgspec.Struct, frozen=True, rename="camel"):
    """One place in a list, in the words of Amazon Personalize."""

    item_id: str
    score: float
    name: str
    rank: int


class UserRecommendations(_About, frozen=True, kw_only=True, rename="camel"):
    """A user's list, in the words of Amazon Personalize."""

    user_id: str
    recommendations: list[Recommended]


class Related(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What goes with an item."""

    item_id: str
    related: list[Item]
    model_version: str
    fallback: str | None
    request_id: str


class EventResult(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """What became of one event of a batch."""

    ok: bool
    event_id: uuid.UUID | None = None
    #: Where Kinesis stored it.
    shard_id: str | None = None
    sequence_number: str | None = None
    error: str | None = None
    code: str | None = None


class EventAnswer(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Kinesis stored the event, or what it says of each of a batch."""

    ok: bool
    request_id: str
    event_id: uuid.UUID | None = None
    shard_id: str | None = None
    sequence_number: str | None = None
    #: Of a batch, in its order.
    results: list[EventResult] | None = None
    #: As of every refusal, where a batch is to be mended or sent again.
    error: str | None = None
    code: str | None = None


class Product(msgspec.Struct, frozen=True):
    """One place in the list of /submit."""

    product_id: str
    probability: float
    product_name: str | None
    #: The first and the last part of the path of the category; None where the catalogue does not know it.
    department: str | None = None
    aisle: str | None = None


class Submitted(msgspec.Struct, frozen=True, kw_only=True):
    """The event is stored, and the list knows it."""

    message: str
    recommendations: list[Product]
    event_id: uuid.UUID
    recommendation_id: str | None
    model_version: str
    arm: str
    fallback: str | None
    #: As records have it; only where trending items are offered.
    item_snapshot: str | msgspec.UnsetType = msgspec.UNSET
    request_id: str = msgspec.field(name="requestId")


class StoreHealth(msgspec.Struct, frozen=True, rename="camel"):
    """A store that lists are made from."""

    name: str
    #: Whether it answered the last time. Lists are answered without it, too.
    ok: bool


class Health(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Whether requests are answered, and from what."""

    #: Lists can be answered.
    ok: bool
    alive: bool
    ready: bool
    #: A store is away: lists are answered from the others.
    degraded: bool
    version: str
    model_version: str
    #: Versions that an alias means and that cannot be used, by alias: the one before serves. The log has the reasons.
    models_rejected: dict[str, str]
    namespace: str
    stores: list[StoreHealth]
    request_id: str


class Failure(msgspec.Struct, frozen=True, rename="camel"):
    """Why a request was not answered."""

    error: str
    code: str
    request_id: str
