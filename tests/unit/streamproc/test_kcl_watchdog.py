"""What the watchdog decides, and what the runner decides when a daemon dies."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from streamproc.errors import ServiceUnreachable
from streamproc.lease import Lease
from streamproc.leases.memory import MemoryLeases
from streamproc.runners.kcl.properties import KclRunnerSettings
from streamproc.runners.kcl.pulse import ChildSeen, Pulse, children_seen, forget_children
from streamproc.runners.kcl.restarts import PERMANENT_DEATHS_MAX, Death, GiveUp, Restart, after_deaths
from streamproc.runners.kcl.watchdog import (
    ChildKilled,
    LeaderLock,
    LeaderLockStale,
    LeaderSeen,
    ShardMoved,
    ShardStuck,
    Watchdog,
    hung,
    leader_is_stale,
    leader_seen,
    stuck,
    unlock_command,
)
from streamproc.telemetry import Retried, Telemetry, TelemetryEvent

SHARD = "shardId-000000000001"


def seen(**fields: Any) -> ChildSeen:
    fields = {"action_since": None, "user_code_since": None, "last_done": 100.0} | fields
    return ChildSeen(pid=1, shard_id=SHARD, actions=5, millis_behind_latest=4000, **fields)


def test_only_a_child_that_is_in_the_applications_code_for_too_long_hangs() -> None:
    in_code = seen(action_since=90.0, user_code_since=100.0)
    waiting = seen(action_since=0.0)
    assert hung([in_code, waiting], 130.0, 30.0) == []
    assert hung([in_code, waiting], 130.1, 30.0) == [in_code]
    assert hung([waiting], 1e9, 30.0) == [], "a store that is away for ever is no reason to kill"


@pytest.mark.parametrize(
    ("child", "why"),
    [
        (seen(action_since=90.0, user_code_since=100.0), "it is in the application's code"),
        (seen(action_since=100.0), "it waits for a store or a sink"),
        (seen(last_done=100.0), "the daemon sends nothing, not even empty batches"),
    ],
)
def test_a_shard_of_which_nothing_is_finished_is_stuck_and_says_where(child: ChildSeen, why: str) -> None:
    assert stuck([child], 160.0, 60.0) == []
    (found,) = stuck([child], 170.0, 60.0)
    assert (found.why, found.seconds) == (why, 70.0)
    assert found.iterator_age_ms == 74_000, "what it was behind, and the time since"


def test_a_child_that_finishes_batches_is_not_stuck_however_far_behind_it_is() -> None:
    assert stuck([seen(last_done=159.0)], 160.0, 60.0) == []


LOCK = LeaderLock(owner="kcl:dead", version="v1", lease_seconds=120.0)


def leases(**counters: int) -> list[Lease]:
    return [
        Lease(shard_id=f"shardId-{n}", owner=f"kcl:{owner}", counter=counter)
        for n, (owner, counter) in enumerate(counters.items())
    ]


def test_a_leaders_lock_is_stale_when_it_outlives_its_duration_and_its_owner_renews_no_lease() -> None:
    known = leader_seen(None, LOCK, 0.0)
    assert leader_seen(known, LOCK, 50.0) == LeaderSeen(lock=LOCK, since=0.0)
    still = leases(dead=1, living=1), leases(dead=1, living=2)
    assert not leader_is_stale(known, 150.0, *still)
    assert leader_is_stale(known, 150.1, *still)
    assert not leader_is_stale(known, 1000.0, leases(dead=1), leases(dead=2)), "its owner lives"


def test_a_lock_that_is_renewed_released_or_taken_is_not_stale() -> None:
    known = leader_seen(None, LOCK, 0.0)
    renewed = LeaderLock(owner="kcl:dead", version="v2", lease_seconds=120.0)
    assert leader_seen(known, renewed, 200.0) == LeaderSeen(lock=renewed, since=200.0)
    assert leader_seen(known, None, 200.0) is None
    assert not leader_is_stale(None, 1000.0, [], [])


def death(code: int | None = None, *, checkpointed: bool = False, reason: str = "why") -> Death:
    return Death(reason=reason, child_exit_code=code, daemon_exit_code=1, checkpointed=checkpointed)


def test_a_dead_daemon_is_started_again_after_a_wait_that_grows_to_a_bound() -> None:
    waits = []
    for count in range(1, 10):
        decision = after_deaths([death()] * count, deaths_max=10)
        assert isinstance(decision, Restart)
        waits.append(decision.wait_seconds)
    assert waits == [1, 2, 4, 8, 16, 30, 30, 30, 30]


def test_a_checkpoint_ends_the_count_so_that_a_worker_that_gets_on_is_never_given_up() -> None:
    assert after_deaths([death(checkpointed=True)] * 50, deaths_max=10) == Restart(wait_seconds=1)
    assert after_deaths([*[death()] * 9, death(checkpointed=True), death()], deaths_max=10) == Restart(wait_seconds=1)


def test_too_many_deaths_without_a_checkpoint_end_the_worker_with_the_last_reason() -> None:
    decision = after_deaths([*[death()] * 9, death(1, reason="boom")], deaths_max=10)
    assert isinstance(decision, GiveUp)
    assert decision.exit_code == 1
    assert "10 times without a checkpoint between: boom" in decision.sentence


@pytest.mark.parametrize("code", [2, 3, 5, 7, 8, 9, 11])
def test_a_childs_error_that_stays_ends_the_worker_soon_with_its_code_and_sentence(code: int) -> None:
    deaths = [death(code, reason="STREAMPROC_MODEL is not set")] * PERMANENT_DEATHS_MAX
    assert isinstance(after_deaths(deaths[:-1], deaths_max=10), Restart)
    assert after_deaths(deaths, deaths_max=10) == GiveUp(exit_code=code, sentence="STREAMPROC_MODEL is not set")
    assert isinstance(after_deaths([death(2), death(8), death(2)], deaths_max=10), Restart)


def test_an_error_that_may_pass_is_no_reason_to_end_soon() -> None:
    for code in (1, 4, 6):
        assert isinstance(after_deaths([death(code)] * 9, deaths_max=10), Restart)


def test_a_pulse_tells_the_shard_where_the_child_is_and_what_it_is_behind(tmp_path: Path) -> None:
    pulse = Pulse(tmp_path)
    pulse.serves(SHARD)
    with pulse.action():
        pass
    with pulse.action(1234):
        with pulse:
            (child,) = children_seen(tmp_path)
            assert child.shard_id == SHARD
            assert child.action_since is not None
            assert child.user_code_since is not None
            assert child.user_code_since >= child.action_since
            assert (child.actions, child.millis_behind_latest) == (1, 1234)
        (child,) = children_seen(tmp_path)
        assert child.user_code_since is None
    (child,) = children_seen(tmp_path)
    assert (child.action_since, child.actions) == (None, 2)
    pulse.drained()
    assert children_seen(tmp_path) == []


def test_an_error_leaves_the_application_s_code_and_the_pulse_stays_for_the_shard_is_not_drained(
    tmp_path: Path,
) -> None:
    pulse = Pulse(tmp_path)

    def fail() -> None:
        with pulse.action(), pulse:
            raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011  # the one above
        fail()
    (child,) = children_seen(tmp_path)
    assert child.user_code_since is None
    forget_children(tmp_path)
    assert children_seen(tmp_path) == []


@pytest.fixture
def clock(manual_clock: Any) -> Any:
    """One that the test moves."""
    return manual_clock()


class Dogs:
    """A watchdog whose looks the test makes, on the pulse of a child that the test is."""

    def __init__(self, folder: Path, clock: Any, **settings: Any) -> None:
        self.telemetry: list[TelemetryEvent] = []
        self.leases = MemoryLeases()
        self.lock: LeaderLock | None = None
        self.is_away = False
        self.children: set[int] = set()
        self.watchdog = Watchdog(
            KclRunnerSettings(**settings),
            folder,
            worker_id="kcl:me",
            unlock_command=unlock_command("shop:app", "shop v2"),
            is_child=self.children.__contains__,
            leases=self.leases,
            leader=self._leader,
            clock=clock,
            telemetry=Telemetry(self.telemetry.append),
        )

    def _leader(self) -> LeaderLock | None:
        if self.is_away:
            raise ServiceUnreachable("away")
        return self.lock


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A process that only waits."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


def pulse_of(folder: Path, pid: int) -> Pulse:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.getpid", lambda: pid)
        return Pulse(folder, SHARD)


def test_a_hung_child_of_the_daemon_is_killed_and_no_other_process_ever(
    tmp_path: Path, clock: Any, sleeper: subprocess.Popen[bytes]
) -> None:
    dogs = Dogs(tmp_path, clock, user_code_seconds_max=10)
    pulse = pulse_of(tmp_path, sleeper.pid)
    with pulse.action(), pulse:
        (child,) = children_seen(tmp_path)
        clock.now = (child.user_code_since or 0) + 11
        dogs.watchdog.look_at_children()
        assert sleeper.poll() is None, "its number is that of a process which the daemon did not start"
        dogs.children.add(sleeper.pid)
        dogs.watchdog.look_at_children()
    assert sleeper.wait(10) == -9
    assert dogs.telemetry == [ChildKilled(shard_id=SHARD, pid=sleeper.pid, seconds=11.0)]


def test_a_stuck_shard_is_reported_once_and_once_more_when_it_moves(
    tmp_path: Path, clock: Any, sleeper: subprocess.Popen[bytes]
) -> None:
    dogs = Dogs(tmp_path, clock, stuck_seconds=10)
    dogs.children.add(sleeper.pid)
    pulse = pulse_of(tmp_path, sleeper.pid)
    with pulse.action(500):
        (child,) = children_seen(tmp_path)
        clock.now = (child.action_since or 0) + 11
        dogs.watchdog.look_at_children()
        dogs.watchdog.look_at_children()
    clock.now = children_seen(tmp_path)[0].last_done + 1
    dogs.watchdog.look_at_children()
    why = "it waits for a store or a sink"
    assert dogs.telemetry == [
        ShardStuck(shard_id=SHARD, pid=sleeper.pid, seconds=11.0, why=why, iterator_age_ms=11_500),
        ShardMoved(shard_id=SHARD, pid=sleeper.pid),
    ]


def test_a_stale_leader_is_reported_once_with_the_command_that_mends_it(tmp_path: Path, clock: Any) -> None:
    dogs = Dogs(tmp_path, clock)
    dogs.lock = LOCK
    dogs.leases.create(Lease(shard_id=SHARD, owner="kcl:dead", counter=3))
    for _ in range(4):
        dogs.watchdog.look_at_leader()
        clock.now += 76
    command = "streamproc leases unlock-leader -A shop:app --name 'shop v2'"
    assert dogs.telemetry == [LeaderLockStale(owner="kcl:dead", seconds=152.0, command=command)]


def test_a_shard_whose_lease_is_held_and_that_has_no_process_is_reported_once(tmp_path: Path, clock: Any) -> None:
    dogs = Dogs(tmp_path, clock, stuck_seconds=20)
    dogs.leases.create(Lease(shard_id=SHARD, owner="kcl:me"))
    dogs.leases.create(Lease(shard_id="shardId-2", owner="kcl:me", parent_shard_ids=frozenset({SHARD})))
    dogs.leases.create(Lease(shard_id="shardId-3", owner="kcl:other"))
    for _ in range(6):
        dogs.watchdog.look_at_leader()
        clock.now += 15
    (event,) = dogs.telemetry
    assert isinstance(event, ShardStuck)
    assert (event.shard_id, event.pid, event.seconds) == (SHARD, 0, 30.0), "a child waits for its parents"
    assert event.why == "the daemon holds its lease and starts no process for it"


def test_a_table_that_is_away_is_said_and_looked_at_again(tmp_path: Path, clock: Any) -> None:
    dogs = Dogs(tmp_path, clock)
    dogs.is_away = True
    dogs.watchdog.look_at_leader()
    (event,) = dogs.telemetry
    assert isinstance(event, Retried)
    assert event.error == "away"
