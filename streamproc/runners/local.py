"""The embedded runner: every shard of a stream in one process, without Java, on KCL's lease table.

It takes every lease, reads each shard in a thread of its own, parents before children, and renews the leases from the
main thread. It refuses to start while another worker's leases are alive, and stops when one of its own is taken; so a
KCL fleet can take over from it, and the other way round.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING

from streamproc.aws import aws_client
from streamproc.clock import Clock, SystemClock
from streamproc.errors import LeasesHeldElsewhere, StreamprocError, StreamRecreated, is_transient
from streamproc.lease import LATEST, TRIM_HORIZON, Lease, LeaseStore, alive, others, startable
from streamproc.namespace import Namespace
from streamproc.runners.held import HeldLease
from streamproc.runners.reader import ShardReader
from streamproc.runners.shard import ShardConsumer
from streamproc.stream import Shard, list_shards, stream_created_at
from streamproc.telemetry import LeaseAcquired, Retried, Telemetry
from streamproc.worker import Ports, ShardWorker

if TYPE_CHECKING:
    from mypy_boto3_kinesis import KinesisClient

    from streamproc.application import Application

#: How long a stop may take before waiting for stores is given up.
DRAIN_SECONDS = 30.0


def new_worker_id() -> str:
    """An id no other worker has: host, process, and eight random digits, since process ids come again."""
    return f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"


class LocalRunner:
    """Runs one application until it is told to stop, fails, or loses a lease.

    Threads: the one that calls :meth:`run` renews leases and starts shards; each shard has one that reads, processes
    and checkpoints. They share the :class:`HeldLease` of the shard and nothing else.
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
    ) -> None:
        self._application = application
        self._settings = application.local
        self._kinesis = kinesis or aws_client("kinesis")
        self._leases = leases
        self._telemetry = telemetry or Telemetry()
        self._clock = clock or SystemClock()
        self._worker_id = worker_id or new_worker_id()
        self._running: dict[str, ShardConsumer] = {}
        self._leave = threading.Event()
        self._shard_ended = threading.Event()

    def run(self, stop: threading.Event) -> None:
        """Process the stream until ``stop`` is set, then finish the batches, checkpoint and release the leases.

        Raises StreamNotFound, StreamRecreated, LeasesHeldElsewhere, an error of a service that does not pass, or one
        of the application. Errors of a service that pass are raised at the start only; later they are waited out.
        """
        namespace = self._namespace()
        ports = self._application.ports(namespace)
        self._prepare(ports, namespace)
        self._sync_leases(first=True)
        self._refuse_if_others_live(stop)
        try:
            self._supervise(ports, stop)
        finally:
            self._drain()
        for consumer in self._running.values():
            if consumer.failure is not None:
                raise consumer.failure

    def _namespace(self) -> Namespace:
        stream = self._application.stream
        return Namespace(self._application.name, stream, stream_created_at(self._kinesis, stream))

    def _prepare(self, ports: Ports, namespace: Namespace) -> None:
        self._leases.prepare()
        ports.states.prepare()
        ports.deadletters.prepare()
        created_at = str(namespace.stream_created_at)
        known = ports.states.claim_stream(created_at)
        if known != created_at:
            name = namespace.application
            raise StreamRecreated(
                f"the stream {namespace.stream!r} was deleted and made again since the application {name!r} read it"
                f" (created {known}, now {created_at}, seconds since the epoch): its checkpoints mean nothing now. Run"
                f" under a new application name, or delete the tables {name}, {name}-states and {name}-deadletters"
            )

    def _sync_leases(self, *, first: bool = False) -> list[Lease]:
        """Create the leases that are missing, and return all.

        Children of a reshard start at their first record, whatever the initial position is: it speaks of the stream as
        this application first saw it.
        """
        known = {lease.shard_id for lease in self._leases.list()}
        initial = self._settings.initial_position if first and not known else TRIM_HORIZON
        for shard in list_shards(self._kinesis, self._application.stream):
            if shard.shard_id in known or (initial == LATEST and shard.closed):
                continue
            self._leases.create(
                Lease(
                    shard_id=shard.shard_id,
                    checkpoint=initial,
                    parent_shard_ids=shard.parent_shard_ids,
                    starting_hash_key=str(shard.hash_range.start),
                    ending_hash_key=str(shard.hash_range.end),
                )
            )
        return self._leases.list()

    def _refuse_if_others_live(self, stop: threading.Event) -> None:
        """A worker that died without a word leaves its name in the rows; only a counter that stands still tells."""
        before = self._leases.list()
        if not others(before, self._worker_id):
            return
        self._clock.wait(self._settings.failover_seconds, stop)
        living = alive(before, self._leases.list(), self._worker_id)
        if living:
            owners = ", ".join(sorted({lease.owner or "" for lease in living}))
            raise LeasesHeldElsewhere(
                f"leases of the application {self._application.name!r} are held by {owners}, which is alive: stop that"
                " worker first, or run under another application name"
            )

    def _supervise(self, ports: Ports, stop: threading.Event) -> None:
        renew_seconds = self._settings.failover_seconds / 3
        sync_at = self._clock.monotonic()
        renew_at = sync_at + renew_seconds
        while not stop.is_set():
            now = self._clock.monotonic()
            if any(consumer.failure is not None for consumer in self._running.values()):
                return
            if self._shard_ended.is_set() or now >= sync_at:
                self._shard_ended.clear()
                if self._passing("looking for shards", lambda: self._start_shards(ports)):
                    sync_at = now + self._settings.shard_sync_seconds
                else:
                    self._shard_ended.set()
            if now >= renew_at:
                renew_at = now + renew_seconds
                for consumer in self._running.values():
                    if consumer.is_alive():
                        self._passing("renewing leases", consumer.held.renew)
            self._clock.wait(min(0.1, renew_seconds), stop)

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

    def _start_shards(self, ports: Ports) -> None:
        shards = {shard.shard_id: shard for shard in list_shards(self._kinesis, self._application.stream)}
        for lease in startable(self._sync_leases()):
            if lease.shard_id in self._running or lease.shard_id not in shards:
                continue
            taken = self._leases.take(lease, self._worker_id)
            if taken is None:
                raise LeasesHeldElsewhere(
                    f"the lease of {lease.shard_id} changed hands while it was being taken: another worker of the"
                    f" application {self._application.name!r} is starting"
                )
            self._telemetry.emit(LeaseAcquired(shard_id=lease.shard_id, checkpoint=lease.checkpoint))
            consumer = self._consumer(ports, shards[lease.shard_id], HeldLease(self._leases, taken))
            self._running[lease.shard_id] = consumer
            consumer.start()

    def _consumer(self, ports: Ports, shard: Shard, held: HeldLease) -> ShardConsumer:
        application = self._application
        reader = ShardReader(
            self._kinesis,
            application.stream,
            shard,
            records_max=self._settings.records_max,
            telemetry=self._telemetry,
        )
        worker = ShardWorker(
            shard_id=shard.shard_id,
            hash_range=shard.hash_range,
            processor=application.processor(),
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
            poll_seconds=self._settings.poll_seconds,
            clock=self._clock,
            telemetry=self._telemetry,
            leave=self._leave,
            ended=self._shard_ended,
        )

    def _drain(self) -> None:
        """Wait for the shards to finish their batch and checkpoint.

        Renewals go on meanwhile: a drain that outlives its lease would let another worker replay records that are still
        being processed here. Past the deadline every wait is given up.
        """
        self._leave.set()
        deadline = self._clock.monotonic() + DRAIN_SECONDS
        renew_at = self._clock.monotonic()
        while any(consumer.is_alive() for consumer in self._running.values()):
            now = self._clock.monotonic()
            if now >= renew_at:
                renew_at = now + self._settings.failover_seconds / 3
                for consumer in self._running.values():
                    if consumer.is_alive():
                        with contextlib.suppress(StreamprocError):  # the lease outlives a failed renewal or two
                            consumer.held.renew()
            if now >= deadline:
                for consumer in self._running.values():
                    consumer.held.lost.set()
            for consumer in self._running.values():
                consumer.join(0.05)
