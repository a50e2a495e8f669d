"""PyFlink as its documentation shows it: ``KeyedProcessFunction`` with a ``ValueState``, in process mode.

One prediction and one list an event. Checkpoints are on; the backend of the states is Flink's default, its heap.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
from pyflink.common import Configuration, Types, WatermarkStrategy  # type: ignore[import-not-found,unused-ignore]
from pyflink.common.serialization import Encoder  # type: ignore[import-not-found,unused-ignore]
from pyflink.datastream import (  # type: ignore[import-not-found,unused-ignore]
    KeyedProcessFunction,
    RuntimeContext,
    StreamExecutionEnvironment,
)
from pyflink.datastream.connectors.file_system import (  # type: ignore[import-not-found,unused-ignore]
    FileSink,
    FileSource,
    StreamFormat,
)
from pyflink.datastream.state import ValueStateDescriptor  # type: ignore[import-not-found,unused-ignore]

from benchmarks.throughput.job import log_lines, mark, peer_of, task
from streamproc_models.features import decode_state, encode_state, fold, new_state
from streamproc_producers.events import decode

#: Flink's checkpoints go by the clock.
CHECKPOINT_MILLISECONDS = 10_000


class Recommend(KeyedProcessFunction):  # type: ignore[misc]
    def __init__(self, of: bytes) -> None:
        self._task = of

    def open(self, runtime_context: RuntimeContext) -> None:
        self._peer = peer_of(self._task)
        self._state = runtime_context.get_state(ValueStateDescriptor("state", Types.PICKLED_BYTE_ARRAY()))

    def process_element(self, value: Any, ctx: Any) -> Iterator[str]:  # noqa: ARG002
        event = decode(value[1].encode())
        stored = self._state.value()
        state = fold(decode_state(stored) if stored is not None else new_state(), event)
        encoded = encode_state(state)
        self._state.update(encoded)
        self._peer.redis.set(event.user_id, encoded)
        [line] = self._peer.lists([(event.user_id, state)], [event.event_id])
        yield line.decode()


def main() -> None:
    of = task()
    source = Path(of.out, "events.ndjson")
    source.write_bytes(b"".join(line + b"\n" for line in log_lines(of)))
    settings = Configuration()
    settings.set_string("python.execution-mode", "process")
    # A failure ends the job; with checkpoints on, Flink would begin again without end.
    settings.set_string("restart-strategy.type", "none")
    settings.set_string("python.fn-execution.bundle.size", str(of.batch))
    environment = StreamExecutionEnvironment.get_execution_environment(settings)
    environment.set_python_executable(sys.executable)
    environment.set_parallelism(1)
    environment.enable_checkpointing(CHECKPOINT_MILLISECONDS)
    lines = FileSource.for_record_stream_format(StreamFormat.text_line_format(), str(source)).build()
    sink = FileSink.for_row_format(str(Path(of.out, "lists")), Encoder.simple_string_encoder()).build()
    (
        environment.from_source(lines, WatermarkStrategy.no_watermarks(), "events")
        .map(lambda line: (decode(line.encode()).user_id, line), Types.TUPLE([Types.STRING(), Types.STRING()]))
        .key_by(lambda pair: pair[0], Types.STRING())
        .process(Recommend(msgspec.json.encode(of)), Types.STRING())
        .sink_to(sink)
    )
    environment.execute("recommender")
    mark("done")


if __name__ == "__main__":
    main()
