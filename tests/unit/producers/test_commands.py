"""``streamproc replay`` and ``streamproc simulate``."""

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from streamproc.errors import SettingsError, StreamNotFound
from streamproc.testing.kinesis import EntriesRefused, FakeKinesis
from streamproc_producers import commands
from streamproc_producers.replay import read_journal
from streamproc_producers.retail import COLUMNS, RetailLog

STREAM = "cart-events"
ROWS = [
    "1,22632,WARMER,3,2011-11-01 09:41:00,1.85,14527.0,United Kingdom",
    "1,POST,POSTAGE,1,2011-11-01 09:41:00,9.0,14527.0,United Kingdom",
    "2,22633,WARMER,three,2011-11-02 09:41:00,1.85,14527.0,United Kingdom",
    "3,22633,WARMER,3,2011-11-03 09:41:00,1.85,14528.0,United Kingdom",
]


@pytest.fixture
def data(tmp_path: Path) -> str:
    path = tmp_path / "retail.csv"
    path.write_text("\n".join([",".join(COLUMNS), *ROWS]) + "\n")
    return str(path)


@pytest.fixture(autouse=True)
def environment(kinesis: FakeKinesis, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The fake instead of AWS, and the test run's own signal handlers afterwards."""
    monkeypatch.setattr("streamproc.aws.aws_client", lambda _service: kinesis)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


def run(command: Any, *arguments: str) -> Result:
    return CliRunner().invoke(command, arguments)


def test_a_replay_prints_what_was_read_left_out_sent_and_acknowledged(data: str, kinesis: Any) -> None:
    result = run(commands.replay, "--stream", STREAM, "--data", data)
    assert result.exit_code == 0
    assert [line.split("(")[0].split() for line in result.output.splitlines()] == [
        ["lines", "read", "4"],
        ["left", "out", "1:", "not", "a", "product"],
        ["left", "out", "1:", "unreadable", "line"],
        ["line", "4:", "Quantity", "is", "'three'"],
        ["sent", "4", "in", "0.0", "s"],
        ["acknowledged", "4"],
        ["failed", "0"],
    ]
    assert kinesis.calls["PutRecords"] >= 1


def test_a_replay_can_be_cut_by_time_and_count_and_keeps_a_journal(data: str, tmp_path: Path) -> None:
    journal = tmp_path / "sent.jsonl"
    arguments = ["--stream", STREAM, "--data", data, "--journal", str(journal)]
    result = run(commands.replay, *arguments, "--from", "2011-11-02", "--until", "2011-11-04", "--limit", "1")
    assert result.exit_code == 0
    assert [(line.user_id, line.event.event_type) for line in read_journal(journal)] == [("14528", "add_to_cart")]


def test_ids_are_new_on_every_replay_unless_the_same_are_asked_for(data: str, tmp_path: Path) -> None:
    def ids(*flags: str) -> set[str]:
        journal = tmp_path / "sent.jsonl"
        run(commands.replay, "--stream", STREAM, "--data", data, "--journal", str(journal), *flags)
        return {str(line.event_id) for line in read_journal(journal)}

    assert ids().isdisjoint(ids())
    assert ids("--same-ids") == ids("--same-ids")


def test_events_that_failed_are_counted_by_code_and_end_with_1(data: str, kinesis: Any) -> None:
    kinesis.script("PutRecords", [EntriesRefused(frozenset(range(500)), "KMSNotValidHere")] * 9)
    result = run(commands.replay, "--stream", STREAM, "--data", data)
    assert result.exit_code == 1
    assert "KMSNotValidHere: 4" in result.output


def test_a_stream_that_does_not_exist_ends_with_its_error_after_the_counts(data: str, kinesis: Any) -> None:
    kinesis.delete_stream(StreamName=STREAM)
    result = run(commands.replay, "--stream", STREAM, "--data", data)
    assert isinstance(result.exception, StreamNotFound)
    assert "acknowledged   0" in result.output


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--speed", "60", "--rate", "5"], "speed and rate"),
        (["--rate-seconds", "5"], "rate_seconds"),
        (["--data", "nothing.csv"], "nothing.csv"),
        (["--journal", "no/such/folder/sent.jsonl"], "journal"),
    ],
)
def test_options_that_cannot_be_used_are_named(data: str, arguments: list[str], says: str) -> None:
    result = run(commands.replay, "--stream", STREAM, "--data", data, *arguments)
    assert isinstance(result.exception, SettingsError)
    assert says in str(result.exception)


def test_ctrl_c_sends_what_was_put_prints_the_counts_and_ends_with_130(data: str, monkeypatch: Any) -> None:
    rows = RetailLog.__iter__

    def interrupted(log: Any) -> Any:
        for number, event in enumerate(rows(log)):
            if number == 2:
                signal.raise_signal(signal.SIGINT)
            yield event

    monkeypatch.setattr(RetailLog, "__iter__", interrupted)
    result = run(commands.replay, "--stream", STREAM, "--data", data)
    assert result.exit_code == 130
    assert "acknowledged   2" in result.output


def test_a_simulation_sends_as_many_events_as_asked_for(kinesis: Any) -> None:
    result = run(commands.simulate, "--stream", STREAM, "--rate", "1000", "--events", "50", "--users", "9")
    assert result.exit_code == 0
    assert "acknowledged   50" in result.output
    assert kinesis.calls["PutRecords"] >= 1


def test_a_simulation_ends_after_its_seconds() -> None:
    result = run(commands.simulate, "--stream", STREAM, "--rate", "1000", "--seconds", "0.05")
    assert result.exit_code == 0
    assert 10 <= int(result.output.split()[1]) <= 90
    assert isinstance(run(commands.simulate, "--stream", STREAM, "--seconds", "0").exception, SettingsError)


@pytest.mark.parametrize("command", [commands.replay, commands.simulate])
def test_help_has_examples_and_exit_codes(command: Any) -> None:
    output = run(command, "--help").output
    assert "Examples:" in output
    assert "Exit codes:" in output
