"""The relay over real sockets: what a child says arrives, and a parent that is gone or slow costs it nothing."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from streamproc import telemetry as facts
from streamproc.errors import SettingsError
from streamproc.metrics.relay import ENVIRONMENT_VARIABLE, EVENTS_WAITING_MAX, RelayReceiver, RelaySender
from streamproc.telemetry import TelemetryEvent

ONE = "shardId-000000000001"
PATIENCE_SECONDS = 10.0


def committed(records: int = 1) -> facts.BatchCommitted:
    return facts.BatchCommitted(
        shard_id=ONE,
        records=records,
        events_folded=records,
        events_skipped=0,
        outputs=1,
        batch_seconds=0.01,
        step_seconds={"fold": 0.01},
        millis_behind_latest=5,
        position="a:1",
    )


class Parent:
    """A receiver and what it emitted."""

    def __init__(self, is_alive: Callable[[int], bool] | None = None) -> None:
        self.events: list[TelemetryEvent] = []
        self._changed = threading.Condition()
        self.receiver = RelayReceiver(self._take, is_alive=is_alive)

    def _take(self, event: TelemetryEvent) -> None:
        with self._changed:
            self.events.append(event)
            self._changed.notify_all()

    def hears(self, event: TelemetryEvent) -> bool:
        """Wait for an event."""
        with self._changed:
            return self._changed.wait_for(lambda: event in self.events, PATIENCE_SECONDS)

    def of(self, event_type: type[TelemetryEvent]) -> list[TelemetryEvent]:
        return [event for event in self.events if type(event) is event_type]


@pytest.fixture
def parent() -> Iterator[Parent]:
    parent = Parent()
    yield parent
    parent.receiver.close()


@pytest.fixture
def send() -> Iterator[Callable[..., RelaySender]]:
    """Makes senders that send when they are told to."""
    made: list[RelaySender] = []

    def make(path: str, pid: int | None = None) -> RelaySender:
        made.append(RelaySender(path, interval_seconds=3600, pid=pid))
        return made[-1]

    yield make
    for sender in made:
        sender.close()


def test_events_arrive_whole_and_in_order(parent: Parent, send: Callable[..., RelaySender]) -> None:
    sender = send(parent.receiver.path)
    letter = facts.DeadLettered(shard_id=ONE, position="p", kind="event", reason="not JSON")
    for event in (committed(1), letter, committed(2)):
        sender(event)
    sender.flush()
    assert parent.hears(committed(2))
    assert parent.events == [facts.ChildStarted(pid=os.getpid()), committed(1), letter, committed(2)]


def test_the_names_by_which_events_travel_are_unique() -> None:
    types = TelemetryEvent.__subclasses__()
    assert len({facts.event_name(each) for each in types}) == len(types)


def test_a_second_with_more_than_a_datagram_holds_is_several(parent: Parent, send: Callable[..., RelaySender]) -> None:
    sender = send(parent.receiver.path)
    letters = [
        facts.DeadLettered(shard_id=ONE, position=str(number), kind="event", reason="x" * 2000) for number in range(200)
    ]
    for letter in letters:
        sender(letter)
    while sender._waiting:  # where the kernel's queue is short, the rest waits for the next second
        sender.flush()
    assert parent.hears(letters[-1])
    assert parent.of(facts.DeadLettered) == letters


def test_a_child_that_closes_has_ended_with_its_shard(parent: Parent, send: Callable[..., RelaySender]) -> None:
    sender = send(parent.receiver.path)
    sender(committed())
    sender.close()
    assert parent.hears(facts.ChildEnded(pid=os.getpid(), shard_id=ONE))
    assert parent.events[-2] == committed(), "what it said last came before"


def test_a_child_that_died_without_a_word_has_ended_too(send: Callable[..., RelaySender]) -> None:
    dead: set[int] = set()
    parent = Parent(is_alive=lambda pid: pid not in dead)
    try:
        send(parent.receiver.path, 4002).flush()
        sender = send(parent.receiver.path, 4001)
        sender(committed())
        sender.flush()
        assert parent.hears(committed())
        dead.add(4001)
        assert parent.hears(facts.ChildEnded(pid=4001, shard_id=ONE))
        assert facts.ChildEnded(pid=4002, shard_id=None) not in parent.events
    finally:
        parent.receiver.close()


def test_a_parent_that_is_gone_costs_nothing_and_a_new_one_at_the_path_hears_what_was_lost(
    tmp_path: Path, send: Callable[..., RelaySender]
) -> None:
    path = str(tmp_path / "relay")
    sender = send(path)
    for _ in range(3):
        sender(committed())
        sender.flush()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(path)
        listening.settimeout(PATIENCE_SECONDS)
        sender(committed(7))
        sender.flush()
        _, dropped, _, events = msgspec.msgpack.decode(listening.recv(1 << 20))
    assert dropped == 3
    assert [event["records"] for _, event in events] == [7]


def test_a_parent_that_does_not_read_blocks_nobody_and_what_waits_is_bounded_and_counted(
    tmp_path: Path, send: Callable[..., RelaySender]
) -> None:
    path = str(tmp_path / "relay")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(path)
        listening.settimeout(PATIENCE_SECONDS)
        sender = send(path)
        while not sender._waiting:  # until the kernel's queue is full
            sender(committed())
            sender.flush()
        for _ in range(EVENTS_WAITING_MAX + 50):
            sender(committed(2))
        sender.flush()
        assert len(sender._waiting) == EVENTS_WAITING_MAX
        dropped = 0
        while sender._waiting:
            dropped += msgspec.msgpack.decode(listening.recv(1 << 20))[1]
            sender.flush()
        listening.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                dropped += msgspec.msgpack.decode(listening.recv(1 << 20))[1]
        assert dropped >= 50


def test_noise_on_the_socket_is_ignored(parent: Parent, send: Callable[..., RelaySender]) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stranger:
        stranger.sendto(b"noise", parent.receiver.path)
        later = [1, 0, False, [["streamproc.of_a_later_version", {}]]]
        stranger.sendto(msgspec.msgpack.encode(later), parent.receiver.path)
    sender, event = send(parent.receiver.path), committed()
    sender(event)
    sender.flush()
    assert parent.hears(event)


def test_without_the_variable_there_is_no_sender(monkeypatch: pytest.MonkeyPatch) -> None:
    assert RelaySender.from_environment() is None
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, "")
    assert RelaySender.from_environment() is None


def test_the_socket_is_removed_with_its_folder(parent: Parent) -> None:
    path = Path(parent.receiver.path)
    assert path.is_socket()
    assert path.parent.stat().st_mode & 0o077 == 0, "no other user reaches it"
    parent.receiver.close()
    assert not path.parent.exists()


def test_a_folder_too_deep_for_a_socket_is_refused_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / ("x" * 120)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    with pytest.raises(SettingsError, match="set TMPDIR to a writable folder"):
        RelayReceiver()
    assert list(deep.iterdir()) == []


CHILD = """
import os, sys
from streamproc.metrics.relay import RelaySender
from streamproc.telemetry import BatchRead, Telemetry
sender = RelaySender.from_environment()
Telemetry(sender).emit(BatchRead(shard_id="shardId-000000000001", records=3, millis_behind_latest=9))
sender.flush()
sys.stdin.readline()
os.kill(os.getpid(), 9)
"""


def test_another_processes_events_arrive_and_its_death_is_noticed(parent: Parent) -> None:
    environment = {**os.environ, **parent.receiver.environment()}
    with subprocess.Popen([sys.executable, "-c", CHILD], env=environment, stdin=subprocess.PIPE) as child:
        assert parent.hears(facts.BatchRead(shard_id=ONE, records=3, millis_behind_latest=9))
        assert facts.ChildStarted(pid=child.pid) in parent.events
        child.communicate(b"\n")
    assert parent.hears(facts.ChildEnded(pid=child.pid, shard_id=ONE))
