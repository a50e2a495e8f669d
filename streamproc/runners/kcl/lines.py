"""The lines of a fleet's worker, all on its standard error, one JSON object each.

Three kinds come together: the runner's own, written here; the daemon's (logback's JSON, brought into the same shape,
with its true level); and the children's, which the daemon echoes, passed on as they are. What is no JSON at all, a
print in the application's code for one, is passed on as it is too.
"""

from __future__ import annotations

import datetime
import sys
import threading
from typing import IO, Any

import msgspec

from streamproc.telemetry import TelemetryEvent, event_name

#: Marks a line of logback's JsonEncoder.
_LOGBACK = b'"loggerName":'
_FRAMES_MAX = 3
_LEVELS = {"WARN": "warning"}


class DaemonLine(msgspec.Struct, frozen=True, kw_only=True):
    """What the daemon logged itself."""

    level: str
    logger: str
    message: str
    thread: str
    time: str
    #: The chain of exceptions, the outermost first.
    error: str | None = None


class _Logged(msgspec.Struct, rename="camel"):
    """As logback 1.3's JsonEncoder writes it: the message is a template."""

    level: str
    logger_name: str
    timestamp: int
    message: str = ""
    thread_name: str = ""
    arguments: list[Any] = []
    throwable: dict[str, Any] | None = None


class Lines:
    """Writes whole lines; a subscriber of telemetry, too. Thread-safe."""

    def __init__(self, stream: IO[bytes] | None = None) -> None:
        self._stream = stream or sys.stderr.buffer
        self._lock = threading.Lock()

    def __call__(self, event: TelemetryEvent) -> None:
        """Write an event of the runner's own."""
        self.write(event.level, event_name(type(event)), msgspec.structs.asdict(event))

    def write(self, level: str, event: str, fields: dict[str, Any]) -> None:
        """Write a line of the runner's own."""
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        self.pass_on(msgspec.json.encode({"time": now, "level": level, "event": event, **fields}))

    def pass_on(self, line: bytes) -> None:
        """Write a line as it is."""
        with self._lock:
            self._stream.write(line.rstrip(b"\r\n") + b"\n")
            self._stream.flush()


def daemon_line(line: bytes) -> DaemonLine | None:
    """The line as the daemon's own; None where it is a child's, or no log line at all."""
    if not line.startswith(b"{") or _LOGBACK not in line:
        return None
    try:
        logged = msgspec.json.decode(line, type=_Logged)
    except msgspec.DecodeError:
        return None
    at = datetime.datetime.fromtimestamp(logged.timestamp / 1000, datetime.UTC)
    return DaemonLine(
        level=_LEVELS.get(logged.level, logged.level.lower()),
        logger=logged.logger_name.rpartition(".")[2],
        message=_filled(logged.message, logged.arguments),
        thread=logged.thread_name,
        time=at.isoformat(timespec="milliseconds"),
        error=_chain(logged.throwable) if logged.throwable else None,
    )


def encoded(line: DaemonLine) -> bytes:
    """The daemon's line in the shape of all others."""
    fields: dict[str, Any] = {"time": line.time, "level": line.level, "event": "kcl", "logger": line.logger}
    fields |= {"message": line.message, "thread": line.thread}
    if line.error is not None:
        fields["error"] = line.error
    return msgspec.json.encode(fields)


def _filled(template: str, arguments: list[Any]) -> str:
    parts = template.split("{}")
    text = parts[0]
    for index, part in enumerate(parts[1:]):
        text += (str(arguments[index]) if index < len(arguments) else "{}") + part
    return text


def _chain(throwable: dict[str, Any]) -> str:
    links = []
    cause: dict[str, Any] | None = throwable
    while cause:
        frames = [
            f"{frame.get('className', '').rpartition('.')[2]}.{frame.get('methodName')}:{frame.get('lineNumber')}"
            for frame in cause.get("stepArray", [])[:_FRAMES_MAX]
        ]
        where = f" ({', '.join(frames)})" if frames else ""
        links.append(f"{cause.get('className')}: {cause.get('message')}{where}")
        cause = cause.get("cause")
    return "; caused by ".join(links)
