"""KCL's lease table in DynamoDB, as DynamoDBLeaseSerializer of amazon-kinesis-client 3.x writes it."""

from __future__ import annotations

import builtins
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from streamproc.aws import aws_client
from streamproc.dynamodb import create_table, describe_table
from streamproc.errors import SettingsError, code_of, translated
from streamproc.lease import Lease

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient


class DynamoDBLeases:
    """The table named as the application, one item a shard, ``leaseKey`` the shard id."""

    def __init__(self, application: str, *, client: DynamoDBClient | None = None) -> None:
        self.table = application
        self._client = client or aws_client("dynamodb")

    def check(self) -> str:
        """See :class:`streamproc.lease.LeaseStore`."""
        return describe_table(self._client, self.table)

    def prepare(self) -> None:
        """See :class:`streamproc.lease.LeaseStore`."""
        create_table(self._client, self.table, hash_key="leaseKey")

    def list(self) -> builtins.list[Lease]:
        """See :class:`streamproc.lease.LeaseStore`."""
        with translated(f"reading the lease table {self.table}"):
            pages = self._client.get_paginator("scan").paginate(TableName=self.table, ConsistentRead=True)
            # KCL 3.5 can keep other entities in the same table; leases have a checkpoint.
            return [_lease(item, self.table) for page in pages for item in page["Items"] if "checkpoint" in item]

    def create(self, lease: Lease) -> None:
        """See :class:`streamproc.lease.LeaseStore`."""
        item: dict[str, Any] = {
            "leaseKey": {"S": lease.shard_id},
            "leaseCounter": {"N": str(lease.counter)},
            "ownerSwitchesSinceCheckpoint": {"N": str(lease.owner_switches)},
            "checkpoint": {"S": lease.checkpoint},
            "checkpointSubSequenceNumber": {"N": str(lease.checkpoint_sub_sequence_number)},
            "startingHashKey": {"S": lease.starting_hash_key},
            "endingHashKey": {"S": lease.ending_hash_key},
        }
        if lease.latest_since is not None:
            item["latestSince"] = {"N": repr(lease.latest_since)}
        if lease.parent_shard_ids:
            item["parentShardId"] = {"SS": sorted(lease.parent_shard_ids)}
        with translated(f"creating the lease of {lease.shard_id} in {self.table}"):
            try:
                self._client.put_item(
                    TableName=self.table, Item=item, ConditionExpression="attribute_not_exists(leaseKey)"
                )
            except ClientError as error:
                if code_of(error) != "ConditionalCheckFailedException":
                    raise

    def take(self, lease: Lease, owner: str) -> Lease | None:
        """See :class:`streamproc.lease.LeaseStore`."""
        switches = lease.owner_switches + (lease.owner is not None and lease.owner != owner)
        return self._update(
            lease,
            # KCL names the old owner here during a hand-over; this take-over ends any.
            "SET leaseCounter = :counter_next, leaseOwner = :owner, ownerSwitchesSinceCheckpoint = :switches"
            " REMOVE checkpointOwner",
            {":owner": {"S": owner}, ":switches": {"N": str(switches)}},
        )

    def renew(self, lease: Lease) -> Lease | None:
        """See :class:`streamproc.lease.LeaseStore`."""
        return self._update(lease, "SET leaseCounter = :counter_next", {})

    def checkpoint(
        self, lease: Lease, checkpoint: str, sub_sequence_number: int, latest_since: float | None = None
    ) -> Lease | None:
        """See :class:`streamproc.lease.LeaseStore`."""
        changes = (
            "SET leaseCounter = :counter_next, checkpoint = :checkpoint, checkpointSubSequenceNumber = :sub,"
            " ownerSwitchesSinceCheckpoint = :zero"
        )
        # What KCL prepared before is passed by this checkpoint, and KCL clears it too.
        removed = "pendingCheckpoint, pendingCheckpointSubSequenceNumber, pendingCheckpointState"
        values = {":checkpoint": {"S": checkpoint}, ":sub": {"N": str(sub_sequence_number)}, ":zero": {"N": "0"}}
        if latest_since is None:
            removed += ", latestSince"
        else:
            changes += ", latestSince = :since"
            values[":since"] = {"N": repr(latest_since)}
        return self._update(lease, f"{changes} REMOVE {removed}", values)

    def release(self, lease: Lease) -> Lease | None:
        """See :class:`streamproc.lease.LeaseStore`."""
        return self._update(lease, "SET leaseCounter = :counter_next REMOVE leaseOwner, checkpointOwner", {})

    def _update(self, read: Lease, expression: str, values: dict[str, Any]) -> Lease | None:
        unchanged = "leaseCounter = :counter_read"  # nobody renewed, took or checkpointed it since we read it
        unowned = "attribute_not_exists(leaseOwner)"
        same_owner = "leaseOwner = :owner_read"
        values = values | {
            ":counter_read": {"N": str(read.counter)},
            ":counter_next": {"N": str(read.counter + 1)},
        }
        if read.owner is not None:
            values[":owner_read"] = {"S": read.owner}
        with translated(f"writing the lease of {read.shard_id} in {self.table}"):
            try:
                answer = self._client.update_item(
                    TableName=self.table,
                    Key={"leaseKey": {"S": read.shard_id}},
                    UpdateExpression=expression,
                    ConditionExpression=f"{unchanged} AND {unowned if read.owner is None else same_owner}",
                    ExpressionAttributeValues=values,
                    ReturnValues="ALL_NEW",
                )
            except ClientError as error:
                if code_of(error) == "ConditionalCheckFailedException":
                    return None
                raise
        return _lease(answer["Attributes"], self.table)


def _lease(item: Any, table: str) -> Lease:
    try:
        return Lease(
            shard_id=item["leaseKey"]["S"],
            owner=item["leaseOwner"]["S"] if "leaseOwner" in item else None,
            counter=int(item["leaseCounter"]["N"]),
            owner_switches=int(item.get("ownerSwitchesSinceCheckpoint", {"N": "0"})["N"]),
            checkpoint=item["checkpoint"]["S"],
            checkpoint_sub_sequence_number=int(item.get("checkpointSubSequenceNumber", {"N": "0"})["N"]),
            latest_since=float(item["latestSince"]["N"]) if "latestSince" in item else None,
            parent_shard_ids=frozenset(item.get("parentShardId", {"SS": []})["SS"]),
            starting_hash_key=item.get("startingHashKey", {"S": "0"})["S"],
            ending_hash_key=item.get("endingHashKey", {"S": str(2**128 - 1)})["S"],
        )
    except KeyError as error:
        raise SettingsError(
            f"the table {table!r} is not a lease table: an item lacks {error}. The application's name names its lease"
            " table; choose another name"
        ) from error
