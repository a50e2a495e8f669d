"""The embedded runner: every shard of a stream in one process, without Java, on KCL's lease table.

It takes every lease and reads each shard in a thread of its own, parents before children. It refuses to start while
another worker's leases are alive, and stops when one of its own is taken; so a KCL fleet can take over from it, and the
other way round.
"""

from __future__ import annotations

import os
import socket
import threading
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING

from streamproc.aws import aws_client
from streamproc.clock import Clock, SystemClock
from streamproc.errors import LeasesHeldElsewhere, StreamprocError, is_transient
from streamproc.lease import SHARD_END, Lease, LeaseStore, alive, others, startable
from streamproc.memory import release_memory, settle_memory
from streamproc.namespace import Namespace
from streamproc.processor import AnyProcessor
from streamproc.runners.held import HeldLease
from streamproc.runners.limited import Lead, LimitedReader
from streamproc.runners.prepare import missing_leases, prepare, with_snapshots
from streamproc.runners.reader import ShardReader
from streamproc.runners.shard import ShardConsumer
from streamproc.stream import Shard, list_shards, stream_created_at
from streamproc.telemetry import LeaseAcquired, RetentionGapFound, Retried, RunnerStarted, Telemetry
from streamproc.worker import Ports, ShardWorker

if TYPE_CHECKING:
    from mypy_boto3_kinesis import KinesisClient

    from streamproc.application import Application

#: How long a stop may take before waiting for stores is given up. ECS kills after 30 s by default ("stopTimeout").
DRAIN_SECONDS = 20.0
#: How much longer before a shard that is still in the application's code is left behind.
GIVE_UP_SECONDS = 5.0


def new_worker_id() -> str:
    """An id no other worker has: host, process, and eight random digits, since process ids come again."""
    return f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"


class LocalRunner:
    """Runs one application until it is told to stop, fails, or loses a lease.

    Threads: the one that calls :meth:`run` starts shards; one renews leases and does nothing else, so that no slow call
    lets them run out; each shard has one that reads, processes and checkpoints. They share the :class:`HeldLease` of
    the shard and nothing else.

    With a ``lead`` it follows that application: it begins the shards that the lead says, and reads none of them
    further. ``confirm`` is called once the first lease is taken and before anything is read; it raises where the
    application must not run after all.
    """

    def __init__(
        self,
        application: Application,
        *,
        leases: LeaseStore,
        kinesis: KinesisClient | None = None,
        telemetry: Telemetry | None = None,
        clock: Clock | None = None,
        worker_id: str | None = None,
        lead: Lead | None = None,
        confirm: Callable[[], None] | None = None,
    ) -> None:
        self._application = application
        self._settings = application.local
        self._kinesis = kinesis or aws_client("kinesis")
        self._leases = leases
        self._telemetry = telemetry or Telemetry()
        self._clock = clock or SystemClock()
        self._worker_id = worker_id or new_worker_id()
        self._lead = lead
        self._confirm = confirm
        self._running: dict[str, ShardConsumer] = {}
        #: Rows of other workers that were seen standing still: (shard, owner, counter).
        self._dead: set[tuple[str, str | None, int]] = set()
        self._started = False
        self._leave = threading.Event()
        self._shard_ended = threading.Event()

    def run(self, stop: threading.Event) -> None:
        """Process the stream until ``stop`` is set, then finish the batches, checkpoint and release the leases.

        Raises StreamNotFound, StreamRecreated, LeasesHeldElsewhere, an error of a service that does not pass, or one
        of the application. Errors of a service that pass are raised at the start only; later they are waited out.
        """
        namespace = self._namespace()
        ports = self._application.ports(namespace)
        prepare(self._leases, ports, namespace)
        self._sync_leases(list_shards(self._kinesis, self._application.stream))
        self._refuse_if_others_live(stop)
        drained = threading.Event()
        ports = with_snapshots(
            self._application,
            ports,
            self._clock,
            self._telemetry,
            drained,
            shards=lambda: list_shards(self._kinesis, self._application.stream),
        )
        renewals = threading.Thread(target=self._renew, args=[drained], name="streamproc-renewals", daemon=True)
        renewals.start()
        try:
            self._supervise(ports, stop)
        finally:
            # Renewals stop last: a drain that outlives its lease would let another worker replay records that are
            # still being processed here.
            try:
                self._drain()
            finally:
                drained.set()
                renewals.join()
                failures = [consumer.failure for consumer in self._running.values() if consumer.failure is not None]
                if failures:  # what ended the first shard says more than that another one did not come back
                    raise failures[0]

    def _namespace(self) -> Namespace:
        stream = self._application.stream
        return Namespace(self._application.name, stream, stream_created_at(self._kinesis, stream))

    def _sync_leases(self, shards: list[Shard]) -> list[Lease]:
        """Create the leases that are missing, and return all."""
        leases = self._leases.list()
        known = {lease.shard_id for lease in leases}
        if self._lead:
            missing = self._lead.missing(shards, known)
        else:
            missing = missing_leases(shards, known, self._settings.initial_position, self._clock.time())
        for lease in missing:
            self._leases.create(lease)
        return self._leases.list() if missing else leases

    def _refuse_if_others_live(self, stop: threading.Event) -> None:
        """A worker that died without a word leaves its name in the rows; only a counter that stands still tells."""
        before = self._leases.list()
        if not others(before, self._worker_id):
            return
        self._clock.wait(self._application.failover_seconds(before), stop)
        after = self._leases.list()
        living = alive(before, after, self._worker_id)
        if living:
            raise self._held_elsewhere(living)
        self._dead = {_row(lease) for lease in after}

    def _held_elsewhere(self, leases: list[Lease]) -> LeasesHeldElsewhere:
        owners = ", ".join(sorted({lease.owner or "another worker" for lease in leases}))
        return LeasesHeldElsewhere(
            f"leases of the application {self._application.name!r} are held by {owners}, which is alive: stop that"
            " worker first, or run under another application name"
        )

    def _supervise(self, ports: Ports, stop: threading.Event) -> None:
        sync_at = self._clock.monotonic()
        while not stop.is_set():
            if any(consumer.failure is not None for consumer in self._running.values()):
                return
            if self._shard_ended.is_set() or self._clock.monotonic() >= sync_at:
                self._shard_ended.clear()
                if self._passing("looking for shards", lambda: self._start_shards(ports)):
                    if not self._started:
                        self._started = True
                        self._telemetry.emit(RunnerStarted(runner="local"))
                    sync_at = self._clock.monotonic() + self._settings.shard_sync_seconds
                    release_memory()
                else:
                    self._shard_ended.set()
            self._clock.wait(0.1, stop)

    def _passing(self, what: str, call: Callable[[], object]) -> bool:
        """Call; False where it failed in a way that passes, which is reported and tried again by the next round."""
        try:
            call()
        except Exception as error:
            if not is_transient(error):
                raise
            self._telemetry.emit(Retried(what=what, error=str(error), attempt=1, wait_seconds=0.1))
            return False
        return True

    def _renew(self, drained: threading.Event) -> None:
        """Move the counters of the held leases, until the drain is over. An error is waited out: the lease outlives it.

        One that does not pass (a permission that was taken away) shows in the shard's own writes, and ends it there.
        """
        while not self._clock.wait(self._settings.failover_seconds / 3, drained):
            for consumer in [*self._running.values()]:
                if consumer.is_alive():
                    try:
                        consumer.held.renew()
                    except StreamprocError as error:
                        self._telemetry.emit(
                            Retried(what="renewing leases", error=str(error), attempt=1, wait_seconds=0.0)
                        )

    def _start_shards(self, ports: Ports) -> None:
        listed = list_shards(self._kinesis, self._application.stream)
        shards = {shard.shard_id: shard for shard in listed}
        leases = self._sync_leases(listed)
        # In the order of the shards, as a switch of the alias expects.
        leases.sort(key=lambda lease: lease.shard_id)
        for lease in leases:
            if not lease.ended and lease.shard_id not in shards and lease.shard_id not in self._running:
                self._end_trimmed(lease)
        for lease in startable(leases):
            if lease.shard_id in self._running or lease.shard_id not in shards:
                continue
            # Before the lease is taken: loading a model may take its time, and the lease would not be renewed in it.
            processor = self._application.processor()
            if not self._running:
                settle_memory()
            held = self._take(lease)
            self._telemetry.emit(LeaseAcquired(shard_id=lease.shard_id, checkpoint=lease.checkpoint))
            consumer = self._consumer(ports, shards[lease.shard_id], held, processor)
            self._running[lease.shard_id] = consumer
            consumer.start()

    def _take(self, lease: Lease) -> HeldLease:
        """Take a lease that is free, or whose owner was seen dead. A lost race means that another worker lives."""
        if lease.owner not in (None, self._worker_id) and _row(lease) not in self._dead:
            raise self._held_elsewhere([lease])
        taken = self._leases.take(lease, self._worker_id)
        if taken is None:
            rows = [row for row in self._leases.list() if row.shard_id == lease.shard_id]
            # Only we write our name: an earlier try of ours, given up when its connection was cut, arrived late.
            if not rows or rows[0].owner != self._worker_id:
                raise self._held_elsewhere(rows)
            taken = rows[0]
        if self._confirm is not None:
            try:
                self._confirm()
            except StreamprocError:
                self._leases.release(taken)
                raise
            self._confirm = None
        return HeldLease(self._leases, taken)

    def _end_trimmed(self, lease: Lease) -> None:
        """End the lease of a shard that is gone with its records, so that its children can start: a reported gap."""
        self._take(lease).checkpoint(SHARD_END, 0)
        self._telemetry.emit(RetentionGapFound(shard_id=lease.shard_id, checkpoint=lease.checkpoint))
        self._shard_ended.set()

    def _consumer(self, ports: Ports, shard: Shard, held: HeldLease, processor: AnyProcessor) -> ShardConsumer:
        application = self._application
        reader = self._reader(shard)
        worker = ShardWorker(
            shard_id=shard.shard_id,
            hash_range=shard.hash_range,
            processor=processor,
            ports=ports,
            settings=application.worker,
            clock=self._clock,
            telemetry=self._telemetry,
            abort=held.lost,
        )
        return ShardConsumer(
            held,
            reader,
            worker,
            after_death=bool(self._dead),
            poll_seconds=self._settings.poll_seconds,
            clock=self._clock,
            telemetry=self._telemetry,
            leave=self._leave,
            ended=self._shard_ended,
        )

    def _reader(self, shard: Shard) -> ShardReader:
        kinesis, stream, records_max = self._kinesis, self._application.stream, self._settings.records_max
        if (lead := self._lead) is None:
            return ShardReader(kinesis, stream, shard, records_max=records_max, telemetry=self._telemetry)
        return LimitedReader(
            kinesis,
            stream,
            shard,
            records_max=records_max,
            telemetry=self._telemetry,
            limit=lambda: lead.limit(shard.shard_id),
        )

    def _drain(self) -> None:
        """Wait for the shards to finish their batch, checkpoint and release. Past the deadline every wait is given up.

        Raises a StreamprocError that names a shard which does not come back from the application's code.
        """
        self._leave.set()
        deadline = self._clock.monotonic() + DRAIN_SECONDS
        while running := [consumer for consumer in self._running.values() if consumer.is_alive()]:
            late_seconds = self._clock.monotonic() - deadline
            if late_seconds > GIVE_UP_SECONDS:
                raise StreamprocError(
                    f"{', '.join(consumer.name for consumer in running)} did not come back from the application's code"
                    f" within {DRAIN_SECONDS + GIVE_UP_SECONDS:.0f} s and is left behind: what came after the last"
                    " checkpoint is replayed at the start"
                )
            if late_seconds > 0:
                for consumer in running:
                    consumer.held.given_up = True
                    consumer.held.lost.set()
            running[0].join(0.05)


def _row(lease: Lease) -> tuple[str, str | None, int]:
    return lease.shard_id, lease.owner, lease.counter
