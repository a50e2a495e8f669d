"""How a dead letter goes back into the stream: its data in an envelope that names where it first stood.

A record whose cause is mended is put again, under its partition key, and so comes after what its key did since. Its
first position makes it be folded once, however often it is put: the worker that meets it claims the dead letter for the
place where it stands now, durably and once; any further copy finds it claimed and is dropped. Other applications on the
stream drop the envelope, since they had the record at its first position.
"""

from __future__ import annotations

import msgspec

from streamproc.errors import DecodeError
from streamproc.namespace import Namespace
from streamproc.record import Position

#: Begins no JSON, no UTF-8 text of a person and no protobuf message: field number 0 does not exist.
MAGIC = b"\x00streamproc:replayed\x00"


class Replayed(msgspec.Struct, frozen=True):
    """A record that was put aside, and is here again."""

    #: Whose dead letter it is; see :class:`streamproc.namespace.Namespace`.
    namespace: str
    first_position: Position
    data: bytes


class _Wire(msgspec.Struct, array_like=True):
    namespace: str
    first_position: str
    data: bytes


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Wire)


def wrap(namespace: Namespace, first_position: Position, data: bytes) -> bytes:
    """The data of a record that replays the dead letter of this position."""
    return MAGIC + _encoder.encode(_Wire(str(namespace), first_position.sortable(), data))


def unwrap(data: bytes) -> Replayed:
    """Read what :func:`wrap` wrote; the data must begin with MAGIC. Raises DecodeError where the rest is broken."""
    try:
        wire = _decoder.decode(data[len(MAGIC) :])
        return Replayed(wire.namespace, Position.parse(wire.first_position), wire.data)
    except (msgspec.DecodeError, ValueError) as error:
        raise DecodeError(f"the envelope of a replayed dead letter is broken: {error}") from error
