"""The application of the simulation: a list of letters a key."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from streamproc.errors import DecodeError
from streamproc.processor import Changed, KeyedProcessor

#: Not JSON, so it cannot be decoded.
UNDECODABLE = b"\xff"


class Letter(msgspec.Struct, frozen=True):
    """One event."""

    key: str
    id: str
    #: How it fails: not at all, "always", "once", "until mended" (in the fold), or "emission" (in emit).
    fails: str = ""


class Output(msgspec.Struct, frozen=True):
    """What is published for a key: how many letters its box holds, and the last of them."""

    key: str
    position: tuple[int, int, int]
    letters: int
    last: str


class LetterBox(KeyedProcessor[Letter, list[str], Output]):
    """Keeps the ids of each key's events in order. Some events make it fail, so that failures can be played."""

    def __init__(self) -> None:
        self.mended = False
        self._failed_once: set[str] = set()
        self._encoder = msgspec.json.Encoder()
        self._events = msgspec.json.Decoder(Letter)
        self._states = msgspec.json.Decoder(list[str])

    def decode(self, data: bytes) -> Letter:
        """See :class:`streamproc.processor.KeyedProcessor`."""
        try:
            return self._events.decode(data)
        except msgspec.DecodeError as error:
            raise DecodeError("not a letter") from error

    def key(self, event: Letter) -> str:
        """See :class:`streamproc.processor.KeyedProcessor`."""
        return event.key

    def event_id(self, event: Letter) -> bytes:
        """See :class:`streamproc.processor.KeyedProcessor`."""
        return event.id.encode()

    def event_time(self, event: Letter) -> float:
        """See :class:`streamproc.processor.KeyedProcessor`."""
        del event
        return 0.0

    def new_state(self) -> list[str]:
        """See :class:`streamproc.processor.KeyedProcessor`."""
        return []

    def fold(self, state: list[str], event: Letter) -> list[str]:
        """Append the id, then fail if the event says so: what a failed fold left behind must not be kept."""
        state.append(event.id)
        if event.fails == "always" or (event.fails == "until mended" and not self.mended):
            raise ValueError(f"the fold fails on {event.id}")
        if event.fails == "once" and event.id not in self._failed_once:
            self._failed_once.add(event.id)
            raise ValueError(f"the fold fails once on {event.id}")
        if event.fails == "emission":
            state[-1] = event.id + "!"
        return state

    def emit(self, changed: Sequence[Changed[list[str]]]) -> Sequence[Output | None]:
        """See :class:`streamproc.processor.KeyedProcessor`."""
        if any(item.state[-1].endswith("!") for item in changed):
            raise ValueError("no output can be made of this letter")
        return [Output(item.key, item.position, len(item.state), item.state[-1]) for item in changed]

    def encode(self, output: Output) -> bytes:
        """See :class:`streamproc.processor.KeyedProcessor`."""
        return self._encoder.encode(output)

    def encode_state(self, state: list[str]) -> bytes:
        """See :class:`streamproc.processor.KeyedProcessor`."""
        return self._encoder.encode(state)

    def decode_state(self, data: bytes) -> list[str]:
        """See :class:`streamproc.processor.KeyedProcessor`."""
        return self._states.decode(data)
