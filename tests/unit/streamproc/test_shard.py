"""One shard's thread in the local runner: what it does while it cannot read."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

from streamproc.errors import ServiceUnreachable
from streamproc.lease import Lease
from streamproc.runners.shard import ShardConsumer
from streamproc.telemetry import Telemetry
from streamproc.testing.clock import ManualClock


def test_while_reads_fail_outputs_that_wait_are_emitted_and_a_checkpoint_goes_on() -> None:
    leave, done = threading.Event(), list[str]()
    clock = ManualClock(1_000.0)

    def read() -> Any:
        if len(done) >= 4:
            leave.set()
        raise ServiceUnreachable("Kinesis is away")

    worker: Any = SimpleNamespace(
        shard_id="shardId-000000000000",
        start=lambda *_, **__: None,
        tend=lambda: done.append("tended"),
        advance_checkpoint=lambda until: done.append("advanced" if until >= clock.now else "late"),
        make_durable=lambda: None,
        close=lambda: None,
    )
    held: Any = SimpleNamespace(lease=Lease(shard_id=worker.shard_id), lost=threading.Event(), release=lambda: True)
    reader: Any = SimpleNamespace(seek=lambda *_: None, read=read)
    consumer = ShardConsumer(
        held,
        reader,
        worker,
        after_death=False,
        poll_seconds=0.2,
        clock=clock,
        telemetry=Telemetry(),
        leave=leave,
        ended=threading.Event(),
    )
    consumer.run()
    assert consumer.failure is None
    assert done[:4] == ["tended", "advanced", "tended", "advanced"]
