"""Folding the log again beside the application that serves, and how the two stand to each other.

The *live* application is the one that serves; the *shadow* is the one that is rebuilt. The shadow follows: on no shard
does it read beyond the live one's checkpoint. What lies beyond was perhaps not published yet, and the shadow publishes
nothing. So where both stand at the same positions, every output below is published, none above is the shadow's loss,
and the shadow can serve from there.

A shadow begins a shard at its *origin*, a time or the oldest record. Where the live one's own checkpoint lies before
that, or it did not begin the shard, the shadow begins at the live one's place: what the live one has not published yet
must be folded, also where it is older than the origin.
"""

from __future__ import annotations

import enum
import threading
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

from streamproc.alias import Origin
from streamproc.clock import Clock, SystemClock
from streamproc.errors import SettingsError, translated
from streamproc.lease import LATEST, TRIM_HORIZON, Lease, LeaseStore, ancestors
from streamproc.record import Position, shard_number_of
from streamproc.retry import Retries
from streamproc.runners.held import new_lease
from streamproc.runners.reader import ShardReader, position_of
from streamproc.telemetry import Telemetry

if TYPE_CHECKING:
    from mypy_boto3_kinesis import KinesisClient

    from streamproc.stream import Shard


class Standing(enum.StrEnum):
    """How one application stands to the live one on a shard."""

    #: It may serve from here: neither loses nor repeats an output.
    SAME = "same"
    BEHIND = "behind"
    AHEAD = "ahead"


def standings(shards: Sequence[Shard], live: Sequence[Lease], other: Sequence[Lease]) -> dict[str, Standing]:
    """How ``other`` stands to ``live`` on each shard that the stream still has.

    An ancestor without a lease counts as read: KCL removes leases, or it ended before the application began. A shard
    that neither has begun is the same where ``other`` has no lease; :func:`not_begun` gives it one.
    """
    left, right = _places(shards, live), _places(shards, other)
    found = {}
    for shard_id in sorted({shard.shard_id for shard in shards} & {*left, *right}):
        mine, theirs = left.get(shard_id, _NOT_BEGUN), right.get(shard_id, _NOT_BEGUN)
        if mine == theirs:
            found[shard_id] = Standing.SAME
        else:
            found[shard_id] = Standing.BEHIND if theirs < mine else Standing.AHEAD
    return found


def not_begun(live: Iterable[Lease], other: Iterable[Lease]) -> list[Lease]:
    """What ``other`` lacks of the leases that ``live`` has not begun, as ``live`` would begin them."""
    known = {lease.shard_id for lease in other}
    return [
        copy_of(lease)
        for lease in live
        if lease.shard_id not in known and not lease.ended and position_of(lease) is None
    ]


def copy_of(lease: Lease) -> Lease:
    """The same place for another application, owned by nobody."""
    return msgspec.structs.replace(lease, owner=None, counter=0, owner_switches=0)


#: Of a shard: how far it was read, comparable: not begun, a position, its end.
_Place = tuple[int, Position | None]
_NOT_BEGUN: _Place = (0, None)
_ENDED: _Place = (2, None)


def _places(shards: Iterable[Shard], leases: Sequence[Lease]) -> dict[str, _Place]:
    parents_of = {shard.shard_id: shard.parent_shard_ids for shard in shards}
    places = dict.fromkeys(ancestors(parents_of, [lease.shard_id for lease in leases]), _ENDED)
    for lease in leases:
        position = position_of(lease)
        places[lease.shard_id] = _ENDED if lease.ended else (1, position) if position else _NOT_BEGUN
    return places


def checked_origin(since: int | None, *, retention_seconds: float, now: float) -> Origin:
    """The origin, if the stream still holds everything from there. Raises SettingsError otherwise."""
    if since is None:
        return Origin(None)
    if since > now:
        raise SettingsError(f"--from-timestamp {Origin(since)} lies in the future: nothing would be folded")
    if since < now - retention_seconds:
        oldest = Origin(int(now - retention_seconds) + 1)
        raise SettingsError(
            f"--from-timestamp {Origin(since)} is older than what the stream holds: its retention of"
            f" {retention_seconds / 3600:.0f} h ends at {oldest}, and the events between are gone. Choose a time after"
            " it, or --from-horizon to begin at the oldest record there is"
        )
    return Origin(since)


class LiveLead:
    """The live application as its shadow follows it; see :class:`streamproc.runners.limited.Lead`.

    The live leases are read by :meth:`refresh` alone. An old reading is a smaller limit, and so does no harm.
    """

    def __init__(
        self,
        live: LeaseStore,
        kinesis: KinesisClient,
        stream: str,
        origin: Origin,
        *,
        stop: threading.Event,
        clock: Clock | None = None,
        telemetry: Telemetry | None = None,
    ) -> None:
        self._live = live
        self._kinesis = kinesis
        self._stream = stream
        self._origin = origin
        self._stop = stop
        self._clock = clock or SystemClock()
        self._telemetry = telemetry or Telemetry()
        self._rows: Mapping[str, tuple[str | None, int]] = {}
        self._moved_at = self._clock.monotonic()
        self.leases: Mapping[str, Lease] = {}

    def refresh(self) -> None:
        """Read the live leases again."""
        self.leases = {lease.shard_id: lease for lease in self._live.list()}
        rows = {lease.shard_id: (lease.owner, lease.counter) for lease in self.leases.values()}
        if rows != self._rows:
            self._rows, self._moved_at = rows, self._clock.monotonic()

    def stopped(self, failover_seconds: float) -> bool:
        """Whether nobody runs the live application: no lease has an owner, or none was written for so long."""
        if all(lease.owner is None for lease in self.leases.values() if not lease.ended):
            return True
        return self._clock.monotonic() - self._moved_at >= failover_seconds

    def limit(self, shard_id: str) -> Position | None:
        """See :class:`streamproc.runners.limited.Lead`."""
        lease = self.leases.get(shard_id)
        if lease is None or lease.ended:
            return None  # read to its end; KCL may have removed the lease
        return position_of(lease) or Position(shard_number_of(shard_id), -1, -1)

    def missing(self, shards: Sequence[Shard], known: Collection[str]) -> list[Lease]:
        """See :class:`streamproc.runners.limited.Lead`."""
        parents_of = {shard.shard_id: shard.parent_shard_ids for shard in shards}
        read = ancestors(parents_of, self.leases)
        # Parents have the smaller numbers. They come first, so that a crash between two writes leaves no child whose
        # parents count as read.
        return [
            self._begin(shard)
            for shard in sorted(shards, key=lambda shard: shard_number_of(shard.shard_id))
            if shard.shard_id not in known and (shard.shard_id in self.leases or shard.shard_id in read)
        ]

    def _begin(self, shard: Shard) -> Lease:
        lease = self.leases.get(shard.shard_id)
        begun = new_lease(shard, TRIM_HORIZON if self._origin.since is None else LATEST, self._origin.since)
        if lease is None or lease.ended:
            return begun
        live, first = position_of(lease), None
        if live is not None:
            first = self._first_sequence_number(shard, begun)
        return copy_of(lease) if live is None or first is None or first > live.sequence_number else begun

    def _first_sequence_number(self, shard: Shard, lease: Lease) -> int | None:
        """The first record at or after a lease's place; None where there is none yet."""
        reader = ShardReader(self._kinesis, self._stream, shard, records_max=1, telemetry=self._telemetry)
        reader.seek(lease, self._clock.time())
        retries = Retries(shard.shard_id, self._clock, self._telemetry, self._stop)
        while (batch := retries.call("looking for the first record", reader.read)) is not None:
            if reader.last_sequence_number:
                return int(reader.last_sequence_number)
            if not batch.millis_behind_latest:
                return None
            # A stretch of the log without records takes several reads.
            self._clock.wait(0.2, self._stop)
        return None


def retention_seconds(client: KinesisClient, stream: str) -> float:
    """How long the stream keeps a record."""
    with translated(f"describing the stream {stream!r}"):
        summary = client.describe_stream_summary(StreamName=stream)["StreamDescriptionSummary"]
    return summary["RetentionPeriodHours"] * 3600.0
