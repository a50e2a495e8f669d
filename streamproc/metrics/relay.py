"""Telemetry from the processes of a host's shards to the one that serves its metrics, over a Unix datagram socket.

The runner makes a :class:`RelayReceiver` and gives its ``path`` to its children in ``STREAMPROC_RELAY``; each child
subscribes a :class:`RelaySender`. Once a second a sender hands over the events of that second, in a datagram or a few.
Nothing here ever blocks or fails a batch: what cannot be handed over is dropped and counted, and the next datagram says
how much that was. Every event travels whole, batches too: their sum alone would not fill a histogram.

A datagram is msgpack: ``[pid, dropped, last, [[name, event], ...]]``.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from streamproc.errors import SettingsError
from streamproc.telemetry import (
    ChildEnded,
    ChildStarted,
    Subscriber,
    Telemetry,
    TelemetryDropped,
    TelemetryEvent,
    event_name,
)

#: Where the child finds the socket.
ENVIRONMENT_VARIABLE = "STREAMPROC_RELAY"
#: Events that may wait for one second's datagrams; a shard has five batches in it, or some hundred dead letters.
EVENTS_WAITING_MAX = 2_000
#: Far below what a Unix datagram may have (208 KiB on Linux), and few of them: some kernels queue ten.
DATAGRAM_BYTES = 48 * 1024
_SOCKET_BUFFER_BYTES = 1024 * 1024
#: How often the receiver looks whether its children live.
_LOOK_SECONDS = 0.5
#: Of the 104 bytes that a socket's path may have on macOS (108 on Linux), less our own part of it.
_FOLDER_BYTES_MAX = 70


class _Datagram(msgspec.Struct, array_like=True):
    pid: int
    dropped: int
    #: Whether the process says goodbye.
    last: bool
    events: list[tuple[str, msgspec.Raw]]


_encode = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(_Datagram)


class RelaySender:
    """The child's end: a subscriber. Emitting appends to a list; a thread of its own sends."""

    def __init__(self, path: str, *, interval_seconds: float = 1.0, pid: int | None = None) -> None:
        self._path = path
        self._pid = pid or os.getpid()
        self._interval_seconds = interval_seconds
        self._lock = threading.Lock()
        self._waiting: list[TelemetryEvent] = []
        self._dropped = 0
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BUFFER_BYTES)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._tick, name="streamproc-relay", daemon=True)
        self._thread.start()

    @classmethod
    def from_environment(cls) -> RelaySender | None:
        """The sender to this process's parent, None where the parent wants nothing."""
        path = os.environ.get(ENVIRONMENT_VARIABLE)
        return cls(path) if path else None

    def __call__(self, event: TelemetryEvent) -> None:
        """Take an event."""
        with self._lock:
            if len(self._waiting) < EVENTS_WAITING_MAX:
                self._waiting.append(event)
            else:
                self._dropped += 1

    def flush(self, *, last: bool = False) -> None:
        """Hand over what waits. Where the parent is slow it goes on waiting; where the parent is gone it is dropped."""
        with self._lock:
            events, self._waiting = self._waiting, []
            dropped, self._dropped = self._dropped, 0
        tagged = [_tagged(event) for event in events]
        sent = 0
        for part in _datagrams(tagged):
            is_last = last and sent + len(part) == len(tagged)
            failure = self._send(_encode(_Datagram(self._pid, dropped, is_last, part)))
            if failure in (errno.EAGAIN, errno.ENOBUFS):
                break
            # Too long for a datagram, or nobody there: tried again it would fail again.
            dropped = 0 if failure is None else dropped + len(part)
            sent += len(part)
        with self._lock:
            kept = events[sent:] + self._waiting
            self._waiting = kept[:EVENTS_WAITING_MAX]
            self._dropped += dropped + len(kept) - len(self._waiting)

    def close(self) -> None:
        """Hand over what waits, and say goodbye."""
        self._closed.set()
        self._thread.join()
        self.flush(last=True)
        self._socket.close()

    def _tick(self) -> None:
        self.flush()  # the parent hears of this process before its first batch
        while not self._closed.wait(self._interval_seconds):
            self.flush()

    def _send(self, data: bytes) -> int | None:
        """Send to whoever listens at the path now. Returns the error's number."""
        try:
            self._socket.sendto(data, self._path)
        except OSError as error:
            return error.errno or errno.EIO
        return None


def _tagged(event: TelemetryEvent) -> tuple[str, msgspec.Raw]:
    return event_name(type(event)), msgspec.Raw(_encode(event))


def _datagrams(tagged: list[tuple[str, msgspec.Raw]]) -> Iterator[list[tuple[str, msgspec.Raw]]]:
    """The events in order, in parts that fit a datagram; one part at least, which says that the process lives."""
    part: list[tuple[str, msgspec.Raw]] = []
    size = 0
    for item in tagged:
        length = len(item[0]) + len(bytes(item[1])) + 8
        if part and size + length > DATAGRAM_BYTES:
            yield part
            part, size = [], 0
        part.append(item)
        size += length
    yield part


class RelayReceiver:
    """The parent's end: emits to ``telemetry`` what the children hand over, and when one starts and ends.

    Give it a Telemetry of its own, with the metrics and the watchdog: the children write their own logs. A child that
    says no goodbye is found dead by its process id. Raises SettingsError where there can be no socket.
    """

    def __init__(self, *subscribers: Subscriber, is_alive: Callable[[int], bool] | None = None) -> None:
        self._telemetry = Telemetry(*subscribers)
        self._is_alive = is_alive or _is_alive
        #: The shard that each child serves.
        self._shards: dict[int, str | None] = {}
        self._decoders: dict[str, msgspec.msgpack.Decoder[TelemetryEvent]] = {
            event_name(each): msgspec.msgpack.Decoder(each) for each in TelemetryEvent.__subclasses__()
        }
        self._folder = Path(tempfile.mkdtemp(prefix="streamproc-"))
        self.path = str(self._folder / "relay")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SOCKET_BUFFER_BYTES)
        self._socket.settimeout(_LOOK_SECONDS)
        try:
            self._socket.bind(self.path)
        except OSError as error:
            self._remove()
            raise SettingsError(
                f"no socket can be made at {self.path} ({error}): set TMPDIR to a writable folder, its path at most"
                f" {_FOLDER_BYTES_MAX} bytes long"
            ) from error
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._receive, name="streamproc-relay", daemon=True)
        self._thread.start()

    def environment(self) -> dict[str, str]:
        """What a child's environment needs."""
        return {ENVIRONMENT_VARIABLE: self.path}

    def close(self) -> None:
        """Stop listening, and remove the socket."""
        self._closed.set()
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as waking:
            waking.sendto(b"", self.path)
        self._thread.join()
        self._remove()

    def _remove(self) -> None:
        self._socket.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _receive(self) -> None:
        while not self._closed.is_set():
            try:
                data = self._socket.recv(1 << 20)
            except TimeoutError:
                data = b""
            if data:
                self._take(data)
            for pid in [pid for pid in self._shards if not self._is_alive(pid)]:
                self._end(pid)

    def _take(self, data: bytes) -> None:
        try:
            datagram = _decoder.decode(data)
            events = [
                (name, self._decoders[name].decode(raw)) for name, raw in datagram.events if name in self._decoders
            ]
        except msgspec.DecodeError:
            return  # somebody else's; the folder is this user's alone, so nothing to act upon
        pid = datagram.pid
        if pid not in self._shards:
            self._shards[pid] = None
            self._telemetry.emit(ChildStarted(pid=pid))
        for _, event in events:
            self._shards[pid] = getattr(event, "shard_id", None) or self._shards[pid]
            self._telemetry.emit(event)
        if datagram.dropped:
            self._telemetry.emit(TelemetryDropped(pid=pid, events=datagram.dropped))
        if datagram.last:
            self._end(pid)

    def _end(self, pid: int) -> None:
        self._telemetry.emit(ChildEnded(pid=pid, shard_id=self._shards.pop(pid)))


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
