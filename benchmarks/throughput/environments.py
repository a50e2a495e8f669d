"""Peers live in environments of their own, made by uv from ``requirements/PEER.txt``.

amazon-kclpy needs none: ``requirements.lock`` has it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENTS = Path(__file__).with_name("requirements")
SECONDS_MAX = 1_200


class PeerMissing(Exception):
    """A peer's environment cannot be made; the reason is a sentence."""


def python_of(peer: str | None) -> str:
    """The interpreter of a peer's environment, made where it is missing or its requirements changed; None: ours.

    Raises PeerMissing.
    """
    wanted, folder = REQUIREMENTS / f"{peer}.txt", ROOT / "build" / "peers" / str(peer)
    if not wanted.exists():
        return sys.executable
    python, installed = folder / "bin" / "python", folder / "requirements.txt"
    if installed.exists() and installed.read_text() == wanted.read_text():
        return str(python)
    uv = shutil.which("uv") or str(ROOT / ".uv" / "bin" / "uv")
    if not Path(uv).exists():
        raise PeerMissing("there is no uv: make setup brings it, or install it")
    print(f"making the environment of {peer} in {folder.relative_to(ROOT)} ...", file=sys.stderr)
    environment = {**os.environ, "UV_PYTHON_DOWNLOADS": "never", **_index()}
    for command in (
        [uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)],
        # What the peers' packages say of redis-py is older than ours: the same one is everywhere.
        [uv, "pip", "sync", "--quiet", "--python", str(python), str(wanted)],
    ):
        try:
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, check=False, timeout=SECONDS_MAX
            )
        except subprocess.TimeoutExpired as error:
            raise PeerMissing(f"{' '.join(command[1:3])} took longer than {SECONDS_MAX} s") from error
        if done.returncode:
            raise PeerMissing(f"{' '.join(command[1:3])} failed: {done.stderr.strip()[-400:]}")
    installed.write_text(wanted.read_text())
    return str(python)


def _index() -> dict[str, str]:
    """pip's index for uv, which does not read pip's settings."""
    if os.environ.get("UV_DEFAULT_INDEX"):
        return {}
    index = os.environ.get("PIP_INDEX_URL")
    if not index:
        asked = [sys.base_prefix + "/bin/python3", "-m", "pip", "config", "get", "global.index-url"]
        try:
            index = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()
        except OSError:
            return {}
    return {"UV_DEFAULT_INDEX": index} if index else {}
