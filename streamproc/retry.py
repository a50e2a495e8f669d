"""Trying again what passes, visibly, until it succeeds or the worker is told to give up."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from streamproc.clock import Clock, backoff
from streamproc.errors import StreamprocError, is_transient
from streamproc.telemetry import Retried, Telemetry

T = TypeVar("T")


class WorkerAborted(StreamprocError):
    """The worker was told to give up while it waited for a service. Nothing of the batch is kept; it is replayed."""


class Retries:
    """How one shard's worker waits for services: with backoff and jitter, and until *abort* is set."""

    def __init__(self, shard_id: str, clock: Clock, telemetry: Telemetry, abort: threading.Event) -> None:
        self._shard_id = shard_id
        self._clock = clock
        self._telemetry = telemetry
        self._abort = abort

    def raise_if_aborted(self, what: str) -> None:
        """Between calls that all succeed. Raises WorkerAborted where the worker is told to give up.

        A single call is made all the same: a note of the quarantine must be taken back by whoever gives up, too.
        """
        if self._abort.is_set():
            raise WorkerAborted(f"{what} on {self._shard_id} was given up")

    def call(self, what: str, call: Callable[[], T]) -> T:
        """Call until it succeeds, as long as its errors pass. Raises WorkerAborted, or the error that does not pass."""
        for attempt, seconds in enumerate(backoff(), 1):
            try:
                return call()
            except Exception as error:
                if not is_transient(error):
                    raise
                self.wait(what, str(error), attempt, seconds)
        raise AssertionError("backoff() has no end")

    def wait(self, what: str, error: str, attempt: int, seconds: float) -> None:
        """Say why, and wait. Raises WorkerAborted where the worker is told to give up."""
        self._telemetry.emit(
            Retried(what=f"{what} ({self._shard_id})", error=error, attempt=attempt, wait_seconds=seconds)
        )
        if self._clock.wait(seconds, self._abort):
            raise WorkerAborted(f"{what} on {self._shard_id} was given up: {error}")
