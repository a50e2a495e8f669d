"""The soak itself: half a minute of it, so that the long one is known to start, to break things and to prove."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.long
def test_a_short_soak_keeps_every_promise_under_its_faults_and_says_so_in_figures(tmp_path: Path) -> None:
    words = ["--minutes", "0.6", "--rate", "200", "--seed", "4"]
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "benchmarks.soak",
            *words,
            "--keep",
            tmp_path / "soak",
            "--json",
            tmp_path / "soak.json",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads((tmp_path / "soak.json").read_text())
    assert figures["events_sent"] == figures["events_applied"] > 5_000
    assert figures["events_lost"] == figures["events_applied_twice"] == figures["dead_letters"] == 0
    assert figures["states_equal_oracle"] is True
    assert figures["users_without_last_output"] == 0
    assert sum(figures["faults_by_kind"].values()) == figures["faults"] >= 1
    assert set(figures["rss_mb_growth_per_minute"]) == {"producer", "consumer"}
