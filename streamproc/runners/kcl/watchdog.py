"""Looks after a running daemon: children that hang, shards that stand still, a leader that is gone.

The decisions are functions of what was seen and of the time. :class:`Watchdog` looks, and does what they say.

*Hung*: a child is in the application's code for longer than the limit. KCL would wait for it for ever, renewing the
lease. It is killed; the daemon ends with it, and the worker starts anew, careful (see :mod:`streamproc.quarantine`). A
child that waits for a store is never killed: every worker would wait there.

*Stuck*: no action was finished for long. With empty batches switched on, a healthy shard finishes one in every poll.

*Stale leader* (KCL issue 1803): one worker holds the lock of the leader, who alone assigns leases. Where it died
without a word, KCL 3.1 can fail to take the lock over, and shards without an owner stay so.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec
from botocore.exceptions import ClientError

from streamproc.clock import Clock
from streamproc.errors import StreamprocError, code_of, translated
from streamproc.lease import Lease, LeaseStore, startable
from streamproc.runners.kcl.properties import KclRunnerSettings, coordinator_table
from streamproc.runners.kcl.pulse import ChildSeen, children_seen
from streamproc.telemetry import Retried, Telemetry, TelemetryEvent

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

_LEADER_KEY = "Leader"
#: Beyond the lock's own duration, for a leader that is late.
_LEADER_MARGIN_SECONDS = 30.0
_LOOK_SECONDS = 1.0
_LEADER_LOOK_SECONDS = 15.0


class ChildKilled(TelemetryEvent, frozen=True, kw_only=True):
    """A child hung in the application's code, and was ended."""

    level: ClassVar[str] = "error"
    shard_id: str
    pid: int
    seconds: float


class ShardStuck(TelemetryEvent, frozen=True, kw_only=True):
    """No batch of a shard was finished for long, though an idle shard finishes empty ones."""

    level: ClassVar[str] = "warning"
    shard_id: str
    pid: int
    seconds: float
    why: str
    #: What the shard was behind with its last batch, and the time since.
    iterator_age_ms: int


class ShardMoved(TelemetryEvent, frozen=True, kw_only=True):
    """A shard that was stuck finishes batches again."""

    shard_id: str
    pid: int


class LeaderLockStale(TelemetryEvent, frozen=True, kw_only=True):
    """The lock of the fleet's leader is of a worker that is gone. Shards without an owner stay so while it is there."""

    level: ClassVar[str] = "error"
    owner: str
    seconds: float
    command: str


class Stuck(msgspec.Struct, frozen=True, kw_only=True):
    """A shard of which nothing was finished for long."""

    child: ChildSeen
    seconds: float
    why: str

    @property
    def iterator_age_ms(self) -> int:
        """At least so far behind: records that are not read age, too."""
        return self.child.millis_behind_latest + round(self.seconds * 1000)


def hung(children: Sequence[ChildSeen], now: float, seconds_max: float) -> list[ChildSeen]:
    """The children that are in the application's code for longer than ``seconds_max``."""
    return [
        child for child in children if child.user_code_since is not None and now - child.user_code_since > seconds_max
    ]


def stuck(children: Sequence[ChildSeen], now: float, seconds_max: float) -> list[Stuck]:
    """The shards of which no action was finished for longer than ``seconds_max``, and where each stands."""
    found = []
    for child in children:
        if child.user_code_since is not None:
            since, why = child.user_code_since, "it is in the application's code"
        elif child.action_since is not None:
            since, why = child.action_since, "it waits for a store or a sink"
        else:
            since, why = child.last_done, "the daemon sends nothing, not even empty batches"
        if now - since > seconds_max:
            found.append(Stuck(child=child, seconds=now - since, why=why))
    return found


def unserved(leases: Sequence[Lease], children: Sequence[ChildSeen], me: str) -> set[str]:
    """The shards whose lease is ours and whose parents are done, and for which the daemon runs no child."""
    served = {child.shard_id for child in children}
    return {lease.shard_id for lease in startable(leases) if lease.owner == me and lease.shard_id not in served}


class LeaderLock(msgspec.Struct, frozen=True, kw_only=True):
    """The leader's lock as DynamoDB's lock client writes it."""

    owner: str
    #: Changes with every heartbeat.
    version: str
    lease_seconds: float


class LeaderSeen(msgspec.Struct, frozen=True, kw_only=True):
    """A lock, and since when it stands still, monotonic seconds."""

    lock: LeaderLock
    since: float


def leader_seen(before: LeaderSeen | None, lock: LeaderLock | None, now: float) -> LeaderSeen | None:
    """What is known of the lock after another look."""
    if lock is None:
        return None
    if before is not None and before.lock == lock:
        return before
    return LeaderSeen(lock=lock, since=now)


def leader_is_stale(seen: LeaderSeen | None, now: float, before: Sequence[Lease], after: Sequence[Lease]) -> bool:
    """Whether the lock outlived its owner: not renewed for its duration, and no lease of the owner's moved either."""
    if seen is None or now - seen.since <= seen.lock.lease_seconds + _LEADER_MARGIN_SECONDS:
        return False
    counters = {lease.shard_id: (lease.owner, lease.counter) for lease in before}
    moved = {lease.owner for lease in after if counters.get(lease.shard_id) != (lease.owner, lease.counter)}
    return seen.lock.owner not in moved


def unlock_command(app: str, name: str) -> str:
    """What removes the lock, unless it is renewed meanwhile."""
    return shlex.join(["streamproc", "leases", "unlock-leader", "-A", app, "--name", name])


def read_leader(client: DynamoDBClient, application: str) -> LeaderLock | None:
    """The leader's lock; None where nobody holds it, or the table is not there yet."""
    with translated("reading the lock of KCL's leader"):
        try:
            answer: Any = client.get_item(
                TableName=coordinator_table(application), Key={"key": {"S": _LEADER_KEY}}, ConsistentRead=True
            )
        except ClientError as error:
            if code_of(error) != "ResourceNotFoundException":
                raise
            return None
    item = answer.get("Item")
    if item is None or "ownerName" not in item or "isReleased" in item:
        return None
    return LeaderLock(
        owner=item["ownerName"]["S"],
        version=item["recordVersionNumber"]["S"],
        lease_seconds=int(item["leaseDuration"]["S"]) / 1000,
    )


def release_leader(client: DynamoDBClient, application: str, owner: str) -> None:
    """Remove the lock of a worker whose daemon is dead: nobody could assign leases for two minutes otherwise."""
    with translated("releasing the lock of KCL's leader"):
        try:
            client.delete_item(
                TableName=coordinator_table(application),
                Key={"key": {"S": _LEADER_KEY}},
                ConditionExpression="ownerName = :owner",  # another one may be the leader by now
                ExpressionAttributeValues={":owner": {"S": owner}},
            )
        except ClientError as error:
            if code_of(error) not in ("ConditionalCheckFailedException", "ResourceNotFoundException"):
                raise


class Watchdog:
    """The thread that looks, from the daemon's start to its end."""

    def __init__(
        self,
        settings: KclRunnerSettings,
        pulses: Path,
        *,
        worker_id: str,
        unlock_command: str,
        is_child: Callable[[int], bool],
        leases: LeaseStore,
        leader: Callable[[], LeaderLock | None],
        clock: Clock,
        telemetry: Telemetry,
    ) -> None:
        self._worker_id = worker_id
        #: Since when a shard of ours has no child, monotonic seconds.
        self._unserved: dict[str, float] = {}
        self._unserved_reported: set[str] = set()
        self._unlock_command = unlock_command
        self._settings = settings
        self._pulses = pulses
        self._is_child = is_child
        self._leases = leases
        self._leader = leader
        self._clock = clock
        self._telemetry = telemetry
        self._reported: set[int] = set()
        self._seen: LeaderSeen | None = None
        self._leases_seen: list[Lease] = []
        self._stale_reported: LeaderLock | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="streamproc-kcl-watchdog", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        leader_at = self._clock.monotonic() + _LEADER_LOOK_SECONDS
        while not self._clock.wait(_LOOK_SECONDS, self._ended):
            self.look_at_children()
            if self._clock.monotonic() >= leader_at:
                self.look_at_leader()
                leader_at = self._clock.monotonic() + _LEADER_LOOK_SECONDS

    def look_at_children(self) -> None:
        """Kill what hangs, and report what is stuck, once for each time that it is."""
        now = self._clock.monotonic()
        children = self._children()
        for child in hung(children, now, self._settings.user_code_seconds_max):
            seconds = round(now - (child.user_code_since or now), 1)
            with contextlib.suppress(ProcessLookupError):
                os.kill(child.pid, signal.SIGKILL)
                self._telemetry.emit(ChildKilled(shard_id=child.shard_id, pid=child.pid, seconds=seconds))
        found = {item.child.pid: item for item in stuck(children, now, self._settings.stuck_seconds)}
        for pid, item in found.items():
            if pid not in self._reported:
                self._telemetry.emit(
                    ShardStuck(
                        shard_id=item.child.shard_id,
                        pid=pid,
                        seconds=round(item.seconds, 1),
                        why=item.why,
                        iterator_age_ms=item.iterator_age_ms,
                    )
                )
        for child in children:
            if child.pid in self._reported and child.pid not in found:
                self._telemetry.emit(ShardMoved(shard_id=child.shard_id, pid=child.pid))
        self._reported = set(found)

    def _look_at_unserved(self, leases: Sequence[Lease], now: float) -> None:
        before, self._unserved = self._unserved, {}
        self._unserved_reported &= before.keys()
        for shard_id in sorted(unserved(leases, self._children(), self._worker_id)):
            since = self._unserved[shard_id] = before.get(shard_id, now)
            seconds = now - since
            if seconds > self._settings.stuck_seconds and shard_id not in self._unserved_reported:
                self._unserved_reported.add(shard_id)
                why = "the daemon holds its lease and starts no process for it"
                age = round(seconds * 1000)
                self._telemetry.emit(
                    ShardStuck(shard_id=shard_id, pid=0, seconds=round(seconds, 1), why=why, iterator_age_ms=age)
                )

    def _children(self) -> list[ChildSeen]:
        return [child for child in children_seen(self._pulses) if self._is_child(child.pid)]

    def look_at_leader(self) -> None:
        """Report a lock that outlived its owner, and shards that wait for a process, once each."""
        try:
            lock, leases = self._leader(), self._leases.list()
        except StreamprocError as error:
            what = "looking at the leader's lock"
            self._telemetry.emit(Retried(what=what, error=str(error), attempt=1, wait_seconds=_LEADER_LOOK_SECONDS))
            return
        now = self._clock.monotonic()
        self._look_at_unserved(leases, now)
        self._seen = leader_seen(self._seen, lock, now)
        before, self._leases_seen = self._leases_seen, leases
        if self._seen is None or not leader_is_stale(self._seen, now, before, leases):
            return
        if self._seen.lock != self._stale_reported:
            self._stale_reported = self._seen.lock
            self._telemetry.emit(
                LeaderLockStale(
                    owner=self._seen.lock.owner,
                    seconds=round(now - self._seen.since, 1),
                    command=self._unlock_command,
                )
            )
