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
    model_version: str
    namespace: str


class RequestFailed(TelemetryEvent, frozen=True, kw_only=True):
    """A request met an error that nobody foresaw, and was answered with 500."""

    level: ClassVar[str] = "error"
    request_id: str
    path: str
    error: str
