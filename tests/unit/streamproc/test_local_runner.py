"""The local runner on a fake Kinesis and memory ports: leases, reshards, stops and losses."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from streamproc.application import Application
from streamproc.deadletters.memory import MemoryDeadLetters
from streamproc.errors import LeasesHeldElsewhere, SettingsError, StreamNotFound, StreamRecreated, Throttled
from streamproc.lease import LATEST, SHARD_END, Lease
from streamproc.leases.memory import MemoryLeases
from streamproc.runners.local import LocalRunner
from streamproc.settings import LocalRunnerSettings, WorkerSettings
from streamproc.sinks.memory import MemorySink
from streamproc.states.memory import MemoryStates
from streamproc.telemetry import LeaseLost, RetentionGapFound, Telemetry, TelemetryEvent
from streamproc.testing.kinesis import FakeKinesis

PATIENCE_SECONDS = 10.0


class HurriedClock:
    """Real time, twenty times as fast."""

    SPEED = 20.0

    def __init__(self) -> None:
        self.skipped = 0.0

    def time(self) -> float:
        return self.monotonic()

    def monotonic(self) -> float:
        return self.skipped + time.monotonic() * self.SPEED

    def wait(self, seconds: float, stop: threading.Event | None = None) -> bool:
        return (stop or threading.Event()).wait(seconds / self.SPEED) and stop is not None


class Fleet:
    """A stream, its lease table and stores, and runners of one application."""

    def __init__(self, processor: Callable[[], Any], shards: int = 2) -> None:
        self.clock = HurriedClock()
        self.kinesis = FakeKinesis(clock=self.clock)
        self.kinesis.create_stream(StreamName="s", ShardCount=shards)
        self.leases = MemoryLeases()
        self.states: MemoryStates | None = None
        self.telemetry: list[TelemetryEvent] = []
        self.stream = "s"
        self.processor = processor
        self.sent: dict[str, list[int]] = {}
        self.runs: list[Running] = []

    def application(self, **local: Any) -> Application:
        def states(namespace: Any) -> MemoryStates:
            self.states = self.states or MemoryStates(namespace)
            return self.states

        return Application(
            name="app",
            stream=self.stream,
            processor=self.processor,
            states=states,
            deadletters=MemoryDeadLetters,
            sink=MemorySink,
            worker=WorkerSettings(checkpoint_seconds=0.5),
            local=LocalRunnerSettings(failover_seconds=8, shard_sync_seconds=5, **local),
        )

    def put(self, count: int) -> None:
        for n in range(count):
            key = f"key-{n % 7}"
            values = self.sent.setdefault(key, [])
            event = {"key": key, "value": len(values), "id": f"{key}-{len(values)}"}
            values.append(len(values))
            self.kinesis.put_records(
                StreamName="s", Records=[{"Data": json.dumps(event).encode(), "PartitionKey": key}]
            )

    def durable(self) -> dict[str, list[int]]:
        stored = self.states.scan() if self.states else []
        return {state.key: json.loads(state.state)["values"] for state in stored}

    def start(self, worker_id: str = "me", **local: Any) -> Running:
        run = Running(self, worker_id, local)
        self.runs.append(run)
        return run


class Running:
    """A runner in a thread."""

    def __init__(self, fleet: Fleet, worker_id: str, local: dict[str, Any]) -> None:
        self._stop = threading.Event()
        self.failure: BaseException | None = None
        client: Any = fleet.kinesis
        self._runner = LocalRunner(
            fleet.application(**local),
            leases=fleet.leases,
            kinesis=client,
            telemetry=Telemetry(fleet.telemetry.append),
            clock=fleet.clock,
            worker_id=worker_id,
        )
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._runner.run(self._stop)
        except BaseException as error:  # noqa: BLE001  # for the test to look at
            self.failure = error

    def until(self, reached: Callable[[], bool]) -> None:
        """Let the threads run until it is so."""
        tries = 0
        while not reached():
            tries += 1
            assert tries < PATIENCE_SECONDS * 1000, "it did not happen"
            assert self._thread.is_alive() or reached(), self.failure
            self._stop.wait(0.001)

    def stop(self) -> None:
        """Stop in order."""
        self._stop.set()
        self.join()

    def join(self) -> None:
        """Wait for its end."""
        self._thread.join(PATIENCE_SECONDS)
        assert not self._thread.is_alive()


@pytest.fixture
def fleet(sums: Callable[[], Any]) -> Iterator[Fleet]:
    fleet = Fleet(sums)
    yield fleet
    for run in fleet.runs:
        run.stop()


def test_every_event_is_folded_once_and_a_stop_leaves_checkpoints_and_free_leases(fleet: Fleet) -> None:
    fleet.put(50)
    run = fleet.start()
    run.until(lambda: fleet.durable() == fleet.sent)
    run.stop()
    assert run.failure is None
    assert all(lease.owner is None and lease.checkpoint.isdigit() for lease in fleet.leases.list())
    fleet.put(50)
    again = fleet.start("next")
    again.until(lambda: fleet.durable() == fleet.sent)
    again.stop()


def test_children_of_a_reshard_are_read_after_their_parents_and_nothing_is_lost_or_done_twice(fleet: Fleet) -> None:
    run = fleet.start()
    for split in range(2):
        fleet.put(70)
        shard = next(
            shard
            for shard in fleet.kinesis.list_shards(StreamName="s")["Shards"]
            if "EndingSequenceNumber" not in shard["SequenceNumberRange"]
        )
        keys = shard["HashKeyRange"]
        middle = (int(keys["StartingHashKey"]) + int(keys["EndingHashKey"])) // 2
        fleet.kinesis.split_shard(StreamName="s", ShardToSplit=shard["ShardId"], NewStartingHashKey=str(middle + split))
    fleet.put(70)
    run.until(lambda: fleet.durable() == fleet.sent)
    run.until(lambda: sum(lease.checkpoint == SHARD_END for lease in fleet.leases.list()) == 2)
    run.stop()
    assert run.failure is None


def test_a_runner_is_refused_while_another_ones_leases_are_alive(fleet: Fleet) -> None:
    first = fleet.start("first")
    first.until(lambda: all(lease.owner == "first" for lease in fleet.leases.list()) and bool(fleet.leases.list()))
    second = fleet.start("second")
    second.join()
    assert isinstance(second.failure, LeasesHeldElsewhere)
    assert "first" in str(second.failure)
    first.stop()


def test_the_leases_of_a_worker_that_died_are_taken_over_once_they_stand_still(fleet: Fleet) -> None:
    run = fleet.start("dead")
    fleet.put(20)
    run.until(lambda: fleet.durable() == fleet.sent)
    run.stop()
    for lease in fleet.leases.list():
        fleet.leases.take(lease, "dead")  # as kill -9 leaves them
    fleet.put(20)
    successor = fleet.start("successor")
    successor.until(lambda: fleet.durable() == fleet.sent)
    assert {lease.owner for lease in fleet.leases.list()} == {"successor"}
    successor.stop()


def test_a_runner_stops_when_one_of_its_leases_is_taken_and_writes_nothing_more(fleet: Fleet) -> None:
    run = fleet.start("me")
    fleet.put(20)
    run.until(lambda: fleet.durable() == fleet.sent)
    taken = None
    while taken is None:
        taken = fleet.leases.take(fleet.leases.list()[0], "thief")
    run.join()
    assert isinstance(run.failure, LeasesHeldElsewhere)
    assert "thief" in str(run.failure)
    assert [event.owner for event in fleet.telemetry if isinstance(event, LeaseLost)] == ["thief"]
    assert {lease.owner for lease in fleet.leases.list()} == {"thief", None}


def test_an_error_of_the_application_that_does_not_pass_ends_the_runner_with_it(fleet: Fleet) -> None:
    def broken() -> Any:
        raise RuntimeError("no model")

    fleet.processor = broken
    run = fleet.start()
    run.join()
    assert isinstance(run.failure, RuntimeError)


def test_a_stream_that_does_not_exist_is_named(fleet: Fleet) -> None:
    fleet.kinesis.delete_stream(StreamName="s")
    run = fleet.start()
    run.join()
    assert isinstance(run.failure, StreamNotFound)


def test_a_stream_made_anew_is_refused_with_what_to_do(fleet: Fleet) -> None:
    run = fleet.start()
    fleet.put(5)
    run.until(lambda: fleet.durable() == fleet.sent)
    run.stop()
    fleet.kinesis.delete_stream(StreamName="s")
    fleet.clock.skipped += 100
    fleet.kinesis.create_stream(StreamName="s", ShardCount=2)
    again = fleet.start()
    again.join()
    assert isinstance(again.failure, StreamRecreated)
    assert "new application name" in str(again.failure)


def test_latest_leaves_out_what_was_there_before_the_first_start(fleet: Fleet) -> None:
    fleet.put(14)
    fleet.clock.skipped += 10
    before = {key: len(values) for key, values in fleet.sent.items()}
    run = fleet.start(initial_position=LATEST)

    def something_new_arrived() -> bool:
        fleet.put(7)
        return bool(fleet.durable())

    run.until(something_new_arrived)
    run.stop()
    for key, values in fleet.durable().items():
        assert min(values) >= before[key]
        assert values == list(range(values[0], values[-1] + 1)), "and nothing is left out after it began"


def test_latest_does_not_move_with_a_restart_of_an_idle_shard(fleet: Fleet) -> None:
    run = fleet.start(initial_position=LATEST)
    run.until(lambda: len(fleet.leases.list()) == 2 and all(lease.owner for lease in fleet.leases.list()))
    run.stop()
    fleet.clock.skipped += 100
    fleet.put(14)  # while nobody is there
    fleet.clock.skipped += 100
    again = fleet.start("again", initial_position=LATEST)
    again.until(lambda: fleet.durable() == fleet.sent)
    again.stop()


def split(fleet: Fleet, shard_id: str) -> None:
    fleet.kinesis.split_shard(StreamName="s", ShardToSplit=shard_id, NewStartingHashKey=str(2**126))


def test_latest_reads_nothing_of_shards_that_were_closed_before_the_first_start(fleet: Fleet) -> None:
    fleet.put(21)
    split(fleet, "shardId-000000000000")
    run = fleet.start(initial_position=LATEST)
    run.until(lambda: sum(lease.owner is not None for lease in fleet.leases.list()) == 3)
    run.stop()
    again = fleet.start("again", initial_position=LATEST)
    again.until(lambda: sum(lease.owner == "again" for lease in fleet.leases.list()) == 3)
    again.stop()
    assert "shardId-000000000000" not in {lease.shard_id for lease in fleet.leases.list()}


def test_a_parent_whose_lease_kcl_removed_is_not_read_again(fleet: Fleet) -> None:
    fleet.put(21)
    split(fleet, "shardId-000000000000")
    run = fleet.start()
    run.until(lambda: fleet.durable() == fleet.sent and len(fleet.leases.list()) == 4)
    run.stop()
    del fleet.leases._leases["shardId-000000000000"]  # as KCL's LeaseCleanupManager does once the children began
    again = fleet.start("again")
    again.until(lambda: sum(lease.owner == "again" for lease in fleet.leases.list()) == 3)
    again.stop()
    assert "shardId-000000000000" not in {lease.shard_id for lease in fleet.leases.list()}


def test_the_children_of_a_shard_that_was_trimmed_while_nobody_was_there_are_read_and_the_gap_is_reported(
    fleet: Fleet,
) -> None:
    fleet.put(21)
    run = fleet.start()
    run.until(lambda: fleet.durable() == fleet.sent)
    run.stop()
    split(fleet, "shardId-000000000000")
    fleet.clock.skipped += 26 * 3600
    fleet.put(21)
    again = fleet.start("again")
    again.until(lambda: fleet.durable() == fleet.sent)
    again.stop()
    assert again.failure is None
    gaps = [event.shard_id for event in fleet.telemetry if isinstance(event, RetentionGapFound)]
    assert "shardId-000000000000" in gaps


def test_an_application_is_refused_on_another_stream_whose_shards_it_would_take_for_read(fleet: Fleet) -> None:
    run = fleet.start()
    fleet.put(7)
    run.until(lambda: fleet.durable() == fleet.sent)
    run.stop()
    fleet.kinesis.create_stream(StreamName="other", ShardCount=2)
    fleet.stream = "other"
    again = fleet.start("again")
    again.join()
    assert isinstance(again.failure, SettingsError)
    assert "reads the stream 's'" in str(again.failure)


def test_a_lease_that_another_worker_took_since_the_start_is_not_stolen(fleet: Fleet) -> None:
    fleet.leases.create(Lease(shard_id="shardId-000000000000"))
    taken = fleet.leases.take(fleet.leases.list()[0], "first")
    assert taken is not None
    client: Any = fleet.kinesis
    runner = LocalRunner(fleet.application(), leases=fleet.leases, kinesis=client, clock=fleet.clock)
    with pytest.raises(LeasesHeldElsewhere, match="first, which is alive"):
        runner._take(taken)
    assert fleet.leases.list() == [taken]


def test_an_exit_in_the_applications_code_ends_the_runner_and_never_just_the_shard(fleet: Fleet) -> None:
    class Exiting(type(fleet.processor())):  # type: ignore[misc]  # the conftest's class, by a value
        def fold(self, _state: Any, _event: Any) -> Any:
            raise SystemExit(3)

    fleet.processor = Exiting
    run = fleet.start()
    fleet.put(7)
    run.join()
    assert isinstance(run.failure, SystemExit)


def test_a_release_that_is_throttled_is_tried_again(fleet: Fleet) -> None:
    release, refusals = fleet.leases.release, [Throttled("slow down")] * 3

    def throttled(lease: Lease) -> Lease | None:
        if refusals:
            raise refusals.pop()
        return release(lease)

    fleet.leases.release = throttled  # type: ignore[method-assign]
    run = fleet.start()
    fleet.put(7)
    run.until(lambda: fleet.durable() == fleet.sent)
    run.stop()
    assert run.failure is None
    assert all(lease.owner is None for lease in fleet.leases.list())


def test_a_checkpoint_that_only_kcl_can_explain_is_named(fleet: Fleet) -> None:
    fleet.leases.create(Lease(shard_id="shardId-000000000000", checkpoint="AT_TIMESTAMP"))
    run = fleet.start()
    run.join()
    assert isinstance(run.failure, SettingsError)
    assert "is at AT_TIMESTAMP" in str(run.failure)
