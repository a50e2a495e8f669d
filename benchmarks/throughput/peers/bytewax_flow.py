"""What the three Bytewax ways share: a source in memory, a sink for states and lists, recovery on."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import bytewax.operators as op  # type: ignore[import-not-found,unused-ignore]
import redis
from bytewax.dataflow import Dataflow  # type: ignore[import-not-found,unused-ignore]
from bytewax.outputs import DynamicSink, StatelessSinkPartition  # type: ignore[import-not-found,unused-ignore]
from bytewax.recovery import RecoveryConfig, init_db_dir  # type: ignore[import-not-found,unused-ignore]
from bytewax.testing import TestingSource, run_main  # type: ignore[import-not-found,unused-ignore]

from benchmarks.throughput.job import Peer, Task, log_lines, mark, output, task, wait_for_start
from streamproc_producers.events import CartEvent, decode

#: Bytewax's own: it makes snapshots into SQLite at the end of each, by the clock.
EPOCH = timedelta(seconds=10)
#: A user, the state for Redis, and the line with the list.
Made = tuple[str, bytes, bytes]


class _Partition(StatelessSinkPartition):  # type: ignore[misc]
    def __init__(self, of: Task) -> None:
        self._file = output(of)
        self._redis = redis.Redis.from_url(of.redis_url)

    def write_batch(self, items: list[tuple[str, Made]]) -> None:
        # One round trip for all states of a batch, of each user the last one.
        self._redis.mset({user_id: state for _, (user_id, state, _) in items})
        self._file.write(b"".join([line + b"\n" for _, (_, _, line) in items]))

    def close(self) -> None:
        self._file.close()


class _Sink(DynamicSink):  # type: ignore[misc]
    def __init__(self, of: Task) -> None:
        self._of = of

    def build(self, _step_id: str, _worker_index: int, _worker_count: int) -> _Partition:
        return _Partition(self._of)


def run(key: Callable[[CartEvent], str], recommend: Callable[[Any, Peer], Any]) -> None:
    """Run a dataflow: decode, key, what ``recommend`` adds, and the sink."""
    of = task()
    peer, lines = Peer(of), log_lines(of)
    flow = Dataflow("recommender")
    read = op.input("read", flow, TestingSource(lines, batch_size=of.batch))
    keyed = op.key_on("key", op.map("decode", read, decode), key)
    op.output("write", recommend(keyed, peer), _Sink(of))
    folder = Path(of.out, "recovery")
    folder.mkdir()
    init_db_dir(folder, 1)
    wait_for_start(of)
    run_main(flow, epoch_interval=EPOCH, recovery_config=RecoveryConfig(str(folder)))
    mark("done")
