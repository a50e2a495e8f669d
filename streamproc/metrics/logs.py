"""Telemetry as log lines: JSON for machines, text for a person at a terminal.

Batches are too many to log one by one. They are summed, and one ``streamproc.progress`` line a second says what
happened in it: events, outputs, batch times, and the iterator age of the shard that is furthest behind. Events of the
level ``debug`` are for metrics alone.

In JSON, what other code writes with :mod:`logging` becomes lines too (``streamproc.logged``), so that every line of
standard error can be parsed.
"""

from __future__ import annotations

import datetime
import logging
import statistics
import sys
import threading
from collections import Counter
from typing import Any, TextIO

import msgspec

from streamproc.telemetry import (
    BatchCommitted,
    BatchRead,
    LeaseLost,
    ShardEnded,
    TelemetryEvent,
    event_name,
)


class LogWriter:
    """A subscriber that writes lines to a stream, standard error by default. Close it to write the last second.

    Where it writes JSON to standard error it also takes the records of :mod:`logging`, in the place of handlers that
    write there themselves.
    """

    def __init__(self, stream: TextIO | None = None, *, json: bool = True, interval_seconds: float = 1.0) -> None:
        self._stream = stream or sys.stderr
        self._json = json
        self._interval_seconds = interval_seconds
        self._lock = threading.Lock()
        self._batches: list[BatchCommitted] = []
        self._behind: dict[str, int] = {}
        self._taken_over: _Handler | None = None
        if json and self._stream is sys.stderr:
            self._taken_over = _Handler(self)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._tick, name="streamproc-progress", daemon=True)
        self._thread.start()

    def __call__(self, event: TelemetryEvent) -> None:
        """Take an event."""
        if event.level == "debug":
            return
        if isinstance(event, BatchCommitted):
            with self._lock:
                self._batches.append(event)
                self._behind[event.shard_id] = event.millis_behind_latest
            return
        if isinstance(event, BatchRead):
            with self._lock:
                self._behind[event.shard_id] = event.millis_behind_latest
            return
        if isinstance(event, (LeaseLost, ShardEnded)):
            with self._lock:
                self._behind.pop(event.shard_id, None)
        self.write(event.level, event_name(type(event)), msgspec.structs.asdict(event))

    def _tick(self) -> None:
        while not self._closed.wait(self._interval_seconds):
            self._write_progress()

    def _write_progress(self) -> None:
        with self._lock:
            batches, self._batches = self._batches, []
            behind = dict(self._behind)
        if batches:
            self.write("info", "streamproc.progress", _progress(batches, behind))

    def close(self) -> None:
        """Write what the last second held, and stop."""
        self._closed.set()
        self._thread.join()
        self._write_progress()
        if self._taken_over is not None:
            self._taken_over.give_back()

    def write(self, level: str, name: str, fields: dict[str, Any]) -> None:
        """Write one line."""
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        if self._json:
            line = msgspec.json.encode({"time": now, "level": level, "event": name, **fields}).decode()
        else:
            words = " ".join(f"{key}={_short(value)}" for key, value in fields.items())
            line = f"{now[11:23]} {level:<7} {name} {words}"
        with self._lock:
            self._stream.write(line + "\n")
            self._stream.flush()


class _Handler(logging.Handler):
    """Takes the root logger's records, instead of its handlers that write to a standard stream."""

    def __init__(self, log: LogWriter) -> None:
        super().__init__()
        self._log = log
        root = logging.getLogger()
        standard = (sys.stdout, sys.stderr)
        self._replaced = [each for each in root.handlers if getattr(each, "stream", None) in standard]
        for each in self._replaced:
            root.removeHandler(each)
        root.addHandler(self)

    def give_back(self) -> None:
        root = logging.getLogger()
        root.removeHandler(self)
        for each in self._replaced:
            root.addHandler(each)

    def emit(self, record: logging.LogRecord) -> None:
        """See logging. A record that names its shard or position with ``extra`` keeps them."""
        try:
            fields: dict[str, Any] = {"logger": record.name, "message": record.getMessage()}
            # The local runner's threads are named after their shards.
            thread = record.threadName or ""
            shard_id = getattr(record, "shard_id", thread if thread.startswith("shardId-") else None)
            if shard_id is not None:
                fields["shard_id"] = str(shard_id)
            if (position := getattr(record, "position", None)) is not None:
                fields["position"] = str(position)
            if record.exc_info:
                fields["exception"] = logging.Formatter().formatException(record.exc_info)
            self._log.write(record.levelname.lower(), "streamproc.logged", fields)
        except Exception:  # noqa: BLE001  # what logging does with a record that cannot be formatted
            self.handleError(record)


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
        "iterator_age_ms": max(behind.values(), default=0),
        "steps_ms": {step: round(total, 2) for step, total in steps.items()},
        **_by_shard({batch.shard_id: batch.position for batch in batches if batch.position is not None}, behind),
    }


def _by_shard(positions: dict[str, str], behind: dict[str, int]) -> dict[str, Any]:
    """Where the shards are: plain fields for one shard, a mapping for several."""
    if len(behind) == 1:
        (shard_id,) = behind
        position = {"position": positions[shard_id]} if shard_id in positions else {}
        return {"shard_id": shard_id, **position}
    if not behind:  # the last one was lost or ended just now
        return {}
    return {"iterator_age_ms_by_shard": behind, **({"positions": positions} if positions else {})}
