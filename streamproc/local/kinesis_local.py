"""kinesis-local (npm, kinesis-mock underneath): the Kinesis whose reshards are right.

moto's are not: a closed parent keeps its records coming, and its children stay empty. kinesis-local closes, drains and
hands over as AWS does, has AWS-like sequence numbers, and holds writers to 1 MB a second a shard.
"""

from __future__ import annotations

import http.client
import os
import shutil
import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import boto3.session

from streamproc.errors import MissingExtra, ServiceUnreachable
from streamproc.local.processes import HOST, ChildProcess, bound_socket

if TYPE_CHECKING:
    from mypy_boto3_kinesis import KinesisClient

VERSION = "0.6.2"
REGION = "us-east-1"
_READY_SECONDS_MAX = 30.0


def find_kinesis_local() -> Path:
    """The folder of the npm package: STREAMPROC_KINESIS_LOCAL, else where ``make setup`` puts it in a checkout.

    Raises MissingExtra with what to install.
    """
    given = os.environ.get("STREAMPROC_KINESIS_LOCAL")
    folder = Path(given) if given else Path(__file__).parents[2] / ".node" / "node_modules" / "kinesis-local"
    if shutil.which("node") is None or not (folder / "main.js").exists():
        raise MissingExtra(
            f"kinesis-local was not found: it needs Node.js, and npm install kinesis-local@{VERSION}; set"
            " STREAMPROC_KINESIS_LOCAL to the package's folder"
        )
    return folder


class KinesisLocal:
    """kinesis-local as a child process on 127.0.0.1, for as long as a ``with`` block lasts."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._child: ChildProcess | None = None
        #: Where it listens, without TLS.
        self.url = ""

    def __enter__(self) -> Self:
        """Raises MissingExtra, or ServiceUnreachable with the end of its log."""
        package = find_kinesis_local()
        self._folder.mkdir(parents=True, exist_ok=True)
        # It inherits no socket; the ports were free a moment ago.
        with bound_socket("kinesis-local", None) as plain, bound_socket("kinesis-local", None) as tls:
            port, tls_port = (int(bound.getsockname()[1]) for bound in (plain, tls))
        durations = ("CREATE_STREAM", "SPLIT_SHARD", "MERGE_SHARDS", "UPDATE_SHARD_COUNT", "DELETE_STREAM")
        settings = {
            "KINESIS_MOCK_PLAIN_PORT": str(port),
            "KINESIS_MOCK_TLS_PORT": str(tls_port),
            "KINESIS_MOCK_CERT_PATH": str(package / "server.json"),  # it looks in the working directory otherwise
            "LOG_LEVEL": "WARN",
            "SHARD_LIMIT": "10000",  # its own 50 counts closed shards too, so a long run of reshards would meet it
            **{f"{name}_DURATION": "100ms" for name in durations},
        }
        self._child = ChildProcess(
            "kinesis-local",
            [shutil.which("node") or "node", str(package / "main.js")],
            log=self._folder / "kinesis-local.log",
            environment={**os.environ, **settings},
        )
        self.url = f"http://{HOST}:{port}"
        try:
            self._wait(port)
        except BaseException:
            self._child.stop()
            raise
        return self

    def _wait(self, port: int) -> None:
        assert self._child is not None  # noqa: S101  # set by the caller
        deadline = time.monotonic() + _READY_SECONDS_MAX
        while self._child.running and time.monotonic() < deadline:
            connection = http.client.HTTPConnection(HOST, port, timeout=1)
            try:
                connection.request("GET", "/healthcheck")
                connection.getresponse().read()
            except OSError:
                time.sleep(0.05)
            else:
                return
            finally:
                connection.close()
        raise ServiceUnreachable(f"kinesis-local did not answer; {self._child.log_tail()}")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._child is not None:
            self._child.stop()

    @property
    def process_id(self) -> int:
        """Of the running process."""
        assert self._child is not None  # noqa: S101  # within the block
        return self._child.pid

    def client(self) -> KinesisClient:
        """A boto3 client of it."""
        session = boto3.session.Session(aws_access_key_id="local", aws_secret_access_key="local", region_name=REGION)  # noqa: S106  # it takes any
        return session.client("kinesis", endpoint_url=self.url)
