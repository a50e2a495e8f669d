"""What ``streamproc doctor --runner kcl`` looks at. Nothing is written."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from streamproc.aws import aws_client
from streamproc.dynamodb import describe_table
from streamproc.errors import SettingsError, code_of, translated
from streamproc.runners.kcl.daemon import find_jars, find_java, java_version, refuse_without_http2
from streamproc.runners.kcl.properties import FANOUT, coordinator_table, endpoint_of, worker_metrics_table
from streamproc.stream import list_shards

if TYPE_CHECKING:
    from streamproc.application import Application


def install_checks() -> list[tuple[str, Callable[[], str]]]:
    """What must be installed, with what to install where it is not."""
    return [("java", _java), ("kcl", _jars)]


def fleet_checks(application: Application) -> list[tuple[str, Callable[[], str]]]:
    """What the fleet needs of the services: each is one of the calls that the daemon makes."""
    name = application.name
    checks = [
        ("kinesis, http/2", _http2),
        ("shards", lambda: f"{len(list_shards(aws_client('kinesis'), application.stream))} shards"),
        ("lease table", lambda: lease_table(name)),
        ("coordinator", lambda: describe_table(aws_client("dynamodb"), coordinator_table(name))),
        ("worker metrics", lambda: describe_table(aws_client("dynamodb"), worker_metrics_table(name))),
    ]
    if application.kcl.retrieval == FANOUT:
        checks.append(("fan-out", lambda: _consumers(application)))
    return checks


def _java() -> str:
    java = find_java()
    return f"{java} (Java {java_version(java)})"


def _jars() -> str:
    return f"amazon-kclpy {importlib.metadata.version('amazon-kclpy')}, {len(find_jars())} jars"


def _http2() -> str:
    endpoint = endpoint_of("kinesis")
    refuse_without_http2(endpoint)
    return endpoint or "AWS"


def lease_table(table: str) -> str:
    """A detail for a person. Raises SettingsError where a table of this name is no lease table."""
    with translated(f"looking for the table {table}"):
        try:
            found: Any = aws_client("dynamodb").describe_table(TableName=table)["Table"]
        except ClientError as error:
            if code_of(error) != "ResourceNotFoundException":
                raise
            return f"table {table} (is made by the first run)"
    keys = [(key["AttributeName"], key["KeyType"]) for key in found["KeySchema"]]
    if keys != [("leaseKey", "HASH")]:
        raise SettingsError(
            f"the table {table!r} is not a lease table: its key is {', '.join(key for key, _ in keys)}, not leaseKey."
            " The application's name names its lease table; choose another name"
        )
    indexes = [index["IndexName"] for index in found.get("GlobalSecondaryIndexes", [])]
    owners = "" if indexes else "; KCL adds its index by owner at the first run"
    return f"table {table} ({found['TableStatus']}{owners})"


def _consumers(application: Application) -> str:
    client = aws_client("kinesis")
    with translated("listing the stream's consumers"):
        arn = client.describe_stream_summary(StreamName=application.stream)["StreamDescriptionSummary"]["StreamARN"]
        names = [each["ConsumerName"] for each in client.list_stream_consumers(StreamARN=arn)["Consumers"]]
    if application.kcl.consumer_arn is None and application.name not in names and len(names) >= 20:
        raise SettingsError(
            f"the stream {application.stream!r} has {len(names)} consumers, and Kinesis allows 20 (50 with Advantage"
            " mode): remove one, or set retrieval to POLLING"
        )
    return f"{len(names)} consumers" + (", ours among them" if application.name in names else "")
