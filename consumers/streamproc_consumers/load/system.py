"""The whole system on this machine: the local stack, a model of a simulated shop, and the recommender as a process."""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from streamproc.errors import StreamprocError
from streamproc.local import LocalStack
from streamproc_consumers.demo.processes import log_end, started, streamproc_command, surroundings
from streamproc_models.training import train
from streamproc_producers.simulate import Shop, simulate

if TYPE_CHECKING:
    from mypy_boto3_kinesis import KinesisClient

RECOMMENDER = "streamproc_consumers.recommender:app"
BUCKET = "streamproc-load"
#: The model's shop: enough history that most users have candidates, and half a minute of training at most.
_TRAINING, _TRAINING_EVENTS = timedelta(days=60), 30_000
_UP_SECONDS_MAX, _STOP_SECONDS_MAX = 180.0, 40.0


class SystemFailed(StreamprocError):
    """The recommender did not come up, or ended by itself. The end of its log is in the message."""


class System(msgspec.Struct, frozen=True):
    """A running recommender on a stream of its own."""

    stream: str
    delivery_stream: str
    kinesis: KinesisClient
    #: What Firehose accepted, and when; see :class:`streamproc_consumers.load.published.Journal`.
    journal: Path
    process_ids: dict[str, int]
    _process: subprocess.Popen[bytes]
    _log: Path

    def check(self) -> None:
        """Raises SystemFailed where the recommender has ended."""
        if self._process.poll() is not None:
            raise SystemFailed(f"the recommender ended with code {self._process.returncode}:\n{log_end(self._log)}")


def train_model(folder: Path, *, users: int, items: int, seed: int) -> Path:
    """A bundle of this shop's last sixty days."""
    now = datetime.now(UTC)
    rate = _TRAINING_EVENTS / _TRAINING.total_seconds()
    past = simulate(Shop(users=users, items=items, rate=rate, seed=seed), now - _TRAINING)
    train(islice(past, _TRAINING_EVENTS), now, folder, items={})
    return folder


@contextmanager
def running(
    stack: LocalStack,
    model: Path,
    folder: Path,
    *,
    stream: str = "cart-events",
    shards: int = 4,
    app: str = RECOMMENDER,
    options: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    kinesis: tuple[KinesisClient, str] | None = None,
) -> Iterator[System]:
    """A new stream, and a recommender that reads it, until the block ends.

    ``kinesis`` is another Kinesis than the stack's, as a client and its URL. ``options`` go to ``streamproc run``.
    Raises SystemFailed where the recommender does not take the leases.
    """
    client = kinesis[0] if kinesis else stack.client("kinesis")
    client.create_stream(StreamName=stream, ShardCount=shards)
    client.get_waiter("stream_exists").wait(StreamName=stream, WaiterConfig={"Delay": 1})
    delivery_stream = f"{stream}-recommendations"
    stack.create_delivery_stream(delivery_stream, BUCKET, f"{delivery_stream}/")
    log = folder / f"recommender-{stream}.log"
    variables = {
        **surroundings(stack),
        "STREAMPROC_STREAM": stream,
        "STREAMPROC_RECOMMENDER_NAME": f"recommender-{stream}",
        "STREAMPROC_MODEL": str(model),
        "STREAMPROC_BUCKET": BUCKET,
        "STREAMPROC_DELIVERY_STREAM": delivery_stream,
        **({"AWS_ENDPOINT_URL_KINESIS": kinesis[1]} if kinesis else {}),
        **(environment or {}),
    }
    command = [*streamproc_command("run"), "-A", app, "--log-format", "json", *options]
    with started(command, variables, log) as process:
        try:
            process_ids = {**stack.process_ids, "recommender": process.pid}
            system = System(stream, delivery_stream, client, stack.firehose_journal, process_ids, process, log)
            _wait_for_leases(system, log, shards)
            yield system
        finally:
            process.terminate()  # nothing happens where it has ended
            with suppress(subprocess.TimeoutExpired):
                process.wait(_STOP_SECONDS_MAX)


@contextmanager
def local_system(*, users: int, items: int, seed: int, shards: int) -> Iterator[tuple[LocalStack, System]]:
    """All of it, in a folder that is removed at the end."""
    with tempfile.TemporaryDirectory(prefix="streamproc-load-") as name, LocalStack(Path(name, "stack")) as stack:
        folder = Path(name)
        model = train_model(folder / "model", users=users, items=items, seed=seed)
        with running(stack, model, folder, shards=shards) as system:
            yield stack, system


def _wait_for_leases(system: System, log: Path, shards: int) -> None:
    deadline = time.monotonic() + _UP_SECONDS_MAX
    while log.read_bytes().count(b'"event":"streamproc.lease_acquired"') < shards:
        system.check()
        if time.monotonic() > deadline:
            raise SystemFailed(
                f"the recommender did not take {shards} leases within {_UP_SECONDS_MAX:.0f} s:\n{log_end(log)}"
            )
        time.sleep(0.1)
