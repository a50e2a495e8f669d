"""Numbered snapshots of the values across keys: the port for where they are kept, and the cycle that makes them.

Every process that serves an application merges the shards' partials now and then, and adds what came of it under the
next number. Numbers are given out by the store's condition, so of several processes one wins and the others take what
it wrote. A number always means the same values: an output names the one that was in force, and training asks for it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import msgspec

from streamproc.clock import Clock
from streamproc.partial import merged
from streamproc.processor import SharedFold, Snapshot
from streamproc.quarantine import in_user_code
from streamproc.state import StateStore
from streamproc.telemetry import Retried, SnapshotAdded, Telemetry


class SnapshotStore(Protocol):
    """Where snapshots are kept. Bound to one namespace."""

    def check(self) -> str:
        """One cheap call that shows whether the service can be used; returns a detail for a person, or raises."""
        ...

    def latest(self, after: int = 0) -> Snapshot | None:
        """The snapshot with the greatest number, None where none has one beyond ``after``."""
        ...

    def last_number(self) -> int:
        """The greatest number that was ever given; 0 where none was. Its snapshot may have been removed since."""
        ...

    def get(self, number: int) -> Snapshot | None:
        """The snapshot of this number, None where there is none."""
        ...

    def add(self, snapshot: Snapshot) -> bool:
        """Keep a snapshot, unless its number is taken. Returns whether the number's snapshot is this one."""
        ...


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Snapshot)


def encode_snapshot(snapshot: Snapshot) -> bytes:
    """A snapshot as msgpack."""
    return _encoder.encode(snapshot)


def decode_snapshot(data: bytes) -> Snapshot:
    """Read what :func:`encode_snapshot` wrote. Raises msgspec.DecodeError for anything else."""
    return _decoder.decode(data)


class SnapshotCycle:
    """Keeps ``current`` the latest snapshot, and adds the next one where the partials have moved on.

    One a process; :meth:`run` is its thread. Workers look at ``current`` between batches.
    """

    def __init__(
        self,
        shared: SharedFold[Any, Any],
        partials: StateStore,
        store: SnapshotStore,
        *,
        shard_ids: Callable[[], Iterable[str]],
        merges: Callable[[], bool] = lambda: True,
        seconds: float,
        clock: Clock,
        telemetry: Telemetry,
    ) -> None:
        #: The latest snapshot that this version of the shared fold made.
        self.current: Snapshot | None = None
        self._seen: Snapshot | None = None
        self._shared = shared
        self._partials = partials
        self._store = store
        self._shard_ids = shard_ids
        self._merges = merges
        self._seconds = seconds
        self._clock = clock
        self._telemetry = telemetry

    def run(self, stop: threading.Event) -> None:
        """Once at the start and then every ``seconds``. What fails is reported, and tried again by the next round.

        The workers go on with the snapshot that they have: an old one is worth more than a stopped stream.
        """
        while True:
            try:
                self.once()
            except Exception as error:  # noqa: BLE001  # a merge that fails is user code: reported, every time
                self._telemetry.emit(
                    Retried(what="making a snapshot", error=str(error), attempt=1, wait_seconds=self._seconds)
                )
            if self._clock.wait(self._seconds, stop):
                return

    def once(self) -> None:
        """Take what others added, and add the next one where a partial has moved since."""
        version = self._shared.version
        latest = self._store.latest(after=self._seen.number if self._seen else 0)
        if latest is not None:
            self._seen = latest
        if self._seen is not None and self._seen.version == version:
            self.current = self._seen
        if not self._merges() or (self._seen is not None and self._seen.version > version):
            return  # another process makes them; a newer one reads the older partials too
        before = self._seen.positions if self._seen else {}
        # By name: a scan would read, and pay for, every state in the table. A shard that is trimmed stays in the sum.
        shard_ids = sorted({*before, *self._shard_ids()})
        partials = [*self._partials.load(shard_ids).values()]
        if any(stored.fold_version > version for stored in partials):
            return
        positions = {stored.key: stored.position.sortable() for stored in partials}
        moved = any(position > before.get(shard_id, "") for shard_id, position in positions.items())
        if not moved and (not positions or self.current is not None):
            return
        data = in_user_code(lambda: merged(self._shared, partials))
        snapshot = Snapshot(self._store.last_number() + 1, version, data, positions, self._clock.time())
        if self._store.add(snapshot):
            self._seen = self.current = snapshot
            self._telemetry.emit(
                SnapshotAdded(number=snapshot.number, shards=len(partials), snapshot_bytes=len(snapshot.data))
            )
        # Otherwise another process was first: the next round takes what it added.
