"""A lease that this process holds, shared by the thread that reads the shard and the one that renews."""

from __future__ import annotations

import threading
from collections.abc import Callable

from streamproc.lease import LATEST, Lease, LeaseStore
from streamproc.stream import Shard


class HeldLease:
    """Every write goes through here, one at a time, since each one needs the counter that the last one wrote.

    ``lost`` is set once another worker's write was found. A write of ours whose answer was lost looks like that too:
    the row has another counter than we know. So the row is read, and where we still own it, it is ours: only an owner
    writes a row, and a worker that takes one writes its own name.
    """

    def __init__(self, leases: LeaseStore, lease: Lease) -> None:
        self._leases = leases
        self._lease = lease
        self._lock = threading.Lock()
        self._releasing = False
        self.lost = threading.Event()
        #: Whether it counts as lost because a stop took too long, and nobody else has it.
        self.given_up = False
        #: Who has it, once it is lost.
        self.taken_by: str | None = None

    @property
    def lease(self) -> Lease:
        """The row as we last wrote it."""
        return self._lease

    def renew(self) -> bool:
        """Move the counter. False where the lease is lost."""
        return self._write(self._leases.renew)

    def checkpoint(self, checkpoint: str, sub_sequence_number: int) -> bool:
        """Move the checkpoint. False where the lease is lost."""
        return self._write(lambda lease: self._leases.checkpoint(lease, checkpoint, sub_sequence_number))

    def release(self) -> bool:
        """Give it up. False where it was lost before."""
        self._releasing = True
        return self._write(self._leases.release)

    def _write(self, write: Callable[[Lease], Lease | None]) -> bool:
        with self._lock:
            if self.lost.is_set():
                return False
            written = write(self._lease)
            if written is None:
                row = next((row for row in self._leases.list() if row.shard_id == self._lease.shard_id), None)
                if row is not None and row.owner == self._lease.owner:
                    written = write(row)
                elif row is not None and row.owner is None and self._releasing:
                    written = row  # released already, by a write of ours whose answer was lost
                else:
                    self.taken_by = row.owner if row else None
            if written is None:
                self.lost.set()
                return False
            self._lease = written
            return True


def new_lease(shard: Shard, checkpoint: str, since: float | None = None) -> Lease:
    """The lease of a shard that is begun there; ``since`` is the time that LATEST stands for."""
    return Lease(
        shard_id=shard.shard_id,
        checkpoint=checkpoint,
        latest_since=since if checkpoint == LATEST else None,
        parent_shard_ids=shard.parent_shard_ids,
        starting_hash_key=str(shard.hash_range.start),
        ending_hash_key=str(shard.hash_range.end),
    )
