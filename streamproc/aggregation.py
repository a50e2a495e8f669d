"""KPL aggregates: many user records in one Kinesis record, and back.

The format ("KPL Aggregated Record Format", awslabs/amazon-kinesis-producer)::

    F3 89 9A C2 | AggregatedRecord (protobuf) | MD5 of the protobuf, 16 bytes

A *user record* is what was put; its *sub-sequence number* is its index in the aggregate. Its *effective hash key* is
its explicit hash key where it has one, else the hash key of its partition key.

Data that is not a whole aggregate (wrong MD5, protobuf that cannot be read) is a plain record, as in KCL.
KCL's drop rule is kept too: an aggregate with a user record whose effective hash key lies outside the shard is dropped
whole. The KPL counts on it: it checks which shard took an aggregate and sends the user records again where it was the
wrong one, so keeping them would count them twice. What was dropped is returned, never lost silently.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from hashlib import md5
from typing import Any, NamedTuple

from streamproc.record import Position, Record
from streamproc.shardmap import HashRange, hash_key_of

MAGIC = b"\xf3\x89\x9a\xc2"
_DIGEST_BYTES = 16


class UserRecord(NamedTuple):
    """One record inside an aggregate. Its index there is its sub-sequence number."""

    partition_key: str
    data: bytes
    explicit_hash_key: int | None = None


def aggregate(records: Iterable[UserRecord]) -> bytes:
    """The data of one Kinesis record that holds these user records, in this order.

    The caller chooses the Kinesis record's partition key such that every user record hashes into the shard that it goes
    to; records of one partition key under that same key always do.
    """
    partition_keys: dict[str, int] = {}
    hash_keys: dict[str, int] = {}
    body: list[bytes] = []
    for partition_key, data, explicit_hash_key in records:
        key_index = partition_keys.setdefault(partition_key, len(partition_keys))
        if explicit_hash_key is None:
            body += (_user_record_head(key_index, len(data)), data)
        else:
            hash_index = hash_keys.setdefault(str(explicit_hash_key), len(hash_keys))
            body += (_user_record_head(key_index, len(data), hash_index), data)
    return _aggregate(partition_keys, hash_keys, body)


def aggregate_by_key(keys: Sequence[tuple[str, Sequence[bytes]]]) -> bytes:
    """As :func:`aggregate`, of the data of each partition key, the keys being different: what a producer has."""
    body: list[bytes] = []
    add = body.append
    for index, (_, datas) in enumerate(keys):
        length, head = -1, b""
        for data in datas:
            if len(data) != length:
                length = len(data)
                head = _user_record_head(index, length)
            add(head)
            add(data)
    return _aggregate([key for key, _ in keys], (), body)


# The protobuf is written by hand: a generated message takes an object and several calls for each user record, which
# would be most of what a producer does. That the generated messages read the same is tested. Fields, all of wire type 2
# (length, bytes): 1 partition_key_table, 2 explicit_hash_key_table, 3 records. Of a record, 1 and 2 are indices into
# the tables (varints), 3 is the data.


def _aggregate(partition_keys: Iterable[str], hash_keys: Iterable[str], body: list[bytes]) -> bytes:
    head: list[bytes] = []
    for tag, table in ((b"\x0a", partition_keys), (b"\x12", hash_keys)):
        for key in table:
            encoded = key.encode()
            head += (tag, _varint(len(encoded)), encoded)
    message = b"".join(head + body)
    return b"".join((MAGIC, message, md5(message, usedforsecurity=False).digest()))


@lru_cache(maxsize=4096)
def _user_record_head(key_index: int, data_bytes: int, hash_index: int | None = None) -> bytes:
    """What comes before the data of a user record."""
    fields = b"\x08" + _varint(key_index)
    if hash_index is not None:
        fields += b"\x10" + _varint(hash_index)
    fields += b"\x1a" + _varint(data_bytes)
    return b"\x1a" + _varint(len(fields) + data_bytes) + fields


def _varint(number: int) -> bytes:
    if number < 0x80:
        return bytes((number,))
    encoded = bytearray()
    while number >= 0x80:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def deaggregate(data: bytes) -> list[UserRecord] | None:
    """The user records of an aggregate in sub-sequence order, or None where the data is a plain record.

    An aggregate whose records point outside its tables is a plain record too. KCL logs it and drops the rest of it;
    here it goes on to the decoder, which rejects it with its position.
    """
    if not data.startswith(MAGIC):
        return None
    body, digest = data[len(MAGIC) : -_DIGEST_BYTES], data[-_DIGEST_BYTES:]
    if not body or md5(body, usedforsecurity=False).digest() != digest:
        return None
    from streamproc.kpl import AggregatedRecord, DecodeError  # protobuf: who only sends is spared its import

    message = AggregatedRecord()
    try:
        message.ParseFromString(body)
        partition_keys = list(message.partition_key_table)
        hash_keys = [int(hash_key) for hash_key in message.explicit_hash_key_table]
        return [
            UserRecord(
                partition_keys[record.partition_key_index],
                record.data,
                hash_keys[record.explicit_hash_key_index] if record.HasField("explicit_hash_key_index") else None,
            )
            for record in message.records
        ]
    except (DecodeError, IndexError, ValueError):
        return None


class DroppedAggregate(NamedTuple):
    """An aggregate that was dropped whole, since a user record of it hashes outside the shard."""

    sequence_number: str
    user_records: int


class Expanded(NamedTuple):
    """What a read from a shard comes to."""

    #: User records and plain records, in the order of the log.
    records: list[Record]
    dropped: list[DroppedAggregate]


def expand(raw: Sequence[Mapping[str, Any]], shard_number: int, hash_range: HashRange) -> Expanded:
    """De-aggregate the ``Records`` of a boto3 GetRecords response, from a shard that owns ``hash_range``.

    Plain records are passed on wherever they hash: Kinesis does not return the explicit hash key that one may have been
    put with.
    """
    records: list[Record] = []
    dropped: list[DroppedAggregate] = []
    for item in raw:
        data: bytes = item["Data"]
        sequence_number = int(item["SequenceNumber"])
        arrived_at: float = item["ApproximateArrivalTimestamp"].timestamp()
        users = deaggregate(data)
        if users is None:
            records.append(Record(data, item["PartitionKey"], Position(shard_number, sequence_number), arrived_at))
        elif _all_inside(users, hash_range):
            records += [
                Record(user.data, user.partition_key, Position(shard_number, sequence_number, index), arrived_at)
                for index, user in enumerate(users)
            ]
        else:
            dropped.append(DroppedAggregate(item["SequenceNumber"], len(users)))
    return Expanded(records, dropped)


def _all_inside(users: list[UserRecord], hash_range: HashRange) -> bool:
    """KCL's rule. Sets first: an aggregate holds few keys, and a hash costs more than a look-up."""
    keys = {user.partition_key for user in users if user.explicit_hash_key is None}
    explicit = {user.explicit_hash_key for user in users if user.explicit_hash_key is not None}
    return all(hash_range.contains(hash_key_of(key)) for key in keys) and all(map(hash_range.contains, explicit))
