"""What a child is doing, in a few bytes that its runner reads: the daemon tells nobody, and a lease is renewed anyway.

A child maps a small file, and stores a number into it where it enters or leaves something: 0.1 us each, no system call,
and the file says the truth even where the child hangs in C code and can say nothing itself. Times are of the machine's
monotonic clock, which all processes share.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import msgspec

_SUFFIX = ".pulse"
#: Eight-byte slots, each stored whole, so that a reader never sees half of one; the shard's id comes behind them.
_ACTION_SINCE, _USER_CODE_SINCE, _LAST_DONE, _ACTIONS, _BEHIND = range(5)
_SHARD_AT = 64
_BYTES = 256


class Pulse:
    """The child's side. As a context manager it stands around the application's code; it is not reentrant."""

    def __init__(self, folder: Path, shard_id: str = "") -> None:
        self._path = folder / f"{os.getpid()}{_SUFFIX}"
        self._path.write_bytes(bytes(_BYTES))
        with self._path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), _BYTES)
        self._slots = memoryview(self._map)[:_SHARD_AT].cast("d")
        self._slots[_LAST_DONE] = time.monotonic()
        self.serves(shard_id)

    def serves(self, shard_id: str) -> None:
        """Say which shard this is about."""
        name = shard_id.encode()
        self._map[_SHARD_AT : _SHARD_AT + len(name)] = name

    @contextlib.contextmanager
    def action(self, millis_behind_latest: int | None = None) -> Iterator[None]:
        """Around an action of the daemon."""
        slots = self._slots
        if millis_behind_latest is not None:
            slots[_BEHIND] = millis_behind_latest
        slots[_ACTION_SINCE] = time.monotonic()
        yield
        slots[_LAST_DONE] = time.monotonic()
        slots[_ACTIONS] += 1
        slots[_ACTION_SINCE] = 0.0

    def __enter__(self) -> None:
        self._slots[_USER_CODE_SINCE] = time.monotonic()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._slots[_USER_CODE_SINCE] = 0.0

    def drained(self) -> None:
        """Everything that the child processed is durable and checkpointed, or another worker's: it may end now."""
        self._path.unlink(missing_ok=True)


class ChildSeen(msgspec.Struct, frozen=True, kw_only=True):
    """The runner's side: one child as it was seen. Times are monotonic seconds; None stands for *not now*."""

    pid: int
    #: Empty before the daemon said which one.
    shard_id: str
    action_since: float | None
    user_code_since: float | None
    last_done: float
    actions: int
    #: What the daemon said with the last batch.
    millis_behind_latest: int


def children_seen(folder: Path) -> list[ChildSeen]:
    """Every child that has not drained, also one that is dead."""
    seen = []
    for path in sorted(folder.glob(f"*{_SUFFIX}")):
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            continue  # drained since the folder was listed
        if len(data) != _BYTES:
            continue  # just being made
        slots = memoryview(data)[:_SHARD_AT].cast("d")
        seen.append(
            ChildSeen(
                pid=int(path.name.removesuffix(_SUFFIX)),
                shard_id=data[_SHARD_AT:].rstrip(b"\0").decode(),
                action_since=slots[_ACTION_SINCE] or None,
                user_code_since=slots[_USER_CODE_SINCE] or None,
                last_done=slots[_LAST_DONE],
                actions=int(slots[_ACTIONS]),
                millis_behind_latest=int(slots[_BEHIND]),
            )
        )
    return seen


def forget_children(folder: Path) -> None:
    """Remove what dead children left, before others are started."""
    for path in folder.glob(f"*{_SUFFIX}"):
        path.unlink(missing_ok=True)
