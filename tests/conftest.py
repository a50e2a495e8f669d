"""What all tests share: a clean environment, one local AWS stack, no skips in CI, and the figures of a run."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from streamproc.local import LocalStack

IN_CI = os.environ.get("CI", "").lower() in ("1", "true")


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of the developer's machine reaches a test, and no test reaches AWS."""
    for name in list(os.environ):
        if name.startswith(("AWS_", "STREAMPROC_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "none")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "none")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)


@pytest.fixture(scope="session")
def stack() -> Iterator[LocalStack]:
    """moto and Redis, started once. Tests share it, so each makes names of its own."""
    with LocalStack() as stack:
        yield stack


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--figures build/test.json``: where the counts and the seconds of this run are written."""
    parser.addoption("--figures", type=Path, help="write tests_passed, tests_failed, tests_skipped and seconds here")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("figures") and not hasattr(config, "workerinput"):  # counted where the workers report to
        config.pluginmanager.register(Figures(config.getoption("figures")))


class Figures:
    """Counts each test once, as failed if any of its phases failed, and writes the counts."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._started = time.monotonic()
        self._outcomes: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed or (report.skipped and self._outcomes.get(report.nodeid) != "failed"):
            self._outcomes[report.nodeid] = report.outcome
        else:
            self._outcomes.setdefault(report.nodeid, report.outcome)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if not report.passed:
            self._outcomes[report.nodeid] = report.outcome

    def pytest_sessionfinish(self) -> None:
        outcomes = list(self._outcomes.values())
        figures = {f"tests_{outcome}": outcomes.count(outcome) for outcome in ("passed", "failed", "skipped")}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text(json.dumps({**figures, "seconds": round(time.monotonic() - self._started, 1)}) + "\n")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    refuse_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    refuse_skip(report)
    return report


def refuse_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    """In CI a skipped test fails: there, what it needs is to be installed. An expected failure counts as one."""
    if IN_CI and report.skipped:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"skipped, which CI does not accept: {reason}"


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """``make test-long`` succeeds, and says why, while no test is marked long."""
    if exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED and session.config.option.markexpr == "long":
        session.exitstatus = pytest.ExitCode.OK


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, exitstatus: int, config: pytest.Config) -> None:
    if exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED and config.option.markexpr == "long":
        terminalreporter.write_line("No test is marked `long` yet.")
