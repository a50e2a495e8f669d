"""Leases in this process's memory, for tests. Obeys the same conditions as the table."""

from __future__ import annotations

import builtins
import threading

import msgspec

from streamproc.lease import Lease


class MemoryLeases:
    """A dictionary whose writes are conditional on the counter, as the table's are."""

    def __init__(self) -> None:
        self._leases: dict[str, Lease] = {}
        self._lock = threading.Lock()

    def check(self) -> str:
        """See :class:`streamproc.lease.LeaseStore`."""
        return "in memory"

    def prepare(self) -> None:
        """See :class:`streamproc.lease.LeaseStore`."""

    def list(self) -> builtins.list[Lease]:
        """See :class:`streamproc.lease.LeaseStore`."""
        with self._lock:
            return [*self._leases.values()]

    def create(self, lease: Lease) -> None:
        """See :class:`streamproc.lease.LeaseStore`."""
        with self._lock:
            self._leases.setdefault(lease.shard_id, lease)

    def _write(self, read: Lease, **changes: object) -> Lease | None:
        with self._lock:
            now = self._leases.get(read.shard_id)
            if now is None or (now.owner, now.counter) != (read.owner, read.counter):
                return None
            written = msgspec.structs.replace(now, counter=read.counter + 1, **changes)
            self._leases[read.shard_id] = written
            return written

    def take(self, lease: Lease, owner: str) -> Lease | None:
        """See :class:`streamproc.lease.LeaseStore`."""
        switches = lease.owner_switches + (lease.owner is not None and lease.owner != owner)
        return self._write(lease, owner=owner, owner_switches=switches)

    def renew(self, lease: Lease) -> Lease | None:
        """See :class:`streamproc.lease.LeaseStore`."""
        return self._write(lease)

    def checkpoint(
        self, lease: Lease, checkpoint: str, sub_sequence_number: int, latest_since: float | None = None
    ) -> Lease | None:
        """See :class:`streamproc.lease.LeaseStore`."""
        return self._write(
            lease,
            checkpoint=checkpoint,
            checkpoint_sub_sequence_number=sub_sequence_number,
            latest_since=latest_since,
            owner_switches=0,
        )

    def release(self, lease: Lease) -> Lease | None:
        """See :class:`streamproc.lease.LeaseStore`."""
        return self._write(lease, owner=None)
