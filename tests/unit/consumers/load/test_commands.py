"""``streamproc load``: what it asks, and what it refuses."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from streamproc.errors import SettingsError
from streamproc_consumers.load import commands
from streamproc_consumers.load.commands import is_local, load


@pytest.fixture(autouse=True)
def runs(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """No stream is asked for, and nothing is sent: what would be is collected."""
    collected: list[Any] = []

    def run(*arguments: Any) -> None:
        collected.append(arguments[0])
        raise SettingsError("sent")

    monkeypatch.setattr(commands, "_stream_facts", lambda _: (2, False, True))
    monkeypatch.setattr(commands, "_run", run)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield collected
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_on_aws_the_estimate_is_shown_and_nothing_is_sent_without_a_yes(runs: list[Any]) -> None:
    result = CliRunner().invoke(load, ["--stream", "cart-events", "--rate", "100", "--duration", "60"], input="n\n")
    assert result.exit_code == 1
    assert "This spends money on AWS" in result.output
    assert "6,000 events in 60 s" in result.output
    assert "prices of 2026-11-21" in result.output
    assert runs == []


@pytest.mark.parametrize(("words", "answer"), [([], "y\n"), (["--yes"], "")])
def test_a_yes_sends_it(runs: list[Any], words: list[str], answer: str) -> None:
    result = CliRunner().invoke(load, ["--stream", "cart-events", "--seed", "7", *words], input=answer)
    assert isinstance(result.exception, SettingsError)
    assert ("This spends money" in result.output) == (not words)
    [plan] = runs
    assert (plan.stream, plan.seed, plan.wait_seconds) == ("cart-events", 7, 420.0)


def test_nobody_is_asked_for_a_stream_that_costs_nothing(runs: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "_stream_facts", lambda _: (2, False, False))
    CliRunner().invoke(load, ["--stream", "cart-events"])
    assert len(runs) == 1


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "either --stream or --local"),
        (["--stream", "s", "--local"], "either --stream or --local"),
        (["--local", "--recommendations", "x"], "--recommendations is for --stream"),
        (["--stream", "s", "--rate", "0"], "rate is 0.0"),
        (["--stream", "s", "--wait", "-1"], "--wait is -1.0"),
        (["--stream", "s", "--recommendations", "nowhere.jsonl"], "nowhere.jsonl: no such file"),
        (["--stream", "s", "--recommendations", "s3:///prefix"], "names no bucket"),
        (["--stream", "s", "--json", "nowhere/report.json"], "there is no folder"),
    ],
)
def test_what_cannot_be_used_is_refused_in_a_sentence_before_anything_is_sent(
    runs: list[Any], words: list[str], says: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(load, [*words, "--yes"])
    assert isinstance(result.exception, SettingsError)
    assert says in str(result.exception)
    assert runs == []


@pytest.mark.parametrize(
    ("url", "local"),
    [
        ("http://127.0.0.1:4568", True),
        ("http://localhost:4566", True),
        ("http://10.0.0.7:4566", True),
        ("https://kinesis.us-east-1.amazonaws.com", False),
        ("https://vpce-1.kinesis.us-east-1.vpce.amazonaws.com", False),
    ],
)
def test_only_an_endpoint_of_this_machine_or_network_is_free(url: str, local: bool) -> None:
    assert is_local(url) is local
