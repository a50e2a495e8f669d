"""What the DynamoDB adapters share: looking for a table and making it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError, WaiterError

from streamproc.errors import TransientServiceError, code_of, translated

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient


def describe_table(client: DynamoDBClient, table: str) -> str:
    """A detail for a person: the table with its status, or that it will be made."""
    with translated(f"looking for the table {table}"):
        try:
            status = client.describe_table(TableName=table)["Table"]["TableStatus"]
        except ClientError as error:
            if code_of(error) != "ResourceNotFoundException":
                raise
            return f"table {table} (is made by the first run)"
    return f"table {table} ({status})"


def create_table(client: DynamoDBClient, table: str, *, hash_key: str, range_key: str | None = None) -> None:
    """Create an on-demand table with string keys where there is none, and wait until it can be used."""
    names = [hash_key] if range_key is None else [hash_key, range_key]
    schema: Any = [
        {"AttributeName": name, "KeyType": kind} for name, kind in zip(names, ("HASH", "RANGE"), strict=False)
    ]
    with translated(f"looking for the table {table}"):
        try:
            client.describe_table(TableName=table)
        except ClientError as error:
            if code_of(error) != "ResourceNotFoundException":
                raise
            _create(client, table, schema, names)
    with translated(f"waiting for the table {table}"):
        # A table that was found may be in creation: another worker started a moment ago.
        try:
            client.get_waiter("table_exists").wait(TableName=table, WaiterConfig={"Delay": 1, "MaxAttempts": 60})
        except WaiterError as error:
            raise TransientServiceError(f"the table {table} was not ready after 60 s") from error


def _create(client: DynamoDBClient, table: str, schema: Any, names: list[str]) -> None:
    with translated(f"creating the table {table}"):
        try:
            client.create_table(
                TableName=table,
                KeySchema=schema,
                AttributeDefinitions=[{"AttributeName": name, "AttributeType": "S"} for name in names],
                BillingMode="PAY_PER_REQUEST",
            )
        except ClientError as error:
            # Two workers start at once, and the other one creates it.
            if code_of(error) != "ResourceInUseException":
                raise


def expire_items(client: DynamoDBClient, table: str, attribute: str) -> None:
    """Have DynamoDB delete items after the time in this attribute, seconds since the epoch."""
    with translated(f"setting the time to live of {table}"):
        status = client.describe_time_to_live(TableName=table)["TimeToLiveDescription"]["TimeToLiveStatus"]
        if status not in ("ENABLED", "ENABLING"):
            client.update_time_to_live(
                TableName=table, TimeToLiveSpecification={"Enabled": True, "AttributeName": attribute}
            )
