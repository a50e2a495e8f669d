"""The consumer dies with SIGKILL in the middle of a replay; real processes, the real stack, an oracle."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

from streamproc_models.training import train
from streamproc_producers.retail import RetailLog, default_data_path

CUT = datetime(2011, 11, 1, tzinfo=UTC)


def test_a_recommender_killed_in_the_middle_of_a_replay_loses_nothing_and_applies_nothing_twice(tmp_path: Path) -> None:
    # A day of history is too little for a booster; popularity ranks, and the protocol is the same.
    day_before = RetailLog(default_data_path(), since=datetime(2011, 10, 31), until=datetime(2011, 11, 1))
    train(day_before, CUT, tmp_path / "model", names={})
    figures = tmp_path / "demo.json"
    options = {
        "--events": 4000,
        "--rate-seconds": 12,
        "--model": tmp_path / "model",
        "--keep": tmp_path / "demo",
        "--json": figures,
    }
    words = [str(word) for option in options.items() for word in option]
    done = subprocess.run(
        [sys.executable, "-m", "streamproc", "demo", "--kill", *words],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(figures.read_text())
    assert found["events_sent"] == found["events_applied"] == 4000
    assert found["events_lost"] == found["events_applied_twice"] == found["dead_letters"] == 0
    assert found["states_equal_oracle"] is True
    assert found["recommendations_in_s3"] == found["recommendations_published"] > 0
    assert found["recommendations_repeated"] >= 0
    log = (tmp_path / "demo" / "recommender.log").read_text()
    assert log.count('"streamproc.lease_acquired"') == 8, "a second worker took the four leases over"
