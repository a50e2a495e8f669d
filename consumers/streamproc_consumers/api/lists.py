"""A user's list, from the state that can be read and the model of the user's arm."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

import msgspec

from streamproc.record import Position
from streamproc_consumers.api.answers import Contributions, StateSource
from streamproc_consumers.api.facts import ListAnswered
from streamproc_consumers.api.ranking import Wish, explained
from streamproc_consumers.api.services import Services
from streamproc_consumers.api.states import DYNAMODB, Found
from streamproc_consumers.arms import Served
from streamproc_consumers.recommendation import recommendation_id
from streamproc_models.scorer import RankedItem
from streamproc_producers.events import utc

#: No store told anything of the user, who got a new user's list.
STATE_UNAVAILABLE = "state_unavailable"
#: The features are those of the last checkpoint, from DynamoDB.
STORED_STATE = "stored_state"


class UserList(NamedTuple):
    """The list, and what is told of it."""

    served: Served
    source: StateSource
    recommendation_id: str | None
    features_as_of: datetime | None
    fallback: str | None
    why: dict[str, Contributions]
    #: What was offered to every user, as records say it; UNSET where nothing is.
    item_snapshot: str | msgspec.UnsetType

    @property
    def items(self) -> Sequence[RankedItem]:
        """The best first."""
        return self.served.ranked.items

    def about(self, request_id: str) -> dict[str, Any]:
        """The fields that every list has."""
        return {
            "recommendation_id": self.recommendation_id,
            "model_version": self.served.bundle.model_version,
            "arm": self.served.arm,
            "features_as_of": self.features_as_of,
            "fallback": self.fallback,
            "item_snapshot": self.item_snapshot,
            "state_source": self.source,
            "request_id": request_id,
        }


async def list_for(
    services: Services,
    user_id: str,
    found: Found,
    k: int,
    *,
    position: Position | None = None,
    exclude_purchased: bool = False,
    explain: bool = False,
) -> UserList:
    """The list of the state that was found. ``position`` is that of the last event in it, where the state is ahead."""
    listed = await services.rankings.rank(Wish(user_id, found.state, k, exclude_purchased))
    source, last_at = found.source, found.state.last_at
    position = position or found.position
    if listed.error is not None:
        services.states.unusable(source, user_id, listed.error)
        source, position, last_at = "unavailable", None, 0.0
    served = listed.served
    usable = explain and listed.error is None
    fallback = _fallback(source, served)
    services.telemetry.emit(ListAnswered(fallback=fallback or "none", state_source=source))
    return UserList(
        served,
        source,
        recommendation_id(user_id, position, served.bundle.model_version) if position else None,
        utc(last_at) if position else None,
        fallback,
        await explained(served, found.state, exclude_purchased) if usable else {},
        served.item_snapshot if services.settings.trending else msgspec.UNSET,
    )


def _fallback(source: StateSource, served: Served) -> str | None:
    """What the list lacks, the most first."""
    if source == "unavailable":
        return STATE_UNAVAILABLE
    return served.ranked.fallback or (STORED_STATE if source == DYNAMODB else None)
