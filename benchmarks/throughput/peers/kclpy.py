"""amazon-kclpy's own loop, with what teams write into ``process_records``: one event after the other.

States are kept in memory, where KCL's lease on the shard keeps them right, and written to Redis with every event: one
round trip, one prediction and one list an event.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

from amazon_kclpy import kcl  # type: ignore[import-untyped,unused-ignore]
from amazon_kclpy.v3.processor import RecordProcessorBase  # type: ignore[import-untyped,unused-ignore]

from benchmarks.throughput.job import CHECKPOINT_SECONDS, Peer, Task, mark, output, task, wait_for_start
from streamproc_models.features import UserState, decode_state, encode_state, fold, new_state
from streamproc_producers.events import decode


class Recommends(RecordProcessorBase):  # type: ignore[misc]
    def __init__(self, of: Task) -> None:
        self._peer = Peer(of)
        self._states: dict[str, UserState] = {}
        self._output = output(of)
        self._due: float | None = None

    def initialize(self, initialize_input: Any) -> None:
        """Nothing to do."""

    def process_records(self, process_records_input: Any) -> None:
        at = 0.0
        for record in process_records_input.records:
            event = decode(record.binary_data)
            user_id = event.user_id
            state = self._states.get(user_id)
            if state is None:
                stored = self._peer.redis.get(user_id)
                state = decode_state(stored) if isinstance(stored, bytes) else new_state()
            state = self._states[user_id] = fold(state, event)
            [line] = self._peer.lists([(user_id, state)], [event.event_id])
            self._peer.redis.set(user_id, encode_state(state))
            self._output.write(line + b"\n")
            at = event.at
            self._due = self._due or at + CHECKPOINT_SECONDS
        self._output.flush()
        if self._due is not None and at >= self._due:
            process_records_input.checkpointer.checkpoint()
            self._due = at + CHECKPOINT_SECONDS

    def lease_lost(self, lease_lost_input: Any) -> None:
        """Nothing to do."""

    def shard_ended(self, shard_ended_input: Any) -> None:
        """Nothing to do."""

    def shutdown_requested(self, shutdown_requested_input: Any) -> None:
        """Nothing to do."""


def main() -> None:
    of = task()
    with Path(of.folder, f"{of.log}.multilang").open() as lines:
        script = io.StringIO("".join(_until(lines, of.events)))
    processor = Recommends(of)
    wait_for_start(of)
    failures = io.StringIO()
    kcl.KCLProcess(processor, script, io.StringIO(), failures).run()
    mark("done")
    sys.exit(failures.getvalue() or None)  # the loop goes on after an error


def _until(lines: Any, events: int) -> list[str]:
    """The actions that hold so many events."""
    taken: list[str] = []
    for line in lines:
        if '"action":"processRecords"' in line:
            if events <= 0:
                break
            events -= line.count('"action":"record"')
        taken.append(line)
    return taken


if __name__ == "__main__":
    main()
