"""The declared features: their order is the order of the matrix' columns.

A feature belongs to a *scope*: what it is a property of. The columns of a scope stand together, so that the matrix is
put together from one block a scope. Those of a candidate come last: some for every bundle, then three for each
generator that the bundle has.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Iterable

import msgspec


class Scope(enum.StrEnum):
    """What a feature is a property of."""

    USER = "user"
    ITEM = "item"
    HISTORY = "history"  # of a user and an item of his history
    CANDIDATE = "candidate"  # of a user and a candidate


class Kind(enum.StrEnum):
    """How a feature comes about."""

    COUNT = "count"  # over all time
    WINDOW = "window"  # a count over a sawtooth window
    DECAYED = "decayed"  # a count that halves every half-life
    RATIO = "ratio"
    AGE = "age"  # time from an event to the user's last one
    SCORE = "score"  # of a candidate source
    VALUE = "value"


class Feature(msgspec.Struct, frozen=True):
    """One column of the matrix."""

    name: str
    scope: Scope
    kind: Kind
    description: str
    #: Length of a window or a half-life, in seconds.
    seconds: int | None = None


_HOUR, _DAY = 3_600, 86_400
_USER, _ITEM, _HISTORY, _CANDIDATE = Scope.USER, Scope.ITEM, Scope.HISTORY, Scope.CANDIDATE

#: Stands for a missing value; every feature is 0 or more. Not NaN: XGBoost's predictor follows rows without NaN a third
#: faster.
MISSING = -1.0

#: Every feature, in the order of the columns.
FEATURES: tuple[Feature, ...] = (
    Feature("user_orders", _USER, Kind.COUNT, "orders"),
    Feature("user_lines_per_order", _USER, Kind.RATIO, "mean lines of an order; missing before the first"),
    Feature("user_order_gap_days", _USER, Kind.VALUE, "mean days between orders; missing before the second"),
    Feature("user_items", _USER, Kind.COUNT, "items in the history"),
    Feature("user_cart_items", _USER, Kind.COUNT, "items in the cart"),
    Feature("user_viewed_24h", _USER, Kind.WINDOW, "views", _DAY),
    Feature("user_carted_1h", _USER, Kind.WINDOW, "additions to the cart", _HOUR),
    Feature("user_purchased_1h", _USER, Kind.WINDOW, "purchase lines", _HOUR),
    Feature("user_purchased_24h", _USER, Kind.WINDOW, "purchase lines", _DAY),
    Feature("user_purchased_7d", _USER, Kind.WINDOW, "purchase lines", 7 * _DAY),
    Feature("user_purchased_30d", _USER, Kind.WINDOW, "purchase lines", 30 * _DAY),
    Feature("user_carted_decayed_1d", _USER, Kind.DECAYED, "additions to the cart", _DAY),
    Feature("user_purchased_decayed_30d", _USER, Kind.DECAYED, "purchase lines", 30 * _DAY),
    Feature("item_rank", _ITEM, Kind.VALUE, "place by recent purchases, 0 is the most bought"),
    Feature("item_share_7d", _ITEM, Kind.RATIO, "share of the orders of the bundle's last 7 days with it", 7 * _DAY),
    Feature("item_share_30d", _ITEM, Kind.RATIO, "the same for 30 days", 30 * _DAY),
    Feature("item_repeat_rate", _ITEM, Kind.RATIO, "share of its buyers who bought it again, with a prior"),
    Feature("item_trend", _ITEM, Kind.RATIO, "share of 7 days by that of 30, with a prior", 7 * _DAY),
    Feature("item_price", _ITEM, Kind.VALUE, "mean unit price"),
    Feature("item_age_days", _ITEM, Kind.AGE, "days from its first order to the end of the bundle's log, 28 at most"),
    Feature("own_orders", _HISTORY, Kind.COUNT, "the user's orders with the item"),
    Feature("own_order_share", _HISTORY, Kind.RATIO, "share of the orders since the first with it that had it"),
    Feature("own_order_decay", _HISTORY, Kind.DECAYED, "orders with it, each counting 0.8 after every later order"),
    Feature("own_streak", _HISTORY, Kind.COUNT, "orders in a row with it, up to the last with it"),
    Feature("own_gap_orders", _HISTORY, Kind.VALUE, "mean orders between those with it; missing before the second"),
    Feature("own_due", _HISTORY, Kind.RATIO, "orders since the last with it by that mean; missing likewise"),
    Feature("own_interest", _HISTORY, Kind.DECAYED, "weight of the user's events on it", 30 * _DAY),
    Feature("own_orders_since", _HISTORY, Kind.COUNT, "orders since the last with it; missing if never bought"),
    Feature("own_purchase_age_days", _HISTORY, Kind.AGE, "days since its last purchase; missing if never bought"),
    Feature("own_event_age_days", _HISTORY, Kind.AGE, "days since its last event; missing without one"),
    Feature("own_place", _HISTORY, Kind.VALUE, "items touched since its last event, 0 is the last touched"),
    Feature("own_views", _HISTORY, Kind.COUNT, "views"),
    Feature("own_adds", _HISTORY, Kind.COUNT, "additions to the cart"),
    Feature("own_removes", _HISTORY, Kind.COUNT, "removals from the cart"),
    Feature("own_in_cart", _HISTORY, Kind.VALUE, "quantity in the cart"),
    Feature("price_ratio", _CANDIDATE, Kind.RATIO, "the item's price by the user's mean price"),
    Feature("sources", _CANDIDATE, Kind.COUNT, "generators with a score for it"),
)


def of_generator(name: str) -> tuple[Feature, Feature, Feature]:
    """What a generator says of a candidate."""
    return (
        Feature(f"{name}_score", _CANDIDATE, Kind.SCORE, f"score of the generator {name}; 0 where it has none"),
        Feature(f"{name}_relative", _CANDIDATE, Kind.RATIO, "that score by the best it gives to the user"),
        Feature(f"{name}_rank", _CANDIDATE, Kind.VALUE, "place among what it proposes, 0 is the best"),
    )


def features_of(generators: Iterable[str]) -> tuple[Feature, ...]:
    """Every feature of a bundle with these generators, in the order of the columns."""
    return (*FEATURES, *(feature for name in generators for feature in of_generator(name)))


def columns(scope: Scope) -> slice:
    """The columns of a scope; of a candidate those that every bundle has."""
    of_scope = [column for column, feature in enumerate(FEATURES) if feature.scope is scope]
    return slice(of_scope[0], of_scope[-1] + 1)


def schema_hash(generators: Iterable[str]) -> str:
    """SHA-256 over what the columns are, in their order: what a model was trained on must be what it is given."""
    declared = [(feature.name, feature.scope, feature.kind, feature.seconds) for feature in features_of(generators)]
    return hashlib.sha256(msgspec.json.encode(declared)).hexdigest()
