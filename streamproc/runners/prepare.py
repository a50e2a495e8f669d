"""What every runner does before it reads: tables, and the refusal of a stream that the checkpoints do not speak of."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence, Set as AbstractSet
from typing import TYPE_CHECKING

import msgspec

from streamproc.clock import Clock
from streamproc.errors import SettingsError, StreamRecreated
from streamproc.lease import LATEST, TRIM_HORIZON, Lease, LeaseStore, ancestors
from streamproc.namespace import Namespace
from streamproc.ports import Ports
from streamproc.processor import KeyedProcessor
from streamproc.runners.held import new_lease
from streamproc.snapshot import SnapshotCycle
from streamproc.stream import Shard
from streamproc.telemetry import Telemetry

if TYPE_CHECKING:
    from streamproc.application import Application


def prepare(leases: LeaseStore, ports: Ports, namespace: Namespace) -> None:
    """Create the tables that are missing, and claim the stream for the application.

    Raises SettingsError where the application reads another stream, StreamRecreated where this one was made again.
    """
    leases.prepare()
    ports.states.prepare()
    ports.deadletters.prepare()
    stream = f"{namespace.stream}@{namespace.stream_created_at}"
    known = ports.states.claim_stream(stream)
    if known == stream:
        return
    name, (known_stream, _, created_at) = namespace.application, known.rpartition("@")
    if known_stream != namespace.stream:
        raise SettingsError(
            f"the application {name!r} reads the stream {known_stream!r}, and its checkpoints speak of that one:"
            f" run under another --name to read {namespace.stream!r}"
        )
    raise StreamRecreated(
        f"the stream {namespace.stream!r} was deleted and made again since the application {name!r} read it"
        f" (created {created_at}, now {namespace.stream_created_at}, seconds since the epoch): its checkpoints mean"
        f" nothing now. Run under a new application name, or delete the tables {name}, {name}-states and"
        f" {name}-deadletters"
    )


def with_snapshots(
    application: Application,
    ports: Ports,
    clock: Clock,
    telemetry: Telemetry,
    stop: threading.Event,
    *,
    shards: Callable[[], list[Shard]],
    only_as: str | None = None,
) -> Ports:
    """The ports with the snapshots of the values across keys, followed in a thread until ``stop`` is set.

    ``only_as`` names the shard of a process that serves one alone: it makes snapshots while its shard is the first of
    the open ones, and else takes what the others made, since a hundred children need not read a hundred partials each.
    """
    if application.snapshots is None or ports.partials is None or ports.namespace is None:
        return ports
    processor = application.processor()
    shared = processor.shared() if isinstance(processor, KeyedProcessor) else None
    if shared is None:
        return ports
    cycle = SnapshotCycle(
        shared,
        ports.partials,
        application.snapshots(ports.namespace),
        shard_ids=lambda: [shard.shard_id for shard in shards()],
        merges=lambda: only_as in (None, min(shard.shard_id for shard in shards() if not shard.closed)),
        seconds=application.worker.snapshot_seconds,
        clock=clock,
        telemetry=telemetry,
    )
    threading.Thread(target=cycle.run, args=[stop], name="streamproc-snapshots", daemon=True).start()
    return msgspec.structs.replace(ports, snapshots=cycle)


def missing_leases(shards: Sequence[Shard], known: AbstractSet[str], initial: str, now: float) -> list[Lease]:
    """The leases of shards that this application sees for the first time, parents before children.

    The initial position is that of shards as this application first saw the stream: a child of a shard that it
    reads begins at its first record. An ancestor of a shard with a lease gets none: it was read, and KCL removed
    its lease, or it ended before this application began.
    """
    parents_of = {shard.shard_id: shard.parent_shard_ids for shard in shards}
    wanted = [shard for shard in shards if shard.shard_id not in known | ancestors(parents_of, known)]
    if initial == LATEST and not known:
        wanted = [shard for shard in wanted if not shard.closed]
    leased = {*known}
    missing = []
    for shard in wanted:
        is_child = bool(shard.parent_shard_ids & leased)
        missing.append(new_lease(shard, TRIM_HORIZON if is_child else initial, now))
        leased.add(shard.shard_id)
    return missing
