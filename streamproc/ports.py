"""The ports of a worker, bound to one application on one stream."""

from __future__ import annotations

import msgspec

from streamproc.deadletter import DeadLetterStore
from streamproc.namespace import Namespace
from streamproc.projection import Projection
from streamproc.sink import Sink
from streamproc.snapshot import SnapshotCycle
from streamproc.state import StateStore


class Ports(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker writes to. One set serves all shards of a process."""

    states: StateStore
    deadletters: DeadLetterStore
    sink: Sink | None = None
    projection: Projection | None = None
    #: Where the partials of a processor with a shared fold are, and the cycle that merges them.
    partials: StateStore | None = None
    snapshots: SnapshotCycle | None = None
    #: Whose dead letters a replayed record may name.
    namespace: Namespace | None = None
