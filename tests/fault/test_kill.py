"""The consumer dies with SIGKILL in the middle of a replay; real processes, the real stack, an oracle."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from streamproc_models.training import train
from streamproc_producers.retail import RetailLog, default_data_path

CUT = datetime(2011, 11, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A day of history is too little for a booster; popularity ranks, and the protocol is the same."""
    folder = tmp_path_factory.mktemp("model")
    day_before = RetailLog(default_data_path(), since=datetime(2011, 10, 31), until=datetime(2011, 11, 1))
    train(day_before, CUT, folder, items={})
    return folder


def replay_with_a_kill(folder: Path, model: Path, *, events: int, kill_after: int) -> None:
    """Run the demonstration, kill its recommender, and hold what landed against the promises."""
    options = {
        "--events": events,
        "--rate-seconds": 12,
        "--kill-after": kill_after,
        "--model": model,
        "--keep": folder / "demo",
        "--json": folder / "demo.json",
    }
    words = [str(word) for option in options.items() for word in option]
    done = subprocess.run(
        [sys.executable, "-m", "streamproc", "demo", *words], capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((folder / "demo.json").read_text())
    assert found["events_sent"] == found["events_applied"] == events
    assert found["events_lost"] == found["events_applied_twice"] == found["dead_letters"] == 0
    assert found["states_equal_oracle"] is True
    assert found["recommendations_in_s3"] == found["recommendations_published"] > 0
    assert found["recommendations_repeated"] >= 0
    log = (folder / "demo" / "recommender.log").read_text()
    assert log.count('"streamproc.lease_acquired"') == 8, "a second worker took the four leases over"


def test_a_recommender_killed_in_the_middle_of_a_replay_loses_nothing_and_applies_nothing_twice(
    tmp_path: Path, model: Path
) -> None:
    replay_with_a_kill(tmp_path, model, events=4000, kill_after=2000)


@pytest.mark.long
@pytest.mark.parametrize("kill_after", [1, 700, 2399, 2401, 30_000, 59_999])
def test_whenever_it_is_killed_nothing_is_lost_and_nothing_applied_twice(
    tmp_path: Path, model: Path, kill_after: int
) -> None:
    """The first event, the steady phase, its end, the flood, and the last event."""
    replay_with_a_kill(tmp_path, model, events=60_000, kill_after=kill_after)
