"""Starts the stack, says where it is, and ends it."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self, overload

import boto3
from botocore.config import Config

from streamproc.local.processes import HOST, ChildProcess, find_redis, listening_socket
from streamproc.local.readiness import READY_PATH, wait_for_http, wait_for_redis

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_firehose import FirehoseClient
    from mypy_boto3_kinesis import KinesisClient
    from mypy_boto3_s3 import S3Client

REGION = "us-east-1"
_READY_SECONDS = 60.0


class LocalStack:
    """moto and Redis as child processes on 127.0.0.1, on ports that the system chooses unless they are given.

    Kinesis has a moto process of its own: producers and readers then do not wait for the interpreter lock of the one
    that serves DynamoDB, Firehose and S3. Everything is in one folder: the logs, and ``firehose.jsonl``, the journal of
    what Firehose accepted. A folder made here is removed at the end.

    The processes end with the block, whatever ends it, and on Linux with this process, however it dies.
    """

    def __init__(
        self, folder: Path | None = None, *, kinesis_port: int | None = None, redis_port: int | None = None
    ) -> None:
        self._own_folder = folder is None
        self.folder = folder or Path(tempfile.mkdtemp(prefix="streamproc-"))
        self._kinesis_port = kinesis_port
        self._redis_port = redis_port
        self._children: list[ChildProcess] = []
        self._endpoints: dict[str, str] = {}
        self.redis_url = ""

    @property
    def firehose_journal(self) -> Path:
        """What Firehose accepted; see :func:`streamproc.local.firehose_tap.read_journal`."""
        return self.folder / "firehose.jsonl"

    def __enter__(self) -> Self:
        """Raises MissingExtra, SettingsError for a port that is taken, or ServiceUnreachable with the log's end."""
        self.folder.mkdir(parents=True, exist_ok=True)
        deadline = time.monotonic() + _READY_SECONDS
        try:
            redis_server = find_redis()
            # All three start at once and are then waited for.
            kinesis = self._start_moto("kinesis", self._kinesis_port)
            aws = self._start_moto("aws", None, self.firehose_journal)
            redis = self._start_redis(redis_server)
            for child, port in (kinesis, aws):
                wait_for_http(child, port, READY_PATH, deadline)
            wait_for_redis(*redis, deadline)
        except BaseException:
            self.close()
            raise
        urls = {name: f"http://{HOST}:{port}" for name, port in (("kinesis", kinesis[1]), ("aws", aws[1]))}
        self._endpoints = {"kinesis": urls["kinesis"], **dict.fromkeys(("dynamodb", "firehose", "s3"), urls["aws"])}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the processes, and remove the folder if it was made here."""
        while self._children:
            self._children.pop().stop()
        if self._own_folder:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _start_moto(self, name: str, port: int | None, journal: Path | None = None) -> tuple[ChildProcess, int]:
        # moto plays AWS and calls none of it, whatever this process was told about endpoints.
        environment = {key: value for key, value in os.environ.items() if not key.startswith("AWS_")}
        with listening_socket(name, port) as listener:
            command = [sys.executable, "-m", "streamproc.local.moto_server", str(listener.fileno())]
            if journal:
                command.append(str(journal))
            child = ChildProcess(
                name,
                command,
                log=self.folder / f"{name}.log",
                environment=environment,
                descriptors=[listener.fileno()],
            )
            self._children.append(child)
            return child, int(listener.getsockname()[1])

    def _start_redis(self, server: str) -> tuple[ChildProcess, int]:
        # Redis inherits no socket: the port is asked for, and wait_for_redis sees whether this very server got it.
        with listening_socket("redis", self._redis_port) as listener:
            port = int(listener.getsockname()[1])
        self.redis_url = f"redis://{HOST}:{port}/0"
        options = {"port": str(port), "bind": HOST, "save": "", "appendonly": "no", "dir": str(self.folder)}
        command = [server, *(word for name, value in options.items() for word in (f"--{name}", value))]
        child = ChildProcess("redis", command, log=self.folder / "redis.log")
        self._children.append(child)
        return child, port

    def environment(self) -> dict[str, str]:
        """Variables that point boto3 and streamproc at the stack, to be added to a child's environment."""
        endpoints = {f"AWS_ENDPOINT_URL_{service.upper()}": url for service, url in self._endpoints.items()}
        return {
            **endpoints,
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_ACCESS_KEY_ID": "local",  # moto takes any
            "AWS_SECRET_ACCESS_KEY": "local",
            "AWS_EC2_METADATA_DISABLED": "true",
            "STREAMPROC_REDIS_URL": self.redis_url,
        }

    @overload
    def client(self, service: Literal["kinesis"]) -> KinesisClient: ...
    @overload
    def client(self, service: Literal["dynamodb"]) -> DynamoDBClient: ...
    @overload
    def client(self, service: Literal["firehose"]) -> FirehoseClient: ...
    @overload
    def client(self, service: Literal["s3"]) -> S3Client: ...
    def client(self, service: Literal["kinesis", "dynamodb", "firehose", "s3"]) -> object:
        """A boto3 client of the stack, whatever this process's own environment says."""
        return boto3.client(
            service,
            endpoint_url=self._endpoints[service],
            region_name=REGION,
            aws_access_key_id="local",
            aws_secret_access_key="local",  # noqa: S106  # moto takes any
            config=Config(max_pool_connections=50, s3={"addressing_style": "path"}),
        )

    def create_stream(self, name: str, shards: int) -> None:
        """Make a Kinesis stream."""
        client = self.client("kinesis")
        client.create_stream(StreamName=name, ShardCount=shards)
        client.get_waiter("stream_exists").wait(StreamName=name, WaiterConfig={"Delay": 1})

    def create_delivery_stream(self, name: str, bucket: str, prefix: str) -> None:
        """Make a Firehose delivery stream into ``s3://bucket/prefix``, and the bucket if it is not there."""
        self.client("s3").create_bucket(Bucket=bucket)  # in us-east-1, making one's own bucket again succeeds
        self.client("firehose").create_delivery_stream(
            DeliveryStreamName=name,
            DeliveryStreamType="DirectPut",
            ExtendedS3DestinationConfiguration={
                "RoleARN": "arn:aws:iam::123456789012:role/firehose",
                "BucketARN": f"arn:aws:s3:::{bucket}",
                "Prefix": prefix,
            },
        )
