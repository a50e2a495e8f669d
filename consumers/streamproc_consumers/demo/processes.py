"""Processes of our own commands, beside the local stack."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from streamproc.local import LocalStack
from streamproc.local.processes import tethered


def surroundings(stack: LocalStack) -> dict[str, str]:
    """This process' environment with the stack for AWS and Redis, and with no other setting of ours."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "STREAMPROC_"))}
    return kept | stack.environment()


def streamproc_command(command: str) -> list[str]:
    """The command line for one of our own commands."""
    return [sys.executable, "-m", "streamproc", command]


@contextmanager
def started(command: list[str], environment: Mapping[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is ended with the block, whatever happens in it.

    It has a session of its own: Ctrl-C reaches this process, which ends the others before the stack. On Linux it also
    ends with this process, however that dies.
    """
    with log.open("ab") as output:
        process = subprocess.Popen(  # noqa: S603  # our own commands
            tethered(command),
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def log_end(log: Path) -> str:
    """The last lines of a process' log."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-8:]) if log.exists() else "(empty)"
