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

import importlib
import sys
from collections.abc import Iterable, Mapping, Sequence
from hashlib import md5
from typing import Any, NamedTuple

from google.protobuf.message import DecodeError as ProtobufDecodeError

from streamproc.record import Position, Record
from streamproc.shardmap import HashRange, hash_key_of

MAGIC = b"\xf3\x89\x9a\xc2"
_DIGEST_BYTES = 16


def _aggregated_record_class() -> Any:
    """The protobuf message, out of aws_kinesis_agg.

    Its ``messages_pb2`` says ``import config_pb2``, as if its folder were on ``sys.path``; its own modules put it there
    for good, and the whole program then sees it. Here the name is lent for the one import and given back.
    """
    config = importlib.import_module("aws_kinesis_agg.config_pb2")
    before = sys.modules.get("config_pb2")
    sys.modules["config_pb2"] = config
    try:
        messages = importlib.import_module("aws_kinesis_agg.messages_pb2")
    finally:
        if before is None:
            del sys.modules["config_pb2"]
        else:
            sys.modules["config_pb2"] = before
    return messages.AggregatedRecord


_AggregatedRecord = _aggregated_record_class()


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
    message = _AggregatedRecord()
    partition_keys: dict[str, int] = {}
    hash_keys: dict[str, int] = {}
    add = message.records.add
    for partition_key, data, explicit_hash_key in records:
        record = add(data=data, partition_key_index=partition_keys.setdefault(partition_key, len(partition_keys)))
        if explicit_hash_key is not None:
            record.explicit_hash_key_index = hash_keys.setdefault(str(explicit_hash_key), len(hash_keys))
    message.partition_key_table.extend(partition_keys)
    message.explicit_hash_key_table.extend(hash_keys)
    body: bytes = message.SerializeToString()
    return MAGIC + body + md5(body, usedforsecurity=False).digest()


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
    message = _AggregatedRecord()
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
    except (ProtobufDecodeError, IndexError, ValueError):
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
