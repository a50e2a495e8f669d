"""What goes wrong in an application's code, played around any processor; and what its ``emit`` was given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from streamproc.errors import DecodeError
from streamproc.processor import Changed, KeyedProcessor, SharedFold
from streamproc.record import Position
from streamproc.telemetry import Telemetry

#: How a record fails: not at all; in decode; in every fold; in its first fold; in every fold until the first crash, as
#: when a mended program is started; or in the emission of the state that it is the last event of.
FAILURES = ("", "undecodable", "always", "once", "until mended", "emission")
_NUMBER_BYTES = 4
_HEADER_BYTES = 1 + _NUMBER_BYTES


def with_failure(failure: str, number: int, data: bytes) -> bytes:
    """A record's data, with how it fails and the event's number in front."""
    return bytes([FAILURES.index(failure)]) + number.to_bytes(_NUMBER_BYTES) + data


class _Event(msgspec.Struct, frozen=True, gc=False):
    event: Any
    failure: str
    number: int


class Emission(msgspec.Struct, frozen=True):
    """What ``emit`` was given for one key."""

    key: str
    position: Position
    events_folded: int
    state: bytes


class _Output(msgspec.Struct, frozen=True):
    emission: Emission
    output: Any


class Mishaps:
    """What all workers of a schedule share: which events failed already, and what was emitted."""

    def __init__(self, last_of_failed_emissions: set[Position], without_output: Callable[[Emission], None]) -> None:
        #: The program was mended: "until mended" is over.
        self.mended = False
        self.failed_emissions = last_of_failed_emissions
        self.without_output = without_output
        self._failed_once: set[int] = set()
        self._emissions: list[Emission] = []

    def strike(self, failure: str, number: int) -> None:
        """Fail after the fold did its work."""
        if failure == "always" or (failure == "until mended" and not self.mended):
            raise ValueError(f"the fold fails on event {number}")
        if failure == "once" and number not in self._failed_once:
            self._failed_once.add(number)
            raise ValueError(f"the fold fails once on event {number}")

    def tagged(self, emission: Emission, output: bytes) -> bytes:
        """An output as it is published here, from which :meth:`emission` tells what it was made of."""
        self._emissions.append(emission)
        return (len(self._emissions) - 1).to_bytes(_NUMBER_BYTES) + output

    def emission(self, published: bytes) -> Emission:
        """What a published output was made of."""
        return self._emissions[int.from_bytes(published[:_NUMBER_BYTES])]


class Unwrapping(SharedFold[Any, Any]):
    """A shared fold whose events come in a wrapping."""

    def __init__(self, own: SharedFold[Any, Any], unwrap: Callable[[Any], Any]) -> None:
        self.version = own.version  # type: ignore[misc]  # the class's, of whatever class it is
        self._own = own
        self._unwrap = unwrap

    def new_partial(self) -> Any:
        """See :class:`streamproc.processor.SharedFold`."""
        return self._own.new_partial()

    def fold(self, partial: Any, event: Any) -> Any:
        """See :class:`streamproc.processor.SharedFold`."""
        return self._own.fold(partial, self._unwrap(event))

    def encode(self, partial: Any) -> bytes:
        """See :class:`streamproc.processor.SharedFold`."""
        return self._own.encode(partial)

    def decode(self, data: bytes) -> Any:
        """See :class:`streamproc.processor.SharedFold`."""
        return self._own.decode(data)

    def merge(self, partials: Sequence[Any]) -> bytes:
        """See :class:`streamproc.processor.SharedFold`."""
        return self._own.merge(partials)


class MishapProcessor(KeyedProcessor[_Event, Any, _Output]):
    """A processor whose events fail as their headers say. Everything else is the processor's own."""

    def __init__(self, processor: KeyedProcessor[Any, Any, Any], mishaps: Mishaps) -> None:
        self.fold_version = processor.fold_version  # type: ignore[misc]  # the class's, of whatever class it is
        self._own = processor
        self._mishaps = mishaps

    def decode(self, data: bytes) -> _Event:
        """See :class:`streamproc.processor.KeyedProcessor`."""
        failure = FAILURES[data[0]]
        if failure == "undecodable":
            raise DecodeError("the record cannot be decoded")
        event = self._own.decode(data[_HEADER_BYTES:])
        return _Event(event, failure, int.from_bytes(data[1:_HEADER_BYTES]))

    def key(self, event: _Event) -> str:
        """See :class:`streamproc.processor.KeyedProcessor`."""
        return self._own.key(event.event)

    def event_id(self, event: _Event) -> bytes:
        """See :class:`streamproc.processor.KeyedProcessor`."""
        return self._own.event_id(event.event)

    def event_time(self, event: _Event) -> float:
        """See :class:`streamproc.processor.KeyedProcessor`."""
        return self._own.event_time(event.event)

    def new_state(self) -> Any:
        """See :class:`streamproc.processor.KeyedProcessor`."""
        return self._own.new_state()

    def model_version(self) -> str | None:
        """See :class:`streamproc.processor.KeyedProcessor`."""
        return self._own.model_version()

    def observe(self, telemetry: Telemetry) -> None:
        """See :class:`streamproc.processor.KeyedProcessor`."""
        self._own.observe(telemetry)

    def shared(self) -> Unwrapping | None:
        """See :class:`streamproc.processor.KeyedProcessor`."""
        own = self._own.shared()
        return None if own is None else Unwrapping(own, lambda event: event.event)

    def fold(self, state: Any, event: _Event) -> Any:
        """Fold, then fail if the event says so: what a failed fold left behind must not be kept."""
        state = self._own.fold(state, event.event)
        if event.failure:
            self._mishaps.strike(event.failure, event.number)
        return state

    def emit(self, changed: Sequence[Changed[Any]]) -> Sequence[_Output | None]:
        """See :class:`streamproc.processor.KeyedProcessor`."""
        mishaps = self._mishaps
        if mishaps.failed_emissions and any(item.position in mishaps.failed_emissions for item in changed):
            raise ValueError("no output can be made of this state")
        encode = self._own.encode_state
        given = [Emission(item.key, item.position, item.events_folded, encode(item.state)) for item in changed]
        outputs = self._own.emit(changed)
        if len(outputs) != len(given):
            return [None] * len(outputs)  # the worker refuses it
        for emission, output in zip(given, outputs, strict=True):
            if output is None:
                mishaps.without_output(emission)
        pairs = zip(given, outputs, strict=True)
        return [None if output is None else _Output(emission, output) for emission, output in pairs]

    def encode(self, output: _Output) -> bytes:
        """See :class:`streamproc.processor.KeyedProcessor`."""
        return self._mishaps.tagged(output.emission, self._own.encode(output.output))

    def encode_state(self, state: Any) -> bytes:
        """See :class:`streamproc.processor.KeyedProcessor`."""
        return self._own.encode_state(state)

    def decode_state(self, data: bytes) -> Any:
        """See :class:`streamproc.processor.KeyedProcessor`."""
        return self._own.decode_state(data)
