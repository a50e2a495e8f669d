"""Which shard a key is expected in, and whether an entry that went elsewhere is read there."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from streamproc.clock import Clock, backoff
from streamproc.errors import is_transient
from streamproc.shardmap import ShardMap
from streamproc.stream import list_shards
from streamproc.telemetry import Retried, ShardsListed, ShardsUnknown, Telemetry

if TYPE_CHECKING:
    from streamproc.producing.packing import Entry

#: A map that nothing contradicts is looked at again after this time: keys may have been spread over more shards.
_SECONDS_MAX = 300.0
#: ListShards is limited, and a reshard of many shards contradicts the map many times.
_SECONDS_MIN = 0.2
#: After listing was refused, or has failed so often while entries wait for it, it is left alone for a while.
_ATTEMPTS_MAX = 8
_LEFT_ALONE_SECONDS = 30.0


class Prediction:
    """The shards as they were listed last, listed again when they are out of date.

    They are listed at the first send; when an entry comes back from a shard that was not expected, which tells of a
    reshard; and after five minutes. While they cannot be listed the producer works all the same, with aggregates of one
    key each: they are right in any shard.
    """

    def __init__(self, stream: str, client: Callable[[], Any], clock: Clock, telemetry: Telemetry) -> None:
        self._stream = stream
        self._client = client
        self._clock = clock
        self._telemetry = telemetry
        self.shards = ShardMap([])
        self._due_at = self._listed_at = float("-inf")
        #: An entry came back from a shard that the map does not lead to.
        self._contradicted = False
        self._waits = backoff()
        self._failures = 0

    @property
    def seconds_to_wait(self) -> float:
        """Until the shards are listed again, where an entry contradicts what is known; else 0."""
        return max(0.0, self._due_at - self._clock.monotonic()) if self._contradicted else 0.0

    def refresh(self) -> bool:
        """List the shards, if that is due. True when they are others than before."""
        if self._clock.monotonic() < self._due_at:
            return False
        before = self.shards.open_shard_ids
        try:
            self.shards = ShardMap(list_shards(self._client(), self._stream))
        except Exception as error:  # noqa: BLE001  # whatever it is, PutRecords can do without
            self._failed(error)
        else:
            self._know(_SECONDS_MAX)
        now = self.shards.open_shard_ids
        if now and before != now:
            self._telemetry.emit(ShardsListed(stream=self._stream, open_shards=len(now)))
        return before != now

    def _failed(self, error: Exception) -> None:
        self._failures += 1
        if is_transient(error) and not (self._contradicted and self._failures >= _ATTEMPTS_MAX):
            wait = next(self._waits)
            what = f"listing the shards of {self._stream}"
            self._telemetry.emit(Retried(what=what, error=str(error), attempt=self._failures, wait_seconds=wait))
            self._due_at = self._clock.monotonic() + wait
            return
        self._telemetry.emit(ShardsUnknown(stream=self._stream, error=str(error)))
        self.shards = ShardMap([])
        self._know(_LEFT_ALONE_SECONDS)

    def _know(self, seconds: float) -> None:
        self._contradicted = False
        self._waits, self._failures = backoff(), 0
        self._listed_at = self._clock.monotonic()
        self._due_at = self._listed_at + seconds

    def keeps(self, entry: Entry, shard_id: str) -> bool | None:
        """Whether readers of this shard keep the entry: KCL's rule. None where the shard is not known."""
        if shard_id == entry.shard_id:
            return True
        owned = self.shards.range_of(shard_id)
        # There was a reshard. A map that knows the shard may have been made in the middle of it.
        told = entry.shard_id is not None or (owned is None and self.shards.open_shard_ids)
        if told and not self._contradicted:
            self._contradicted = True
            self._due_at = min(self._due_at, self._listed_at + _SECONDS_MIN)
        if len(entry.parts) == 1:
            return True
        if owned is None:
            return None
        return all(owned.contains(part.queue.hash_key) for part in entry.parts)
