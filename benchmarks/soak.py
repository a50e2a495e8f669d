"""Runs the producer and the recommender for as long as you like, breaks what they need every few seconds, and proves.

Producer and consumer are processes of their own (``streamproc simulate`` and ``streamproc run``). Kinesis is
kinesis-local, whose reshards are right; DynamoDB, Firehose and S3 are moto; Redis is Redis. A *fault* comes every few
seconds, by a seed:

- in the first half any of them: the consumer is killed with SIGKILL and started again; it stands still while a second
  one takes its leases over, and goes on as a zombie; it stands still for a moment; Redis is wiped or stands still;
  DynamoDB stands still; shards are split and merged
- in the second half only what the consumer lives through, so that one life is long enough to see its memory grow

At the end every event that the producer was told is stored must be in the states exactly once, in its order, with the
state that one fold of the journal gives, and the last recommendation of each user must be published. Only the producer
and the consumer are measured: the stack keeps in memory what AWS keeps on disks.

Three deaths without a checkpoint between them can blame a record that did nothing (see ``streamproc/quarantine.py``),
and to its successor a zombie is dead; so a third kill or zombie in a row waits for a checkpoint.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path

import msgspec
import redis
from botocore.exceptions import ClientError

from benchmarks.soak_figures import BUCKET, OUTPUTS_PREFIX, Figures, Memory, Outputs, show
from streamproc.deadletters.dynamodb import DynamoDBDeadLetters
from streamproc.errors import LeasesHeldElsewhere, StreamprocError
from streamproc.local import LocalStack
from streamproc.local.kinesis_local import KinesisLocal
from streamproc.local.processes import tethered
from streamproc.namespace import Namespace
from streamproc.projections.redis import RedisProjection
from streamproc.state import StoredState
from streamproc.states.dynamodb import DynamoDBStates
from streamproc.stream import list_shards, stream_created_at
from streamproc_consumers.demo import proof
from streamproc_consumers.demo.tail import Tail
from streamproc_models.training import train
from streamproc_producers.events import CartEvent
from streamproc_producers.replay import read_journal
from streamproc_producers.simulate import Shop, simulate

STREAM, SHARDS, RECOMMENDATIONS = "cart-events", 4, "recommendations"
APPLICATION = "streamproc_consumers.recommender:app"
#: Few enough that their histories are full after some minutes: what grows then is no state.
USERS, ITEMS = 300, 200
TRAINING, TRAINING_EVENTS = timedelta(days=60), 6_000
SHARDS_MAX = 6
FAILOVER_SECONDS = 3
GAP_SECONDS = (2.0, 6.0)
STANDSTILL_SECONDS = (1.0, 5.0)
UP_SECONDS_MAX, END_SECONDS_MAX = 60.0, 180.0
TICK_SECONDS = 0.5


class SoakFailed(StreamprocError):
    """A part of the soak did not come up or did not end; its log says more."""


class Consumer:
    """One life of the recommender, and its log."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path, number: int) -> None:
        self.process = process
        self.number = number
        self.memory = Memory(process.pid)
        self._log = log

    def said(self, event: str) -> bool:
        return f'"streamproc.{event}"'.encode() in self._log.read_bytes()

    def tail(self) -> str:
        return self._log.read_text(errors="replace")[-2000:]


class Soak:
    """The processes, the faults, and what is known of them."""

    def __init__(self, options: argparse.Namespace, folder: Path, stack: LocalStack, kinesis: KinesisLocal) -> None:
        self._options = options
        self._folder = folder
        self._stack = stack
        self._kinesis = kinesis.client()
        self._rng = random.Random(options.seed)
        self._ending = ExitStack()
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "STREAMPROC_"))},
            **stack.environment(),
            "AWS_ENDPOINT_URL_KINESIS": kinesis.url,
            "STREAMPROC_STREAM": STREAM,
            "STREAMPROC_MODEL": str(folder / "model"),
            "STREAMPROC_BUCKET": BUCKET,
            "STREAMPROC_DELIVERY_STREAM": RECOMMENDATIONS,
        }
        self._outputs = Outputs(stack)
        self._journal = folder / "sent.jsonl"
        self._tail, self._sent = Tail(self._journal), 0
        self._lives = 0
        self._deaths_in_a_row = 0
        self._ends_unexplained: list[str] = []
        self._faults: Counter[str] = Counter()
        self._deck: list[Callable[[], None]] = []
        self._fault = ""
        self._started = self._shown_at = time.monotonic()

    def run(self) -> Figures:
        """Play, stop and prove."""
        with self._ending:
            self._kinesis.create_stream(StreamName=STREAM, ShardCount=SHARDS)
            while not self._active():
                time.sleep(TICK_SECONDS)
            self._stack.create_delivery_stream(RECOMMENDATIONS, BUCKET, OUTPUTS_PREFIX)
            self._consumer = self._consume()
            self._started = time.monotonic()
            self._producer = self._start(self._simulation(), self._folder / "producer.log")
            self._producer_memory = Memory(self._producer.pid)
            try:
                self._play()
                self._stop()
            finally:
                self._line("")
            return self._figures()

    def _active(self) -> bool:
        summary = self._kinesis.describe_stream_summary(StreamName=STREAM)["StreamDescriptionSummary"]
        return summary["StreamStatus"] == "ACTIVE"

    def _simulation(self) -> list[str]:
        options = self._options
        settings = {
            "--stream": STREAM,
            "--users": USERS,
            "--items": ITEMS,
            "--rate": options.rate,
            "--seconds": options.minutes * 60,
            "--seed": options.seed,
            "--journal": self._journal,
        }
        return ["simulate", *(str(word) for pair in settings.items() for word in pair)]

    def _start(self, arguments: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
        """A command of ours as a process that ends with the soak, whatever happens in it."""
        with log.open("wb") as output:
            process = subprocess.Popen(
                tethered([sys.executable, "-m", "streamproc", *arguments]),
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self._ending.callback(process.wait)
        self._ending.callback(process.kill)
        return process

    def _consume(self) -> Consumer:
        self._lives += 1
        log = self._folder / f"consumer-{self._lives}.log"
        arguments = ["run", "-A", APPLICATION, "--log-format", "json", "--failover-seconds", str(FAILOVER_SECONDS)]
        return Consumer(self._start(arguments, log), log, self._lives)

    def _play(self) -> None:
        half, end = (self._started + self._options.minutes * share for share in (30, 60))
        anything = [self._killed, self._zombie, *self._gentle()]
        while time.monotonic() < end:
            self._wait(self._rng.uniform(*GAP_SECONDS))
            fault = self._drawn(anything if time.monotonic() < half else self._gentle())
            self._fault = fault.__name__.strip("_")
            if self._consumer.said("checkpointed"):
                self._deaths_in_a_row = 0
            if fault in (self._killed, self._zombie) and self._deaths_in_a_row >= 2:
                self._until_consumer_said("checkpointed")
            elif fault != self._killed:
                self._until_consumer_said("lease_acquired")
            fault()
            self._faults[self._fault] += 1

    def _drawn(self, kinds: list[Callable[[], None]]) -> Callable[[], None]:
        """The next fault, as from a deck of cards: each kind comes once before any comes again."""
        self._deck = [kind for kind in self._deck if kind in kinds] or self._rng.sample(kinds, len(kinds))
        return self._deck.pop()

    def _gentle(self) -> list[Callable[[], None]]:
        """What the consumer lives through."""
        return [self._consumer_still, self._redis_wiped, self._redis_still, self._dynamodb_still, self._resharded]

    def _killed(self) -> None:
        self._consumer.process.kill()
        self._consumer.process.wait()
        self._deaths_in_a_row += 1
        self._consumer = self._consume()

    def _zombie(self) -> None:
        """It stands still until another one has its leases, and must then stop without another write."""
        self._deaths_in_a_row += 1
        zombie, self._consumer = self._consumer, self._consume_beside()
        zombie.process.send_signal(signal.SIGCONT)
        code = zombie.process.wait(UP_SECONDS_MAX)
        if code != LeasesHeldElsewhere.exit_code:
            self._ends_unexplained.append(f"life {zombie.number}, a zombie: exit code {code}")

    def _consume_beside(self) -> Consumer:
        self._consumer.process.send_signal(signal.SIGSTOP)
        second = self._consume()
        deadline = time.monotonic() + UP_SECONDS_MAX
        while not second.said("lease_acquired"):
            if second.process.poll() is not None or time.monotonic() > deadline:
                raise SoakFailed(f"a second consumer did not take over:\n{second.tail()}")
            time.sleep(TICK_SECONDS)
        time.sleep(self._rng.uniform(0.0, 3.0))
        return second

    def _still(self, process_id: int) -> None:
        os.kill(process_id, signal.SIGSTOP)
        try:
            self._wait(self._rng.uniform(*STANDSTILL_SECONDS))
        finally:
            os.kill(process_id, signal.SIGCONT)

    def _consumer_still(self) -> None:
        self._still(self._consumer.process.pid)

    def _redis_still(self) -> None:
        self._still(self._stack.process_ids["redis"])

    def _dynamodb_still(self) -> None:
        self._still(self._stack.process_ids["dynamodb"])

    def _redis_wiped(self) -> None:
        with redis.Redis.from_url(self._stack.redis_url) as client:
            client.flushall()

    def _resharded(self) -> None:
        """Split a shard in two, or merge two that touch."""
        leaves = [shard for shard in list_shards(self._kinesis, STREAM) if not shard.closed]
        leaves.sort(key=lambda shard: shard.hash_range.start)
        if len(leaves) < 2 or (len(leaves) < SHARDS_MAX and self._rng.random() < 0.5):
            shard = self._rng.choice(leaves)
            middle = (shard.hash_range.start + shard.hash_range.end) // 2 + 1
            self._kinesis.split_shard(StreamName=STREAM, ShardToSplit=shard.shard_id, NewStartingHashKey=str(middle))
        else:
            at = self._rng.randrange(len(leaves) - 1)
            first, second = leaves[at : at + 2]
            self._kinesis.merge_shards(
                StreamName=STREAM, ShardToMerge=first.shard_id, AdjacentShardToMerge=second.shard_id
            )
        self._until(self._active, UP_SECONDS_MAX, "the stream is not active after a reshard")

    def _wait(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self._tick()

    def _until_consumer_said(self, event: str) -> None:
        self._until(lambda: self._consumer.said(event), UP_SECONDS_MAX, f"the consumer did not say {event}")

    def _until(self, reached: Callable[[], bool], seconds: float, otherwise: str) -> None:
        deadline = time.monotonic() + seconds
        while not reached():
            if time.monotonic() > deadline:
                raise SoakFailed(f"{otherwise} after {seconds:.0f} s; the logs are in {self._folder}")
            self._tick()

    def _tick(self) -> None:
        time.sleep(TICK_SECONDS)
        for memory in (self._producer_memory, self._consumer.memory):
            memory.sample()
        self._outputs.look()
        self._sent += sum(1 for _ in self._tail.lines())
        code = self._consumer.process.poll()
        if code is not None:
            self._ends_unexplained.append(f"life {self._consumer.number}: exit code {code}")
            self._consumer = self._consume()
        if self._producer.poll():
            raise SoakFailed(f"the producer ended:\n{(self._folder / 'producer.log').read_text()[-2000:]}")
        self._show()

    def _show(self) -> None:
        now = time.monotonic()
        if not sys.stdout.isatty() and now - self._shown_at < 30:
            return
        self._shown_at = now
        producer, consumer = (memory.latest_mb() for memory in (self._producer_memory, self._consumer.memory))
        self._line(
            f"{(now - self._started) / 60:5.1f} of {self._options.minutes:g} min  {self._sent:,} sent "
            f" {self._faults.total()} faults ({self._fault})  life {self._lives} "
            f" producer {producer:.0f} MB  consumer {consumer:.0f} MB"
        )

    def _line(self, text: str) -> None:
        if sys.stdout.isatty():
            print(f"\r\x1b[2K{text}", end="", flush=True)
        elif text:
            print(text, flush=True)

    def _stop(self) -> None:
        """Wait for the producer's end and until all it sent is durable; stop the consumer; fill Redis again."""
        self._fault = "catching up"
        self._until(lambda: self._producer.poll() is not None, END_SECONDS_MAX, "the producer did not end")
        namespace = self._namespace()
        states = DynamoDBStates(namespace, client=self._stack.client("dynamodb"))
        acknowledged = sum(1 for line in read_journal(self._journal) if proof.journal_position(line) is not None)
        deadline = time.monotonic() + END_SECONDS_MAX
        while sum(stored.events_folded for stored in states.scan()) < acknowledged and time.monotonic() < deadline:
            self._tick()
        self._consumer.process.terminate()
        code = self._consumer.process.wait(UP_SECONDS_MAX)
        if code:
            self._ends_unexplained.append(f"life {self._consumer.number}, told to stop: exit code {code}")
        # What waits for Redis ends with its worker, and what was wiped is gone: the operator's command fills it again.
        log = self._folder / "project.log"
        if self._start(["state", "project", "-A", APPLICATION], log).wait(END_SECONDS_MAX):
            raise SoakFailed(f"streamproc state project failed:\n{log.read_text()[-2000:]}")
        self._outputs.look(now=True)

    def _namespace(self) -> Namespace:
        return Namespace("recommender", STREAM, stream_created_at(self._kinesis, STREAM))

    def _figures(self) -> Figures:
        lines = [0, 0]

        def acknowledged() -> Iterator[CartEvent]:
            for line in read_journal(self._journal):
                stored = proof.journal_position(line) is not None
                lines[stored] += 1
                if stored:
                    yield line.event

        expected = proof.oracle(acknowledged())
        namespace, dynamodb = self._namespace(), self._stack.client("dynamodb")
        durable: dict[str, StoredState] = {one.key: one for one in DynamoDBStates(namespace, client=dynamodb).scan()}
        projected = RedisProjection(namespace, url=self._stack.redis_url).read(sorted({*expected, *durable}))
        letters = DynamoDBDeadLetters(namespace, bucket=BUCKET, client=dynamodb, s3=self._stack.client("s3"))
        outcome = proof.applied(expected, durable, projected)
        memories = {"producer": self._producer_memory, "consumer": self._consumer.memory}
        return Figures(
            minutes=self._options.minutes,
            seed=self._options.seed,
            events_per_second=self._options.rate,
            events_sent=sum(lines),
            events_failed=lines[False],
            events_applied=outcome.events_applied,
            events_lost=outcome.events_lost,
            events_applied_twice=outcome.events_applied_twice,
            states_equal_oracle=outcome.states_equal_oracle,
            dead_letters=sum(1 for _ in letters.scan()),
            users=len(expected),
            users_without_last_output=sum(
                self._outputs.last.get(user) != stored.position for user, stored in durable.items()
            ),
            outputs_published=self._outputs.published,
            consumer_lives=self._lives,
            ends_unexplained=self._ends_unexplained,
            faults=self._faults.total(),
            faults_by_kind=dict(sorted(self._faults.items())),
            shards=len(list_shards(self._kinesis, STREAM)),
            rss_mb_max={name: each.max_mb() for name, each in memories.items()},
            rss_mb_growth_per_minute={name: each.growth_mb_per_minute() for name, each in memories.items()},
            rss_measured_minutes={name: each.measured_minutes() for name, each in memories.items()},
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0, help="how long events are sent (30)")
    parser.add_argument("--rate", type=float, default=300.0, help="events a second (300)")
    parser.add_argument("--seed", type=int, default=0, help="of the shop and of the faults (0)")
    parser.add_argument("--json", type=Path, default=Path("build/soak.json"), help="where the figures go")
    parser.add_argument("--keep", type=Path, help="keep the logs in this folder")
    options = parser.parse_args()
    if not (options.minutes > 0 and options.rate > 0):
        parser.error("--minutes and --rate must be above 0: nothing would be sent")
    folder = options.keep or Path(tempfile.mkdtemp(prefix="streamproc-soak-"))
    folder = folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with LocalStack(folder / "stack") as stack, KinesisLocal(folder / "kinesis") as kinesis:
            now = datetime.now(UTC)
            shop = Shop(users=USERS, items=ITEMS, rate=TRAINING_EVENTS / TRAINING.total_seconds(), seed=options.seed)
            train(islice(simulate(shop, now - TRAINING), TRAINING_EVENTS), now, folder / "model", items={})
            figures = Soak(options, folder, stack, kinesis).run()
    except KeyboardInterrupt:
        print(f"stopped; the logs are in {folder}", file=sys.stderr)
        return 130
    except (StreamprocError, ClientError) as error:
        print(f"the soak failed: {error}", file=sys.stderr)
        return error.exit_code if isinstance(error, StreamprocError) else 1
    show(figures)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(msgspec.structs.asdict(figures), indent=2) + "\n")
    broken = figures.broken_promises()
    for sentence in broken:
        print(f"broken: {sentence}", file=sys.stderr)
    if broken:
        print(f"the logs are in {folder}", file=sys.stderr)
    elif options.keep is None:
        shutil.rmtree(folder, ignore_errors=True)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
