"""What a schedule plays: a processor and the events for it. The simulation's own keeps a list of letters a key."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from streamproc.errors import DecodeError
from streamproc.processor import Changed, KeyedProcessor, SharedFold
from streamproc.settings import WorkerSettings


class Given(msgspec.Struct, frozen=True):
    """One event as a producer sends it."""

    #: Names it in sentences: its place among the events.
    number: int
    partition_key: str
    data: bytes
    #: When it arrives in the stream, seconds since the epoch.
    arrived_at: float


class Played(msgspec.Struct, frozen=True):
    """An application under faults. Ports are the simulation's own."""

    #: Called once a worker, as a new process would.
    processor: Callable[[], KeyedProcessor[Any, Any, Any]]
    #: The events of a schedule. A long one replays more events of a key than its duplicate window remembers.
    events: Callable[[random.Random, bool], Sequence[Given]]
    settings: WorkerSettings = WorkerSettings()


class Letter(msgspec.Struct, frozen=True):
    """One event."""

    key: str
    id: str


class Ledger(SharedFold[Letter, list[str]]):
    """Keeps the ids of a shard's events in order, so that one too many, too few or misplaced shows."""

    def __init__(self) -> None:
        self._encoder = msgspec.json.Encoder()
        self._decoder = msgspec.json.Decoder(list[str])

    def new_partial(self) -> list[str]:
        """See :class:`streamproc.processor.SharedFold`."""
        return []

    def fold(self, partial: list[str], event: Letter) -> list[str]:
        """Append the id; some fail, after what they did."""
        partial.append(event.id)
        if event.id.endswith("13"):
            raise ValueError("no partial can hold this")
        return partial

    def encode(self, partial: list[str]) -> bytes:
        """See :class:`streamproc.processor.SharedFold`."""
        return self._encoder.encode(partial)

    def decode(self, data: bytes) -> list[str]:
        """See :class:`streamproc.processor.SharedFold`."""
        return self._decoder.decode(data)

    def merge(self, partials: Sequence[list[str]]) -> bytes:
        """See :class:`streamproc.processor.SharedFold`."""
        return self._encoder.encode(sorted(letter for partial in partials for letter in partial))


class LetterBox(KeyedProcessor[Letter, list[str], str]):
    """Keeps the ids of each key's events in order, and publishes the last one."""

    def __init__(self) -> None:
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
        """Append the id, in place: what a failed fold left behind must not be kept."""
        state.append(event.id)
        return state

    def shared(self) -> Ledger:
        """See :class:`streamproc.processor.KeyedProcessor`."""
        return Ledger()

    def emit(self, changed: Sequence[Changed[list[str]]]) -> Sequence[str | None]:
        """See :class:`streamproc.processor.KeyedProcessor`."""
        return [item.state[-1] for item in changed]

    def encode(self, output: str) -> bytes:
        """See :class:`streamproc.processor.KeyedProcessor`."""
        return self._encoder.encode(output)

    def encode_state(self, state: list[str]) -> bytes:
        """See :class:`streamproc.processor.KeyedProcessor`."""
        return self._encoder.encode(state)

    def decode_state(self, data: bytes) -> list[str]:
        """See :class:`streamproc.processor.KeyedProcessor`."""
        return self._states.decode(data)


def letters(rng: random.Random, is_long: bool) -> list[Given]:
    """20 to 60 letters for 3 to 5 keys; a long log has 120 to 180, most of them of one key."""
    count = rng.randint(120, 180) if is_long else rng.randint(20, 60)
    keys = [f"key-{number}" for number in range(rng.randint(3, 5))]
    encode = msgspec.json.Encoder().encode
    drawn = (keys[0] if is_long and rng.random() < 0.9 else rng.choice(keys) for _ in range(count))
    return [Given(number, key, encode(Letter(key, f"event-{number}")), 1_000.0) for number, key in enumerate(drawn)]


LETTERS = Played(LetterBox, letters)
