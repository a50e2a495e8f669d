"""Dead letters in DynamoDB, their data in S3 where it is large."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from streamproc.aws import aws_client
from streamproc.deadletter import Attempt, DeadLetter, Kind
from streamproc.dynamodb import create_table, describe_table
from streamproc.errors import code_of, translated
from streamproc.record import Position

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_s3 import S3Client

    from streamproc.namespace import Namespace

#: Data beyond it goes to S3: an item ends at 400 KB and a record at 1 MiB or more.
INLINE_BYTES_MAX = 64 * 1024


# The item of a shard that notes what is in the application's code. It sorts before every position.
_ATTEMPT_KEY = "!attempt"


class DynamoDBDeadLetters:
    """Items of ``<application>-deadletters``.

    ``pk`` is ``<stream>@<its creation>#<shard id>`` and ``sk`` is ``<position>#<kind>#<ordinal>``, so the entries of a
    shard are read in log order. Large data is an object below ``deadletters/`` in the bucket, written before the item
    that names it.
    """

    def __init__(
        self,
        namespace: Namespace,
        *,
        bucket: str,
        client: DynamoDBClient | None = None,
        s3: S3Client | None = None,
    ) -> None:
        self.table = f"{namespace.application}-deadletters"
        self._prefix = f"{namespace.stream}@{namespace.stream_created_at}#"
        self._object_prefix = f"deadletters/{namespace}/"
        self._bucket = bucket
        self._client = client or aws_client("dynamodb")
        self._s3 = s3 or aws_client("s3")

    def check(self) -> str:
        """See :class:`streamproc.deadletter.DeadLetterStore`."""
        table = describe_table(self._client, self.table)
        with translated(f"looking for the bucket {self._bucket}"):
            self._s3.head_bucket(Bucket=self._bucket)
        return f"{table}, bucket {self._bucket}"

    def prepare(self) -> None:
        """See :class:`streamproc.deadletter.DeadLetterStore`."""
        create_table(self._client, self.table, hash_key="pk", range_key="sk")

    def write(self, letters: Sequence[DeadLetter]) -> None:
        """See :class:`streamproc.deadletter.DeadLetterStore`."""
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        absent = "attribute_not_exists(pk)"  # a replay writes the entry again; what was done with it since must stand
        for letter in letters:
            sort_key = f"{letter.position.sortable()}#{letter.kind}#{letter.ordinal}"
            item: dict[str, Any] = {
                "pk": {"S": self._prefix + letter.shard_id},
                "sk": {"S": sort_key},
                "kind": {"S": letter.kind},
                "status": {"S": "open"},
                "reason": {"S": letter.reason},
                "partition_key": {"S": letter.partition_key},
                "arrived_at": {"N": repr(letter.arrived_at)},
                "written_at": {"S": now},
            }
            if letter.field is not None:
                item["field"] = {"S": letter.field}
            if len(letter.data) > INLINE_BYTES_MAX:
                object_key = f"{self._object_prefix}{letter.shard_id}/{sort_key}"
                with translated(f"writing a dead letter to s3://{self._bucket}"):
                    self._s3.put_object(Bucket=self._bucket, Key=object_key, Body=letter.data)
                item["data_object"] = {"S": object_key}
            else:
                item["data"] = {"B": letter.data}
            with translated(f"writing a dead letter to {self.table}"):
                try:
                    self._client.put_item(TableName=self.table, Item=item, ConditionExpression=absent)
                except ClientError as error:
                    if code_of(error) != "ConditionalCheckFailedException":
                        raise

    def event_positions_after(self, shard_id: str, after: Position) -> set[Position]:
        """See :class:`streamproc.deadletter.DeadLetterStore`."""
        positions = set()
        with translated(f"reading {self.table}"):
            for page in self._client.get_paginator("query").paginate(
                TableName=self.table,
                ConsistentRead=True,
                KeyConditionExpression="pk = :pk AND sk > :after",
                # '~' sorts behind the '#' that ends a position, so the entries at `after` itself are not returned.
                ExpressionAttributeValues={
                    ":pk": {"S": self._prefix + shard_id},
                    ":after": {"S": f"{after.sortable()}~"} if after.sequence_number >= 0 else {"S": "/"},
                },
                ProjectionExpression="sk",
            ):
                for item in page["Items"]:
                    position, kind, _ = item["sk"]["S"].split("#")
                    if kind == Kind.EVENT:
                        positions.add(Position.parse(position))
        return positions

    def note_attempt(self, shard_id: str, attempt: Attempt | None) -> None:
        """See :class:`streamproc.deadletter.DeadLetterStore`."""
        key: Any = {"pk": {"S": self._prefix + shard_id}, "sk": {"S": _ATTEMPT_KEY}}
        with translated(f"noting an attempt in {self.table}"):
            if attempt is None:
                self._client.delete_item(TableName=self.table, Key=key)
                return
            item = {
                **key,
                "first": {"S": attempt.first.sortable()},
                "last": {"S": attempt.last.sortable()},
                "alone": {"BOOL": attempt.alone},
            }
            self._client.put_item(TableName=self.table, Item=item)

    def attempt(self, shard_id: str) -> Attempt | None:
        """See :class:`streamproc.deadletter.DeadLetterStore`."""
        key: Any = {"pk": {"S": self._prefix + shard_id}, "sk": {"S": _ATTEMPT_KEY}}
        with translated(f"reading {self.table}"):
            item: Any = self._client.get_item(TableName=self.table, Key=key, ConsistentRead=True).get("Item")
        if item is None:
            return None
        first, last = (Position.parse(item[name]["S"]) for name in ("first", "last"))
        return Attempt(first=first, last=last, alone=item["alone"]["BOOL"])

    def scan(self) -> Iterable[DeadLetter]:
        """See :class:`streamproc.deadletter.DeadLetterStore`."""
        with translated(f"reading {self.table}"):
            for page in self._client.get_paginator("scan").paginate(
                TableName=self.table,
                ConsistentRead=True,
                FilterExpression="begins_with(pk, :prefix) AND sk <> :attempt",
                ExpressionAttributeValues={":prefix": {"S": self._prefix}, ":attempt": {"S": _ATTEMPT_KEY}},
            ):
                for item in page["Items"]:
                    yield self._letter(item)

    def _letter(self, item: Any) -> DeadLetter:
        if "data" in item:
            data = item["data"]["B"]
        else:
            data = self._s3.get_object(Bucket=self._bucket, Key=item["data_object"]["S"])["Body"].read()
        position, kind, ordinal = item["sk"]["S"].split("#")
        return DeadLetter(
            shard_id=item["pk"]["S"].removeprefix(self._prefix),
            position=Position.parse(position),
            kind=Kind(kind),
            ordinal=int(ordinal),
            reason=item["reason"]["S"],
            field=item["field"]["S"] if "field" in item else None,
            partition_key=item["partition_key"]["S"],
            data=data,
            arrived_at=float(item["arrived_at"]["N"]),
        )
