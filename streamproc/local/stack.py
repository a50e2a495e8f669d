"""Starts the stack, says where it is, and ends it."""

from __future__ import annotations

import importlib.util
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

from streamproc.errors import MissingExtra
from streamproc.local.processes import HOST, ChildProcess, bound_socket, find_redis
from streamproc.local.readiness import READY_PATH, wait_for_http, wait_for_redis

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_firehose import FirehoseClient
    from mypy_boto3_kinesis import KinesisClient
    from mypy_boto3_s3 import S3Client

REGION = "us-east-1"
_ACCOUNT = "123456789012"  # moto's own
_READY_SECONDS_MAX = 60.0
_PROFILE_NAMES = {"AWS_PROFILE", "AWS_DEFAULT_PROFILE"}
#: Our moto processes, and the services of each.
_SERVERS = {"kinesis": ("kinesis",), "dynamodb": ("dynamodb",), "aws": ("firehose", "s3")}


class LocalStack:
    """Kinesis, DynamoDB, Firehose, S3 and Redis on the loopback address, for as long as a ``with`` block lasts.

    Four processes: moto with Kinesis; moto with DynamoDB; moto with Firehose and S3 (Firehose writes into S3's memory);
    and a Redis server that saves nothing. Each moto process has an interpreter lock of its own, so that a read or a
    recommendation does not wait for a checkpoint. Ports are chosen by the system unless given. All is empty at the
    start and gone at the end; the folder holds the logs and ``firehose.jsonl``, the journal of what Firehose accepted.
    A folder made here is removed at the end.

    The processes end with the block, whatever ends it, and, on Linux, with the thread that entered it, however this
    process dies.
    """

    def __init__(
        self,
        folder: Path | None = None,
        *,
        kinesis_port: int | None = None,
        aws_port: int | None = None,
        redis_port: int | None = None,
    ) -> None:
        self._own_folder = folder is None
        self.folder = folder.absolute() if folder else Path(tempfile.mkdtemp(prefix="streamproc-"))
        self._ports = {"kinesis": kinesis_port, "dynamodb": None, "aws": aws_port, "redis": redis_port}
        self._children: list[ChildProcess] = []
        self._endpoints: dict[str, str] = {}
        #: Where Redis listens, as ``redis://127.0.0.1:6379/0``.
        self.redis_url = ""

    @property
    def firehose_journal(self) -> Path:
        """What Firehose accepted; see :func:`streamproc.local.read_journal`."""
        return self.folder / "firehose.jsonl"

    @property
    def process_ids(self) -> dict[str, int]:
        """The running processes by name (``kinesis``, ``redis`` ...), for tests that take one away."""
        return {child.name: child.pid for child in self._children}

    def __enter__(self) -> Self:
        """Start the processes and wait until each answers.

        Raises MissingExtra where moto or Redis is not installed, SettingsError where a given port is taken, and
        ServiceUnreachable, with the end of the log, where a process does not come up.
        """
        if importlib.util.find_spec("moto") is None:
            raise MissingExtra("the local stack needs an extra: pip install 'streamproc[local]'")
        redis_server = find_redis()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._profile.write_text("[default]\n")
        deadline = time.monotonic() + _READY_SECONDS_MAX
        try:
            # All are started before any is waited for: moto's imports take a second of CPU in each.
            servers = [self._start_moto(name) for name in _SERVERS]
            self._start_redis(redis_server, deadline)
            for child, port in servers:
                wait_for_http(child, port, READY_PATH, deadline)
        except BaseException:
            self.close()
            raise
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

    def _start_moto(self, name: str) -> tuple[ChildProcess, int]:
        with bound_socket(name, self._ports[name]) as listener:
            # The child inherits it listening: a client that comes early waits in the backlog.
            listener.listen(128)
            port = int(listener.getsockname()[1])
            child = ChildProcess(
                name,
                [
                    *[sys.executable, "-m", "streamproc.local.moto_server", "--fd", str(listener.fileno())],
                    *["--services", ",".join(_SERVERS[name]), "--journal", str(self.firehose_journal)],
                ],
                log=self.folder / f"{name}.log",
                environment={
                    # moto plays AWS and calls none of it, whatever this process was told about profiles and endpoints.
                    **{key: value for key, value in os.environ.items() if not key.startswith("AWS_")},
                    "MOTO_DISABLE_GLOBAL_CORS": "true",  # headers for browsers, in every reply
                },
                descriptors=[listener.fileno()],
            )
        self._children.append(child)
        self._endpoints |= dict.fromkeys(_SERVERS[name], f"http://{HOST}:{port}")
        return child, port

    def _start_redis(self, server: str, deadline: float) -> None:
        with bound_socket("redis", self._ports["redis"]) as reservation:
            port = int(reservation.getsockname()[1])
            if sys.platform != "linux":
                reservation.close()  # only Linux lets Redis bind beside a socket that is bound and does not listen
            options = {"port": str(port), "bind": HOST, "save": "", "appendonly": "no", "dir": str(self.folder)}
            command = [server, *(word for name, value in options.items() for word in (f"--{name}", value))]
            child = ChildProcess("redis", command, log=self.folder / "redis.log")
            self._children.append(child)
            self.redis_url = f"redis://{HOST}:{port}/0"
            wait_for_redis(child, port, deadline)

    @property
    def _profile(self) -> Path:
        return self.folder / "aws-profile"

    def environment(self) -> dict[str, str]:
        """Variables that point boto3 and streamproc at the stack, to be laid over a child's environment.

        They also shut out what the caller's own set-up could change: profiles, endpoints, tokens and proxies.
        """
        endpoints = {f"AWS_ENDPOINT_URL_{service.upper()}": url for service, url in self._endpoints.items()}
        without_proxy = ",".join(filter(None, [os.environ.get("no_proxy") or os.environ.get("NO_PROXY"), HOST]))
        return {
            **endpoints,
            "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "false",
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_ACCESS_KEY_ID": "local",  # moto takes any
            "AWS_SECRET_ACCESS_KEY": "local",
            "AWS_SESSION_TOKEN": "local",
            # Only in place of another: botocore reads the profiles once a process, perhaps before they were here.
            **dict.fromkeys(_PROFILE_NAMES & os.environ.keys(), "default"),
            "AWS_CONFIG_FILE": str(self._profile),
            "AWS_SHARED_CREDENTIALS_FILE": str(self._profile),
            "AWS_EC2_METADATA_DISABLED": "true",
            "STREAMPROC_REDIS_URL": self.redis_url,
            "NO_PROXY": without_proxy,
            "no_proxy": without_proxy,
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
            config=Config(max_pool_connections=50, proxies={}, s3={"addressing_style": "path"}),
        )

    def create_stream(self, name: str, shards: int) -> None:
        """Make a Kinesis stream; it takes records at once."""
        self.client("kinesis").create_stream(StreamName=name, ShardCount=shards)

    def create_delivery_stream(self, name: str, bucket: str, prefix: str) -> None:
        """Make a Firehose delivery stream into ``s3://bucket/prefix``, and the bucket if it is not there.

        moto writes one object a call, at once and uncompressed.
        """
        self.client("s3").create_bucket(Bucket=bucket)  # in us-east-1, making one's own bucket again succeeds
        self.client("firehose").create_delivery_stream(
            DeliveryStreamName=name,
            DeliveryStreamType="DirectPut",
            ExtendedS3DestinationConfiguration={
                "RoleARN": f"arn:aws:iam::{_ACCOUNT}:role/firehose",
                "BucketARN": f"arn:aws:s3:::{bucket}",
                "Prefix": prefix,
            },
        )
