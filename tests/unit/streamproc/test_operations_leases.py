"""Where leases are moved to, what that means, and how they are written: on a fake Kinesis and leases in memory."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from streamproc.aggregation import UserRecord, aggregate
from streamproc.errors import LeasesHeldElsewhere, SettingsError, StreamprocError, Throttled, TransientServiceError
from streamproc.lease import LATEST, SHARD_END, TRIM_HORIZON, Lease, startable
from streamproc.leases.memory import MemoryLeases
from streamproc.operations.common import checkpoint_text, duration_text, refuse_while_alive
from streamproc.operations.lag import lags
from streamproc.operations.reset import write
from streamproc.operations.target import READS_MAX, Change, Goal, Planner, since_of
from streamproc.runners.held import new_lease
from streamproc.runners.reader import ShardReader, position_of
from streamproc.shardmap import HASH_KEY_MAX
from streamproc.stream import list_shards
from streamproc.telemetry import Telemetry
from streamproc.testing.kinesis import CallRefused, FakeKinesis

FIRST, LOW, HIGH = (f"shardId-{number:012d}" for number in range(3))
START = 1_800_000_000
ME = "streamproc-reset:test"


class Stream:
    """A fake stream of one shard whose records arrive a minute apart, and its leases."""

    def __init__(self, clock: Any) -> None:
        self.clock = clock
        clock.now = float(START)
        self.fake = FakeKinesis(clock=clock)
        self.kinesis: Any = self.fake
        self.fake.create_stream(StreamName="s", ShardCount=1)
        self.leases = MemoryLeases()

    def put(self, count: int = 1, *, hash_key: int = 0, data: bytes = b"x") -> list[str]:
        numbers = []
        for _ in range(count):
            self.clock.now += 60
            entry = {"Data": data, "PartitionKey": "k", "ExplicitHashKey": str(hash_key)}
            answer = self.fake.put_records(StreamName="s", Records=[entry])
            numbers.append(str(answer["Records"][0]["SequenceNumber"]))
        return numbers

    def split(self) -> None:
        self.clock.now += 1
        self.fake.split_shard(StreamName="s", ShardToSplit=FIRST, NewStartingHashKey=str(HASH_KEY_MAX // 2))

    def lease(self, shard_id: str, checkpoint: str, **fields: Any) -> Lease:
        shard = next(shard for shard in list_shards(self.kinesis, "s") if shard.shard_id == shard_id)
        lease = msgspec.structs.replace(new_lease(shard, checkpoint), **fields)
        self.leases.create(lease)
        return lease

    def plan(self, to: str | int, *only: str) -> dict[str, Change]:
        changes = Planner(self.kinesis, "s", self.clock).plan(self.leases.list(), to, only)
        return {change.shard_id: change for change in changes}

    def reset(self, to: str | int, *only: str) -> dict[str, Lease]:
        write(self.leases, [*self.plan(to, *only).values()], ME, self.clock)
        return {lease.shard_id: lease for lease in self.leases.list()}

    def lag(self, lease: Lease) -> Any:
        return lags(self.kinesis, "s", [lease], self.clock.time())[0]


@pytest.fixture
def stream(manual_clock: Callable[[], Any]) -> Stream:
    return Stream(manual_clock())


def place(lease: Lease) -> tuple[str, int, float | None]:
    return lease.checkpoint, lease.checkpoint_sub_sequence_number, lease.latest_since


def means(changes: dict[str, Change]) -> dict[str, str]:
    return {shard_id: change.meaning for shard_id, change in changes.items()}


# The list


def test_lag_is_how_far_the_tip_is_and_age_how_long_ago_the_checkpoints_record_arrived(stream: Stream) -> None:
    first, _, last = stream.put(3)
    stream.clock.now += 10
    lag = stream.lag(Lease(shard_id=FIRST, checkpoint=first))
    assert (lag.behind_seconds, lag.age_seconds, lag.trimmed, lag.error) == (70.0, 130.0, False, None)
    lag = stream.lag(Lease(shard_id=FIRST, checkpoint=last))
    assert (lag.behind_seconds, lag.age_seconds) == (0.0, 10.0)
    assert stream.lag(Lease(shard_id=FIRST)).age_seconds == 130.0
    assert stream.lag(Lease(shard_id=FIRST, checkpoint=LATEST, latest_since=START + 100.0)).age_seconds == 70.0
    stream.fake.calls.clear()
    for checkpoint in (SHARD_END, LATEST, "AT_TIMESTAMP"):
        lag = stream.lag(Lease(shard_id=FIRST, checkpoint=checkpoint))
        assert (lag.behind_seconds, lag.age_seconds, lag.error) == (None, None, None)
    assert stream.fake.calls == {}


def test_lag_and_age_cost_one_read_a_shard_and_a_throttled_one_is_not_tried_again(stream: Stream) -> None:
    lease = Lease(shard_id=FIRST, checkpoint=stream.put()[0])
    stream.lag(lease)
    assert stream.fake.calls["GetRecords"] == 1
    stream.fake.script("GetRecords", [CallRefused("ProvisionedThroughputExceededException")])
    assert "ProvisionedThroughputExceededException" in stream.lag(lease).error
    assert stream.fake.calls["GetRecords"] == 2


def test_a_checkpoint_whose_record_the_retention_removed_is_marked(stream: Stream) -> None:
    (old,) = stream.put()
    stream.clock.now += 25 * 3600
    lag = stream.lag(Lease(shard_id=FIRST, checkpoint=old))
    assert (lag.trimmed, lag.behind_seconds) == (True, 0.0)
    stream.put()
    lag = stream.lag(Lease(shard_id=FIRST, checkpoint=old))
    assert (lag.trimmed, lag.age_seconds) == (True, None)


def test_a_span_of_time_is_told_in_its_two_largest_units() -> None:
    seconds = [0, 0.4, 59, 60, 3_600, 7_325, 86_400, 90_061, 90_000, -3]
    told = ["0 s", "< 1 s", "59 s", "1 min", "1 h", "2 h 2 min", "1 d", "1 d 1 h", "1 d 1 h", "0 s"]
    assert [duration_text(each) for each in seconds] == told


def test_since_when_is_told_of_latest_alone() -> None:
    assert checkpoint_text(Lease(shard_id=FIRST, checkpoint=SHARD_END, latest_since=0.0)) == SHARD_END


# Where to


@pytest.mark.parametrize(
    "to", ["", "latest", "yesterday", "2026-11-01T00:00:00", "2099-01-01T00:00:00Z", "AT_TIMESTAMP"]
)
def test_what_is_no_place_to_reset_to_is_refused_and_named(to: str) -> None:
    with pytest.raises(SettingsError, match=f"--to '{to}'"):
        since_of(to, START)


def test_a_time_is_read_with_its_zone_in_whole_seconds() -> None:
    assert since_of("2026-11-01T02:00:00.9+02:00", START) == 1_793_491_200
    assert [since_of(to, START) for to in (TRIM_HORIZON, LATEST)] == [TRIM_HORIZON, LATEST]


def test_the_horizon_is_for_every_listed_shard_ended_ones_and_those_without_a_lease_too(stream: Stream) -> None:
    first = stream.put(2)[0]
    stream.split()
    (low,) = stream.put()
    stream.lease(FIRST, SHARD_END)
    stream.lease(LOW, low)
    assert means(stream.plan(TRIM_HORIZON)) == {
        FIRST: "goes back: read again, from 2027-01-15T08:01:00.000+00:00 on",
        LOW: "goes back: read again",
        HIGH: "gets a lease, and is read",
    }
    rows = stream.reset(TRIM_HORIZON)
    assert {shard_id: place(lease) for shard_id, lease in rows.items()} == dict.fromkeys(
        (FIRST, LOW, HIGH), (TRIM_HORIZON, 0, None)
    )
    assert rows[HIGH].parent_shard_ids == {FIRST}
    assert all(lease.owner is None for lease in rows.values())
    assert [lease.shard_id for lease in startable([*rows.values()])] == [FIRST]
    assert means(stream.plan(TRIM_HORIZON)) == dict.fromkeys((FIRST, LOW, HIGH), "stays: it is there already")
    assert first


def test_latest_is_since_now_for_open_shards_and_the_end_for_closed_ones(stream: Stream) -> None:
    (first, _) = stream.put(2)
    stream.split()
    stream.lease(FIRST, first)
    stream.lease(LOW, TRIM_HORIZON)
    stream.put(3)
    assert means(stream.plan(LATEST)) == {
        FIRST: "skips what was not read, for good",
        LOW: "skips what arrived in 2 min, for good",
        HIGH: "gets a lease, and is read, from 2027-01-15T08:05:01.000+00:00 on",
    }
    now = stream.clock.now
    rows = stream.reset(LATEST)
    assert place(rows[FIRST]) == (SHARD_END, 0, None)
    assert place(rows[LOW]) == place(rows[HIGH]) == (LATEST, 0, now)
    assert stream.plan(LATEST)[FIRST].meaning == "stays: it was read to its end"


def test_latest_leaves_closed_shards_without_a_lease_alone(stream: Stream) -> None:
    stream.put()
    stream.split()
    assert {*stream.plan(LATEST)} == {LOW, HIGH}


def test_a_time_is_the_first_record_at_or_after_it(stream: Stream) -> None:
    numbers = stream.put(4)
    stream.lease(FIRST, numbers[3])
    assert means(stream.plan(START + 120)) == {FIRST: "goes back 2 min: read again"}
    assert place(stream.reset(START + 120)[FIRST]) == (numbers[1], -1, None)
    assert means(stream.plan(START + 121)) == {FIRST: "skips what arrived in 1 min, for good"}
    assert place(stream.reset(START + 121)[FIRST]) == (numbers[2], -1, None)
    assert means(stream.plan(START + 121)) == {FIRST: "stays: it is there already"}


def test_an_open_shard_with_no_record_since_the_time_keeps_its_number(stream: Stream) -> None:
    lease = stream.lease(FIRST, stream.put()[0])
    stream.clock.now += 600
    assert means(stream.plan(START + 300)) == {FIRST: "stays: no record arrived since"}
    assert stream.reset(START + 300) == {FIRST: lease}


def test_an_open_shard_with_no_record_since_the_time_and_no_number_is_at_latest_since_then(stream: Stream) -> None:
    stream.put()
    stream.lease(FIRST, TRIM_HORIZON)
    stream.clock.now += 600
    assert means(stream.plan(START + 300)) == {FIRST: "skips what arrived in 4 min, for good"}
    assert place(stream.reset(START + 300)[FIRST]) == (LATEST, 0, START + 300.0)
    assert means(stream.plan(START + 200)) == {FIRST: "goes back: read again"}


def test_a_time_within_a_closed_shard_reads_it_from_there_and_its_children_after_it(stream: Stream) -> None:
    numbers = stream.put(3)
    stream.split()
    (low,) = stream.put()
    stream.lease(LOW, low)  # the parent was read, and KCL has removed its lease
    rows = stream.reset(START + 120)
    assert place(rows[FIRST]) == (numbers[1], -1, None)
    assert place(rows[LOW]) == (low, -1, None)
    # What comes here comes after the parent's records, whoever reads it.
    assert place(rows[HIGH]) == (TRIM_HORIZON, 0, None)
    assert [lease.shard_id for lease in startable([*rows.values()])] == [FIRST]


def test_a_closed_shard_whose_records_are_all_older_is_ended_so_that_its_children_start(stream: Stream) -> None:
    first = stream.put(3)[0]
    stream.split()
    since = int(stream.clock.now) + 30
    (low,) = stream.put()
    stream.lease(FIRST, first)
    stream.lease(LOW, TRIM_HORIZON)
    rows = stream.reset(since)
    assert place(rows[FIRST]) == (SHARD_END, 0, None)
    assert place(rows[LOW]) == (low, -1, None)
    assert place(rows[HIGH]) == (LATEST, 0, float(since))
    assert {lease.shard_id for lease in startable([*rows.values()])} == {LOW, HIGH}
    assert stream.plan(since)[FIRST].meaning == "stays: its records are all older"


@pytest.mark.parametrize("checkpoint", ["1", "AT_TIMESTAMP", LATEST])
def test_a_checkpoint_that_says_nothing_of_this_shard_is_mended(stream: Stream, checkpoint: str) -> None:
    (number,) = stream.put()
    stream.lease(FIRST, checkpoint)
    assert means(stream.plan(START)) == {FIRST: "begins there; how far it was read before cannot be told"}
    assert place(stream.reset(START)[FIRST]) == (number, -1, None)


def test_a_forward_move_that_passes_no_record_says_so(stream: Stream) -> None:
    first, last = stream.put(2)
    stream.lease(FIRST, last)
    assert means(stream.plan(LATEST)) == {FIRST: "skips nothing: no record waits behind it"}
    stream.leases = MemoryLeases()
    stream.lease(FIRST, TRIM_HORIZON)
    change = stream.plan(START + 30)[FIRST]
    assert change.goal is not None
    assert change.goal.checkpoint == first
    assert change.meaning == "skips nothing: the first record that was not read is its first"


def test_named_shards_alone_are_moved_and_one_that_does_not_exist_is_named(stream: Stream) -> None:
    stream.put()
    stream.split()
    for shard_id in (FIRST, LOW, HIGH):
        stream.lease(shard_id, TRIM_HORIZON)
    rows = stream.reset(LATEST, HIGH)
    assert [rows[shard_id].checkpoint for shard_id in (FIRST, LOW, HIGH)] == [TRIM_HORIZON, TRIM_HORIZON, LATEST]
    with pytest.raises(SettingsError, match="--shard shardId-9: 's' has no such shard"):
        stream.plan(LATEST, HIGH, "shardId-9")


def test_the_lease_of_a_shard_that_is_gone_stays(stream: Stream) -> None:
    lease = stream.lease(FIRST, stream.put()[0])
    stream.split()
    stream.clock.now += 25 * 3600
    change = stream.plan(TRIM_HORIZON)[FIRST]
    assert (change.lease, change.goal, change.meaning) == (lease, None, "stays: the retention has removed the shard")


def test_a_throttled_read_is_tried_again_and_a_search_without_an_end_is_given_up(stream: Stream) -> None:
    (number,) = stream.put()
    stream.fake.script("GetRecords", [CallRefused("ProvisionedThroughputExceededException")] * 3)
    assert place(stream.reset(START)[FIRST]) == (number, -1, None)

    def sparse(**_: Any) -> dict[str, Any]:
        return {"Records": [], "MillisBehindLatest": 1, "NextShardIterator": "next"}

    stream.fake.get_records = sparse  # type: ignore[method-assign]
    with pytest.raises(TransientServiceError, match=f"{READS_MAX} reads of {FIRST} found no record since"):
        stream.plan(START)


# What a reader makes of it


@pytest.mark.parametrize("packed", [False, True])
def test_a_worker_goes_on_with_the_first_record_since_the_time_and_all_of_an_aggregate(
    stream: Stream, bench: Any, packed: bool
) -> None:
    def event(value: int) -> bytes:
        return json.dumps({"key": "k", "value": value, "id": str(value)}).encode()

    stream.put(data=event(1))
    stream.put(data=aggregate([UserRecord("k", event(2)), UserRecord("k", event(3))]) if packed else event(2))
    (last,) = stream.put(data=event(4))
    stream.lease(FIRST, last)
    lease = stream.reset(START + 120)[FIRST]
    (shard,) = list_shards(stream.kinesis, "s")
    telemetry: list[Any] = []
    reader = ShardReader(stream.kinesis, "s", shard, records_max=100, telemetry=Telemetry(telemetry.append))
    reader.seek(lease, stream.clock.now)
    batch = reader.read()
    assert batch is not None
    bench.worker(position_of(lease)).process(batch)
    worker = bench.worker(position_of(lease))
    worker.process(batch)
    worker.make_durable()
    assert bench.values("k") == ([2, 3, 4] if packed else [2, 4])
    assert telemetry == []  # no gap


# The writes


def one_change(stream: Stream, checkpoint: str = TRIM_HORIZON) -> list[Change]:
    lease = stream.lease(FIRST, checkpoint)
    return [Change(FIRST, lease, None, Goal(checkpoint=LATEST, latest_since=5.0), "")]


def test_a_worker_that_wrote_a_lease_since_it_was_read_is_not_overwritten_and_nothing_is_reset(
    stream: Stream, capsys: pytest.CaptureFixture[str]
) -> None:
    stream.put()
    stream.split()
    for shard_id in (FIRST, LOW, HIGH):
        stream.lease(shard_id, "5")
    changes = [*stream.plan(TRIM_HORIZON).values()]
    taken = stream.leases.take(next(row for row in stream.leases.list() if row.shard_id == HIGH), "a worker")
    with pytest.raises(LeasesHeldElsewhere, match=f"a worker wrote the lease of {HIGH} meanwhile"):
        write(stream.leases, changes, ME, stream.clock)
    rows = {lease.shard_id: lease for lease in stream.leases.list()}
    assert [rows[shard_id].checkpoint for shard_id in (FIRST, LOW, HIGH)] == ["5"] * 3
    assert (rows[FIRST].owner, rows[LOW].owner, rows[HIGH]) == (None, None, taken)
    assert "No lease was reset." in capsys.readouterr().err


def test_a_worker_that_takes_a_lease_in_the_middle_keeps_it_and_what_is_half_done_is_said(
    stream: Stream, capsys: pytest.CaptureFixture[str]
) -> None:
    stream.put()
    stream.split()
    for shard_id in (LOW, HIGH):
        stream.lease(shard_id, "5")
    changes = [*stream.plan(LATEST).values()]

    class Raced(MemoryLeases):
        def checkpoint(self, lease: Lease, *args: Any) -> Lease | None:
            if lease.shard_id == HIGH:
                assert stream.leases.take(lease, "a worker")
            return stream.leases.checkpoint(lease, *args)

    raced = Raced()
    raced.list, raced.take, raced.release = stream.leases.list, stream.leases.take, stream.leases.release  # type: ignore[method-assign]
    with pytest.raises(LeasesHeldElsewhere, match=f"a worker wrote the lease of {HIGH} meanwhile"):
        write(raced, changes, ME, stream.clock)
    rows = {lease.shard_id: lease for lease in stream.leases.list()}
    assert (rows[LOW].checkpoint, rows[LOW].owner) == (LATEST, None)
    assert (rows[HIGH].checkpoint, rows[HIGH].owner) == ("5", "a worker")
    assert f"Reset: {LOW}. Not reset: {HIGH}. Repeat the command." in capsys.readouterr().err


@pytest.mark.parametrize("call", ["take", "checkpoint", "release"])
@pytest.mark.parametrize("answer_lost", [False, True])
def test_a_write_that_fails_in_a_way_that_passes_is_tried_again_also_where_only_its_answer_was_lost(
    stream: Stream, call: str, answer_lost: bool
) -> None:
    failures = [True, True, False]

    class Failing(MemoryLeases):
        def _failing(self, name: str, *arguments: Any) -> Lease | None:
            fails = name == call and failures.pop(0) if failures else False
            if fails and not answer_lost:
                raise Throttled("slow down")
            written: Lease | None = getattr(MemoryLeases, name)(self, *arguments)
            if fails:
                raise Throttled("no answer")
            return written

        def take(self, *arguments: Any) -> Lease | None:
            return self._failing("take", *arguments)

        def checkpoint(self, *arguments: Any) -> Lease | None:
            return self._failing("checkpoint", *arguments)

        def release(self, *arguments: Any) -> Lease | None:
            return self._failing("release", *arguments)

    stream.leases = Failing()
    write(stream.leases, one_change(stream), ME, stream.clock)
    (lease,) = stream.leases.list()
    assert (place(lease), lease.owner) == ((LATEST, 0, 5.0), None)


def test_a_lease_that_somebody_else_made_meanwhile_is_left_and_said(stream: Stream) -> None:
    changes = [*stream.plan(TRIM_HORIZON).values()]
    other = stream.lease(FIRST, "7")
    with pytest.raises(LeasesHeldElsewhere, match=f"wrote the lease of {FIRST} meanwhile"):
        write(stream.leases, changes, ME, stream.clock)
    assert stream.leases.list() == [other]


def test_a_store_that_stays_away_ends_the_command_with_what_was_done(
    stream: Stream, capsys: pytest.CaptureFixture[str]
) -> None:
    class Away(MemoryLeases):
        def checkpoint(self, *_: Any) -> Lease | None:
            raise Throttled("slow down")

    stream.leases = Away()
    with pytest.raises(StreamprocError, match="slow down"):
        write(stream.leases, one_change(stream, "5"), ME, stream.clock)
    (lease,) = stream.leases.list()
    assert (lease.checkpoint, lease.owner) == ("5", None)
    assert "No lease was reset." in capsys.readouterr().err


def test_only_a_counter_that_moves_within_the_failover_time_refuses(stream: Stream) -> None:
    def look(write: Callable[[Lease], Lease | None]) -> None:
        class Clock:
            time = monotonic = stream.clock.time

            def wait(self, seconds: float, *_: Any) -> bool:
                assert seconds == 7
                write(stream.leases.list()[0])
                return False

        refuse_while_alive(stream.leases, stream.leases.list(), 7, lambda who: f"stop {who}", Clock())

    stream.lease(FIRST, "5")
    look(lambda _: pytest.fail("nobody owns it: there is nothing to wait for"))
    stream.leases.take(stream.leases.list()[0], "a\x1bworker")
    look(lambda _: None)
    with pytest.raises(LeasesHeldElsewhere, match=r"stop a\\x1bworker"):
        look(stream.leases.renew)
