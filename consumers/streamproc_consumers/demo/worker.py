"""The recommender of the served demonstration: a process that is started, killed and asked how it does."""

from __future__ import annotations

import http.client
import subprocess
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from streamproc_consumers.demo.processes import log_end, started, streamproc_command
from streamproc_consumers.demo.tail import Tail
from streamproc_consumers.live.engine import Worker

_ASK_SECONDS = 2.0


class Recommender:
    """One process at a time. Start it from a thread that lasts: on Linux it ends with the thread that started it."""

    def __init__(self, environment: dict[str, str], log: Path) -> None:
        self._environment = environment
        self._log_path = log
        self._log = Tail(log)
        self._process: subprocess.Popen[bytes] | None = None
        self._held = ExitStack()
        self._url: str | None = None
        #: Leases that the process took; a new one begins at 0.
        self.leases = 0
        self.figures = Worker(pid=None)

    def start(self) -> int:
        """Start it; its process id."""
        self.leases, self._url = 0, None
        arguments = ["-A", "streamproc_consumers.recommender:app", "--log-format", "json", "--failover-seconds", "3"]
        command = [*streamproc_command("run"), *arguments, "--metrics-port", "0"]
        self._process = self._held.enter_context(started(command, self._environment, self._log_path))
        self.figures = Worker(pid=self._process.pid)
        return self._process.pid

    def kill(self) -> None:
        """SIGKILL: it cannot notice, and saves nothing."""
        self._held.close()
        self.look()  # what it wrote until then is not the next one's
        self.figures = Worker(pid=None)

    def ended(self) -> int | None:
        """Its exit code, where it ended by itself."""
        return self._process.poll() if self._process is not None and self.figures.pid is not None else None

    def tail(self) -> str:
        """The end of its log."""
        return log_end(self._log_path)

    def look(self) -> None:
        """Take in what it logged."""
        for line in self._log.lines():
            try:
                event = msgspec.json.decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError):
                continue  # a library's warning
            match event.get("event") if isinstance(event, dict) else None:
                case "streamproc.lease_acquired":
                    self.leases += 1
                case "streamproc.metrics_served":
                    self._url = event["url"]

    def ask(self) -> None:
        """Take in its metrics; a process that does not answer has none, and one that ended is none."""
        if self.ended() is not None:
            self.figures = Worker(pid=None)
        pid, url = self.figures.pid, self._url
        if pid is None or url is None:
            return
        figures = scraped(pid, _metrics(url))
        if self.figures.pid == pid:  # it may have been killed meanwhile
            self.figures = figures


def _metrics(url: str) -> str:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=_ASK_SECONDS)
    try:
        connection.request("GET", "/metrics")
        return connection.getresponse().read().decode()
    except (OSError, http.client.HTTPException):
        return ""
    finally:
        connection.close()


def scraped(pid: int, exposition: str) -> Worker:
    """What the page shows of a scrape: the oldest iterator's age, and sums over the shards."""
    from prometheus_client.parser import text_string_to_metric_families  # the extra `prometheus`

    values: defaultdict[str, list[float]] = defaultdict(list)
    for family in text_string_to_metric_families(exposition):
        for sample in family.samples:
            values[sample.name].append(sample.value)
    if not values:
        return Worker(pid=pid)
    age = values["streamproc_iterator_age_seconds"]
    return Worker(
        pid=pid,
        iterator_age_ms=max(age) * 1000 if age else None,
        leases=_sum(values["streamproc_leases_held"]),
        events_folded=_sum(values["streamproc_events_folded_total"]),
        events_skipped=_sum(values["streamproc_events_skipped_total"]),
        dead_letters=_sum(values["streamproc_dead_letters_total"]),
    )


def _sum(values: list[float]) -> int:
    return int(sum(values))
