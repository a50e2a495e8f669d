"""The events that wait to be sent, by partition key and shard. No network and no locks; time is a parameter."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Sequence
from itertools import count, islice

from streamproc.clock import backoff
from streamproc.producing.bucket import TokenBucket
from streamproc.producing.packing import (
    ENTRIES_MAX,
    KEY_COST_BYTES,
    REQUEST_BYTES_MAX,
    Entry,
    KeyQueue,
    Lane,
    Packer,
)
from streamproc.producing.waiting import EVENT_COST_BYTES, Waiting
from streamproc.shardmap import ShardMap


class Outbox:
    """Keeps each key's events in order, through failures and reshards.

    A key's queue is in one of three places: *ready*, in the *lane* of the shard that it hashes into; *taken*, while its
    first events are in a request; *resting*, after Kinesis refused them, until its wait is over. Events leave their
    queue only when they are done, so what is sent again is always sent before what was put later. A key that was served
    goes to the end of its lane, so that a busy one does not hold up the others; a key that was refused comes back
    first.

    Before the shards are known, and for a key that no known shard owns, there is a lane of its own.
    """

    def __init__(
        self,
        packer: Packer,
        *,
        record_ttl_seconds: float,
        bucket: Callable[[], TokenBucket] = TokenBucket,
    ) -> None:
        self._packer = packer
        self._record_ttl_seconds = record_ttl_seconds
        self._bucket = bucket
        self._map = ShardMap([])
        self._queues: dict[str, KeyQueue] = {}
        self._lanes: dict[str | None, Lane] = {None: Lane(None, TokenBucket())}
        self._resting: list[tuple[float, int, list[KeyQueue]]] = []
        self._ticket = count()
        #: The queue of a key that has events here.
        self.queue_of = self._queues.get
        self.events = 0
        #: What the events in it cost in memory.
        self.cost_bytes = 0
        #: How many events have left so far, to be told their outcome.
        self.left = 0
        self._turn = 0

    def __len__(self) -> int:
        """How many keys have events here."""
        return len(self._queues)

    @property
    def request_is_full(self) -> bool:
        """Whether waiting longer would not make the next request any better."""
        if not self._packer.aggregates:
            return len(self._queues) >= ENTRIES_MAX
        data_bytes = self.cost_bytes - self.events * EVENT_COST_BYTES - len(self._queues) * KEY_COST_BYTES
        return data_bytes >= min(REQUEST_BYTES_MAX, self._packer.aggregate_bytes_max * len(self._lanes))

    def waits_since(self, now: float) -> float:
        """When that event was put which waits longest, of the first ones of each shard; now where none does."""
        return min((lane.ready[0].events[0].put_at for lane in self._lanes.values() if lane.ready), default=now)

    def open(self, partition_key: str) -> KeyQueue:
        """The queue of a key that has none; the next to come is an event for it."""
        queue = self._queues[partition_key] = KeyQueue(partition_key)
        self.cost_bytes += KEY_COST_BYTES
        self._lane_of(queue).ready.append(queue)
        return queue

    def add(self, partition_key: str, event: Waiting) -> None:
        """Put an event behind those of its key."""
        queue = self.queue_of(partition_key) or self.open(partition_key)
        queue.events.append(event)
        self.events += 1
        self.cost_bytes += EVENT_COST_BYTES + len(event.data)

    def move_to(self, shards: ShardMap) -> None:
        """From here on these are the shards."""
        self._map = shards
        before = self._lanes
        none = Lane(None, before[None].bucket)
        self._lanes = {None: none}
        for shard_id in shards.open_shard_ids:
            kept = before.get(shard_id)
            self._lanes[shard_id] = Lane(shard_id, kept.bucket if kept else self._bucket())
        for queue in self._queues.values():
            queue.lane = None
        for lane in before.values():
            for queue in lane.ready:
                self._lane_of(queue).ready.append(queue)

    def take(self, now: float) -> tuple[list[Entry], list[tuple[Waiting, str]]]:
        """The entries of the next request, and the events whose time to live is over, with the last error of each.

        The lanes take turns, an entry each, until the request is full. Each entry must come back through
        :meth:`settle`, :meth:`refuse` or :meth:`put_back` before the next call.
        """
        while self._resting and self._resting[0][0] <= now:
            self._return_first(heapq.heappop(self._resting)[2])
        expired = self._expire_first(now)
        entries: list[Entry] = []
        room_bytes = REQUEST_BYTES_MAX
        lanes = [lane for lane in self._lanes.values() if lane.ready]
        if lanes:
            # Where a request is full before everyone had a turn, somebody else begins the next one.
            self._turn = (self._turn + 1) % len(lanes)
            lanes = lanes[self._turn :] + lanes[: self._turn]
        while lanes:
            going: list[Lane] = []
            for lane in lanes:
                if len(entries) >= ENTRIES_MAX:
                    return entries, expired
                if lane.bucket.seconds_to_wait(now):
                    continue
                entry = self._packer.pack(lane.ready, lane.shard_id, room_bytes)
                if entry is None:
                    continue
                entries.append(entry)
                room_bytes -= entry.request_bytes
                lane.bucket.spend(entry.request_bytes)
                if lane.ready:
                    going.append(lane)
            lanes = going
        return entries, expired

    def settle(self, entries: Iterable[Entry]) -> None:
        """The events of these entries are done: stored, or failed for good."""
        for entry in entries:
            for queue, taken, _ in entry.parts:
                events = queue.events
                if len(taken) == len(events):
                    events.clear()
                    self._drop(queue)
                else:
                    for _ in taken:
                        events.popleft()
                    queue.refusals, queue.last_error = 0, ""
                    self._lane_of(queue).ready.append(queue)
            self.left += entry.events_count
            self.events -= entry.events_count
            self.cost_bytes -= entry.events_count * EVENT_COST_BYTES + entry.data_bytes

    def refuse(self, refused: Sequence[tuple[Entry, str, bool]], now: float) -> float:
        """Kinesis refused these entries, each with an error; they stay first of their keys, and those keys rest.

        True for an entry that was throttled: its whole shard rests. Returns the shortest rest, in seconds. Keys that
        were refused equally often come back together: rests drawn one by one would make a call for each.
        """
        rests: dict[int, float] = {}
        for entry, error, throttled in refused:
            refusals = 1 + max(part.queue.refusals for part in entry.parts)
            if refusals not in rests:
                rests[refusals] = next(islice(backoff(), refusals - 1, None))
            until = now + rests[refusals]
            queues = [part.queue for part in entry.parts]
            for queue in queues:
                queue.last_error, queue.refusals = error, refusals
            if throttled and entry.shard_id is not None and entry.shard_id in self._lanes:
                self._lanes[entry.shard_id].bucket.rest(until)
            heapq.heappush(self._resting, (until, next(self._ticket), queues))
        return min(rests.values())

    def put_back(self, entries: Iterable[Entry], error: str) -> None:
        """These entries were not stored, or not where they can be read; they stay first, and do not rest."""
        for entry in reversed(list(entries)):
            queues = [part.queue for part in entry.parts]
            for queue in queues:
                queue.last_error = error
            self._return_first(queues)

    def expire(self, now: float) -> list[tuple[Waiting, str]]:
        """The events of all keys whose time to live is over. No request may be on its way."""
        expired = [found for queue in self._queues.values() for found in self._expired(queue, now)]
        for lane in self._lanes.values():
            alive = [queue for queue in lane.ready if queue.events]
            lane.ready.clear()
            lane.ready.extend(alive)
        for queue in [queue for queue in self._queues.values() if not queue.events]:
            self._drop(queue)
        return expired

    def last_of_each_key(self) -> list[Waiting]:
        """When these are done, so is everything that is here now."""
        return [queue.events[-1] for queue in self._queues.values() if queue.events]

    def drain(self) -> list[tuple[Waiting, str]]:
        """Take out everything, in a request or not, with the last error of each."""
        events = [(event, queue.last_error) for queue in self._queues.values() for event in queue.events]
        self._queues.clear()
        self._resting.clear()
        for lane in self._lanes.values():
            lane.ready.clear()
        self.left += len(events)
        self.events = self.cost_bytes = 0
        return events

    def ready_in(self, now: float) -> float | None:
        """Seconds until an entry can be taken: 0 for now, None where nothing waits."""
        waits = [lane.bucket.seconds_to_wait(now) for lane in self._lanes.values() if lane.ready]
        if self._resting:
            waits.append(max(0.0, self._resting[0][0] - now))
        return min(waits, default=None)

    def _lane_of(self, queue: KeyQueue) -> Lane:
        if queue.lane is None:
            queue.lane = self._lanes[self._map.owner(queue.hash_key)]
        return queue.lane

    def _return_first(self, queues: list[KeyQueue]) -> None:
        for queue in reversed(queues):
            # Those of a key that rested may all have expired; another queue may have been opened for it since.
            if queue.events:
                self._lane_of(queue).ready.appendleft(queue)

    def _expire_first(self, now: float) -> list[tuple[Waiting, str]]:
        """The expired events of the keys that are ready.

        Keys are served in turns, so those that wait longest are first in their lanes: looking at every key for each
        request would cost more than the request.
        """
        oldest = now - self._record_ttl_seconds
        expired: list[tuple[Waiting, str]] = []
        for lane in self._lanes.values():
            ready = lane.ready
            while ready and ready[0].events[0].put_at < oldest:
                queue = ready.popleft()
                expired += self._expired(queue, now)
                if queue.events:
                    ready.append(queue)
                else:
                    self._drop(queue)
        return expired

    def _drop(self, queue: KeyQueue) -> None:
        del self._queues[queue.partition_key]
        self.cost_bytes -= KEY_COST_BYTES

    def _expired(self, queue: KeyQueue, now: float) -> list[tuple[Waiting, str]]:
        oldest = now - self._record_ttl_seconds
        expired: list[tuple[Waiting, str]] = []
        while queue.events and queue.events[0].put_at < oldest:
            event = queue.events.popleft()
            self.left += 1
            self.events -= 1
            self.cost_bytes -= EVENT_COST_BYTES + len(event.data)
            expired.append((event, queue.last_error))
        return expired
