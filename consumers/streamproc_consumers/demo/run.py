"""Runs the demonstration: train, start the stack, send, consume, then read everything back and prove it."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from datetime import datetime
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from streamproc.deadletters.dynamodb import DynamoDBDeadLetters
from streamproc.errors import ServiceUnreachable, StreamprocError
from streamproc.leases.dynamodb import DynamoDBLeases
from streamproc.local import LocalStack
from streamproc.namespace import Namespace
from streamproc.projections.redis import RedisProjection
from streamproc.state import StoredState
from streamproc.states.dynamodb import DynamoDBStates
from streamproc.stream import stream_created_at
from streamproc_consumers.demo import proof
from streamproc_consumers.demo.processes import log_end, started, streamproc_command, surroundings
from streamproc_consumers.demo.watch import Display, Watch
from streamproc_consumers.recommendation import Recommendation
from streamproc_producers.events import CartEvent, EventType
from streamproc_producers.retail import RetailLog

STREAM = "cart-events"
SHARDS = 4
BUCKET = "streamproc-demo"
RECOMMENDATIONS = "recommendations"
RECOMMENDER = "recommender"
ARCHIVE = "cart-events-archive"
RECOMMENDATIONS_PREFIX = "recommendations/"
ARCHIVE_PREFIX = "archive/"
#: Below the folder: what landed in S3, under its keys.
LANDED = "landed"
_START_SECONDS = 60.0
_CATCH_UP_SECONDS = 120.0
_STOP_SECONDS = 40.0


class DemoFailed(StreamprocError):
    """What landed does not prove what the demonstration promises. The table says which line; the logs say more."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What the demonstration does."""

    data: Path
    cut: datetime
    events: int
    rate: float
    rate_seconds: float
    folder: Path
    #: Use this bundle; None trains one.
    model: Path | None = None
    #: None takes free ones.
    kinesis_port: int | None = None
    redis_port: int | None = None
    #: Kill the recommender with SIGKILL once so many events are sent, and start it again.
    kill_after: int | None = None


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What is written to ``build/demo.json``: flat, the unit last."""

    events_sent: int
    events_applied: int
    events_lost: int
    events_applied_twice: int
    dead_letters: int
    recommendations_published: int
    recommendations_in_s3: int
    recommendations_repeated: int
    s3_objects: int
    events_archived: int
    latency_ms_p50: float | None
    latency_ms_p99: float | None
    events_per_second: float | None
    users: int
    basket_pairs: int
    hit_rate_at_10: float
    hit_rate_at_10_popularity: float
    states_equal_oracle: bool

    def broken_promises(self) -> list[str]:
        """What does not hold, in words; empty when all is well. Latency and quality are shown, not judged."""
        checks = {
            f"{self.events_lost} events were lost": self.events_lost,
            f"{self.events_applied_twice} events were applied twice": self.events_applied_twice,
            "a state differs from the single-threaded fold": not self.states_equal_oracle,
            f"{self.recommendations_in_s3} of {self.recommendations_published} recommendations are in S3": (
                self.recommendations_in_s3 != self.recommendations_published
            ),
            f"{self.dead_letters} events were dead-lettered": self.dead_letters,
        }
        return [sentence for sentence, broken in checks.items() if broken]


def run(plan: Plan, console: Console) -> Result:
    """Run it and return the figures. Raises StreamprocError where a part of it fails; nothing is left running."""
    # The stack first: what can be missing or busy on a machine should be said before the minute is spent on training.
    with LocalStack(plan.folder / "stack", kinesis_port=plan.kinesis_port, redis_port=plan.redis_port) as stack:
        console.print(
            "[bold]1/4[/] the stack is up: moto (Kinesis, DynamoDB, Firehose, S3) and Redis on 127.0.0.1",
            soft_wrap=True,
        )
        if plan.model is None:
            model = plan.folder / "model"
            console.print(
                f"[bold]2/4[/] training on what came before {plan.cut:%Y-%m-%d} ({plan.data})", soft_wrap=True
            )
            _train(plan, model)
        else:
            model = plan.model.absolute()
            console.print(f"[bold]2/4[/] the model is {plan.model}", soft_wrap=True)
        stack.create_stream(STREAM, SHARDS)
        stack.create_delivery_stream(RECOMMENDATIONS, BUCKET, RECOMMENDATIONS_PREFIX)
        stack.create_delivery_stream(ARCHIVE, BUCKET, ARCHIVE_PREFIX)
        session = _Session(plan, stack, environment_of(stack, str(model)), console)
        console.print(
            f"[bold]3/4[/] replaying {plan.events:,} events: {plan.rate_seconds:.0f} s at {plan.rate:.0f} a second,"
            " the rest as fast as possible",
            soft_wrap=True,
        )
        session.play()
        console.print("[bold]4/4[/] reading S3, DynamoDB and Redis back")
        return session.prove()


def environment_of(stack: LocalStack, model: str) -> dict[str, str]:
    """What the consumers' processes need."""
    return {
        **surroundings(stack),
        "STREAMPROC_STREAM": STREAM,
        "STREAMPROC_MODEL": model,
        "STREAMPROC_BUCKET": BUCKET,
        "STREAMPROC_DELIVERY_STREAM": RECOMMENDATIONS,
        "STREAMPROC_ARCHIVE_DELIVERY_STREAM": ARCHIVE,
    }


def _train(plan: Plan, model: Path) -> None:
    command = [
        *streamproc_command("train"),
        "--events",
        str(plan.data),
        "--cut",
        f"{plan.cut:%Y-%m-%d}",
        "--out",
        str(model),
    ]
    done = subprocess.run(command, check=False)  # noqa: S603  # our own command
    if done.returncode:
        raise DemoFailed(f"training failed with exit code {done.returncode}; its output is above")


class _Session:
    """One replay through the running stack, and what it left behind."""

    def __init__(self, plan: Plan, stack: LocalStack, environment: dict[str, str], console: Console) -> None:
        self._plan = plan
        self._stack = stack
        self._environment = environment
        self._console = console
        self._processes = ExitStack()
        self._consumers: dict[str, subprocess.Popen[bytes]] = {}
        self._kill_is_due = plan.kill_after is not None
        #: Leases that recommenders take in all: the one that follows a killed one takes every one again.
        self._leases_expected = SHARDS
        self._watch = Watch(
            plan.folder / "journal.jsonl",
            stack.firehose_journal,
            self._log("recommender"),
            recommendations=RECOMMENDATIONS,
        )

    def play(self) -> None:
        """Start the consumers, replay, wait until everything is published and archived, and stop them in order."""
        with self._processes, Display(self._console) as display:
            for name in ("recommender", "archive"):
                self._start_consumer(name)
            self._until(lambda: self._watch.leases >= SHARDS, display, "starting", _START_SECONDS)
            producer = self._processes.enter_context(self._replay())
            while producer.poll() is None:
                self._look(display, self._phase())
            if producer.returncode:
                raise DemoFailed(f"the replay ended with code {producer.returncode}:\n{self._tail('replay')}")
            self._until(self._caught_up, display, "catching up", _CATCH_UP_SECONDS)
            for consumer in self._consumers.values():
                consumer.send_signal(signal.SIGTERM)
            for name, consumer in self._consumers.items():
                if consumer.wait(_STOP_SECONDS):
                    raise DemoFailed(f"the {name} stopped with code {consumer.returncode}:\n{self._tail(name)}")
        self._watch.look()

    def _start_consumer(self, name: str) -> None:
        # Three seconds: a restart after the kill waits so long to see that the dead worker's leases stand still.
        arguments = ["-A", f"streamproc_consumers.{name}:app", "--log-format", "json", "--failover-seconds", "3"]
        process = started([*streamproc_command("run"), *arguments], self._environment, self._log(name))
        self._consumers[name] = self._processes.enter_context(process)

    def _kill_recommender(self) -> None:
        self._kill_is_due = False
        self._consumers["recommender"].kill()
        self._consumers["recommender"].wait()
        self._leases_expected += SHARDS
        self._start_consumer("recommender")

    def _phase(self) -> str:
        return "steady" if len(self._watch.lines) < self._plan.rate * self._plan.rate_seconds else "flat out"

    def _caught_up(self) -> bool:
        watch = self._watch
        # A recommender that is still starting has nothing to drain, and nothing to catch the signal with.
        is_up = not self._kill_is_due and watch.leases >= self._leases_expected
        return is_up and watch.waiting == 0 and watch.archived >= len(watch.lines) and self._is_durable()

    def _is_durable(self) -> bool:
        """Whether what is published is in the durable states, or in the memory of the one that published it.

        A worker that took leases over reads again what the one before it published but did not store, and a stop in
        the middle of that leaves the rest for the next worker.
        """
        return self._watch.leases == SHARDS or is_durable(self._stack, self._watch.sent_up_to)

    def _until(self, reached: Callable[[], bool], display: Display, phase: str, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not reached():
            if time.monotonic() > deadline:
                raise DemoFailed(
                    f"{phase} took more than {seconds:.0f} s; the recommender's log ends with:\n"
                    f"{self._tail('recommender')}"
                )
            self._look(display, phase)

    def _look(self, display: Display, phase: str) -> None:
        time.sleep(0.25)
        self._watch.look()
        if self._kill_is_due and len(self._watch.lines) >= (self._plan.kill_after or 0):
            self._kill_recommender()
        display.show(self._watch.figures(phase))
        for name, consumer in self._consumers.items():
            if consumer.poll() is not None:
                raise ServiceUnreachable(f"the {name} ended with code {consumer.returncode}:\n{self._tail(name)}")

    def _log(self, name: str) -> Path:
        return self._plan.folder / f"{name}.log"

    def _tail(self, name: str) -> str:
        return log_end(self._log(name))

    def _replay(self) -> AbstractContextManager[subprocess.Popen[bytes]]:
        plan = self._plan
        options = {
            "--stream": STREAM,
            "--data": plan.data,
            "--from": f"{plan.cut:%Y-%m-%d}",
            "--limit": plan.events,
            "--rate": plan.rate,
            "--rate-seconds": plan.rate_seconds,
            "--journal": plan.folder / "journal.jsonl",
        }
        words = [str(word) for option in options.items() for word in option]
        return started([*streamproc_command("replay"), *words], self._environment, self._log("replay"))

    def prove(self) -> Result:
        """Read everything back and compute the figures."""
        watch, plan = self._watch, self._plan
        sent = [line for line in watch.lines if proof.journal_position(line) is not None]
        expected = proof.oracle(line.event for line in sent)
        durable, projected, dead_letters = read_back(self._stack, expected)
        outcome = proof.applied(expected, durable, projected)
        if outcome.different:
            self._console.print(f"[red]states that differ, among them:[/] {', '.join(outcome.different)}")
        s3_ids, s3_lines, s3_objects = self._s3()
        for _ in self._landed(ARCHIVE_PREFIX):
            pass  # it is copied
        steady = int(plan.rate * plan.rate_seconds)
        # The last second is left out: its events share their batches with the first of the flood that follows.
        measured = int(plan.rate * max(1.0, plan.rate_seconds - 1))
        latencies = proof.latencies_ms(sent[:measured], watch.published)
        hits = proof.hit_rate(self._history(), sent, watch.published)
        return Result(
            events_sent=len(sent),
            events_applied=outcome.events_applied,
            events_lost=outcome.events_lost,
            events_applied_twice=outcome.events_applied_twice,
            dead_letters=dead_letters,
            recommendations_published=len({item.recommendation.recommendation_id for item in watch.published}),
            recommendations_in_s3=len(s3_ids),
            recommendations_repeated=s3_lines - len(s3_ids),
            s3_objects=s3_objects,
            events_archived=watch.archived,
            latency_ms_p50=proof.percentile(latencies, 50),
            latency_ms_p99=proof.percentile(latencies, 99),
            events_per_second=self._events_per_second(steady),
            users=len(expected),
            basket_pairs=hits.pairs,
            hit_rate_at_10=round(hits.rate, 4),
            hit_rate_at_10_popularity=round(hits.rate_popularity, 4),
            states_equal_oracle=outcome.states_equal_oracle,
        )

    def _s3(self) -> tuple[set[str], int, int]:
        """Distinct recommendation ids, lines, and objects below the prefix."""
        decode = msgspec.json.Decoder(Recommendation).decode
        ids: set[str] = set()
        lines = objects = 0
        for content in self._landed(RECOMMENDATIONS_PREFIX):
            objects += 1
            for line in content.splitlines():
                ids.add(decode(line).recommendation_id)
                lines += 1
        return ids, lines, objects

    def _landed(self, prefix: str) -> Iterator[bytes]:
        """The objects below a prefix. Each is copied to the folder, since S3 goes with the stack."""
        s3 = self._stack.client("s3")
        for page in s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix):
            for found in page.get("Contents", []):
                content = s3.get_object(Bucket=BUCKET, Key=found["Key"])["Body"].read()
                path = self._plan.folder / LANDED / found["Key"]
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
                yield content

    def _history(self) -> Iterator[CartEvent]:
        return (
            event
            for event in RetailLog(self._plan.data, until=self._plan.cut)
            if event.event_type is EventType.PURCHASE
        )

    def _events_per_second(self, steady: int) -> float | None:
        """Events after the steady phase, from the first put until the last one's recommendation was accepted."""
        flat_out = self._watch.lines[steady:]
        if not flat_out or not self._watch.published:
            return None
        seconds = max(item.accepted_at for item in self._watch.published) - flat_out[0].put_at
        return round(len(flat_out) / seconds, 1)


def is_durable(stack: LocalStack, sent_up_to: Mapping[str, int]) -> bool:
    """Whether each shard's checkpoint is at the last sequence number that was sent there."""
    leases = DynamoDBLeases(RECOMMENDER, client=stack.client("dynamodb")).list()
    checkpoints = {lease.shard_id: lease.checkpoint for lease in leases if lease.checkpoint.isdigit()}
    return all(int(checkpoints.get(shard, 0)) >= last for shard, last in sent_up_to.items())


def read_back(stack: LocalStack, users: Iterable[str]) -> tuple[dict[str, StoredState], dict[str, StoredState], int]:
    """Every state in DynamoDB, the copies of those and of these users in Redis, and the number of dead letters."""
    kinesis, dynamodb = stack.client("kinesis"), stack.client("dynamodb")
    namespace = Namespace(RECOMMENDER, STREAM, stream_created_at(kinesis, STREAM))
    durable = {stored.key: stored for stored in DynamoDBStates(namespace, client=dynamodb).scan()}
    projected = RedisProjection(namespace, url=stack.redis_url).read(sorted({*users, *durable}))
    letters = DynamoDBDeadLetters(namespace, bucket=BUCKET, client=dynamodb, s3=stack.client("s3"))
    return durable, projected, sum(1 for _ in letters.scan())


def show(result: Result, console: Console) -> None:
    """Print the figures as a table."""
    table = Table("figure", "value", box=None, pad_edge=False)
    table.columns[1].justify = "right"
    for name, value in msgspec.structs.asdict(result).items():
        text = f"{value:,}" if isinstance(value, (int, float)) and not isinstance(value, bool) else str(value)
        table.add_row(name.replace("_", " "), text)
    console.print(table)


def write_json(result: Result, path: Path) -> None:
    """Write the figures for machines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(msgspec.structs.asdict(result), indent=2) + "\n")
