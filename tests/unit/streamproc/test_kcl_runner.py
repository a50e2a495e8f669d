"""The runner's supervision, with a stand-in for the daemon: starts, restarts, stops, kills and refusals."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from streamproc.application import Application
from streamproc.deadletters.memory import MemoryDeadLetters
from streamproc.errors import LeasesHeldElsewhere, MissingExtra, SettingsError
from streamproc.lease import LATEST, Lease
from streamproc.leases.memory import MemoryLeases
from streamproc.runners.kcl import daemon as daemons, runner as runners
from streamproc.runners.kcl.daemon import WorkFolder, daemon_environment, find_jars, find_java, java_version
from streamproc.runners.kcl.lines import Lines, daemon_line, encoded
from streamproc.runners.kcl.properties import KclRunnerSettings
from streamproc.runners.kcl.pulse import ChildSeen, children_seen
from streamproc.runners.kcl.runner import FleetWorkerFailed, KclRunner
from streamproc.states.memory import MemoryStates
from streamproc.testing.kinesis import FakeKinesis

SHARD = "shardId-000000000001"
PATIENCE_SECONDS = 20.0
ENDING = "Process terminated, will initiate shutdown."
CHECKPOINTED = json.dumps({"time": "t", "level": "info", "event": "streamproc.checkpointed", "shard_id": SHARD})


def child_failed(reason: str, code: int) -> str:
    line = {"time": "t", "level": "error", "event": "streamproc.child_failed", "shard_id": SHARD}
    return json.dumps({**line, "reason": reason, "exit_code": code})


class ShortWaits:
    """Real time; a wait takes a twentieth of it."""

    def time(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()

    def wait(self, seconds: float, stop: threading.Event | None = None) -> bool:
        return (stop or threading.Event()).wait(seconds / 20) and stop is not None


class Fleet:
    """A runner in a thread, whose daemon follows a plan."""

    def __init__(self, folder: Path, sums: Any) -> None:
        self.folder = folder
        kinesis: Any = FakeKinesis(clock=ShortWaits())
        kinesis.create_stream(StreamName="s", ShardCount=2)
        kinesis.meta = SimpleNamespace(region_name="eu-west-1")
        self.kinesis = kinesis
        self.leases = MemoryLeases()
        self.written = io.BytesIO()
        self.stop = threading.Event()
        self.leader_released: list[str] = []
        self.failure: BaseException | None = None
        self.sums = sums
        self.thread = threading.Thread(target=self._run)
        self.runner: KclRunner

    def plan(self, *entries: dict[str, Any], **settings: Any) -> None:
        (self.folder / "plan.json").write_text(json.dumps(entries))
        application = Application(
            name="app",
            stream="s",
            processor=self.sums,
            states=MemoryStates,
            deadletters=MemoryDeadLetters,
            kcl=KclRunnerSettings(**{"failover_seconds": 2, "drain_seconds": 1} | settings),
        )
        self.runner = KclRunner(
            application,
            app="shop:app",
            leases=self.leases,
            kinesis=self.kinesis,
            lines=Lines(self.written),
            clock=ShortWaits(),
            worker_id="kcl:me",
            command=[sys.executable, str(Path(__file__).with_name("fake_multilang_daemon.py"))],
            leader=lambda: None,
            release_leader=lambda: self.leader_released.append("kcl:me"),
        )
        self.thread.start()

    def _run(self) -> None:
        try:
            self.runner.run(self.stop)
        except Exception as error:  # noqa: BLE001  # for the test to look at
            self.failure = error

    def end(self) -> BaseException | None:
        """What the runner ended with, by itself."""
        self.thread.join(PATIENCE_SECONDS)
        assert not self.thread.is_alive()
        return self.failure

    def until_started(self, times: int = 1) -> dict[str, Any]:
        path = self.folder / f"start-{times - 1}"
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not path.exists():
            assert self.thread.is_alive(), self.failure
            assert time.monotonic() < deadline
            threading.Event().wait(0.01)
        note: dict[str, Any] = json.loads(path.read_text())
        return note

    def lines(self, event: str) -> list[dict[str, Any]]:
        found = [json.loads(line) for line in self.written.getvalue().splitlines() if line.startswith(b"{")]
        return [line for line in found if line["event"] == event]


@pytest.fixture
def fleet(tmp_path: Path, sums: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fleet]:
    monkeypatch.setenv("FAKE_DAEMON", str(tmp_path))
    monkeypatch.setattr(runners, "ORPHAN_SECONDS", 0.3)
    monkeypatch.setattr(runners, "GIVE_UP_SECONDS", 0.2)
    monkeypatch.setattr(runners, "AFTER_DRAIN_SECONDS", 0.1)
    fleet = Fleet(tmp_path, sums)
    yield fleet
    fleet.stop.set()
    if fleet.thread.ident is not None:
        fleet.runner.kill()
        fleet.thread.join()


def until(reached: Callable[[], bool]) -> None:
    """Poll another thread or process."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not reached():
        assert time.monotonic() < deadline
        threading.Event().wait(0.01)


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_a_stop_asks_the_daemon_to_end_and_gives_the_leases_up(fleet: Fleet) -> None:
    fleet.plan({})
    note = fleet.until_started()
    assert {lease.shard_id for lease in fleet.leases.list()} == {"shardId-000000000000", SHARD}
    taken = fleet.leases.take(fleet.leases.list()[0], "kcl:me")
    assert taken is not None
    fleet.stop.set()
    assert fleet.end() is None
    assert gone(note["pid"])
    assert [lease.owner for lease in fleet.leases.list()] == [None, None]
    assert fleet.leader_released == ["kcl:me"]
    assert not Path(note["settings"]["pulse_folder"]).exists(), "its folder is gone with it"


def test_the_daemon_is_given_its_properties_and_its_children_their_settings(fleet: Fleet) -> None:
    fleet.plan({})
    note = fleet.until_started()
    assert note["argv"][1::2] == ["--properties-file", "--log-configuration"]
    assert "workerId=kcl\\:me\n" in note["properties"]
    assert "executableName=/bin/sh\\ " in note["properties"]
    assert "shutdownGraceMillis=1000\n" in note["properties"]
    assert note["settings"]["app"] == "shop:app"
    assert note["settings"]["stream_created_at"] > 0


def test_a_daemon_that_dies_is_started_again_as_the_same_worker_with_the_reason_in_a_line(fleet: Fleet) -> None:
    fleet.plan({"lines": [child_failed("out of luck", 1), child_failed("lost its daemon", 1)], "exit": 1}, {})
    note = fleet.until_started(2)
    assert "workerId=kcl\\:me\n" in note["properties"]
    (died,) = fleet.lines("streamproc.daemon_died")
    assert (died["reason"], died["exit_code"], died["level"]) == ("out of luck", 1, "error")


def test_what_the_daemon_said_last_is_the_reason_where_no_child_gave_one(fleet: Fleet) -> None:
    line = {
        "level": "ERROR",
        "loggerName": "a.b.Scheduler",
        "timestamp": 0,
        "message": "no way to {}",
        "arguments": ["x"],
    }
    fleet.plan({"lines": ["usage: something", json.dumps(line)], "exit": 3}, {"lines": ["bad option"], "exit": 4}, {})
    fleet.until_started(3)
    assert [died["reason"] for died in fleet.lines("streamproc.daemon_died")] == [
        "KCL's daemon ended with exit code 3: no way to x",
        "KCL's daemon ended with exit code 4: bad option",
    ]


def test_an_error_that_stays_ends_the_worker_with_its_sentence_and_exit_code(fleet: Fleet) -> None:
    fleet.plan({"lines": [child_failed("a state was written by fold 3", 8)], "exit": 1})
    failure = fleet.end()
    assert isinstance(failure, FleetWorkerFailed)
    assert (str(failure), failure.exit_code) == ("a state was written by fold 3", 8)
    assert len(list(fleet.folder.glob("start-*"))) == 3


def test_deaths_without_a_checkpoint_between_are_a_crash_loop(fleet: Fleet) -> None:
    fleet.plan(
        {"exit": 1}, {"lines": [CHECKPOINTED], "exit": 1}, {"lines": [child_failed("boom", 1)], "exit": 1}, deaths_max=2
    )
    failure = fleet.end()
    assert isinstance(failure, FleetWorkerFailed)
    assert "died 2 times without a checkpoint between: boom" in str(failure)
    assert failure.exit_code == 1
    assert len(list(fleet.folder.glob("start-*"))) == 4


def test_a_shard_that_is_not_checkpointed_when_the_time_is_over_is_named(fleet: Fleet) -> None:
    fleet.plan({"pulse": SHARD, "term": "ignore"})
    note = fleet.until_started()
    fleet.stop.set()
    failure = fleet.end()
    assert isinstance(failure, FleetWorkerFailed)
    assert f"{SHARD}: no last checkpoint was made within 1 s" in str(failure)
    assert failure.exit_code == 1
    assert gone(note["pid"])


def test_a_daemon_that_does_not_end_although_its_children_are_drained_is_killed_without_a_failure(
    fleet: Fleet,
) -> None:
    fleet.plan({"term": "ignore"}, drain_seconds=600)
    note = fleet.until_started()
    fleet.stop.set()
    assert fleet.end() is None
    assert gone(note["pid"])


def test_a_stop_that_a_child_fails_in_ends_with_the_child_s_exit_code(fleet: Fleet) -> None:
    fleet.plan({"pulse": SHARD, "lines": [child_failed("the table is gone", 5)]})
    fleet.until_started()
    fleet.stop.set()
    failure = fleet.end()
    assert isinstance(failure, FleetWorkerFailed)
    assert "before the daemon ended" in str(failure)
    assert "the table is gone" in str(failure)
    assert failure.exit_code == 5


def test_children_that_outlive_their_daemon_are_killed_before_another_is_started(fleet: Fleet) -> None:
    fleet.plan({"orphan": True, "pulse": SHARD, "exit": 1}, {})
    fleet.until_started(2)
    note = json.loads((fleet.folder / "start-0").read_text())
    assert gone(note["orphan"])
    assert [line["shard_ids"] for line in fleet.lines("streamproc.orphans_killed")] == [[SHARD]]


def test_once_a_child_is_dead_the_daemon_is_left_alone_until_its_siblings_are_drained_and_no_longer(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[int] = []

    def look(folder: Path) -> list[ChildSeen]:
        seen = children_seen(folder)
        looks.append(len(seen))
        return seen

    monkeypatch.setattr(runners, "children_seen", look)
    ending = {"level": "INFO", "loggerName": "a.MultiLangDaemon", "timestamp": 0, "message": ENDING}
    failed = {"level": "ERROR", "loggerName": "a.MultiLangProtocol", "timestamp": 0, "message": "a child is gone"}
    late = {"level": "ERROR", "loggerName": "a.MultiLangDaemon", "timestamp": 0, "message": "the grace is over"}
    lines = [json.dumps(line, separators=(",", ":")) for line in (failed, ending, late)]
    fleet.plan({"orphan": "serves", "pulse": SHARD, "lines": lines, "term": "ignore"}, {})
    note = fleet.until_started()
    until(lambda: len(looks) > 3)
    assert not gone(note["pid"]), "a sibling is at its last checkpoint"
    (Path(note["settings"]["pulse_folder"]) / f"{note['orphan']}.pulse").unlink()
    fleet.until_started(2)
    assert gone(note["pid"])
    (died,) = fleet.lines("streamproc.daemon_died")
    assert died["reason"] == "KCL's daemon ended by itself, as it does when a child dies: a child is gone"


def test_a_second_signal_kills_the_daemon_and_its_children_at_once(fleet: Fleet) -> None:
    fleet.plan({"orphan": True, "term": "ignore"}, drain_seconds=600)
    note = fleet.until_started()
    fleet.stop.set()
    fleet.runner.kill()
    fleet.end()
    assert gone(note["pid"])
    assert gone(note["orphan"])


def test_leases_of_a_living_local_runner_are_refused_and_those_of_the_fleet_are_not(fleet: Fleet) -> None:
    fleet.leases.create(Lease(shard_id=SHARD, owner="host:1:abc", counter=1))
    fleet.leases.create(Lease(shard_id="shardId-000000000000", owner="kcl:other", counter=1))
    done = threading.Event()

    def renew() -> None:
        while not done.wait(0.01):
            for lease in fleet.leases.list():
                fleet.leases.renew(lease)

    renewing = threading.Thread(target=renew)
    renewing.start()
    try:
        fleet.plan({})
        failure = fleet.end()
    finally:
        done.set()
        renewing.join()
    assert isinstance(failure, LeasesHeldElsewhere)
    assert "host:1:abc" in str(failure)
    assert "kcl:other" not in str(failure)


def test_leases_of_a_dead_local_runner_are_no_reason_to_refuse(fleet: Fleet) -> None:
    fleet.leases.create(Lease(shard_id=SHARD, owner="host:1:abc", counter=1))
    fleet.plan({})
    assert fleet.until_started()


def test_the_lease_table_of_another_application_is_refused(fleet: Fleet) -> None:
    fleet.leases.create(Lease(shard_id="123456789012:other:1:shardId-000000000000"))
    fleet.plan({})
    failure = fleet.end()
    assert isinstance(failure, SettingsError)
    assert "the lease table of another application" in str(failure)


def test_leases_that_are_missing_are_made_and_those_that_are_there_stay(fleet: Fleet) -> None:
    there = Lease(shard_id=SHARD, counter=7, checkpoint="123")
    fleet.leases.create(there)
    fleet.plan({})
    fleet.until_started()
    leases = {lease.shard_id: lease for lease in fleet.leases.list()}
    assert leases.keys() == {"shardId-000000000000", SHARD}
    assert leases[SHARD] == there


def test_the_first_leases_begin_where_the_setting_says(fleet: Fleet) -> None:
    fleet.plan({}, initial_position=LATEST)
    fleet.until_started()
    assert {lease.checkpoint for lease in fleet.leases.list()} == {LATEST}


def test_lines_of_the_daemon_get_their_level_and_those_of_the_children_pass_unchanged() -> None:
    written = io.BytesIO()
    lines = Lines(written)
    child = b'{"time":"t","level":"info","event":"streamproc.progress"}'
    for line in (child, b"printed by the application", b'{"loggerName": no json'):
        assert daemon_line(line) is None
        lines.pass_on(line + b"\r\n")
    assert written.getvalue().splitlines() == [child, b"printed by the application", b'{"loggerName": no json']
    thrown = {
        "className": "a.B",
        "message": "out",
        "stepArray": [{"className": "x.Y", "methodName": "go", "lineNumber": 7}],
        "cause": {"className": "c.D", "message": "in"},
    }
    logged = {
        "timestamp": 1_700_000_000_123,
        "level": "WARN",
        "threadName": "main",
        "loggerName": "software.amazon.kinesis.coordinator.Scheduler",
        "message": "{} of {} shards {}",
        "arguments": ["one", 2],
        "throwable": thrown,
    }
    own = daemon_line(json.dumps(logged, separators=(",", ":")).encode())
    assert own is not None
    assert json.loads(encoded(own)) == {
        "time": "2023-11-14T22:13:20.123+00:00",
        "level": "warning",
        "event": "kcl",
        "logger": "Scheduler",
        "message": "one of 2 shards {}",
        "thread": "main",
        "error": "a.B: out (Y.go:7); caused by c.D: in",
    }


def test_an_emulator_is_spoken_to_without_cbor_and_kinesis_with_it() -> None:
    assert daemon_environment({"A": "b"}, kinesis_endpoint="http://127.0.0.1:1") == {"A": "b", "CBOR_ENABLED": "false"}
    assert daemon_environment({"A": "b"}, kinesis_endpoint="https://vpce-1.kinesis.amazonaws.com") == {"A": "b"}
    assert daemon_environment({}, kinesis_endpoint=None) == {}


def test_a_kinesis_without_http_2_is_refused_before_anything_is_started() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(100)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        answering = threading.Thread(target=answer)
        answering.start()
        with pytest.raises(SettingsError, match="does not speak HTTP/2"):
            daemons.refuse_without_http2(f"http://127.0.0.1:{listener.getsockname()[1]}")
        answering.join()
    daemons.refuse_without_http2("https://kinesis.eu-west-1.amazonaws.com")


def test_a_missing_java_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    with pytest.raises(MissingExtra, match="apt-get install default-jre-headless"):
        find_java()
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "nothing"))
    with pytest.raises(MissingExtra, match=r"JAVA_HOME is .*nothing"):
        find_java()


@pytest.mark.parametrize(
    ("says", "words"), [('openjdk version "1.7.0_80"', "is Java 7"), ("Unable to locate a Java Runtime", "is no Java")]
)
def test_a_java_that_is_too_old_or_none_is_named(tmp_path: Path, says: str, words: str) -> None:
    java = tmp_path / "java"
    java.write_text(f"#!/bin/sh\necho '{says}' >&2\n")
    java.chmod(0o755)
    with pytest.raises(MissingExtra, match=words):
        java_version(str(java))


@pytest.mark.parametrize(("says", "version"), [('java version "1.8.0_412"', 8), ('openjdk version "21.0.3" 2024', 21)])
def test_versions_are_read_in_their_old_and_new_form(tmp_path: Path, says: str, version: int) -> None:
    java = tmp_path / "java"
    java.write_text(f"#!/bin/sh\necho '{says}' >&2\n")
    java.chmod(0o755)
    assert java_version(str(java)) == version


def test_a_missing_kclpy_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(MissingExtra, match=r"pip install 'streamproc\[kcl\]'"):
        find_jars()


def test_a_temporary_folder_with_a_space_is_refused_since_kcl_splits_the_command(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="set TMPDIR"):
        _ = WorkFolder(tmp_path / "my files").executable


def test_the_daemon_dies_with_a_runner_that_is_killed() -> None:
    program = """
import sys, time
from streamproc.runners.kcl.daemon import Daemon
print(Daemon([sys.executable, "-c", "import time; time.sleep(600)"], {}, lambda line: None).pid, flush=True)
time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, cwd=Path.cwd()) as runner:
        assert runner.stdout is not None
        pid = int(runner.stdout.readline())
        assert os.getpgid(pid) == pid, "a group of its own: a Ctrl-C at the terminal does not reach it"
        runner.kill()
    until(lambda: gone(pid))
