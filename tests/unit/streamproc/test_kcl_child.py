"""One shard's process under the MultiLangDaemon, fed by a scripted daemon."""

from __future__ import annotations

import base64
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from streamproc.errors import SettingsError, StreamprocError
from streamproc.record import Position, Record
from streamproc.runners.kcl.child import ENVIRONMENT_VARIABLE, Child
from streamproc.runners.kcl.protocol import Initialize, Protocol, ProtocolError, position_of
from streamproc.settings import WorkerSettings
from streamproc.shardmap import HashRange
from streamproc.telemetry import LeaseLost, Retried, Telemetry
from streamproc.worker import ShardWorker

SHARD = "shardId-000000000000"
MakeRecord = Callable[..., Record]


def line(action: str, **fields: Any) -> str:
    return json.dumps({"action": action, **fields}) + "\n"


def initialize(sequence_number: str = "TRIM_HORIZON", sub: int = 0) -> str:
    return line("initialize", shardId=SHARD, sequenceNumber=sequence_number, subSequenceNumber=sub)


def records(*given: Record) -> str:
    wire = [
        {
            "action": "record",
            "data": base64.b64encode(record.data).decode(),
            "partitionKey": record.partition_key,
            "sequenceNumber": str(record.position.sequence_number),
            "approximateArrivalTimestamp": int(record.arrived_at * 1000),
            "subSequenceNumber": record.position.sub_sequence_number,
        }
        for record in given
    ]
    return line("processRecords", records=wire, millisBehindLatest=0)


def answer(error: str | None = None) -> str:
    return line("checkpoint", sequenceNumber="1", subSequenceNumber=0, error=error)


class Daemon:
    """A script of lines, and what the child wrote."""

    def __init__(self, bench: Any, *script: str, checkpoint_seconds: float = 10.0) -> None:
        self.bench = bench
        self.written = io.BytesIO()
        self.started: list[Position | None] = []
        self._script = io.BytesIO("".join(script).encode())
        self._settings = WorkerSettings(checkpoint_seconds=checkpoint_seconds)

    def run(self) -> list[dict[str, Any]]:
        telemetry = Telemetry(self.bench.telemetry.append)
        protocol = Protocol(self._script, self.written)
        Child(protocol, self._start, clock=self.bench.clock, telemetry=telemetry).run()
        return self.answers()

    def _start(self, action: Initialize) -> ShardWorker:
        checkpoint = position_of(action.shard_id, action)
        self.started.append(checkpoint)
        worker: ShardWorker = self.bench.worker(checkpoint, settings=self._settings)
        return worker

    def answers(self) -> list[dict[str, Any]]:
        return [json.loads(each) for each in self.written.getvalue().split(b"\n") if each]


def status(action: str) -> dict[str, Any]:
    return {"action": "status", "responseFor": action}


def checkpoint(sequence_number: str | None, sub: int | None = 0) -> dict[str, Any]:
    return {"action": "checkpoint", "sequenceNumber": sequence_number, "subSequenceNumber": sub}


def test_a_shard_is_served_from_its_checkpoint_to_its_end_which_alone_is_checkpointed_without_a_position(
    bench: Any, make_record: MakeRecord
) -> None:
    daemon = Daemon(
        bench, initialize("1", 3), records(make_record(2, "a", 1), make_record(3, "b", 2)), line("shardEnded"), answer()
    )
    assert daemon.run() == [
        status("initialize"),
        status("processRecords"),
        checkpoint(None, None),
        status("shardEnded"),
    ]
    assert daemon.started == [Position(0, 1, 3)]
    assert (bench.values("a"), bench.values("b")) == ([1], [2]), "everything is durable before the end is written"


def test_a_checkpoint_that_is_due_is_made_within_the_next_action_an_empty_batch_too(
    bench: Any, make_record: MakeRecord
) -> None:
    daemon = Daemon(bench, initialize(), records(make_record(2, "a", 1)), records(), answer(), records())
    process, times = ShardWorker.process, iter([0.0, 11.0, 0.0])

    def later(self: ShardWorker, batch: Any) -> None:
        bench.clock.now += next(times)
        process(self, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ShardWorker, "process", later)
        answers = daemon.run()
    assert answers == [
        status("initialize"),
        status("processRecords"),
        checkpoint("2"),
        status("processRecords"),
        status("processRecords"),
    ]


def test_a_checkpoint_inside_an_aggregate_names_the_sub_sequence_number(bench: Any, make_record: MakeRecord) -> None:
    inside = make_record(2, "a", 1)
    inside = Record(inside.data, "a", Position(0, 2, 17), inside.arrived_at)
    daemon = Daemon(bench, initialize(), records(inside), line("shutdownRequested"), answer(), line("leaseLost"))
    assert daemon.run()[-3:] == [checkpoint("2", 17), status("shutdownRequested"), status("leaseLost")]


def test_a_checkpoint_that_is_throttled_is_tried_again_until_it_holds(bench: Any, make_record: MakeRecord) -> None:
    daemon = Daemon(
        bench,
        initialize(),
        records(make_record(2, "a", 1)),
        line("shardEnded"),
        answer("ThrottlingException"),
        answer("KinesisClientLibDependencyException"),
        answer(),
    )
    assert daemon.run()[-4:] == [checkpoint(None, None)] * 3 + [status("shardEnded")]
    assert sum(isinstance(event, Retried) for event in bench.telemetry) == 2


def test_a_lease_that_is_lost_writes_nothing_more_and_is_no_failure(bench: Any, make_record: MakeRecord) -> None:
    daemon = Daemon(
        bench,
        initialize(),
        records(make_record(2, "a", 1)),
        line("shutdownRequested"),
        answer("ShutdownException"),
        line("leaseLost"),
    )
    assert daemon.run()[-3:] == [checkpoint("2"), status("shutdownRequested"), status("leaseLost")]
    assert sum(isinstance(event, LeaseLost) for event in bench.telemetry) == 1


def test_a_lease_that_goes_when_the_worker_ends_is_no_loss(bench: Any, make_record: MakeRecord) -> None:
    script = (initialize(), records(make_record(2, "a", 1)), line("shutdownRequested"), answer(), line("leaseLost"))
    Daemon(bench, *script).run()
    assert [event for event in bench.telemetry if isinstance(event, LeaseLost)] == []


def test_after_a_lost_lease_no_state_is_written(bench: Any, make_record: MakeRecord) -> None:
    daemon = Daemon(bench, initialize(), records(make_record(2, "a", 1)), line("leaseLost"))
    assert daemon.run()[-1] == status("leaseLost")
    assert bench.values("a") == []


def test_an_answer_that_no_retry_mends_ends_the_child_without_a_status(bench: Any, make_record: MakeRecord) -> None:
    script = (initialize(), records(make_record(2, "a", 1)), line("shardEnded"), answer("InvalidStateException"))
    daemon = Daemon(bench, *script)
    with pytest.raises(StreamprocError, match="KCL answered InvalidStateException"):
        daemon.run()
    assert status("shardEnded") not in daemon.answers()


def test_an_exception_of_the_application_never_becomes_a_success(bench: Any, make_record: MakeRecord) -> None:
    def fail(_states: Any) -> Any:
        raise SystemError("the library itself is broken")

    daemon = Daemon(bench, initialize(), records(make_record(2, "a", 1)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("streamproc.fold.KeyStates.changed", fail)
        with pytest.raises(SystemError):
            daemon.run()
    assert daemon.answers() == [status("initialize")]


def test_a_daemon_that_is_gone_ends_the_child(bench: Any, make_record: MakeRecord) -> None:
    assert Daemon(bench, initialize()).run() == [status("initialize")]
    daemon = Daemon(bench, initialize(), records(make_record(2, "a", 1)), line("shardEnded"))
    with pytest.raises(ProtocolError, match="ended before it answered a checkpoint"):
        daemon.run()


@pytest.mark.parametrize("words", ["hello\n", '{"action":"dance"}\n', '{"action":"processRecords","records":[{}]}\n'])
def test_a_line_that_is_no_action_ends_the_child_with_what_was_wrong(bench: Any, words: str) -> None:
    with pytest.raises(ProtocolError, match="no action of the MultiLang protocol"):
        Daemon(bench, initialize(), words).run()


def test_records_before_initialize_are_refused(bench: Any) -> None:
    with pytest.raises(SettingsError, match="ProcessRecords before initialize"):
        Daemon(bench, records()).run()


def test_a_record_of_another_shards_range_is_dead_lettered_as_under_the_local_runner(
    bench: Any, make_record: MakeRecord
) -> None:
    daemon = Daemon(bench, initialize(), records(make_record(2, "a", 1)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(daemon, "_start", lambda _: bench.worker(None, hash_range=HashRange(0, 0)))
        daemon.run()
    (letter,) = bench.deadletters.scan()
    assert "does not hash into this shard" in letter.reason


APPLICATION = """
import ctypes, os, sys
print("printed")
os.write(1, b'{"action":"status","responseFor":"initialize"}\\n')
ctypes.CDLL(None).puts(b"from C"); ctypes.CDLL(None).fflush(None)
from streamproc.errors import SettingsError
raise SettingsError("the model is missing")
"""


def child_process(environment: dict[str, str], cwd: Any) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "streamproc.runners.kcl.child"],
        input=initialize().encode(),
        capture_output=True,
        env={**os.environ, **environment},
        cwd=cwd,
        timeout=60,
        check=False,
    )


def test_what_the_application_prints_never_reaches_the_protocol_and_its_failure_is_named(tmp_path: Any) -> None:
    (tmp_path / "noisy_app.py").write_text(APPLICATION)
    settings = json.dumps({"app": "noisy_app:app", "name": "app", "stream": "stream", "stream_created_at": 1})
    done = child_process({ENVIRONMENT_VARIABLE: settings}, tmp_path)
    assert (done.returncode, done.stdout) == (2, b""), "no status: not one record may be given to this child"
    assert b"printed" in done.stderr
    assert b"from C" in done.stderr
    (failure,) = [
        json.loads(each) for each in done.stderr.splitlines() if each.startswith(b'{"time"') and b"child_failed" in each
    ]
    assert (failure["level"], failure["reason"], failure["exit_code"]) == ("error", "the model is missing", 2)


def test_a_child_that_no_runner_started_says_so(tmp_path: Any) -> None:
    done = child_process({}, tmp_path)
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"this program is started by `streamproc run`" in done.stderr
