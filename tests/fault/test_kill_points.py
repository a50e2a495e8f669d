"""Real processes, killed with SIGKILL at every step of the commit protocol, up to three times a run, by a seed."""

from __future__ import annotations

import json
import os
import random
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from streamproc.deadletter import DeadLetter
from streamproc.deadletters.dynamodb import DynamoDBDeadLetters
from streamproc.errors import SettingsError
from streamproc.local import LocalStack, read_journal
from streamproc.local.processes import tethered
from streamproc.namespace import Namespace
from streamproc.projections.redis import RedisProjection
from streamproc.record import Position, shard_id_of, shard_number_of
from streamproc.state import StoredState, fingerprint, roll
from streamproc.states.dynamodb import DynamoDBStates
from streamproc.stream import stream_created_at
from streamproc.testing.killpoints import KillPoint, Step

SEEDS, LONG_SEEDS = range(10), range(10, 40)
#: By seed, in turns.
KILLS = (1, 1, 2, 1, 3)
SHARDS = 4
EVENTS, KEYS, POISON, DUPLICATES = 1500, 40, 12, 30
LIFE_SECONDS_MAX = 40.0

#: Forks a process for each line of its input (stream, kill point or -, log), after the imports and with clients that
#: have no connection yet, since both take longer than most lives do; says its process id, and its exit code when it
#: ended. The state tells the order of the events too.
APPLICATION = """
import ctypes
import json
import os
import signal
import sys
import threading
import traceback
from functools import partial

from streamproc.application import Application
from streamproc.aws import aws_client
from streamproc.deadletters.dynamodb import DynamoDBDeadLetters
from streamproc.leases.dynamodb import DynamoDBLeases
from streamproc.metrics.logs import LogWriter
from streamproc.processor import KeyedProcessor
from streamproc.projections.redis import RedisProjection
from streamproc.runners.local import LocalRunner
from streamproc.settings import LocalRunnerSettings, WorkerSettings
from streamproc.sinks.firehose import FirehoseSink
from streamproc.states.dynamodb import DynamoDBStates
from streamproc.telemetry import Telemetry
from streamproc.testing.killpoints import KillPoint


class Tally(KeyedProcessor):
    def decode(self, data): return json.loads(data)
    def key(self, event): return event["key"]
    def event_id(self, event): return str(event["n"]).encode()
    def event_time(self, event): return 0.0
    def new_state(self): return [0, 0]
    def fold(self, state, event): return [state[0] + 1, (state[1] * 31 + int(event["n"])) % 2**61]
    def emit(self, changed): return [[item.key, item.position.sortable(), item.state] for item in changed]
    def encode(self, output): return json.dumps(output).encode()
    def encode_state(self, state): return json.dumps(state).encode()
    def decode_state(self, data): return json.loads(data)


def live(name, point, log):
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: it ends with its parent
    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT), 2)
    app = Application(
        name=name, stream=name, processor=Tally, states=partial(DynamoDBStates, client=dynamodb),
        deadletters=partial(DynamoDBDeadLetters, bucket=name, client=dynamodb, s3=s3),
        sink=partial(FirehoseSink, delivery_stream=name, client=firehose),
        projection=partial(RedisProjection, url=os.environ["STREAMPROC_REDIS_URL"]),
        worker=WorkerSettings(checkpoint_seconds=0.3),
        local=LocalRunnerSettings(failover_seconds=1, records_max=70),
    )
    leases = DynamoDBLeases(name, client=dynamodb)
    if point != "-":
        app, leases = KillPoint.parse(point).around(app), KillPoint.parse(point).around_leases(leases)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    LocalRunner(app, leases=leases, kinesis=kinesis, telemetry=Telemetry(LogWriter())).run(stop)


kinesis, dynamodb, firehose, s3 = map(aws_client, ["kinesis", "dynamodb", "firehose", "s3"])
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        try:
            live(*line.split())
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Nursery:
    """The process that forks the lives."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._stdin, self._stdout = process.stdin, process.stdout

    def start(self, stream: str, point: KillPoint | None, log: Path) -> int:
        """Start a life; return its process id."""
        self._stdin.write(f"{stream} {point or '-'} {log}\n".encode())
        return int(self._stdout.readline())

    def ended(self, seconds: float) -> int | None:
        """The exit code of the life; None where it lives on after so long."""
        readable, _, _ = select.select([self._stdout], [], [], seconds)
        return int(self._stdout.readline()) if readable else None


@pytest.fixture(scope="module")
def nursery(stack: LocalStack) -> Iterator[Nursery]:
    with subprocess.Popen(
        tethered([sys.executable, "-c", APPLICATION]),
        env={**os.environ, **stack.environment()},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,
    ) as process:
        yield Nursery(process)
        process.kill()


class Logged(msgspec.Struct, frozen=True):
    """A record as it stands in the stream."""

    position: Position
    key: str
    data: bytes

    @property
    def number(self) -> int | None:
        """The event's number, which is its id; None for a record that decode or fold cannot take."""
        try:
            return int(json.loads(self.data)["n"])
        except ValueError:
            return None


class Wanted(msgspec.Struct, frozen=True):
    """What must be stored of a key."""

    position: Position
    events_folded: int
    ids_hash: int
    state: bytes


def plan(seed: int) -> list[KillPoint]:
    """Where each life of a run ends, but for the last: one to three kill points, dealt out to the seeds in a row."""
    kills = [KILLS[each % len(KILLS)] for each in range(seed + 1)]
    first = sum(kills[:-1])
    return [KillPoint.seeded(number) for number in range(first, first + kills[-1])]


def records(seed: int) -> list[tuple[str, bytes]]:
    """Keys and data: events, producer's duplicates a little after their first, and poison of two kinds all over."""
    rng = random.Random(seed)
    sent = []
    for n in range(EVENTS):
        key = f"key-{rng.randrange(KEYS)}"
        sent.append((key, json.dumps({"key": key, "n": n}).encode()))
    for _ in range(DUPLICATES):
        at = rng.randrange(len(sent))
        sent.insert(min(len(sent), at + rng.randrange(1, 200)), sent[at])
    for number in range(POISON):
        key = f"key-{rng.randrange(KEYS)}"
        data = b"not JSON" if number % 2 else json.dumps({"key": key, "n": "x"}).encode()
        sent.insert(number * EVENTS // POISON, (key, data))
    return sent


class Run:
    """One stream, its application's lives, and what they left."""

    def __init__(self, stack: LocalStack, nursery: Nursery, folder: Path, seed: int) -> None:
        self.stack = stack
        self.nursery = nursery
        self.folder = folder
        self.name = f"kills-{seed}-{folder.name}"[:60]
        stack.create_stream(self.name, SHARDS)
        stack.create_delivery_stream(self.name, self.name, "outputs/")
        kinesis, dynamodb = stack.client("kinesis"), stack.client("dynamodb")
        self.log: list[Logged] = []
        sent = records(seed)
        for start in range(0, len(sent), 500):
            part = sent[start : start + 500]
            answer = kinesis.put_records(
                StreamName=self.name, Records=[{"Data": data, "PartitionKey": key} for key, data in part]
            )
            for (key, data), entry in zip(part, answer["Records"], strict=True):
                position = Position(shard_number_of(entry["ShardId"]), int(entry["SequenceNumber"]))
                self.log.append(Logged(position, key, data))
        namespace = Namespace(self.name, self.name, stream_created_at(kinesis, self.name))
        self.states = DynamoDBStates(namespace, client=dynamodb)
        self.letters = DynamoDBDeadLetters(namespace, bucket=self.name, client=dynamodb, s3=stack.client("s3"))
        self.projection = RedisProjection(namespace, url=stack.redis_url)
        self.states.prepare()
        self.letters.prepare()
        #: Records that the quarantine will blame, since a killed life left them noted as tried alone.
        self.condemned: set[Position] = set()
        self.deaths: list[str] = []

    def live(self, point: KillPoint | None) -> bool:
        """One life: until it is killed (False), or everything is folded and it was stopped in order (True)."""
        log = self.folder / f"life-{len(self.deaths)}.log"
        process_id = self.nursery.start(self.name, point, log)
        code: int | None = None
        try:
            deadline = time.monotonic() + LIFE_SECONDS_MAX
            done = self.done()
            while (code := self.nursery.ended(0.2)) is None:
                if log.exists() and log.read_bytes().count(b"lease_acquired") == SHARDS and done():
                    os.kill(process_id, signal.SIGTERM)
                    code = self.nursery.ended(LIFE_SECONDS_MAX)
                    break
                assert time.monotonic() < deadline, f"life {len(self.deaths)} did not end: {log.read_text()[-2000:]}"
        finally:
            if code is None:
                os.kill(process_id, signal.SIGKILL)
        said = log.read_text()
        if code == 0:
            return True
        assert code == -signal.SIGKILL, f"exit code {code}: {said[-2000:]}"
        assert f"killed at {point}\n" in said
        self.deaths.append(str(point))
        time.sleep(0.1)  # a request that it sent may still be on its way to the table
        self._look_at_attempts()
        return False

    def _look_at_attempts(self) -> None:
        attempts = [self.letters.attempt(shard_id_of(number)) for number in range(SHARDS)]
        self.condemned |= {attempt.first for attempt in attempts if attempt is not None and attempt.alone}

    def poison(self) -> set[Position]:
        """What must be dead-lettered."""
        return {record.position for record in self.log if record.number is None} | self.condemned

    def oracle(self) -> dict[str, Wanted]:
        """One fold of the log, in one thread, in the order of each key."""
        wanted: dict[str, Wanted] = {}
        seen: set[int] = set()
        for record in sorted(self.log, key=lambda record: record.position):
            number = record.number
            if number is None or number in seen or record.position in self.condemned:
                continue
            seen.add(number)
            before = wanted.get(record.key)
            count, digest = json.loads(before.state) if before else (0, 0)
            wanted[record.key] = Wanted(
                record.position,
                count + 1,
                roll(before.ids_hash if before else 0, fingerprint(str(number).encode())),
                json.dumps([count + 1, (digest * 31 + number) % 2**61]).encode(),
            )
        return wanted

    def done(self) -> Callable[[], bool]:
        """What tells whether everything is folded and put aside, durably."""
        events, poison = sum(each.events_folded for each in self.oracle().values()), self.poison()
        return lambda: (
            sum(stored.events_folded for stored in self.states.scan()) >= events and self.put_aside() >= poison
        )

    def put_aside(self) -> set[Position]:
        letters: list[DeadLetter] = list(self.letters.scan())
        assert len({letter.position for letter in letters}) == len(letters), "each once"
        return {letter.position for letter in letters}

    def last_published(self) -> dict[str, bytes]:
        """By key, the state in the output with the latest position."""
        outputs = [
            json.loads(line)
            for accepted in read_journal(self.stack.firehose_journal)
            if accepted.stream == self.name
            for line in accepted.data.splitlines()
        ]
        return {key: json.dumps(state).encode() for key, position, state in sorted(outputs)}


def stored(states: dict[str, StoredState]) -> dict[str, Wanted]:
    return {key: Wanted(one.position, one.events_folded, one.ids_hash, one.state) for key, one in states.items()}


def play(stack: LocalStack, nursery: Nursery, folder: Path, seed: int) -> Run:
    """Kill, start again, and so on to the end; then hold what is stored against the oracle."""
    points = plan(seed)
    again = (
        f"seed {seed}, kills at {', '.join(map(str, points))}; again: .venv/bin/pytest {__file__} -k seed-{seed:02d}"
    )
    run = Run(stack, nursery, folder, seed)
    # A point that is not reached (a dead letter that an earlier life wrote) ends the run with that life.
    ended = any(run.live(point) for point in points) or run.live(None)
    assert ended, again
    assert run.deaths[:1] == [str(points[0])], again
    wanted = run.oracle()
    assert stored({one.key: one for one in run.states.scan()}) == wanted, again
    assert stored(run.projection.read([*wanted])) == wanted, again
    assert run.put_aside() == run.poison(), again
    assert run.last_published() == {key: each.state for key, each in wanted.items()}, again
    return run


def seeds(numbers: range) -> Callable[[Callable[..., None]], pytest.MarkDecorator]:
    return pytest.mark.parametrize("seed", numbers, ids=lambda seed: f"seed-{seed:02d}")


@seeds(SEEDS)
def test_killed_at_a_seeded_step_of_the_protocol_nothing_is_lost_or_applied_twice(
    stack: LocalStack, nursery: Nursery, tmp_path: Path, seed: int
) -> None:
    play(stack, nursery, tmp_path, seed)


@pytest.mark.long
@seeds(LONG_SEEDS)
def test_killed_at_any_step_of_the_protocol_nothing_is_lost_or_applied_twice(
    stack: LocalStack, nursery: Nursery, tmp_path: Path, seed: int
) -> None:
    play(stack, nursery, tmp_path, seed)


def test_the_seeds_of_both_tests_cover_every_step_with_their_first_kill_and_those_of_the_short_one_with_all() -> None:
    assert {KillPoint.seeded(seed).step for seed in [*SEEDS, *LONG_SEEDS]} == set(Step)
    assert {point.step for seed in SEEDS for point in plan(seed)} == set(Step)


def test_a_kill_point_is_read_as_it_is_written() -> None:
    for seed in range(100):
        point = KillPoint.seeded(seed)
        assert KillPoint.parse(str(point)) == point


@pytest.mark.parametrize("text", ["", "after_store", "after_store:0", "after_store:x", "later:1"])
def test_a_kill_point_that_names_no_place_is_refused_with_the_steps_that_there_are(text: str) -> None:
    with pytest.raises(SettingsError, match="write step:passage, with a step of decoded, loaded"):
        KillPoint.parse(text)
