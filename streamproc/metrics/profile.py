"""Where a worker's time goes: a table by step, every minute and at the end."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable

from streamproc.telemetry import BatchCommitted, Checkpointed, TelemetryEvent

#: Time from one table to the next.
SECONDS = 60.0


class Profile:
    """A subscriber that adds up the steps of all batches of this process, and writes a table of them.

    *commit* is what makes states durable and moves the lease; *other* is what belongs to no step. Waiting for a service
    is in the step that waits; waiting for the next read is in none.
    """

    def __init__(self, write: Callable[[str], object], *, now: Callable[[], float] = time.monotonic) -> None:
        self._write = write
        self._now = now
        self._lock = threading.Lock()
        self._written_at = now()
        self._seconds: dict[str, float] = defaultdict(float)
        self._parts: dict[str, float] = defaultdict(float)
        self._batch_seconds = 0.0
        self._records = self._batches = 0

    def __call__(self, event: TelemetryEvent) -> None:
        """Take an event."""
        with self._lock:
            if isinstance(event, BatchCommitted):
                self._batches += 1
                self._records += event.records
                self._batch_seconds += event.batch_seconds
                for total, of_batch in ((self._seconds, event.step_seconds), (self._parts, event.emit_seconds)):
                    for what, seconds in of_batch.items():
                        total[what] += seconds
            elif isinstance(event, Checkpointed):
                self._seconds["commit"] += event.seconds
                self._batch_seconds += event.seconds
            if self._now() - self._written_at < SECONDS:
                return
            self._written_at = self._now()
            table = self._table()
        self._write(table)

    def close(self) -> None:
        """Write the table of the whole run."""
        with self._lock:
            table = self._table()
        self._write(table)

    def _table(self) -> str:
        if not self._records:
            return "profile: no batch yet"
        other = self._batch_seconds - sum(self._seconds.values())
        rows: list[tuple[str, float]] = []
        for step, seconds in (*self._seconds.items(), ("other", max(other, 0.0))):
            rows.append((step, seconds))
            if step == "emit":
                parts = [(f"  {part}", of_part) for part, of_part in self._parts.items()]
                rows += [*parts, ("  other", max(seconds - sum(self._parts.values()), 0.0))] if parts else []
        lines = [
            f"profile: {self._records:,} records in {self._batches:,} batches, {self._batch_seconds:.1f} s",
            f"{'step':<14}{'seconds':>10}{'us/record':>11}{'share':>8}",
            *(
                f"{step:<14}{seconds:>10.2f}{seconds * 1e6 / self._records:>11.1f}{seconds / self._batch_seconds:>8.1%}"
                for step, seconds in rows
            ),
        ]
        return "\n".join(lines)
