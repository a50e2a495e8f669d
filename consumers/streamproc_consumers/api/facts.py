"""What the API tells in its log."""

from __future__ import annotations

from typing import ClassVar

from streamproc.telemetry import TelemetryEvent


class StoreAway(TelemetryEvent, frozen=True, kw_only=True):
    """A store did not answer, or not in time. Lists come from what is left, and say so; it is asked again by itself."""

    level: ClassVar[str] = "warning"
    store: str
    error: str


class StoreBack(TelemetryEvent, frozen=True, kw_only=True):
    """A store answers again."""

    store: str
    away_seconds: float


class StateUnusable(TelemetryEvent, frozen=True, kw_only=True):
    """What a store has of a user cannot be read or ranked; the user got what is left."""

    level: ClassVar[str] = "error"
    store: str
    user_id: str
    error: str


class ServingMoved(TelemetryEvent, frozen=True, kw_only=True):
    """States are read from another namespace from now on: a rebuild was switched to, or the stream was made anew."""

    namespace: str


class ApiStarted(TelemetryEvent, frozen=True, kw_only=True):
    """The API answers there."""

    url: str
    #: The one that is followed, and what it means now.
    alias: str
    model_version: str
    namespace: str
    stores: list[str]


class RequestAnswered(TelemetryEvent, frozen=True, kw_only=True):
    """A request got its answer."""

    level: ClassVar[str] = "debug"
    #: As it is described, with the names of its parameters; "other" for what is no route.
    route: str
    status: int
    seconds: float


class ListAnswered(TelemetryEvent, frozen=True, kw_only=True):
    """A list was made."""

    level: ClassVar[str] = "debug"
    #: What it lacks, the most first; "none" for nothing.
    fallback: str
    #: Where the state was read; "item" for a list of related products, which needs none.
    state_source: str


class EventsAnswered(TelemetryEvent, frozen=True, kw_only=True):
    """A request with events was worked on; one that repeats another is not."""

    level: ClassVar[str] = "debug"
    stored: int
    #: Wrong ones; a body that is no event or batch counts as one.
    refused: int
    not_acknowledged: int


class RequestFailed(TelemetryEvent, frozen=True, kw_only=True):
    """A request met an error that nobody foresaw, and was answered with 500."""

    level: ClassVar[str] = "error"
    request_id: str
    path: str
    error: str
