"""Telemetry as log lines: JSON for machines, text for a person at a terminal.

Batches are too many to log one by one. They are summed, and one ``streamproc.progress`` line a second says what
happened in it: events, outputs, batch times, and the iterator age of the shard that is furthest behind.
"""

from __future__ import annotations

import datetime
import statistics
import sys
import threading
from collections import Counter
from typing import Any, TextIO

import msgspec

from streamproc.telemetry import (
    AggregateDropped,
    BatchCommitted,
    DeadLettered,
    LeaseLost,
    ProjectionUnavailable,
    RetentionGapFound,
    Retried,
    TelemetryEvent,
    event_name,
)

#: What a person should look at, though the worker goes on.
_WARNINGS = (AggregateDropped, DeadLettered, LeaseLost, ProjectionUnavailable, RetentionGapFound, Retried)


class LogWriter:
    """A subscriber that writes lines to a stream, standard error by default. Close it to write the last second."""

    def __init__(self, stream: TextIO | None = None, *, json: bool = True, interval_seconds: float = 1.0) -> None:
        self._stream = stream or sys.stderr
        self._json = json
        self._interval_seconds = interval_seconds
        self._lock = threading.Lock()
        self._batches: list[BatchCommitted] = []
        self._behind: dict[str, int] = {}
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._tick, name="streamproc-progress", daemon=True)
        self._thread.start()

    def __call__(self, event: TelemetryEvent) -> None:
        """Take an event."""
        if isinstance(event, BatchCommitted):
            with self._lock:
                self._batches.append(event)
            return
        level = "warning" if isinstance(event, _WARNINGS) else "info"
        self._write(level, event_name(type(event)), msgspec.structs.asdict(event))

    def _tick(self) -> None:
        while not self._closed.wait(self._interval_seconds):
            self._write_progress()

    def _write_progress(self) -> None:
        with self._lock:
            batches, self._batches = self._batches, []
        if batches:
            self._behind.update({batch.shard_id: batch.millis_behind_latest for batch in batches})
            self._write("info", "streamproc.progress", _progress(batches, self._behind))

    def close(self) -> None:
        """Write what the last second held, and stop."""
        self._closed.set()
        self._thread.join()
        self._write_progress()

    def _write(self, level: str, name: str, fields: dict[str, Any]) -> None:
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        if self._json:
            line = msgspec.json.encode({"time": now, "level": level, "event": name, **fields}).decode()
        else:
            words = " ".join(f"{key}={_short(value)}" for key, value in fields.items())
            line = f"{now[11:23]} {level:<7} {name} {words}"
        with self._lock:
            self._stream.write(line + "\n")
            self._stream.flush()


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return ",".join(f"{key}:{_short(item)}" for key, item in value.items())
    return str(value) if " " not in str(value) else repr(value)


def _progress(batches: list[BatchCommitted], behind: dict[str, int]) -> dict[str, Any]:
    milliseconds = [batch.batch_seconds * 1000 for batch in batches]
    steps: Counter[str] = Counter()
    for batch in batches:
        steps.update({step: seconds * 1000 for step, seconds in batch.step_seconds.items()})
    return {
        "batches": len(batches),
        "records": sum(batch.records for batch in batches),
        "events_folded": sum(batch.events_folded for batch in batches),
        "events_skipped": sum(batch.events_skipped for batch in batches),
        "outputs": sum(batch.outputs for batch in batches),
        "batch_ms_p50": round(statistics.median(milliseconds), 2),
        "batch_ms_max": round(max(milliseconds), 2),
        "iterator_age_ms": max(behind.values()),
        "steps_ms": {step: round(total, 2) for step, total in steps.items()},
    }
