"""What the demonstration shows while it runs, from the journals and logs that its processes write."""

from __future__ import annotations

import time
from collections import deque
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.live import Live
from rich.table import Table

from streamproc.local.firehose_tap import Accepted
from streamproc.record import Position
from streamproc_consumers.demo.proof import Published, journal_position
from streamproc_consumers.demo.tail import Tail
from streamproc_consumers.recommendation import Recommendation
from streamproc_producers.replay import JournalLine

#: How often a line is printed where the output is not a terminal.
_LINE_SECONDS = 10.0
_RATE_SECONDS = 3.0


class Watch:
    """Follows the replay's journal, what Firehose accepted, and the recommender's log.

    *Waiting* users are those with a sent event that no published recommendation includes yet; *archived* counts the
    archive's lines. When no user waits and every sent event is archived, the system has caught up.
    """

    def __init__(self, journal: Path, firehose: Path, log: Path, *, recommendations: str) -> None:
        self._journal, self._firehose, self._log = Tail(journal), Tail(firehose), Tail(log)
        self._recommendations = recommendations
        self._decode_line = msgspec.json.Decoder(JournalLine).decode
        self._decode_accepted = msgspec.json.Decoder(Accepted).decode
        self._decode_recommendation = msgspec.json.Decoder(Recommendation).decode
        self._sent_to: dict[str, Position] = {}
        self._published_to: dict[str, Position] = {}
        self._recent: deque[tuple[float, int]] = deque()
        self._progress: dict[str, Any] = {}
        self.lines: list[JournalLine] = []
        #: The last sequence number of each shard.
        self.sent_up_to: dict[str, int] = {}
        self.published: list[Published] = []
        self.archived = 0
        self.dead_letters = 0
        self.leases = 0

    def look(self) -> None:
        """Take in what was written since the last look."""
        for text in self._journal.lines():
            line = self._decode_line(text)
            self.lines.append(line)
            if (position := journal_position(line)) is not None:
                self._sent_to[line.user_id] = position
                shard_id = str(line.shard_id)
                self.sent_up_to[shard_id] = max(self.sent_up_to.get(shard_id, 0), position.sequence_number)
        for text in self._firehose.lines():
            self._take(self._decode_accepted(text))
        for text in self._log.lines():
            self._note(text)
        now = time.monotonic()
        self._recent.append((now, len(self.lines)))
        while self._recent[0][0] < now - _RATE_SECONDS:
            self._recent.popleft()

    def _take(self, accepted: Accepted) -> None:
        outputs = accepted.data.encode().splitlines()  # of bytes: text also splits at U+2028 and its like
        if accepted.stream != self._recommendations:
            self.archived += len(outputs)
            return
        for output in outputs:
            item = Published(self._decode_recommendation(output), accepted.accepted_at)
            self.published.append(item)
            user = item.recommendation.user_id
            self._published_to[user] = max(self._published_to.get(user, item.position), item.position)

    def _note(self, text: bytes) -> None:
        try:
            event = msgspec.json.decode(text)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return  # not ours: a warning of a library, or a traceback, which stays in the file
        if not isinstance(event, dict):
            return
        match event.get("event"):
            case "streamproc.progress":
                self._progress = event
            case "streamproc.dead_lettered":
                self.dead_letters += 1
            case "streamproc.lease_acquired":
                self.leases += 1

    @property
    def waiting(self) -> int:
        """Users with a sent event that no published recommendation includes yet."""
        return sum(
            1
            for user, position in self._sent_to.items()
            if user not in self._published_to or self._published_to[user] < position
        )

    @property
    def events_per_second(self) -> float:
        """Events acknowledged a second, over the last three."""
        (first_at, first), (last_at, last) = self._recent[0], self._recent[-1]
        return (last - first) / (last_at - first_at) if last_at > first_at else 0.0

    def figures(self, phase: str) -> dict[str, str]:
        """What is shown."""
        progress = self._progress
        return {
            "phase": phase,
            "events sent": f"{len(self.lines):,}",
            "events/s": f"{self.events_per_second:,.0f}",
            "iterator age": f"{progress.get('iterator_age_ms', 0):,} ms",
            "batch p50 / max": f"{progress.get('batch_ms_p50', 0):.0f} / {progress.get('batch_ms_max', 0):.0f} ms",
            "recommendations": f"{len(self.published):,}",
            "users waiting": f"{self.waiting:,}",
            "archived": f"{self.archived:,}",
        }


class Display:
    """The figures, live on a terminal, else a line every ten seconds."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, refresh_per_second=4) if console.is_terminal else None
        self._printed_at = 0.0

    def __enter__(self) -> Display:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_error: object) -> None:
        if self._live:
            self._live.stop()

    def show(self, figures: dict[str, str]) -> None:
        """Show these figures in place of the last ones."""
        if self._live:
            table = Table(*figures, box=None, header_style="dim")
            table.add_row(*figures.values())
            self._live.update(table)
        elif time.monotonic() - self._printed_at >= _LINE_SECONDS:
            self._printed_at = time.monotonic()
            self._console.print("  ".join(f"{name} {value}" for name, value in figures.items()), soft_wrap=True)
