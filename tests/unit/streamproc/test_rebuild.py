"""Following the live application: where a shadow begins, how far it reads, and how the two stand to each other."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, strategies as st

from streamproc.aggregation import UserRecord, aggregate
from streamproc.alias import Origin
from streamproc.application import Application
from streamproc.clock import SystemClock
from streamproc.deadletters.memory import MemoryDeadLetters
from streamproc.errors import LeasesHeldElsewhere, SettingsError
from streamproc.lease import LATEST, SHARD_END, TRIM_HORIZON, Lease
from streamproc.leases.memory import MemoryLeases
from streamproc.namespace import Namespace
from streamproc.operations.shadow import origin_given
from streamproc.rebuild import LiveLead, Standing, checked_origin, not_begun, standings
from streamproc.record import Position, shard_id_of
from streamproc.runners.limited import LimitedReader
from streamproc.runners.local import LocalRunner
from streamproc.settings import LocalRunnerSettings, WorkerSettings
from streamproc.shardmap import HashRange, hash_key_of
from streamproc.states.memory import MemoryStates
from streamproc.stream import Shard, list_shards
from streamproc.telemetry import LeaseAcquired, Telemetry, TelemetryEvent
from streamproc.testing.kinesis import FakeKinesis

FIRST, SECOND, CHILD = (shard_id_of(number) for number in range(3))
HASH = hash_key_of("k")
# Before every record, and beyond every one.
NOTHING, EVERYTHING = Position(0, -1, -1), Position(0, 10**60, 0)


class Log:
    """A stream of one shard, and a reader of it up to a limit."""

    def __init__(self, clock: Any = None) -> None:
        self.clock = clock or SystemClock()
        self.kinesis = FakeKinesis(clock=self.clock)
        self.client: Any = self.kinesis
        self.kinesis.create_stream(StreamName="s", ShardCount=1)
        self.limit: Position | None = NOTHING

    def put(self, *data: bytes) -> int:
        """One record, an aggregate where it is given several; its sequence number."""
        whole = data[0] if len(data) == 1 else aggregate([UserRecord("k", each) for each in data])
        answer = self.kinesis.put_records(StreamName="s", Records=[{"Data": whole, "PartitionKey": "k"}])
        return int(answer["Records"][0]["SequenceNumber"])

    def close(self) -> None:
        self.kinesis.split_shard(StreamName="s", ShardToSplit=FIRST, NewStartingHashKey=str(2**127))

    def shards(self) -> list[Shard]:
        return list_shards(self.client, "s")

    def reader(self, lease: Lease | None = None) -> LimitedReader:
        reader = LimitedReader(
            self.client, "s", self.shards()[0], records_max=3, telemetry=Telemetry(), limit=lambda: self.limit
        )
        reader.seek(lease or Lease(shard_id=FIRST), self.clock.time())
        return reader


def data_of(reader: LimitedReader) -> list[bytes]:
    batch = reader.read()
    assert batch is not None
    return [record.data for record in batch.records]


def test_records_are_given_up_to_exactly_the_limit_inside_an_aggregate_too() -> None:
    log = Log()
    log.put(b"1")
    inside = log.put(b"2", b"3", b"4")
    log.put(b"5")
    reader = log.reader()
    assert data_of(reader) == []
    log.limit = Position(0, inside, 1)
    assert data_of(reader) == [b"1", b"2", b"3"]
    assert data_of(reader) == []
    log.limit = EVERYTHING
    assert data_of(reader) == [b"4", b"5"]


def test_a_reader_that_begins_at_a_checkpoint_inside_an_aggregate_gives_its_rest_once_the_limit_allows() -> None:
    log = Log()
    number = log.put(b"1", b"2", b"3")
    log.limit = Position(0, number, 1)
    reader = log.reader(Lease(shard_id=FIRST, checkpoint=str(number), checkpoint_sub_sequence_number=1))
    assert data_of(reader) == []
    log.limit = Position(0, number, 2)
    assert data_of(reader) == [b"1", b"2", b"3"], "the worker drops what it has"


def test_kinesis_is_not_asked_while_the_limit_is_reached_or_records_wait_for_it() -> None:
    log = Log()
    first = log.put(b"1")
    log.put(b"2")
    reader = log.reader()
    data_of(reader)
    assert "GetRecords" not in log.kinesis.calls
    log.limit = Position(0, first, 0)
    assert data_of(reader) == [b"1"]
    asked = log.kinesis.calls["GetRecords"]
    assert data_of(reader) == []
    assert log.kinesis.calls["GetRecords"] == asked


def test_a_shard_ends_only_once_the_live_application_has_read_it_to_its_end() -> None:
    log = Log()
    number = log.put(b"1")
    log.close()
    log.limit = Position(0, number, 0)
    reader = log.reader()
    assert data_of(reader) == [b"1"]
    log.limit = EVERYTHING
    assert [data_of(reader) for _ in range(3)] == [[], [], []]
    log.limit = None
    batches = [reader.read(), reader.read()]
    assert [batch.records for batch in batches if batch] in ([], [[]])
    assert batches[-1] is None


@given(
    sizes=st.lists(st.integers(1, 4), max_size=12),
    steps=st.lists(st.integers(0, 40), max_size=12),
    starts=st.sets(st.integers(0, 11)),
)
def test_whatever_the_limits_the_records_up_to_them_are_given_once_and_in_order(
    sizes: list[int], steps: list[int], starts: set[int]
) -> None:
    log = Log()
    data = iter(range(1000))
    expected: list[tuple[Position, bytes]] = []
    for size in sizes:
        parts = [str(next(data)).encode() for _ in range(size)]
        number = log.put(*parts)
        expected += [(Position(0, number, sub), part) for sub, part in enumerate(parts)]
    reader, given_out = log.reader(), list[tuple[Position, bytes]]()
    for step, index in enumerate(sorted(steps)):
        log.limit = expected[min(index, len(expected) - 1)][0] if expected else NOTHING
        if step in starts and given_out:  # another process goes on from a checkpoint
            at = given_out[-1][0]
            reader = log.reader(
                Lease(shard_id=FIRST, checkpoint=str(at.sequence_number), checkpoint_sub_sequence_number=at[2])
            )
        for _ in range(len(sizes) + 1):
            batch = reader.read()
            assert batch is not None
            new = [record for record in batch.records if not given_out or record.position > given_out[-1][0]]
            given_out += [(record.position, record.data) for record in new]
        assert given_out == [each for each in expected if each[0] <= log.limit]


def shard(shard_id: str, *parents: str, closed: bool = False) -> Shard:
    return Shard(shard_id, HashRange(0, 1), frozenset(parents), closed)


def at(shard_id: str, checkpoint: str, sub: int = 0) -> Lease:
    return Lease(shard_id=shard_id, checkpoint=checkpoint, checkpoint_sub_sequence_number=sub)


@pytest.mark.parametrize(
    ("live", "other", "standing"),
    [
        (at(FIRST, "7", 1), at(FIRST, "7", 1), Standing.SAME),
        (at(FIRST, "7", 1), at(FIRST, "7", 0), Standing.BEHIND),
        (at(FIRST, "10"), at(FIRST, "9"), Standing.BEHIND),
        (at(FIRST, "7"), at(FIRST, "8"), Standing.AHEAD),
        (at(FIRST, "7"), at(FIRST, LATEST), Standing.BEHIND),
        (at(FIRST, "7"), at(FIRST, SHARD_END), Standing.AHEAD),
        (at(FIRST, SHARD_END), at(FIRST, "7"), Standing.BEHIND),
        (at(FIRST, SHARD_END), at(FIRST, SHARD_END), Standing.SAME),
        (at(FIRST, TRIM_HORIZON), at(FIRST, TRIM_HORIZON), Standing.SAME),
        (at(FIRST, "7"), None, Standing.BEHIND),
        (at(FIRST, SHARD_END), None, Standing.BEHIND),
        (at(FIRST, TRIM_HORIZON), None, Standing.SAME),
        (None, at(FIRST, "7"), Standing.AHEAD),
    ],
)
def test_one_stands_to_the_other_as_their_checkpoints_do(
    live: Lease | None, other: Lease | None, standing: Standing
) -> None:
    mine, theirs = [live] if live else [], [other] if other else []
    assert standings([shard(FIRST)], mine, theirs) == {FIRST: standing}


def test_an_ancestor_without_a_lease_was_read_and_a_shard_that_is_gone_does_not_count() -> None:
    shards = [shard(FIRST, closed=True), shard(CHILD, FIRST)]
    live = [at(CHILD, "7"), at(SECOND, "3")]
    assert standings(shards, live, [at(FIRST, SHARD_END), at(CHILD, "7")]) == {
        FIRST: Standing.SAME,
        CHILD: Standing.SAME,
    }
    assert standings(shards, live, [at(FIRST, "5"), at(CHILD, "7")])[FIRST] is Standing.BEHIND


def test_what_the_live_one_has_not_begun_is_taken_over_as_it_would_begin_it() -> None:
    live = [at(FIRST, "7"), Lease(shard_id=CHILD, owner="w", counter=5, checkpoint=LATEST, latest_since=3.0)]
    assert not_begun(live, [at(FIRST, "7")]) == [Lease(shard_id=CHILD, checkpoint=LATEST, latest_since=3.0)]
    assert not_begun(live, live) == []


def test_an_origin_beyond_the_retention_or_in_the_future_is_refused() -> None:
    assert checked_origin(1000, retention_seconds=100, now=1050) == Origin(1000)
    assert checked_origin(None, retention_seconds=100, now=1050) == Origin(None)
    with pytest.raises(SettingsError, match=r"its retention of 24 h ends at 1970-01-02T00:00:01.*--from-horizon"):
        checked_origin(10, retention_seconds=86_400, now=2 * 86_400)
    with pytest.raises(SettingsError, match="future"):
        checked_origin(2000, retention_seconds=100, now=1050)


def lead_of(log: Log, origin: Origin, *live: Lease) -> LiveLead:
    leases = MemoryLeases()
    for lease in live:
        leases.create(lease)
    lead = LiveLead(leases, log.client, "s", origin, stop=threading.Event(), clock=log.clock)
    lead.refresh()
    return lead


def test_a_shard_is_begun_at_the_origin_where_the_live_one_has_passed_it(manual_clock: Callable[[], Any]) -> None:
    clock = manual_clock()
    log = Log(clock)
    log.put(b"before")
    clock.wait(10)
    since = int(clock.time())
    number = log.put(b"since")
    lead = lead_of(log, Origin(since), at(FIRST, str(number)))
    (begun,) = lead.missing(log.shards(), set())
    assert (begun.checkpoint, begun.latest_since) == (LATEST, since)
    log.limit = None
    assert data_of(log.reader(begun)) == [b"since"]
    assert lead.missing(log.shards(), {FIRST}) == []


def test_a_shard_is_begun_where_the_live_one_stands_if_that_is_before_the_origin(
    manual_clock: Callable[[], Any],
) -> None:
    clock = manual_clock()
    log = Log(clock)
    number = log.put(b"1", b"2")
    clock.wait(10)
    live = at(FIRST, str(number), 1)
    lead = lead_of(log, Origin(int(clock.time())), live)
    assert lead.missing(log.shards(), set()) == [live], "nothing came since"
    log.put(b"3")
    assert lead.missing(log.shards(), set()) == [live], "the live one has not published what came since"
    assert lead_of(log, Origin(int(clock.time())), at(FIRST, TRIM_HORIZON)).missing(log.shards(), set()) == [
        at(FIRST, TRIM_HORIZON)
    ]


def test_parents_are_begun_before_their_children_whether_or_not_the_live_one_still_has_their_lease() -> None:
    log = Log()
    number = log.put(b"1")
    log.close()
    children = [shard_id_of(1), shard_id_of(2)]
    for live in ([], [at(FIRST, SHARD_END)]):
        lead = lead_of(log, Origin(None), *live, *(at(child, TRIM_HORIZON) for child in children))
        begun = lead.missing(log.shards()[::-1], set())
        assert [lease.shard_id for lease in begun] == [FIRST, *children]
        assert lead.limit(FIRST) is None
        assert lead.limit(children[0]) == Position(1, -1, -1)
    lead = lead_of(log, Origin(None), at(FIRST, str(number)))
    assert [lease.shard_id for lease in lead.missing(log.shards(), set())] == [FIRST], "it follows the live one"


def test_the_live_one_is_stopped_once_nobody_owns_its_leases_or_nobody_writes_them(
    manual_clock: Callable[[], Any],
) -> None:
    clock = manual_clock()
    leases = MemoryLeases()
    leases.create(at(FIRST, "7"))
    client: Any = FakeKinesis()
    lead = LiveLead(leases, client, "s", Origin(None), stop=threading.Event(), clock=clock)
    lead.refresh()
    assert lead.stopped(8)
    held = leases.take(leases.list()[0], "worker")
    assert held is not None
    lead.refresh()
    clock.wait(7)
    assert not lead.stopped(8)
    assert leases.renew(held) is not None
    lead.refresh()
    clock.wait(7)
    assert not lead.stopped(8)
    lead.refresh()
    clock.wait(1)
    assert lead.stopped(8)


class Following:
    """A live application's leases that a test moves, and a shadow that follows them in a thread."""

    def __init__(self, processor: Callable[[], Any]) -> None:
        self.log = Log()
        self.live = MemoryLeases()
        self.leases = MemoryLeases()
        self.states = MemoryStates(Namespace("shadow", "s", 1))
        self.stop = threading.Event()
        self.lead = LiveLead(self.live, self.log.client, "s", Origin(None), stop=self.stop)
        self.application = Application(
            name="shadow",
            stream="s",
            processor=processor,
            states=lambda _namespace: self.states,
            deadletters=MemoryDeadLetters,
            worker=WorkerSettings(checkpoint_seconds=0.01),
            local=LocalRunnerSettings(shard_sync_seconds=0.1),
        )

    def put(self, value: int) -> int:
        return self.log.put(json.dumps({"key": "k", "value": value, "id": str(value)}).encode())

    def run(self, until: Callable[[], bool], **options: Any) -> None:
        """Follow until it is so; then stop in order."""
        runner = LocalRunner(self.application, leases=self.leases, kinesis=self.log.client, lead=self.lead, **options)
        self.stop.clear()
        thread = threading.Thread(target=runner.run, args=[self.stop], daemon=True)
        thread.start()
        for _ in range(5000):
            if until():
                break
            threading.Event().wait(0.002)
        reached = until()
        self.stop.set()
        thread.join(10)
        assert reached

    def values(self) -> list[int]:
        return [value for stored in self.states.scan() for value in json.loads(stored.state)["values"]]

    def stands(self) -> set[Standing]:
        return {*standings(self.log.shards(), self.live.list(), self.leases.list()).values()}


def test_a_shadow_folds_what_the_live_one_checkpointed_and_nothing_beyond_across_a_reshard(
    sums: Callable[[], Any],
) -> None:
    following = Following(sums)
    numbers = [following.put(value) for value in range(6)]
    following.live.create(at(FIRST, str(numbers[2])))
    following.lead.refresh()
    following.run(lambda: following.stands() == {Standing.SAME})
    assert following.values() == [0, 1, 2]

    following.log.close()
    last = following.put(6)
    (row,) = following.live.list()
    assert following.live.checkpoint(row, SHARD_END, 0) is not None
    child = next(s.shard_id for s in following.log.shards() if s.parent_shard_ids and s.hash_range.contains(HASH))
    other = next(s.shard_id for s in following.log.shards() if s.parent_shard_ids and s.shard_id != child)
    following.live.create(at(child, str(last)))
    following.live.create(at(other, TRIM_HORIZON))
    following.lead.refresh()
    following.run(lambda: following.stands() == {Standing.SAME})
    assert following.values() == [0, 1, 2, 3, 4, 5, 6]
    assert all(lease.owner is None for lease in following.leases.list() if not lease.ended)


def test_a_runner_that_may_not_run_after_all_gives_its_lease_back_and_reads_nothing(sums: Callable[[], Any]) -> None:
    following = Following(sums)
    number = following.put(1)
    following.live.create(at(FIRST, str(number)))
    following.lead.refresh()

    def refuse() -> None:
        raise LeasesHeldElsewhere("it was switched")

    runner = LocalRunner(
        following.application,
        leases=following.leases,
        kinesis=following.log.client,
        lead=following.lead,
        confirm=refuse,
    )
    with pytest.raises(LeasesHeldElsewhere, match="it was switched"):
        runner.run(following.stop)
    assert [(lease.owner, lease.checkpoint) for lease in following.leases.list()] == [(None, TRIM_HORIZON)]
    assert following.values() == []


def test_a_runner_takes_its_leases_in_the_order_of_their_shards_as_a_switch_expects(sums: Callable[[], Any]) -> None:
    following = Following(sums)
    following.log.kinesis.create_stream(StreamName="t", ShardCount=5)
    shards = list_shards(following.log.client, "t")
    for each in reversed(shards):
        following.leases.create(at(each.shard_id, TRIM_HORIZON))
    acquired: list[TelemetryEvent] = []
    runner = LocalRunner(
        msgspec.structs.replace(following.application, stream="t"),
        leases=following.leases,
        kinesis=following.log.client,
        telemetry=Telemetry(acquired.append, lambda _event: following.stop.set()),
    )
    runner.run(following.stop)
    taken = [event.shard_id for event in acquired if isinstance(event, LeaseAcquired)]
    assert taken == sorted(each.shard_id for each in shards)


@pytest.mark.parametrize(
    ("text", "from_horizon", "sentence"),
    [
        ("yesterday", False, "is not a time: write it as"),
        ("2026-11-01T00:00:00", False, "has no time zone: end it with Z"),
        ("2026-11-01T00:00:00Z", True, "give one of them"),
    ],
)
def test_a_beginning_that_is_not_one_time_is_refused(text: str, from_horizon: bool, sentence: str) -> None:
    with pytest.raises(SettingsError, match=sentence):
        origin_given(text, from_horizon=from_horizon)


def test_a_beginning_is_a_time_in_whole_seconds_or_the_horizon_or_not_given() -> None:
    assert origin_given("2026-11-01T02:00:00.9+02:00", from_horizon=False) == (True, 1_793_491_200)
    assert origin_given(None, from_horizon=True) == (True, None)
    assert origin_given(None, from_horizon=False) == (False, None)
