"""What the recommender tells beside what the library does: its models come, go, and are compared."""

from __future__ import annotations

from typing import ClassVar

from streamproc.telemetry import TelemetryEvent


class ModelOffered(TelemetryEvent, frozen=True, kw_only=True):
    """An alias moved, and what it means now was fetched and proven. The next batch of each shard uses it."""

    alias: str
    model_version: str
    #: From the poll that saw the alias until the bundle was ready.
    seconds: float


class ModelRejected(TelemetryEvent, frozen=True, kw_only=True):
    """A bundle cannot be used. ``serving`` goes on, until the alias is moved again."""

    level: ClassVar[str] = "error"
    alias: str
    model_version: str
    reason: str
    #: None where nothing serves this alias: its users get the lists of the main one.
    serving: str | None


class ShadowCompared(TelemetryEvent, frozen=True, kw_only=True):
    """The shadow's lists beside those that were published, over the users of some seconds."""

    model_version: str
    users: int
    #: Mean share of the published list's items that are in the shadow's list, too.
    overlap_at_10: float
    #: Mean difference of the probabilities of the items that are in both, shadow less published.
    score_drift: float
