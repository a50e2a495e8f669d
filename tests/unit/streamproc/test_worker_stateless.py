"""The worker with a processor that keeps no states."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from streamproc.processor import Processor, Received
from streamproc.record import Batch, Position, Record
from streamproc.sink import Delivery

MakeRecord = Callable[..., Record]
MakeBatch = Callable[[Iterable[Record]], Batch]


class Splitting(Processor[bytes, bytes]):
    """Stateless: two outputs an event."""

    def decode(self, data: bytes) -> bytes:
        return data

    def process(self, batch: Sequence[Received[bytes]]) -> Sequence[bytes]:
        if any(received.event == b"bad" for received in batch):
            raise ValueError("bad")
        return [received.event + suffix for received in batch for suffix in (b"-1", b"-2")]

    def encode(self, output: bytes) -> bytes:
        return output


def plain(sequence_number: int, data: bytes) -> Record:
    return Record(data, "k", Position(0, sequence_number), 0.0)


def test_a_stateless_processor_publishes_its_outputs_and_the_event_it_fails_on_is_dead_lettered_alone(
    bench: Any, make_batch: MakeBatch
) -> None:
    bench.processor = Splitting()
    worker = bench.worker()
    worker.process(make_batch([plain(1, b"a"), plain(2, b"bad"), plain(3, b"c")]))
    assert worker.make_durable()[:2] == (Position(0, 3), 0)
    assert bench.sink.outputs == [b"a-1", b"a-2", b"c-1", b"c-2"]
    assert bench.letters()[2].reason == "process failed: ValueError: bad"


def test_every_refused_output_of_a_stateless_processor_is_a_dead_letter_of_its_own(
    bench: Any, make_batch: MakeBatch, flaky_sink: Any
) -> None:
    bench.processor = Splitting()
    bench.sink = flaky_sink(lambda outputs: Delivery([], [(n, "too large") for n in range(len(outputs))]))
    bench.worker().process(make_batch([plain(1, b"a"), plain(2, b"b")]))
    assert sorted(letter.data for letter in bench.deadletters.scan()) == [b"a-1", b"a-2", b"b-1", b"b-2"]
