"""A Kinesis stream as its readers see it: which one it is, and its shards."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from streamproc.errors import translated
from streamproc.shardmap import HashRange

if TYPE_CHECKING:
    from mypy_boto3_kinesis import KinesisClient
    from mypy_boto3_kinesis.type_defs import ListShardsInputTypeDef


class Shard(msgspec.Struct, frozen=True):
    """One shard, open or closed."""

    shard_id: str
    hash_range: HashRange
    parent_shard_ids: frozenset[str]
    #: A closed shard takes no more records, and can be read to its end.
    closed: bool


def stream_created_at(client: KinesisClient, stream: str) -> int:
    """When the stream was made, whole seconds since the epoch: with the name, it says which stream this is."""
    with translated(f"describing the stream {stream!r}"):
        summary = client.describe_stream_summary(StreamName=stream)["StreamDescriptionSummary"]
    return int(summary["StreamCreationTimestamp"].timestamp())


def list_shards(client: KinesisClient, stream: str) -> list[Shard]:
    """Every shard within the retention, over all pages."""
    request: ListShardsInputTypeDef = {"StreamName": stream}
    shards = []
    while True:
        with translated(f"listing the shards of {stream!r}"):
            page = client.list_shards(**request)
        for shard in page["Shards"]:
            hash_keys = shard["HashKeyRange"]
            shards.append(
                Shard(
                    shard["ShardId"],
                    HashRange(int(hash_keys["StartingHashKey"]), int(hash_keys["EndingHashKey"])),
                    frozenset(
                        shard[parent] for parent in ("ParentShardId", "AdjacentParentShardId") if shard.get(parent)
                    ),
                    "EndingSequenceNumber" in shard["SequenceNumberRange"],
                )
            )
        if not page.get("NextToken"):
            return shards
        request = {"NextToken": page["NextToken"]}  # the API takes the token or the name, not both
