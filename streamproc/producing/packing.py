"""How waiting events become the entries of one PutRecords request. No time, no network, no locks."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future
from itertools import islice
from typing import NamedTuple

from streamproc.aggregation import UserRecord, aggregate
from streamproc.state import DUPLICATE_WINDOW_EVENTS

#: "PutRecords", Kinesis API Reference: 500 records a request, 1 MiB a record with its partition key.
ENTRIES_MAX = 500
RECORD_BYTES_MAX = 1024 * 1024
#: The same page allows 10 MiB a request. Older endpoints and emulators allow 5 MiB, and a larger request is no faster.
REQUEST_BYTES_MAX = 4 * 1024 * 1024
#: What the KPL takes for its AggregationMaxSize ("Configure the KPL", Developer Guide). An event beyond it goes alone.
AGGREGATE_BYTES_MAX = 51_200
#: Events of one aggregate. When the reply to a request is lost, all events of an aggregate are sent a second time. A
#: consumer tells those copies by the ids of the last 64 events of their key. Half of them may be on their way, so that
#: as many events of another producer for the same key may come between the two copies.
AGGREGATE_EVENTS_MAX = DUPLICATE_WINDOW_EVENTS // 2

#: Upper bounds of what the format adds: magic, MD5 and key table, and the tags and lengths of one user record.
_AGGREGATE_OVERHEAD_BYTES = 32
_USER_RECORD_OVERHEAD_BYTES = 20


class Acknowledged(NamedTuple):
    """Kinesis stored the event, on several machines, at this place."""

    shard_id: str
    sequence_number: str
    #: The index inside a KPL aggregate, 0 for a record of its own.
    sub_sequence_number: int = 0


class Waiting:
    """An event that was put and is not yet done."""

    __slots__ = ("cost_bytes", "data", "event", "future", "generation", "put_at")

    def __init__(self, data: bytes, event: object, cost_bytes: int, generation: int, put_at: float) -> None:
        self.data = data
        #: What the caller put, for the error of a failure.
        self.event = event
        self.cost_bytes = cost_bytes
        #: How many times ``flush`` was called before it was put.
        self.generation = generation
        #: On the monotonic clock, seconds.
        self.put_at = put_at
        self.future: Future[Acknowledged] = Future()
        # From here on the event belongs to the stream: a cancelled future could not take it back.
        self.future.set_running_or_notify_cancel()


class KeyQueue:
    """The events of one partition key, in the order in which they were put; the first ones may be in a request."""

    __slots__ = ("events", "key_bytes", "last_error", "partition_key", "refusals")

    def __init__(self, partition_key: str) -> None:
        self.partition_key = partition_key
        self.key_bytes = len(partition_key.encode())
        self.events: deque[Waiting] = deque()
        #: Of its first event, one after another.
        self.refusals = 0
        self.last_error = ""


class Entry(NamedTuple):
    """One entry of a request: the first events of a key, as a plain record or as one aggregate."""

    queue: KeyQueue
    events: list[Waiting]
    request_bytes: int

    def data(self) -> bytes:
        """The bytes to send."""
        if len(self.events) == 1:
            return self.events[0].data
        key = self.queue.partition_key
        return aggregate([UserRecord(key, event.data) for event in self.events])


class Packer:
    """Chooses what goes into the next request.

    PutRecords does not keep the order of the records in one call, so a request holds at most one entry of a key. What
    waits of a key is packed into one aggregate. All of it hashes where the aggregate hashes, so no consumer ever drops
    it, whatever happens to the shards meanwhile.
    """

    def __init__(self, *, aggregate: bool) -> None:
        self._events_max = AGGREGATE_EVENTS_MAX if aggregate else 1

    def pack(self, ready: deque[KeyQueue]) -> list[Entry]:
        """Take queues from the left, none of them empty, until the request is full. The rest stays in ``ready``."""
        entries: list[Entry] = []
        request_bytes = 0
        while ready and len(entries) < ENTRIES_MAX:
            entry = self._entry(ready[0])
            request_bytes += entry.request_bytes
            if request_bytes > REQUEST_BYTES_MAX and entries:
                break
            entries.append(entry)
            ready.popleft()
        return entries

    def _entry(self, queue: KeyQueue) -> Entry:
        first = queue.events[0]
        alone_bytes = queue.key_bytes + len(first.data)
        if self._events_max == 1 or len(queue.events) == 1:
            return Entry(queue, [first], alone_bytes)
        events: list[Waiting] = []
        # The key counts twice: in the aggregate's table, and as the partition key of the entry.
        size = _AGGREGATE_OVERHEAD_BYTES + 2 * queue.key_bytes
        for event in islice(queue.events, self._events_max):
            size += len(event.data) + _USER_RECORD_OVERHEAD_BYTES
            if size > AGGREGATE_BYTES_MAX:
                break
            events.append(event)
        if len(events) < 2:
            return Entry(queue, [first], alone_bytes)
        return Entry(queue, events, size)
