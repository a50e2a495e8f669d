"""Where ``streamproc leases reset`` moves each lease, and what that means for what is read."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import msgspec

from streamproc.clock import Clock
from streamproc.errors import SettingsError, TransientServiceError, translated
from streamproc.lease import LATEST, SHARD_END, TRIM_HORIZON, Lease
from streamproc.operations.common import duration_text, patiently, time_text
from streamproc.operations.lag import Seen, look, open_at, read_at
from streamproc.readable import plain
from streamproc.record import shard_number_of
from streamproc.stream import Shard, list_shards

if TYPE_CHECKING:
    from mypy_boto3_kinesis import KinesisClient

#: How often a shard is read to find the first record since a time. Kinesis looks at a part of a sparse shard a call.
READS_MAX = 20
# Five reads a second a shard, over all readers.
_BETWEEN_READS_SECONDS = 0.25


class Goal(msgspec.Struct, frozen=True, kw_only=True):
    """What a lease's checkpoint becomes."""

    checkpoint: str
    #: -1 is before the first user record of the one with the sequence number, for this library's reader and for KCL:
    #: both open the shard at that record, and drop what is not beyond (sequence number, sub-sequence number).
    sub_sequence_number: int = 0
    latest_since: float | None = None
    #: When the first record arrived that will be read, or the time from which on it is; None where that is not known.
    begins_at: float | None = None

    def of(self, lease: Lease) -> Lease:
        """The lease as it will be."""
        return msgspec.structs.replace(
            lease,
            checkpoint=self.checkpoint,
            checkpoint_sub_sequence_number=self.sub_sequence_number,
            latest_since=self.latest_since,
        )


class Change(msgspec.Struct, frozen=True):
    """One shard, its lease as it was read (None where it has none), and what becomes of it (None: it stays)."""

    shard_id: str
    lease: Lease | None
    shard: Shard | None
    goal: Goal | None
    meaning: str


def since_of(to: str, now: float) -> str | int:
    """TRIM_HORIZON, LATEST, or a time in whole seconds since the epoch. Raises SettingsError for anything else."""
    if to in (TRIM_HORIZON, LATEST):
        return to
    try:
        time = datetime.fromisoformat(to)
    except ValueError as error:
        raise SettingsError(
            f"--to {plain(to)!r} is neither {TRIM_HORIZON} nor {LATEST} nor a time: write a time as"
            f" 2026-11-01T00:00:00Z ({error})"
        ) from error
    if time.tzinfo is None:
        raise SettingsError(f"--to {plain(to)!r} has no time zone: end it with Z for UTC, or with +02:00")
    if time > datetime.fromtimestamp(now, UTC):
        raise SettingsError(f"--to {plain(to)!r} lies in the future: {LATEST} skips everything up to now")
    return int(time.timestamp())


def retained_since(client: KinesisClient, stream: str, now: float) -> float:
    """Since when the stream has its records at most, seconds since the epoch."""
    with translated(f"describing the stream {stream!r}"):
        answer = client.describe_stream_summary(StreamName=stream)
    hours = answer["StreamDescriptionSummary"]["RetentionPeriodHours"]
    return now - timedelta(hours=hours).total_seconds()


class Planner:
    """Decides for every shard, parents before children, and reads the shards for it."""

    def __init__(self, client: KinesisClient, stream: str, clock: Clock) -> None:
        self._client = client
        self._stream = stream
        self._clock = clock
        self._now = clock.time()

    def plan(self, leases: Sequence[Lease], to: str | int, only: Collection[str] = ()) -> list[Change]:
        """A change for every shard of the stream, or those named, and for leases whose shards are gone.

        Raises SettingsError for a shard that does not exist, what ``translated`` raises, and TransientServiceError
        where no record was found within some reads.
        """
        by_id = {lease.shard_id: lease for lease in leases}
        shards = patiently(lambda: list_shards(self._client, self._stream), self._clock)
        listed = {shard.shard_id for shard in shards}
        if unknown := sorted({*only} - listed - {*by_id}):
            raise SettingsError(f"--shard {plain(', '.join(unknown))}: {self._stream!r} has no such shard")
        changes = []
        goals: dict[str, Goal] = {}
        for shard in sorted(shards, key=lambda shard: shard_number_of(shard.shard_id)):
            if only and shard.shard_id not in only:
                continue
            lease = by_id.get(shard.shard_id)
            goal, why = self._goal(shard, lease, to, goals)
            if goal is not None:
                goals[shard.shard_id] = goal
                unmoved = lease is not None and lease.checkpoint == goal.checkpoint
                if unmoved and lease is not None and goal.of(lease) == lease:
                    goal, why = None, "stays: it is there already"
            elif lease is None:
                continue  # closed, and nothing of it is to be read: its children begin without its lease
            changes.append(
                Change(shard.shard_id, lease, shard, goal, why if goal is None else self._meaning(lease, goal))
            )
        changes += [
            Change(lease.shard_id, lease, None, None, "stays: the retention has removed the shard")
            for lease in leases
            if lease.shard_id not in listed and (lease.shard_id in only or not (only or lease.ended))
        ]
        return sorted(changes, key=lambda change: change.shard_id)

    def _goal(
        self, shard: Shard, lease: Lease | None, to: str | int, goals: dict[str, Goal]
    ) -> tuple[Goal | None, str]:
        if to == TRIM_HORIZON:
            oldest = self._read(shard.shard_id, TRIM_HORIZON)
            return Goal(checkpoint=TRIM_HORIZON, begins_at=oldest.arrived_at), ""
        if to == LATEST:
            if not shard.closed:
                return Goal(checkpoint=LATEST, latest_since=self._now, begins_at=self._now), ""
            if lease is None or lease.ended:
                return None, "stays: it was read to its end"
            return Goal(checkpoint=SHARD_END), ""
        assert isinstance(to, int)  # noqa: S101  # what since_of returns
        return self._goal_since(shard, lease, to, goals)

    def _goal_since(
        self, shard: Shard, lease: Lease | None, since: int, goals: dict[str, Goal]
    ) -> tuple[Goal | None, str]:
        first = self._first_since(shard, since)
        if first.sequence_number is not None:
            goal = Goal(checkpoint=first.sequence_number, sub_sequence_number=-1, begins_at=first.arrived_at)
            return goal, ""
        if shard.closed:
            # All its records are older. Its children may begin.
            if lease is None or lease.ended:
                return None, "stays: its records are all older"
            return Goal(checkpoint=SHARD_END), ""
        if lease is not None and lease.checkpoint.isdigit():
            return None, "stays: no record arrived since"
        parents = [goals[parent] for parent in shard.parent_shard_ids if parent in goals]
        if any(parent.checkpoint != SHARD_END for parent in parents):
            # Its parent has records since, so that whatever comes here comes later, read by whomever.
            return Goal(checkpoint=TRIM_HORIZON), ""
        return Goal(checkpoint=LATEST, latest_since=float(since), begins_at=float(since)), ""

    def _first_since(self, shard: Shard, since: int) -> Seen:
        """The first record at or after a time; without a sequence number where there is none up to the tip."""
        iterator: str | None = patiently(
            lambda: open_at(self._client, self._stream, shard.shard_id, since), self._clock
        )
        for _ in range(READS_MAX):
            at: str = iterator or ""
            seen, iterator = patiently(lambda at=at: read_at(self._client, shard.shard_id, at, 1), self._clock)  # type: ignore[misc]  # bound now, not at the call
            if seen.sequence_number is not None or seen.at_tip:
                return seen
            self._clock.wait(_BETWEEN_READS_SECONDS)
        raise TransientServiceError(
            f"{READS_MAX} reads of {shard.shard_id} found no record since {time_text(since)} and not the tip either:"
            " nothing was reset; repeat the command"
        )

    def _read(self, shard_id: str, where: str) -> Seen:
        def read() -> Seen:
            return read_at(self._client, shard_id, open_at(self._client, self._stream, shard_id, where), 1)[0]

        return patiently(read, self._clock)

    def _meaning(self, lease: Lease | None, goal: Goal) -> str:
        """What is read again, or never. Reads the shard at the lease's checkpoint."""
        if lease is None or lease.ended:
            since = "" if goal.begins_at is None else f", from {time_text(goal.begins_at)} on"
            return f"{'gets a lease, and is read' if lease is None else 'goes back: read again'}{since}"
        try:
            seen = patiently(lambda: look(self._client, self._stream, lease, self._now, 2), self._clock)
        except SettingsError:
            seen = None  # a number that is none of this shard's: a reset may be what mends it
        if seen is None:
            return "begins there; how far it was read before cannot be told"
        if not _goes_back(lease, goal, seen):
            return _skipped(lease, goal, seen)
        span = ""
        if seen.arrived_at is not None and goal.begins_at is not None and seen.arrived_at > goal.begins_at:
            span = f" {duration_text(seen.arrived_at - goal.begins_at)}"
        return f"goes back{span}: read again"


def _goes_back(lease: Lease, goal: Goal, seen: Seen) -> bool:
    """Whether records before a lease's checkpoint are read again. ``seen`` is a look at its checkpoint."""
    if goal.checkpoint in (SHARD_END, TRIM_HORIZON):
        return goal.checkpoint == TRIM_HORIZON
    if goal.checkpoint == LATEST:
        return lease.checkpoint == LATEST and (lease.latest_since or 0.0) > (goal.latest_since or 0.0)
    if lease.checkpoint.isdigit():
        before = int(lease.checkpoint), lease.checkpoint_sub_sequence_number
        return (int(goal.checkpoint), goal.sub_sequence_number) < before
    return seen.sequence_number is None or int(goal.checkpoint) < int(seen.sequence_number)


def _skipped(lease: Lease, goal: Goal, seen: Seen) -> str:
    at_checkpoint = seen.sequence_number == lease.checkpoint
    if seen.at_tip and not seen.more and (at_checkpoint or seen.sequence_number is None):
        return "skips nothing: no record waits behind it"
    if seen.sequence_number == goal.checkpoint:
        return "skips nothing: the first record that was not read is its first"
    if seen.arrived_at is None or goal.begins_at is None:
        return "skips what was not read, for good"
    return f"skips what arrived in {duration_text(goal.begins_at - seen.arrived_at)}, for good"
