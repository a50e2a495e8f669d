"""The contract of what is published: one recommendation, one line of JSON in S3."""

from __future__ import annotations

from datetime import datetime
from hashlib import blake2b

import msgspec

from streamproc.errors import SettingsError
from streamproc.record import Position, shard_id_of, shard_number_of
from streamproc_models.scorer import RankedItem


class LogPosition(msgspec.Struct, frozen=True, gc=False):
    """A position as people and queries read it. Sequence numbers exceed every integer type, so they are text."""

    shard_id: str
    sequence_number: str
    sub_sequence_number: int

    @classmethod
    def of(cls, position: Position) -> LogPosition:
        """The readable form of a position."""
        return cls(shard_id_of(position.shard_number), str(position.sequence_number), position.sub_sequence_number)

    def position(self) -> Position:
        """The comparable form. Raises SettingsError for what is no shard id or no sequence number."""
        try:
            sequence_number = int(self.sequence_number)
        except ValueError as error:
            raise SettingsError(f"{self.sequence_number!r} is no sequence number: is the line whole?") from error
        return Position(shard_number_of(self.shard_id), sequence_number, self.sub_sequence_number)


#: One place in the list, as it was ranked.
RecommendedItem = RankedItem


class Recommendation(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What was recommended to a user, from which features, by which model."""

    #: Equal for equal user, position and model version: a replay publishes the same one again. Its items are the same
    #: where ``item_snapshot`` is.
    recommendation_id: str
    user_id: str
    items: list[RecommendedItem]
    model_version: str
    #: The alias whose model made the list; see :mod:`streamproc_consumers.arms`.
    arm: str
    #: The probability with which a user is in that arm.
    propensity: float = 1.0
    #: Event time up to which the features know the user.
    features_as_of: datetime
    #: The last event in the features.
    position: LogPosition
    #: Event time of that event.
    event_ts: datetime
    published_ts: datetime
    #: Which cross-user values were in force: ``bundle:<version>`` for popularity and neighbours, and behind it
    #: ``+trending:<number>/<items>`` where the first items of that snapshot were offered to every user.
    item_snapshot: str
    #: What the list lacks, or None; see docs/explain.md.
    fallback: str | None


def recommendation_id(user_id: str, position: Position, model_version: str) -> str:
    """The id: 128 bits of BLAKE2b over user, position and model version, in hexadecimal."""
    name = f"{user_id}\x00{position.sortable()}\x00{model_version}"
    return blake2b(name.encode(), digest_size=16).hexdigest()
