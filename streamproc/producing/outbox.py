"""The events that wait to be sent, by partition key. No network and no locks; time is a parameter."""

from __future__ import annotations

import heapq
from collections import deque
from itertools import count, islice

from streamproc.clock import backoff
from streamproc.producing.packing import ENTRIES_MAX, Entry, KeyQueue, Packer, Waiting


class Outbox:
    """Keeps each key's events in order, through failures.

    A key's queue is in one of three places: *ready*; *taken*, while its first events are in a request; *resting*, after
    Kinesis refused them, until its wait is over. Events leave their queue only when they are done, so what is sent
    again is always sent before what was put later. A key that was served goes to the end, so that a busy one does not
    hold up the others; a key that was refused comes back first.
    """

    def __init__(self, packer: Packer, *, record_ttl_seconds: float) -> None:
        self._packer = packer
        self._record_ttl_seconds = record_ttl_seconds
        self._queues: dict[str, KeyQueue] = {}
        self._ready: deque[KeyQueue] = deque()
        self._resting: list[tuple[float, int, KeyQueue]] = []
        self._ticket = count()
        #: Bytes of the events in it, with what they cost in memory.
        self.cost_bytes = 0
        self.events = 0

    def __len__(self) -> int:
        """How many keys have events here."""
        return len(self._queues)

    def add(self, partition_key: str, event: Waiting) -> None:
        """Put an event behind those of its key."""
        queue = self._queues.get(partition_key)
        if queue is None:
            queue = self._queues[partition_key] = KeyQueue(partition_key)
            self._ready.append(queue)
        queue.events.append(event)
        self.events += 1
        self.cost_bytes += event.cost_bytes

    def take(self, now: float) -> tuple[list[Entry], list[tuple[Waiting, str]]]:
        """The entries of the next request, and the events whose time to live is over, with the last error of each.

        Each entry must come back through :meth:`settle`, :meth:`refuse` or :meth:`put_back` before the next call.
        """
        while self._resting and self._resting[0][0] <= now:
            self._ready.appendleft(heapq.heappop(self._resting)[2])
        expired: list[tuple[Waiting, str]] = []
        entries: list[Entry] = []
        while self._ready and not entries:
            # Only the queues that the packer may reach: looking at every key for each request would cost more than it.
            reachable = [self._ready.popleft() for _ in range(min(len(self._ready), ENTRIES_MAX))]
            for queue in reachable:
                expired += self._expired(queue, now)
            alive = deque(queue for queue in reachable if self._keep(queue))
            entries = self._packer.pack(alive)
            self._ready.extendleft(reversed(alive))
        return entries, expired

    def settle(self, entry: Entry) -> None:
        """The events of this entry are done: stored, or failed for good."""
        queue = entry.queue
        for event in entry.events:
            queue.events.popleft()
            self._forget(event)
        queue.refusals, queue.last_error = 0, ""
        if self._keep(queue):
            self._ready.append(queue)

    def refuse(self, refused: list[tuple[Entry, str]], now: float) -> float:
        """Kinesis refused these entries, each with an error; they stay first of their keys, and those keys rest.

        Returns the shortest rest, in seconds. Keys that were refused equally often come back together: rests drawn one
        by one would make a call for each.
        """
        rests: dict[int, float] = {}
        for entry, error in refused:
            queue = entry.queue
            queue.last_error = error
            queue.refusals += 1
            if queue.refusals not in rests:
                rests[queue.refusals] = next(islice(backoff(), queue.refusals - 1, None))
            heapq.heappush(self._resting, (now + rests[queue.refusals], next(self._ticket), queue))
        return min(rests.values())

    def put_back(self, entries: list[Entry], error: str) -> None:
        """The whole call failed: its entries stay first. They do not rest, since the sender waits, for all keys."""
        for entry in reversed(entries):
            entry.queue.last_error = error
            self._ready.appendleft(entry.queue)

    def expire(self, now: float) -> list[tuple[Waiting, str]]:
        """The events of all keys whose time to live is over. No request may be on its way."""
        return [found for queue in self._queues.values() for found in self._expired(queue, now)]

    def drain(self) -> list[tuple[Waiting, str]]:
        """Take out everything, in a request or not, with the last error of each."""
        events = [(event, queue.last_error) for queue in self._queues.values() for event in queue.events]
        self._queues.clear()
        self._ready.clear()
        self._resting.clear()
        self.events = self.cost_bytes = 0
        return events

    def ready_in(self, now: float) -> float | None:
        """Seconds until an entry can be taken: 0 for now, None where nothing waits."""
        if self._ready:
            return 0.0
        return max(0.0, self._resting[0][0] - now) if self._resting else None

    def _expired(self, queue: KeyQueue, now: float) -> list[tuple[Waiting, str]]:
        oldest = now - self._record_ttl_seconds
        expired: list[tuple[Waiting, str]] = []
        while queue.events and queue.events[0].put_at < oldest:
            event = queue.events.popleft()
            self._forget(event)
            expired.append((event, queue.last_error))
        return expired

    def _keep(self, queue: KeyQueue) -> bool:
        if not queue.events:
            del self._queues[queue.partition_key]
        return bool(queue.events)

    def _forget(self, event: Waiting) -> None:
        self.events -= 1
        self.cost_bytes -= event.cost_bytes
