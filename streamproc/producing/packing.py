"""How waiting events become the entries of one PutRecords request. No time, no network, no locks."""

from __future__ import annotations

from collections import deque
from itertools import chain, islice
from typing import Any, NamedTuple

from streamproc.aggregation import aggregate_by_key
from streamproc.producing.bucket import TokenBucket
from streamproc.producing.waiting import Waiting
from streamproc.shardmap import hash_key_of
from streamproc.state import DUPLICATE_WINDOW_EVENTS

#: "PutRecords", Kinesis API Reference: 500 records a request, 1 MiB a record with its partition key.
ENTRIES_MAX = 500
RECORD_BYTES_MAX = 1024 * 1024
#: The same page allows 10 MiB a request. Older endpoints and emulators allow 5 MiB, and a larger request is no faster.
REQUEST_BYTES_MAX = 4 * 1024 * 1024
#: What the KPL takes for its AggregationMaxSize ("Configure the KPL", Developer Guide). An event beyond it goes alone.
AGGREGATE_BYTES_MAX = 51_200
#: Events of one key in a request. When its reply is lost, all of them are sent a second time. A consumer tells those
#: copies by the ids of the last 64 events of their key. Half of them may be on their way, so that as many events of
#: another producer for the same key may come between the two copies.
KEY_EVENTS_MAX = DUPLICATE_WINDOW_EVENTS // 2

#: Upper bounds of what the format adds: magic and MD5; tag and length of a key in the table; and of one user record.
_AGGREGATE_OVERHEAD_BYTES = 20
_KEY_OVERHEAD_BYTES = 3
_USER_RECORD_OVERHEAD_BYTES = 14


#: What a key costs while it has events: its queue, most of all (measured: 1.0 KB on CPython 3.11).
KEY_COST_BYTES = 1024


class KeyQueue:
    """The events of one partition key, in the order in which they were put; the first ones may be in a request."""

    __slots__ = ("data_bytes_max", "events", "hash_key", "key_bytes", "lane", "last_error", "partition_key", "refusals")

    def __init__(self, partition_key: str) -> None:
        self.partition_key = partition_key
        self.key_bytes = len(partition_key.encode())
        self.data_bytes_max = RECORD_BYTES_MAX - self.key_bytes
        self.hash_key = hash_key_of(partition_key)
        self.events: deque[Waiting] = deque()
        #: The queue of the shard that its events are expected in; None until that is looked up (again).
        self.lane: Lane | None = None
        #: Of its first event, one after another.
        self.refusals = 0
        self.last_error = ""


class Lane:
    """The keys that are expected in one shard, those that are served next first, and what the shard takes a second."""

    __slots__ = ("bucket", "ready", "shard_id")

    def __init__(self, shard_id: str | None, bucket: TokenBucket) -> None:
        #: None: keys of which it is not known where they hash.
        self.shard_id = shard_id
        self.ready: deque[KeyQueue] = deque()
        self.bucket = bucket


class Part(NamedTuple):
    """The first events of one key, and their data."""

    queue: KeyQueue
    events: list[Waiting]
    data: list[bytes]


class Entry(NamedTuple):
    """One entry of a request: the first events of some keys, as a plain record or as one aggregate."""

    #: The shard that all keys hash into, as far as is known. None: there is one key, which is right anywhere.
    shard_id: str | None
    #: One a key.
    parts: list[Part]
    request_bytes: int
    #: How many events there are, and the bytes of their data alone.
    events_count: int
    data_bytes: int

    @property
    def events(self) -> list[Waiting]:
        """All events, in the order in which they are in the aggregate."""
        return list(chain.from_iterable(part.events for part in self.parts))

    def request(self) -> dict[str, Any]:
        """What PutRecords gets. An aggregate of several keys says by which hash key it goes: that of its first one."""
        queue, _, data = self.parts[0]
        if self.events_count == 1:
            return {"Data": data[0], "PartitionKey": queue.partition_key}
        aggregate = aggregate_by_key([(part.queue.partition_key, part.data) for part in self.parts])
        if len(self.parts) == 1:
            return {"Data": aggregate, "PartitionKey": queue.partition_key}
        return {"Data": aggregate, "PartitionKey": queue.partition_key, "ExplicitHashKey": str(queue.hash_key)}


class Packer:
    """Chooses what goes into the next entry.

    PutRecords does not keep the order of the records in one call, so a key is in at most one entry of a request. An
    aggregate holds events of keys that hash into one shard, by what is known of the shards: a consumer drops it whole
    where one of them does not. Where nothing is known an aggregate holds one key, and is right in any shard.
    """

    def __init__(
        self, *, aggregate: bool, aggregate_bytes_max: int = AGGREGATE_BYTES_MAX, aggregate_events_max: int = 2**31
    ) -> None:
        self.aggregates = aggregate
        self.aggregate_bytes_max = aggregate_bytes_max
        self._events_max = aggregate_events_max if aggregate else 1

    def pack(self, ready: deque[KeyQueue], shard_id: str | None, room_bytes: int) -> Entry | None:
        """Take queues from the left, none of them empty, until the aggregate is full. The rest stays in ``ready``.

        None where the first event alone is larger than the room.
        """
        parts: list[Part] = []
        size_max = min(self.aggregate_bytes_max, room_bytes)
        # The first key counts twice: in the aggregate's table, and as the partition key of the entry.
        size = _AGGREGATE_OVERHEAD_BYTES + ready[0].key_bytes
        count = data_bytes = 0
        while ready and count < self._events_max:
            queue = ready[0]
            size += queue.key_bytes + _KEY_OVERHEAD_BYTES
            events = list(islice(queue.events, min(KEY_EVENTS_MAX, self._events_max - count)))
            data = [event.data for event in events]
            part_bytes = sum(map(len, data))
            full = size + part_bytes + len(data) * _USER_RECORD_OVERHEAD_BYTES > size_max
            if full:
                fitting = _fitting(data, size_max - size)
                del events[fitting:], data[fitting:]
                part_bytes = sum(map(len, data))
                if not events:
                    break
            size += part_bytes + len(data) * _USER_RECORD_OVERHEAD_BYTES
            data_bytes += part_bytes
            count += len(events)
            parts.append(Part(queue, events, data))
            ready.popleft()
            if full or shard_id is None:
                break
        if count > 1:
            return Entry(shard_id, parts, size, count, data_bytes)
        return self._alone(parts[0].queue if parts else ready.popleft(), shard_id, ready, room_bytes)

    @staticmethod
    def _alone(queue: KeyQueue, shard_id: str | None, ready: deque[KeyQueue], room_bytes: int) -> Entry | None:
        first = queue.events[0]
        data_bytes = len(first.data)
        if queue.key_bytes + data_bytes > room_bytes:
            ready.appendleft(queue)
            return None
        return Entry(shard_id, [Part(queue, [first], [first.data])], queue.key_bytes + data_bytes, 1, data_bytes)


def _fitting(data: list[bytes], room_bytes: int) -> int:
    """How many of these, from the first on, fit as user records."""
    for index, each in enumerate(data):
        room_bytes -= len(each) + _USER_RECORD_OVERHEAD_BYTES
        if room_bytes < 0:
            return index
    return len(data)
