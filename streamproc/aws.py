"""AWS clients as this library wants them, made in one place."""

from __future__ import annotations

import functools
import os
import threading
from typing import TYPE_CHECKING, Any, Literal, overload

import boto3.session
from botocore.config import Config

from streamproc.errors import SettingsError, translated

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_firehose import FirehoseClient
    from mypy_boto3_kinesis import KinesisClient
    from mypy_boto3_s3 import S3Client

#: How long a service may take to answer.
_ANSWER_SECONDS = 15.0
_CONFIG = Config(
    # Retries are the caller's: it knows what may be repeated, shows the wait, and can be told to give up.
    retries={"total_max_attempts": 1, "mode": "standard"},
    tcp_keepalive=True,
    max_pool_connections=50,
)


@overload
def aws_client(service: Literal["kinesis"]) -> KinesisClient: ...
@overload
def aws_client(service: Literal["dynamodb"], *, answer_seconds: float = ...) -> DynamoDBClient: ...
@overload
def aws_client(service: Literal["firehose"]) -> FirehoseClient: ...
@overload
def aws_client(service: Literal["s3"]) -> S3Client: ...
def aws_client(
    service: Literal["kinesis", "dynamodb", "firehose", "s3"], *, answer_seconds: float = _ANSWER_SECONDS
) -> object:
    """A client from the environment: region, credentials and, for a local stack, ``AWS_ENDPOINT_URL_<SERVICE>``.

    ``answer_seconds`` is for those who would rather do without the answer than wait for it.

    Raises SettingsError where no region is set. Credentials are looked for at the first call.
    """
    settings = frozenset((name, value) for name, value in os.environ.items() if name.startswith("AWS_"))
    with translated(f"making the {service} client"), _LOCK:
        return _client(service, settings, os.getpid(), answer_seconds)


# Clients are thread-safe; making them is not, and each one that is made keeps megabytes of a service's description.
# One a service and process, then, and another one where the environment or the process (a fork) is another.
_LOCK = threading.Lock()


@functools.cache
def _session(settings: frozenset[tuple[str, str]], pid: int) -> boto3.session.Session:
    del pid
    # boto3 itself reads AWS_DEFAULT_REGION alone, unlike every other AWS SDK.
    return boto3.session.Session(region_name=dict(settings).get("AWS_REGION") or None)


@functools.cache
def _client(service: Any, settings: frozenset[tuple[str, str]], pid: int, answer_seconds: float) -> object:
    config = _CONFIG.merge(Config(connect_timeout=min(3.0, answer_seconds), read_timeout=answer_seconds))
    try:
        return _session(settings, pid).client(service, config=config)
    except ValueError as error:
        raise SettingsError(f"the {service} client cannot be made: {error}; mend AWS_ENDPOINT_URL") from error
