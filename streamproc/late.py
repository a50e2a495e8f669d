"""Projecting states although the projection may be away."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from streamproc.clock import Clock, backoff
from streamproc.errors import is_transient
from streamproc.projection import Projection
from streamproc.state import StoredState
from streamproc.telemetry import ProjectionCaughtUp, ProjectionUnavailable, Telemetry

T = TypeVar("T")
#: States that are looked up and projected together when the projection is back.
STATES_PER_CALL = 500


class LateProjection:
    """A projection that may be away.

    Of what could not be projected the keys wait. Their latest states are looked up when it is back: in memory, else in
    the store, which has every state that memory has not. What waits ends with the worker: its keys are then
    projected with their next event, or by ``streamproc state project``.
    """

    def __init__(
        self,
        shard_id: str,
        projection: Projection,
        latest: Callable[[Sequence[str]], list[StoredState]],
        clock: Clock,
        telemetry: Telemetry,
    ) -> None:
        self._shard_id = shard_id
        self._projection = projection
        self._latest = latest
        self._clock = clock
        self._telemetry = telemetry
        self._waiting: dict[str, None] = {}
        self._waits = backoff(cap=5.0)
        self._try_again_at: float | None = None

    def project(self, states: Sequence[StoredState]) -> None:
        """Project these and what waits, unless the projection failed a moment ago. Never raises what passes."""
        if self._try_again_at is not None:
            self._waiting.update(dict.fromkeys(stored.key for stored in states))
            if self._clock.monotonic() >= self._try_again_at:
                self._catch_up()
        elif states:
            try:
                self._projection.project(states)
            except Exception as error:  # noqa: BLE001  # _put_off raises what does not pass
                self._waiting = dict.fromkeys(stored.key for stored in states)
                self._put_off(error)
                self._telemetry.emit(
                    ProjectionUnavailable(shard_id=self._shard_id, error=str(error), keys_waiting=len(self._waiting))
                )

    def _catch_up(self) -> None:
        caught_up = len(self._waiting)
        try:
            for part in in_parts([*self._waiting], STATES_PER_CALL):
                self._projection.project(self._latest(part))
                for key in part:
                    del self._waiting[key]
        except Exception as error:  # noqa: BLE001  # likewise
            self._put_off(error)
        else:
            self._try_again_at, self._waits = None, backoff(cap=5.0)
            self._telemetry.emit(ProjectionCaughtUp(shard_id=self._shard_id, keys=caught_up))

    def _put_off(self, error: Exception) -> None:
        if not is_transient(error):
            raise error
        self._try_again_at = self._clock.monotonic() + next(self._waits)


def in_parts(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """The items in order, in parts of at most so many."""
    return (items[start : start + size] for start in range(0, len(items), size))
