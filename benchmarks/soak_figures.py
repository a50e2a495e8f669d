"""What the soak measures: the memory of a process, what Firehose accepted, and the figures with what they must be."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec
import numpy as np

from streamproc.local import LocalStack, read_journal
from streamproc.record import Position
from streamproc_consumers.recommendation import Recommendation

BUCKET, OUTPUTS_PREFIX = "soak", "recommendations/"
OUTPUTS_SECONDS = 5.0
#: Memory is measured after so long of a process' life, and over at least as long: a shorter life is not judged, since
#: what it grows by is what it fills once.
WARM_UP_SECONDS = 300.0
RSS_GROWTH_MB_PER_MINUTE_MAX = 1.0


class Figures(msgspec.Struct, kw_only=True):
    """What is written to ``build/soak.json``."""

    minutes: float
    seed: int
    events_per_second: float
    events_sent: int
    #: Events that the producer gave up. Kinesis itself has no fault here, so there are none.
    events_failed: int
    events_applied: int
    events_lost: int
    events_applied_twice: int
    states_equal_oracle: bool
    dead_letters: int
    users: int
    users_without_last_output: int
    outputs_published: int
    consumer_lives: int
    #: Ends that no fault explains, as "life 3: exit code 1".
    ends_unexplained: list[str]
    faults: int
    faults_by_kind: dict[str, int]
    shards: int
    rss_mb_max: dict[str, float]
    #: None where the process did not live long enough to tell.
    rss_mb_growth_per_minute: dict[str, float | None]
    rss_measured_minutes: dict[str, float]

    def broken_promises(self) -> list[str]:
        """What does not hold, in words."""
        checks = {
            f"{self.events_lost} events were lost": self.events_lost,
            f"{self.events_applied_twice} events were applied twice": self.events_applied_twice,
            "a state differs from the single-threaded fold": not self.states_equal_oracle,
            f"{self.events_failed} events were given up by the producer": self.events_failed,
            f"{self.dead_letters} events were dead-lettered": self.dead_letters,
            f"{self.users_without_last_output} users lack their last output": self.users_without_last_output,
            f"the consumer ended without a fault: {'; '.join(self.ends_unexplained)}": self.ends_unexplained,
        }
        for name, growth in self.rss_mb_growth_per_minute.items():
            sentence = f"the {name}'s memory grows by {growth} MB a minute, beyond {RSS_GROWTH_MB_PER_MINUTE_MAX}"
            checks[sentence] = growth is not None and growth > RSS_GROWTH_MB_PER_MINUTE_MAX
        return [sentence for sentence, broken in checks.items() if broken]


class Memory:
    """Resident memory of one process over its life."""

    def __init__(self, process_id: int) -> None:
        self._status = Path(f"/proc/{process_id}/status")
        #: (seconds, MB).
        self.samples: list[tuple[float, float]] = []

    def sample(self) -> None:
        try:
            found = [line for line in self._status.read_text().splitlines() if line.startswith("VmRSS:")]
        except OSError:  # it has just ended, or this is no Linux
            return
        if found:
            self.samples.append((time.monotonic(), int(found[0].split()[1]) / 1024))

    def latest_mb(self) -> float:
        return self.samples[-1][1] if self.samples else 0.0

    def max_mb(self) -> float:
        return round(max((mb for _, mb in self.samples), default=0.0), 1)

    def growth_mb_per_minute(self) -> float | None:
        """The slope of the least-squares line through the settled samples; None for a life too short to tell."""
        settled = self._settled()
        if not settled or settled[-1][0] - settled[0][0] < WARM_UP_SECONDS:
            return None
        seconds, mb = np.array(settled).T
        return round(float(np.polyfit(seconds / 60, mb, 1)[0]), 3)

    def measured_minutes(self) -> float:
        settled = self._settled()
        return round((settled[-1][0] - settled[0][0]) / 60, 2) if settled else 0.0

    def _settled(self) -> list[tuple[float, float]]:
        """The samples after the warm-up."""
        return [sample for sample in self.samples if sample[0] >= self.samples[0][0] + WARM_UP_SECONDS]


class Outputs:
    """What Firehose accepted: the latest position by user. Its journal and S3's objects are thrown away once read."""

    def __init__(self, stack: LocalStack) -> None:
        self.last: dict[str, Position] = {}
        self.published = 0
        self._stack = stack
        self._s3 = stack.client("s3")
        self._read = stack.folder / "firehose-read.jsonl"
        self._decode = msgspec.json.Decoder(Recommendation).decode
        self._looked_at = time.monotonic()

    def look(self, *, now: bool = False) -> None:
        """Read what came, every few seconds."""
        if not now and time.monotonic() - self._looked_at < OUTPUTS_SECONDS:
            return
        self._looked_at = time.monotonic()
        if self._stack.firehose_journal.exists():
            self._stack.firehose_journal.rename(self._read)
            time.sleep(0.05)  # a line that was being written is whole then; the next one goes to a new file
            for accepted in read_journal(self._read):
                for line in accepted.data.splitlines():
                    output = self._decode(line)
                    position = output.position.position()
                    self.last[output.user_id] = max(position, self.last.get(output.user_id, position))
                    self.published += 1
            self._read.unlink()
        for page in self._s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=OUTPUTS_PREFIX):
            if found := page.get("Contents"):
                self._s3.delete_objects(Bucket=BUCKET, Delete={"Objects": [{"Key": each["Key"]} for each in found]})


def show(figures: Figures) -> None:
    for name, value in msgspec.structs.asdict(figures).items():
        rows = value.items() if isinstance(value, dict) else [("", value)]
        for kind, each in rows:
            label = f"{name.replace('_', ' ')} {kind.replace('_', ' ')}".rstrip()
            number = isinstance(each, (int, float)) and not isinstance(each, bool)
            print(f"{label:<44} {f'{each:,}' if number else 'not judged' if each is None else each}")
