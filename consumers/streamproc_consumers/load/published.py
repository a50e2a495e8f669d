"""The recommendations that came out, as they land: in S3, or in the journal of the local stack's Firehose."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple, Protocol

import msgspec

from streamproc.errors import SettingsError
from streamproc.landed import S3, decoded, lines_of, listed, parted
from streamproc.local.firehose_tap import Accepted
from streamproc.record import Position
from streamproc_consumers.demo.tail import Tail
from streamproc_consumers.recommendation import Recommendation

_JOURNAL = "firehose.jsonl"
#: S3's clock and this machine's may differ by as much; older objects are not looked at.
_CLOCKS_APART = timedelta(minutes=5)


class Published(NamedTuple):
    """A recommendation's user and position, when it was published (seconds since the epoch), and its bytes."""

    user_id: str
    position: Position
    at: float
    data_bytes: int


class Outcome(Protocol):
    """Where recommendations can be read."""

    #: What the time of a recommendation means, in words.
    meaning: str

    def look(self) -> Iterator[Published]:
        """Those that came since the last look."""
        ...


class Journal:
    """The local stack's: what Firehose accepted, and when."""

    meaning = "from the intended time until Firehose accepted the recommendation"

    def __init__(self, path: Path, delivery_stream: str) -> None:
        self._tail = Tail(path)
        self._delivery_stream = delivery_stream
        self._accepted = msgspec.json.Decoder(Accepted).decode
        self._recommendation = msgspec.json.Decoder(Recommendation).decode

    def look(self) -> Iterator[Published]:
        """See :class:`Outcome`."""
        for line in self._tail.lines():
            accepted = self._accepted(line)
            if accepted.stream != self._delivery_stream:
                continue
            for output in accepted.data.encode().splitlines():
                yield _published(self._recommendation(output), accepted.accepted_at, len(output))


class Objects:
    """Firehose's objects below a prefix of S3 that were written since the run began.

    They come a buffer's time after their recommendations, which say themselves when they were published, by the
    consumer's clock.
    """

    meaning = "from the intended time until the consumer published the recommendation, by the consumer's clock"

    def __init__(self, address: str, since: datetime) -> None:
        if not parted(address)[0]:
            raise SettingsError(f"--recommendations {address!r} names no bucket: write s3://bucket/prefix")
        self._address = address
        self._since = since - _CLOCKS_APART
        self._seen: set[str] = set()

    def look(self) -> Iterator[Published]:
        """See :class:`Outcome`. Raises what a service's refusal is translated to."""
        found: list[Published] = []
        for landed in listed(self._address):
            if landed.name in self._seen or landed.modified < self._since:
                continue
            self._seen.add(landed.name)
            found += [
                _published(item, item.published_ts.timestamp(), len(msgspec.json.encode(item)))
                for item in decoded(lines_of(landed.name), Recommendation)
            ]
        found.sort(key=lambda item: item.at)
        yield from found


def outcome_of(address: str, delivery_stream: str, now: float) -> Outcome:
    """Where ``--recommendations`` points. Raises SettingsError where there is nothing that could be read."""
    if address.startswith(S3):
        return Objects(address, datetime.fromtimestamp(now, UTC))
    path = Path(address)
    # The stack makes it with the first record that Firehose accepts.
    if not path.is_file() and not (path.name == _JOURNAL and path.parent.is_dir()):
        raise SettingsError(
            f"--recommendations {address}: no such file; give s3://bucket/prefix, or the local stack's firehose.jsonl"
        )
    return Journal(path, delivery_stream)


def _published(item: Recommendation, at: float, data_bytes: int) -> Published:
    return Published(item.user_id, item.position.position(), at, data_bytes)
