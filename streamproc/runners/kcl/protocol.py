"""The MultiLang protocol: lines of JSON between KCL's daemon and the child that serves one shard.

The daemon sends an action and waits for its *status*; in between, and only then, the child may ask for checkpoints,
each answered by one line. (``package-info.java`` and ``messages/`` of amazon-kinesis-client-multilang 3.1.3.)

The protocol has descriptors of its own. What anything in the process prints to standard output, C libraries too, goes
to standard error; one line of it that looks like a status would tell the daemon that a batch is done.
"""

from __future__ import annotations

import os
from typing import BinaryIO

import msgspec

from streamproc.errors import StreamprocError
from streamproc.record import Batch, Position, Record, shard_number_of

#: The daemon's pipe is read in pieces of this size; a batch of 10,000 records of 200 B is a line of 4 MB.
_READ_BYTES = 1 << 20


class ProtocolError(StreamprocError):
    """The daemon sent something else than the MultiLang protocol allows. Nothing of the shard can be trusted then."""


class Initialize(msgspec.Struct, frozen=True, tag_field="action", tag="initialize", rename="camel"):
    """Serve this shard from this checkpoint on."""

    shard_id: str
    #: The lease's checkpoint: a sequence number, TRIM_HORIZON, LATEST or AT_TIMESTAMP.
    sequence_number: str | None = None
    sub_sequence_number: int | None = None


class WireRecord(msgspec.Struct, gc=False, rename="camel"):
    """A user record, de-aggregated by the daemon. All fields in the order in which they come: that decodes fastest."""

    data: bytes
    partition_key: str
    sequence_number: str
    #: Milliseconds since the epoch.
    approximate_arrival_timestamp: int
    sub_sequence_number: int = 0
    action: str = "record"


class ProcessRecords(msgspec.Struct, gc=False, tag_field="action", tag="processRecords", rename="camel"):
    """A batch, maybe an empty one."""

    records: list[WireRecord]
    millis_behind_latest: int | None = 0


class LeaseLost(msgspec.Struct, frozen=True, tag_field="action", tag="leaseLost"):
    """Another worker has the lease. Nothing may be written any more."""


class ShardEnded(msgspec.Struct, frozen=True, tag_field="action", tag="shardEnded"):
    """The shard was read to its end: a checkpoint must be made, or its children never start."""


class ShutdownRequested(msgspec.Struct, frozen=True, tag_field="action", tag="shutdownRequested"):
    """The worker ends, or hands the lease over: the last chance for a checkpoint."""


class Checkpointed(msgspec.Struct, frozen=True, tag_field="action", tag="checkpoint", rename="camel"):
    """The daemon's answer to a checkpoint. ``error`` is the simple name of a Java exception."""

    sequence_number: str | None = None
    sub_sequence_number: int | None = None
    error: str | None = None


Action = Initialize | ProcessRecords | LeaseLost | ShardEnded | ShutdownRequested
_NAMES = {
    Initialize: "initialize",
    ProcessRecords: "processRecords",
    LeaseLost: "leaseLost",
    ShardEnded: "shardEnded",
    ShutdownRequested: "shutdownRequested",
}


class _CheckpointRequest(msgspec.Struct, frozen=True, tag_field="action", tag="checkpoint", rename="camel"):
    sequence_number: str | None
    sub_sequence_number: int | None


class _Status(msgspec.Struct, frozen=True, tag_field="action", tag="status", rename="camel"):
    response_for: str


class Protocol:
    """The child's end. Not thread-safe: a second reader, or a checkpoint from another thread, would break the order."""

    def __init__(self, from_daemon: BinaryIO, to_daemon: BinaryIO) -> None:
        self._from_daemon = from_daemon
        self._to_daemon = to_daemon
        self._actions = msgspec.json.Decoder(Action)
        self._answers = msgspec.json.Decoder(Checkpointed)
        self._encoder = msgspec.json.Encoder()

    def receive(self) -> Action | None:
        """The next action; None where the daemon is gone. Raises ProtocolError."""
        line = self._from_daemon.readline()
        while line == b"\n":
            line = self._from_daemon.readline()
        if not line:
            return None
        try:
            action: Action = self._actions.decode(line)
        except msgspec.DecodeError as error:
            raise ProtocolError(f"the daemon sent no action of the MultiLang protocol: {error}") from error
        return action

    def checkpoint(self, position: Position | None) -> str | None:
        """Ask for a checkpoint; None stands for the shard's end. Returns the name of the error, None where it holds.

        Raises ProtocolError where the daemon is gone or answers something else: the child must end then.
        """
        if position is None:
            self._send(_CheckpointRequest(None, None))
        else:
            self._send(_CheckpointRequest(str(position.sequence_number), position.sub_sequence_number))
        line = self._from_daemon.readline()
        if not line:
            raise ProtocolError("the daemon ended before it answered a checkpoint")
        try:
            return self._answers.decode(line).error
        except msgspec.DecodeError as error:
            raise ProtocolError(f"the daemon did not answer a checkpoint: {error}") from error

    def done(self, action: Action) -> None:
        """Report the action as done."""
        self._send(_Status(_NAMES[type(action)]))

    def _send(self, message: msgspec.Struct) -> None:
        # Between newlines, as KCL's own libraries do.
        self._to_daemon.write(b"\n" + self._encoder.encode(message) + b"\n")
        self._to_daemon.flush()


def take_over_standard_streams() -> Protocol:
    """Give the protocol descriptors of its own; standard input becomes empty and standard output standard error."""
    from_daemon = os.fdopen(os.dup(0), "rb", buffering=_READ_BYTES)
    to_daemon = os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return Protocol(from_daemon, to_daemon)


def batch_of(shard_id: str, action: ProcessRecords) -> Batch:
    """The daemon's batch as the worker takes it."""
    number = shard_number_of(shard_id)
    # Positions are most of what is to do here, and this is half the cost of Position(...) for each.
    new, position = tuple.__new__, Position
    records = [
        Record(
            wire.data,
            wire.partition_key,
            new(position, (number, int(wire.sequence_number), wire.sub_sequence_number)),
            wire.approximate_arrival_timestamp / 1000,
        )
        for wire in action.records
    ]
    return Batch(shard_id, records, action.millis_behind_latest or 0)


def position_of(shard_id: str, action: Initialize) -> Position | None:
    """The checkpoint that the shard is served from; None at its first record, or where only the daemon knows."""
    if action.sequence_number is None or not action.sequence_number.isdigit():
        return None
    return Position(shard_number_of(shard_id), int(action.sequence_number), action.sub_sequence_number or 0)
