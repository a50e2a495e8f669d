from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_public_api_is_typed_as_users_write_it() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "mypy", "tests/typing/api.py"], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert run.returncode == 0, run.stdout
