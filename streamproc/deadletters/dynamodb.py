"""Dead letters in DynamoDB, their data in S3 where it is large."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from streamproc.aws import aws_client
from streamproc.deadletter import Attempt, DeadLetter, Kind, Status
from streamproc.dynamodb import create_table, describe_table
from streamproc.errors import SettingsError, code_of, translated
from streamproc.record import Position, shard_id_of

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_s3 import S3Client

    from streamproc.namespace import Namespace

#: Data beyond it goes to S3: an item ends at 400 KB and a record at 1 MiB or more.
INLINE_BYTES_MAX = 64 * 1024
# The item of a shard that notes what is in the application's code. It sorts before every position.
_ATTEMPT_KEY = "!attempt"
# What an entry has beside its data. Behind '#' in expressions: DynamoDB reserves some of the names.
_ATTRIBUTES = (
    "pk",
    "sk",
    "reason",
    "field",
    "partition_key",
    "arrived_at",
    "status",
    "first_position",
    "replayed_at",
)


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
            sort_key = _sort_key(letter.position, letter.kind, letter.ordinal)
            item: dict[str, Any] = {
                "pk": {"S": self._prefix + letter.shard_id},
                "sk": {"S": sort_key},
                "kind": {"S": letter.kind},
                "status": {"S": letter.status},
                "reason": {"S": letter.reason},
                "partition_key": {"S": letter.partition_key},
                "arrived_at": {"N": repr(letter.arrived_at)},
                "written_at": {"S": now},
            }
            if letter.field is not None:
                item["field"] = {"S": letter.field}
            for name, at in (("first_position", letter.first_position), ("replayed_at", letter.replayed_at)):
                if at is not None:
                    item[name] = {"S": at.sortable()}
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
                    ":after": {"S": _behind(after)},
                },
                ProjectionExpression="sk",
            ):
                for item in page["Items"]:
                    position, kind, _ = item["sk"]["S"].split("#")
                    if kind == Kind.EVENT:
                        positions.add(Position.parse(position))
        return positions

    def claim(self, first_position: Position, at: Position) -> bool:
        """See :class:`streamproc.deadletter.DeadLetterStore`."""
        is_open = "#status = :open"
        # The reply was lost, or this worker replays from its checkpoint and meets the same record again.
        claimed_for_the_same = "(#status = :status AND replayed_at = :at)"
        return self._move(
            first_position,
            Kind.EVENT,
            0,
            "SET #status = :status, replayed_at = :at",
            f"{is_open} OR {claimed_for_the_same}",
            {":status": {"S": Status.REPLAYED}, ":at": {"S": at.sortable()}},
        )

    def drop(self, letter: DeadLetter) -> bool:
        """See :class:`streamproc.deadletter.DeadLetterStore`."""
        return self._settle(letter, Status.DROPPED)

    def mark_replayed(self, letter: DeadLetter) -> bool:
        """See :class:`streamproc.deadletter.DeadLetterStore`."""
        if letter.kind is not Kind.EMISSION:
            raise ValueError(f"{letter.kind} at {letter.position}: only a worker's claim marks an event as replayed")
        return self._settle(letter, Status.REPLAYED)

    def _settle(self, letter: DeadLetter, status: Status) -> bool:
        is_open = "#status = :open"
        is_so_already = "#status = :status"  # our own request, whose reply was lost
        return self._move(
            letter.position,
            letter.kind,
            letter.ordinal,
            "SET #status = :status",
            f"{is_open} OR {is_so_already}",
            {":status": {"S": status}},
        )

    def _move(
        self, position: Position, kind: Kind, ordinal: int, expression: str, condition: str, values: dict[str, Any]
    ) -> bool:
        """Update an entry's status. False where the condition is lost, as it is where there is no entry."""
        with translated(f"writing the status of a dead letter to {self.table}"):
            try:
                self._client.update_item(
                    TableName=self.table,
                    Key=self._key(position, kind, ordinal),
                    UpdateExpression=expression,
                    ConditionExpression=condition,
                    ExpressionAttributeNames={"#status": "status"},
                    ExpressionAttributeValues=values | {":open": {"S": Status.OPEN}},
                )
            except ClientError as error:
                if code_of(error) == "ConditionalCheckFailedException":
                    return False
                raise
        return True

    def _key(self, position: Position, kind: Kind, ordinal: int) -> Any:
        return {
            "pk": {"S": self._prefix + shard_id_of(position.shard_number)},
            "sk": {"S": _sort_key(position, kind, ordinal)},
        }

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

    def scan(self, *, with_data: bool = True) -> Iterable[DeadLetter]:
        """See :class:`streamproc.deadletter.DeadLetterStore`."""
        for item in self._scan((*_ATTRIBUTES, "data", "data_object") if with_data else _ATTRIBUTES):
            yield self._letter(item, self._data(item) if with_data else b"")

    def find(self, position: Position, *, with_data: bool = True) -> list[DeadLetter]:
        """See :class:`streamproc.deadletter.DeadLetterStore`."""
        with translated(f"reading {self.table}"):
            pages = self._client.get_paginator("query").paginate(
                TableName=self.table,
                ConsistentRead=True,
                KeyConditionExpression="pk = :pk AND begins_with(sk, :position)",
                ExpressionAttributeValues={
                    ":pk": {"S": self._prefix + shard_id_of(position.shard_number)},
                    ":position": {"S": f"{position.sortable()}#"},
                },
            )
            items = [item for page in pages for item in page["Items"]]
        return [self._letter(item, self._data(item) if with_data else b"") for item in items]

    def forget(self, partition_key: str) -> int:
        """See :class:`streamproc.deadletter.DeadLetterStore`."""
        forgotten = 0
        for item in self._scan(("pk", "sk", "data_object"), partition_key):
            if "data_object" in item:
                # Before the item, which alone names it: an interrupted call is repeated.
                with translated(f"deleting a dead letter's data from s3://{self._bucket}"):
                    self._s3.delete_object(Bucket=self._bucket, Key=item["data_object"]["S"])
            with translated(f"deleting a dead letter from {self.table}"):
                self._client.delete_item(TableName=self.table, Key={"pk": item["pk"], "sk": item["sk"]})
            forgotten += 1
        return forgotten

    def _scan(self, attributes: Sequence[str], partition_key: str | None = None) -> Iterator[Any]:
        condition = "begins_with(#pk, :prefix) AND #sk <> :attempt"
        names = {f"#{name}": name for name in attributes}
        values: dict[str, Any] = {":prefix": {"S": self._prefix}, ":attempt": {"S": _ATTEMPT_KEY}}
        if partition_key is not None:
            condition += " AND #partition_key = :partition_key"
            names["#partition_key"] = "partition_key"
            values[":partition_key"] = {"S": partition_key}
        with translated(f"reading {self.table}"):
            for page in self._client.get_paginator("scan").paginate(
                TableName=self.table,
                ConsistentRead=True,
                FilterExpression=condition,
                ProjectionExpression=", ".join(f"#{name}" for name in attributes),
                ExpressionAttributeNames=names,
                ExpressionAttributeValues=values,
            ):
                yield from page["Items"]

    def _data(self, item: Any) -> bytes:
        if "data" in item:
            data: bytes = item["data"]["B"]
            return data
        key = item["data_object"]["S"]
        with translated(f"reading a dead letter's data from s3://{self._bucket}/{key}"):
            try:
                return self._s3.get_object(Bucket=self._bucket, Key=key)["Body"].read()
            except ClientError as error:
                if code_of(error) not in ("NoSuchKey", "NoSuchBucket"):
                    raise
                raise SettingsError(
                    f"the data of the dead letter {item['sk']['S']} in {self.table} is gone: there is no"
                    f" s3://{self._bucket}/{key}. Was it deleted, or is the bucket another one than the worker's?"
                ) from error

    def _letter(self, item: Any, data: bytes) -> DeadLetter:
        position, kind, ordinal = item["sk"]["S"].split("#")
        first, replayed = (
            Position.parse(item[name]["S"]) if name in item else None for name in ("first_position", "replayed_at")
        )
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
            status=Status(item["status"]["S"]),
            first_position=first,
            replayed_at=replayed,
        )


def _sort_key(position: Position, kind: Kind, ordinal: int) -> str:
    return f"{position.sortable()}#{kind}#{ordinal}"


def _behind(after: Position) -> str:
    """Sorts behind the entries at this position, and before those of the next one."""
    if after.sequence_number < 0:
        return "/"
    if after.sub_sequence_number < 0:  # before the first user record; entries end with '#' and more, and sort behind it
        return after._replace(sub_sequence_number=0).sortable()
    return f"{after.sortable()}~"
