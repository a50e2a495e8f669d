"""KCL's MultiLangDaemon as a process: what it needs, how it is started, and how it ends.

It runs in a session and process group of its own, with the children that it starts: a Ctrl-C at a terminal reaches the
runner alone, which then asks the daemon to end in order, and the group can be ended as a whole. On Linux the kernel
kills the daemon when the runner dies, however that happens; its children read the end of their input then, and end.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from streamproc.errors import MissingExtra, SettingsError
from streamproc.local.processes import tethered
from streamproc.runners.kcl.properties import properties_text

MAIN_CLASS = "software.amazon.kinesis.multilang.MultiLangDaemon"
#: The class files of KCL 3.1.3 are of version 52.
JAVA_VERSION_MIN = 8
_INSTALL = "pip install 'streamproc[kcl]'"
_INSTALL_JAVA = "install a Java runtime (`apt-get install default-jre-headless`), or set JAVA_HOME"

# The children's lines come once: the daemon would log each at ERROR, and it echoes them anyway. What it says of every
# batch is left out; what it says of its start, its end and its leases is kept.
_LOGBACK = """<configuration>
  <appender name="lines" class="ch.qos.logback.core.ConsoleAppender">
    <target>System.err</target>
    <encoder class="ch.qos.logback.classic.encoder.JsonEncoder"/>
  </appender>
  <logger name="software.amazon.kinesis.multilang.DrainChildSTDERRTask" level="OFF"/>
  <logger name="software.amazon.kinesis.multilang.MultiLangDaemon" level="INFO"/>
  <logger name="software.amazon.kinesis.metrics.CloudWatchPublisherRunnable" level="ERROR"/>
  <root level="WARN"><appender-ref ref="lines"/></root>
</configuration>
"""


def find_java() -> str:
    """The Java of JAVA_HOME, else of PATH. Raises MissingExtra with what to install."""
    home = os.environ.get("JAVA_HOME")
    if home:
        java = Path(home) / "bin" / "java"
        if not os.access(java, os.X_OK):
            raise MissingExtra(f"JAVA_HOME is {home!r}, and there is no bin/java in it: unset it, or {_INSTALL_JAVA}")
        return str(java)
    found = shutil.which("java")
    if found is None:
        raise MissingExtra(f"--runner kcl needs Java {JAVA_VERSION_MIN} or newer, and there is none: {_INSTALL_JAVA}")
    return found


def java_version(java: str) -> int:
    """The major version. Raises MissingExtra where it is too old, or is no Java."""
    try:
        done = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=30, check=False)  # noqa: S603  # what was found above
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MissingExtra(f"{java} cannot be run ({error}): {_INSTALL_JAVA}") from error
    found = re.search(r'version "(?:1\.)?(\d+)', done.stderr + done.stdout)
    if found is None:
        raise MissingExtra(f"{java} is no Java that can be run: {_INSTALL_JAVA}")
    version = int(found[1])
    if version < JAVA_VERSION_MIN:
        raise MissingExtra(f"{java} is Java {version}, and KCL needs {JAVA_VERSION_MIN} or newer: {_INSTALL_JAVA}")
    return version


def find_jars() -> list[Path]:
    """KCL's jars, from the amazon-kclpy package. Raises MissingExtra with what to install."""
    spec = importlib.util.find_spec("amazon_kclpy")
    if spec is None or spec.origin is None:
        raise MissingExtra(f"--runner kcl needs amazon-kclpy, which brings KCL's jars: {_INSTALL}")
    jars = sorted((Path(spec.origin).parent / "jars").glob("*.jar"))
    if not any(jar.name.startswith("amazon-kinesis-client-multilang-") for jar in jars):
        raise MissingExtra(
            f"amazon-kclpy {importlib.metadata.version('amazon-kclpy')} is installed without its jars: it was built"
            f" without a way to Maven Central; {_INSTALL} --force-reinstall --no-binary amazon-kclpy"
        )
    return jars


def java_command(java: str, jars: Sequence[Path], *, heap_mb: int) -> list[str]:
    """The daemon's command, less the options that name its files."""
    return [
        java,
        f"-Xmx{heap_mb}m",
        # Before Java 18 the protocol's encoding is the locale's: under LANG=C a partition key would lose its letters.
        *["-Dfile.encoding=UTF-8", "-Dsun.stdout.encoding=UTF-8", "-Dsun.stderr.encoding=UTF-8"],
        *["-Dstdout.encoding=UTF-8", "-Dstderr.encoding=UTF-8"],
        # A JVM out of memory goes on with some threads dead, and renews leases that it does not read.
        "-XX:+ExitOnOutOfMemoryError",
        *["-cp", os.pathsep.join(str(jar) for jar in jars)],
        MAIN_CLASS,
    ]


class WorkFolder:
    """The daemon's files, in a private folder that the caller made."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pulses = folder / "pulses"
        self._child = folder / "child.sh"

    @property
    def executable(self) -> str:
        """The command of a child, as a property: the daemon splits it on spaces, and knows no quotes.

        Raises SettingsError where the folder's name has a space.
        """
        if " " in str(self._child):
            raise SettingsError(
                f"the folder for temporary files is {str(self.folder)!r}, and KCL splits a child's command on spaces:"
                " set TMPDIR to a folder without one"
            )
        return f"/bin/sh {self._child}"  # a shell, since the folder may be mounted noexec

    def write(self, properties: Mapping[str, str]) -> list[str]:
        """Write the files; returns the options that name them."""
        self.pulses.mkdir()
        child = shlex.join([sys.executable, "-m", "streamproc.runners.kcl.child"])
        self._child.write_text(f"exec {child}\n")
        properties_file, logback = self.folder / "kcl.properties", self.folder / "logback.xml"
        properties_file.write_text(properties_text(properties), encoding="latin-1")
        logback.write_text(_LOGBACK)
        return ["--properties-file", str(properties_file), "--log-configuration", str(logback)]


def daemon_environment(given: Mapping[str, str], *, kinesis_endpoint: str | None) -> dict[str, str]:
    """The environment of the daemon, and so of the children."""
    environment = dict(given)
    if kinesis_endpoint is not None and kinesis_endpoint.startswith("http://"):
        # An emulator. Kinesis itself speaks CBOR, which costs less than JSON; emulators speak it in part.
        environment["CBOR_ENABLED"] = "false"
    return environment


def refuse_without_http2(endpoint: str | None) -> None:
    """KCL's client speaks HTTP/2 alone. Raises SettingsError where an emulator without TLS does not, such as moto's."""
    if endpoint is None or not endpoint.startswith("http://"):
        return
    url = urlsplit(endpoint)
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5)  # and an empty SETTINGS frame
    answer = b""
    with contextlib.suppress(OSError), socket.create_connection((url.hostname or "", url.port or 80), 5) as connection:
        connection.sendall(preface)
        while len(answer) < 9 and (piece := connection.recv(9 - len(answer))):
            answer += piece
    if len(answer) < 9 or answer[3] != 4:
        raise SettingsError(
            f"what listens at {endpoint} (AWS_ENDPOINT_URL_KINESIS) does not speak HTTP/2, and KCL speaks nothing else:"
            " use kinesis-local; moto's Kinesis works with --runner local alone"
        )


class Daemon:
    """A running MultiLangDaemon. ``on_line`` gets each line of its standard error, in a thread of its own.

    Start it from a thread that outlives it: on Linux it is tied to that thread (see ``streamproc/local/tether.py``).
    """

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], on_line: Callable[[bytes], None]
    ) -> None:
        self._process = subprocess.Popen(  # noqa: S603  # the command that was found and built above
            tethered(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
        self._on_line = on_line
        self._reader = threading.Thread(target=self._read, name="streamproc-kcl-lines", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """The process id, and that of its group."""
        return self._process.pid

    def _read(self) -> None:
        assert self._process.stdout is not None  # noqa: S101  # a pipe
        with self._process.stdout as lines:
            for line in lines:
                self._on_line(line)

    def exit_code(self) -> int | None:
        """How it ended, negative for a signal; None while it runs."""
        return self._process.poll()

    def ask_to_end(self) -> None:
        """SIGTERM to the daemon alone: it tells its children to make their last checkpoint, and ends."""
        if self.exit_code() is None:
            self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it and all its children, now."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    def kill_if_running(self) -> None:
        """End what still runs, and wait until the daemon itself has ended."""
        if self.exit_code() is None:
            self.kill()
        self._process.wait()

    def is_child(self, pid: int) -> bool:
        """Whether this is a process that the daemon started, and not one that has got its number since."""
        try:
            return pid != self.pid and os.getpgid(pid) == self.pid
        except ProcessLookupError:
            return False

    def children_gone(self, seconds: float) -> bool:
        """Wait for the children of a daemon that is dead; each has read the end of its input. False: killed instead."""
        deadline = time.monotonic() + seconds
        in_time = True
        while self._group_lives():
            if time.monotonic() >= deadline:
                in_time = False
                self.kill()
            time.sleep(0.02)
        self._reader.join()
        return in_time

    def _group_lives(self) -> bool:
        with contextlib.suppress(ChildProcessError):
            # As process 1 of a container the runner inherits the orphans, and a dead one stays until it is waited for.
            while os.waitpid(-self.pid, os.WNOHANG)[0]:
                pass
        try:
            os.killpg(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:  # macOS says so of a group of zombies
            return False
        return True
