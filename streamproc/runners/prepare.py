"""What every runner does before it reads: tables, and the refusal of a stream that the checkpoints do not speak of."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import msgspec

from streamproc.clock import Clock
from streamproc.errors import SettingsError, StreamRecreated
from streamproc.lease import LeaseStore
from streamproc.namespace import Namespace
from streamproc.ports import Ports
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
    application: Application, ports: Ports, clock: Clock, telemetry: Telemetry, stop: threading.Event
) -> Ports:
    """The ports with the snapshots of the values across keys, made in a thread until ``stop`` is set."""
    if application.snapshots is None:
        return ports
    cycle = application.snapshot_cycle(ports, application.processor(), clock, telemetry)
    if cycle is None:
        return ports
    threading.Thread(target=cycle.run, args=[stop], name="streamproc-snapshots", daemon=True).start()
    return msgspec.structs.replace(ports, snapshots=cycle)
