"""Leases: which worker reads which shard, and how far it got. The rows are KCL's, so that a KCL fleet can take over.

*Held* means: our id is the row's owner and its counter is the one we last wrote. The counter is both heartbeat and
lock: a worker that sees it stand still for the failover time takes the lease, and every write is conditional on it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Protocol

import msgspec

#: The checkpoint of a shard that was read to its end; KCL's sentinel.
SHARD_END = "SHARD_END"
TRIM_HORIZON = "TRIM_HORIZON"
LATEST = "LATEST"
#: What the names of a KCL fleet's workers begin with; see streamproc.runners.kcl.
FLEET_PREFIX = "kcl:"


class Lease(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the lease table, as KCL's DynamoDBLeaseSerializer writes it."""

    shard_id: str
    owner: str | None = None
    counter: int = 0
    owner_switches: int = 0
    #: A sequence number, or SHARD_END, TRIM_HORIZON or LATEST.
    checkpoint: str = TRIM_HORIZON
    checkpoint_sub_sequence_number: int = 0
    #: Of a lease at LATEST: when it was made, seconds since the epoch. "Latest" would otherwise move with every start,
    #: and what came between two of them would never be read. Ours; KCL keeps attributes that it does not know.
    latest_since: float | None = None
    parent_shard_ids: frozenset[str] = frozenset()
    starting_hash_key: str = "0"
    ending_hash_key: str = str(2**128 - 1)

    @property
    def ended(self) -> bool:
        """Whether the shard was read to its end."""
        return self.checkpoint == SHARD_END


class LeaseStore(Protocol):
    """The lease table of one application. A lost race is None, not an error."""

    def check(self) -> str:
        """One cheap call that shows whether the service can be used; returns a detail for a person, or raises."""
        ...

    def prepare(self) -> None:
        """Create the table where there is none."""
        ...

    def list(self) -> list[Lease]:
        """Every lease, read strongly consistent."""
        ...

    def create(self, lease: Lease) -> None:
        """Add a lease; one that is there already stays as it is."""
        ...

    def take(self, lease: Lease, owner: str) -> Lease | None:
        """Make ``owner`` the owner, unless somebody wrote the row since it was read."""
        ...

    def renew(self, lease: Lease) -> Lease | None:
        """Move the counter of a lease that we hold."""
        ...

    def checkpoint(
        self, lease: Lease, checkpoint: str, sub_sequence_number: int, latest_since: float | None = None
    ) -> Lease | None:
        """Move the checkpoint of a lease that we hold. ``latest_since`` becomes what is given, or None."""
        ...

    def release(self, lease: Lease) -> Lease | None:
        """Give up a lease that we hold, so that the next worker need not wait for the failover time."""
        ...


def others(leases: Sequence[Lease], me: str) -> list[Lease]:
    """The leases that another worker owns."""
    return [lease for lease in leases if lease.owner is not None and lease.owner != me and not lease.ended]


def alive(before: Sequence[Lease], after: Sequence[Lease], me: str) -> list[Lease]:
    """The leases of other workers whose counter moved, or which changed hands, between two looks."""
    seen = {lease.shard_id: (lease.owner, lease.counter) for lease in before}
    return [lease for lease in others(after, me) if seen.get(lease.shard_id) != (lease.owner, lease.counter)]


def ancestors(parents_of: Mapping[str, Collection[str]], shard_ids: Iterable[str]) -> set[str]:
    """Every shard that these descend from, as far as the parents are known."""
    found: set[str] = set()
    waiting = [*shard_ids]
    while waiting:
        parents = set(parents_of.get(waiting.pop(), ())) - found
        found |= parents
        waiting += parents
    return found


def startable(leases: Sequence[Lease]) -> list[Lease]:
    """The leases whose shards may be read: not ended, and every parent that has a lease is.

    A parent without a lease was read before this application began, or KCL removed its lease when it was done.
    """
    by_shard = {lease.shard_id: lease for lease in leases}
    return [
        lease
        for lease in leases
        if not lease.ended and all(by_shard[parent].ended for parent in lease.parent_shard_ids if parent in by_shard)
    ]
