"""The archive: every decoded event with its position, in a Firehose prefix of its own. Stateless.

It is the log beyond Kinesis' retention: training, replay and audit read it there.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import partial

import msgspec

from streamproc.application import Application, environment
from streamproc.deadletters.dynamodb import DynamoDBDeadLetters
from streamproc.processor import Processor, Received
from streamproc.settings import LocalRunnerSettings
from streamproc.sinks.firehose import FirehoseSink
from streamproc.states.dynamodb import DynamoDBStates
from streamproc_consumers.recommendation import LogPosition
from streamproc_producers.events import CartEvent, decode, utc


class ArchivedEvent(msgspec.Struct, frozen=True, gc=False):
    """One line of the archive."""

    position: LogPosition
    arrived_at: datetime
    #: The event as it was sent, unknown fields included.
    event: msgspec.Raw


class Archive(Processor[CartEvent, ArchivedEvent]):
    """Passes events on. What cannot be decoded is dead-lettered by the library, so it is kept too."""

    def __init__(self) -> None:
        self._encode = msgspec.json.Encoder().encode

    def decode(self, data: bytes) -> CartEvent:
        """See :func:`streamproc_producers.events.decode`."""
        return decode(data)

    def process(self, batch: Sequence[Received[CartEvent]]) -> Sequence[ArchivedEvent]:
        """One line an event, in log order."""
        return [
            ArchivedEvent(LogPosition.of(record.position), utc(record.arrived_at), msgspec.Raw(_one_line(record.data)))
            for _, record in batch
        ]

    def encode(self, output: ArchivedEvent) -> bytes:
        """See :class:`ArchivedEvent`."""
        return self._encode(output)


def _one_line(data: bytes) -> bytes:
    """JSON as a line: another producer may have sent it indented."""
    return data if b"\n" not in data and b"\r" not in data else msgspec.json.format(data, indent=-1)


def app() -> Application:
    """The archive, from the environment: STREAMPROC_STREAM, STREAMPROC_ARCHIVE_DELIVERY_STREAM, STREAMPROC_BUCKET."""
    return Application(
        name=environment("STREAMPROC_ARCHIVE_NAME", default="archive"),
        stream=environment("STREAMPROC_STREAM", default="cart-events"),
        processor=Archive,
        states=DynamoDBStates,
        deadletters=partial(DynamoDBDeadLetters, bucket=environment("STREAMPROC_BUCKET")),
        sink=partial(
            FirehoseSink,
            delivery_stream=environment("STREAMPROC_ARCHIVE_DELIVERY_STREAM", default="cart-events-archive"),
        ),
        # Five reads a second a shard are shared by all readers; the archive is in no hurry and leaves them to the
        # recommender.
        local=LocalRunnerSettings(poll_seconds=5.0),
    )
