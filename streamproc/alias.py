"""Which application serves under a name: the application itself, or one that was rebuilt beside it.

``streamproc rebuild`` folds the log again into a *shadow*, an application of its own with a name, leases, states and
dead letters of its own. The *alias* says which of them serves. It is one item; where there is none, or no table, the
application serves itself. Whatever runs or reads an application resolves its name here, once, when it starts.

**One serves at a time.** A switch moves the alias in a transaction, on condition that no lease of the one that served
was written since it was seen standing still. A runner takes its first lease and then looks at the alias a second time,
before it reads a record. So of a switch and a start at the same moment, one is refused.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec
from botocore.exceptions import ClientError

from streamproc.application import Application
from streamproc.aws import aws_client
from streamproc.dynamodb import create_table
from streamproc.errors import LeasesHeldElsewhere, StreamprocError, code_of, translated
from streamproc.lease import Lease

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

# No application's name has a '#'.
_ALIAS = "#serving"
#: TransactWriteItems takes 100 items ("Quotas in Amazon DynamoDB"), one of which is the alias.
CONDITIONS_MAX = 99


class SwitchLost(StreamprocError):
    """Somebody else moved the alias, or started one of the two, while this switch was under way. Nothing changed."""


class Origin(msgspec.Struct, frozen=True):
    """From where in the stream a shadow's states are folded."""

    #: Whole seconds since the epoch; None is the oldest record that the stream has.
    since: int | None

    def __str__(self) -> str:
        if self.since is None:
            return "TRIM_HORIZON"
        return datetime.datetime.fromtimestamp(self.since, datetime.UTC).isoformat()


class Rebuilds:
    """The table ``<application>-rebuilds``: the alias, and an item for each shadow with its origin."""

    def __init__(self, application: str, *, client: DynamoDBClient | None = None) -> None:
        self._application = application
        self._client = client or aws_client("dynamodb")
        self.table = f"{application}-rebuilds"

    def serving(self) -> str:
        """The name of the application that serves. One read, strongly consistent."""
        with translated(f"reading the alias in {self.table}"):
            try:
                answer: Any = self._client.get_item(
                    TableName=self.table, Key={"pk": {"S": _ALIAS}}, ConsistentRead=True
                )
            except ClientError as error:
                if code_of(error) != "ResourceNotFoundException":
                    raise
                return self._application  # nothing was ever rebuilt
        return str(answer["Item"]["serves"]["S"]) if "Item" in answer else self._application

    def shadows(self) -> dict[str, Origin]:
        """The shadows that were begun and not dropped, by name."""
        found = {}
        with translated(f"reading {self.table}"):
            try:
                for page in self._client.get_paginator("scan").paginate(TableName=self.table, ConsistentRead=True):
                    for item in page["Items"]:
                        since = item.get("since")
                        if item["pk"]["S"] != _ALIAS:
                            found[item["pk"]["S"]] = Origin(int(since["N"]) if since else None)
            except ClientError as error:
                if code_of(error) != "ResourceNotFoundException":
                    raise
        return found

    def add(self, shadow: str, origin: Origin) -> None:
        """Note a shadow before anything of it is made, so that it can always be found and dropped."""
        create_table(self._client, self.table, hash_key="pk")
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        item: dict[str, Any] = {"pk": {"S": shadow}, "begun_at": {"S": now}}
        if origin.since is not None:
            item["since"] = {"N": str(origin.since)}
        with translated(f"noting {shadow} in {self.table}"):
            self._client.put_item(TableName=self.table, Item=item)

    def remove(self, shadow: str) -> None:
        """Forget a shadow that was dropped."""
        with translated(f"removing {shadow} from {self.table}"):
            try:
                self._client.delete_item(TableName=self.table, Key={"pk": {"S": shadow}})
            except ClientError as error:
                if code_of(error) != "ResourceNotFoundException":
                    raise

    def move(self, read: str, to: str, standing_still: Sequence[Lease]) -> None:
        """Move the alias from ``read`` to ``to``, if none of these leases of ``read`` was written since.

        Raises SwitchLost, with who won, and then nothing has changed. A runner takes leases in the order of their
        shards, so that the first ones tell of it where there are more than a transaction takes.
        """
        create_table(self._client, self.table, hash_key="pk")
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        unmoved = "serves = :read"  # nobody switched since we looked
        if read == self._application:
            unmoved += " OR attribute_not_exists(pk)"  # nobody ever did
        unwritten = "leaseCounter = :counter"  # nobody took or renewed it since it was seen standing still
        unowned = "attribute_not_exists(leaseOwner)"
        items: list[Any] = [
            {
                "Put": {
                    "TableName": self.table,
                    "Item": {"pk": {"S": _ALIAS}, "serves": {"S": to}, "served_before": {"S": read}, "at": {"S": now}},
                    "ConditionExpression": unmoved,
                    "ExpressionAttributeValues": {":read": {"S": read}},
                }
            }
        ]
        items += [
            {
                "ConditionCheck": {
                    "TableName": read,
                    "Key": {"leaseKey": {"S": lease.shard_id}},
                    "ConditionExpression": f"{unwritten} AND {unowned}",
                    "ExpressionAttributeValues": {":counter": {"N": str(lease.counter)}},
                }
            }
            for lease in sorted(standing_still, key=lambda lease: lease.shard_id)[:CONDITIONS_MAX]
        ]
        try:
            with translated(f"moving the alias in {self.table}"):
                self._client.transact_write_items(TransactItems=items)
        except StreamprocError as error:
            reasons = _reasons(error.__cause__)
            if not {"ConditionalCheckFailed", "TransactionConflict"} & {*reasons}:
                raise
            if reasons[0] != "None":
                why = f"another switch came first: {self._application!r} is served by {self.serving()!r} now"
            else:
                why = f"{read!r} was started while this switch was under way: stop it, let the shadow catch up with"
                why += " `streamproc rebuild start`, and switch again"
            raise SwitchLost(f"{why}; this switch changed nothing") from error


def resolved(application: Application) -> Application:
    """The application under the name that serves: itself, where nothing was rebuilt."""
    return msgspec.structs.replace(application, name=Rebuilds(application.name).serving())


def still_serves(application: str, name: str) -> None:
    """Look again whether ``name`` serves ``application``. Raises LeasesHeldElsewhere where a switch moved it."""
    if (serving := Rebuilds(application).serving()) != name:
        raise LeasesHeldElsewhere(
            f"the application {application!r} was just switched from {name!r} to {serving!r}: nothing was read; start"
            " it again, and it runs as that one"
        )


def _reasons(error: BaseException | None) -> list[str]:
    """Of a transaction that was cancelled, why, one code an item; none for any other error."""
    if not isinstance(error, ClientError) or code_of(error) != "TransactionCanceledException":
        return []
    reasons: Any = error.response.get("CancellationReasons", [])
    return [str(reason.get("Code") or "None") for reason in reasons]
