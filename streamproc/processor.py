"""What an application implements.

:class:`KeyedProcessor` folds events into a state a key and emits outputs from the states that changed. The library
loads the states, drops what they already contain, folds, emits, publishes, projects and checkpoints.
:class:`Processor` is for those who need no state.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

import msgspec

from streamproc.errors import DecodeError, SettingsError, is_transient
from streamproc.record import Position, Record
from streamproc.telemetry import Telemetry

E = TypeVar("E")
S = TypeVar("S")
P = TypeVar("P")
O = TypeVar("O")  # noqa: E741  # E, S, P, O: event, state, partial, output, as in DESIGN.md


class Received(NamedTuple, Generic[E]):
    """An event with the record that carried it."""

    event: E
    record: Record


class SharedFold(ABC, Generic[E, P]):
    """Values that depend on all keys, such as what is trending: folded a shard, merged over the shards.

    ``fold`` must depend on its arguments alone and keep a bounded *partial*. ``merge`` makes of all shards' partials
    what readers use, a *snapshot*; the order of the partials must not matter to it.
    """

    #: Grows when ``fold`` changes what a partial means.
    version: ClassVar[int] = 1

    @abstractmethod
    def new_partial(self) -> P:
        """The partial of a shard without events."""

    @abstractmethod
    def fold(self, partial: P, event: E) -> P:
        """The partial with the event in it; may change ``partial`` in place.

        Given every event that a state took, in the order of the shard's log. An event on which it fails twice is put
        aside and left out of the partial; the state of its key has it.
        """

    @abstractmethod
    def encode(self, partial: P) -> bytes:
        """A partial as it is stored. Beyond ``state_bytes_max`` the worker stops, since no single event is to blame."""

    @abstractmethod
    def decode(self, data: bytes) -> P:
        """Read what ``encode`` wrote, for this ``version``."""

    @abstractmethod
    def merge(self, partials: Sequence[P]) -> bytes:
        """The snapshot of all shards' partials. Given the equal partials, the equal bytes."""

    def migrate(self, data: bytes, version: int) -> P:
        """The partial that an older fold wrote, as this one means it. By default a new one: it fills again."""
        del data, version
        return self.new_partial()


class Changed(msgspec.Struct, Generic[S], frozen=True, gc=False):
    """A key whose state changed in this batch."""

    key: str
    state: S
    #: Position of the last event in the state.
    position: Position
    #: Event time of that event, seconds since the epoch.
    event_time: float
    #: How many events the state holds.
    events_folded: int


class Snapshot(msgspec.Struct, frozen=True):
    """The partials of all shards, merged, as of one moment; see :mod:`streamproc.snapshot`."""

    #: Counts from 1; a later snapshot has a greater number.
    number: int
    #: The version of the shared fold that merged it. Workers are given those of their own version alone.
    version: int
    #: What :meth:`SharedFold.merge` gave.
    data: bytes
    #: Which partial of each shard is in it, by the text of its position.
    positions: dict[str, str]
    #: Seconds since the epoch.
    made_at: float


class Processor(ABC, Generic[E, O]):
    """An application without state: events in, outputs out.

    Every method but ``encode`` must be a pure function of its arguments: a batch that is replayed after a crash may be
    cut elsewhere, and its outputs are published again.
    """

    @abstractmethod
    def decode(self, data: bytes) -> E:
        """The event in a record's data. Raises DecodeError with the field's name; the record is then dead-lettered."""

    @abstractmethod
    def process(self, batch: Sequence[Received[E]]) -> Sequence[O]:
        """The outputs of these events, in any number."""

    @abstractmethod
    def encode(self, output: O) -> bytes:
        """An output as the sink writes it: one line of JSON, without the newline."""

    def model_version(self) -> str | None:
        """The version of the model that the last outputs came from, where there is one; telemetry tells it."""
        return None

    def observe(self, telemetry: Telemetry) -> None:
        """The worker starts: what the application has to tell from now on goes to the library's logs and metrics."""
        del telemetry


class KeyedProcessor(ABC, Generic[E, S, O]):
    """An application with a state a key.

    The key of an event must be the partition key of its record: that is what makes a key's positions grow, and a record
    where it is not is dead-lettered. ``fold`` must depend on its arguments alone, and on no clock but the events' own:
    the state is what one fold of the key's log gives, whoever computes it and however often.
    """

    #: Grows when ``fold`` changes what a state means. States carry it; a newer one is never written by an older worker.
    fold_version: ClassVar[int] = 1

    @abstractmethod
    def decode(self, data: bytes) -> E:
        """The event in a record's data. Raises DecodeError with the field's name; the record is then dead-lettered."""

    @abstractmethod
    def key(self, event: E) -> str:
        """The state key of an event."""

    @abstractmethod
    def event_id(self, event: E) -> bytes:
        """What identifies the event, made by its producer: the same in every copy of it, in no other event."""

    @abstractmethod
    def event_time(self, event: E) -> float:
        """When it happened, seconds since the epoch."""

    @abstractmethod
    def new_state(self) -> S:
        """The state of a key without events."""

    @abstractmethod
    def fold(self, state: S, event: E) -> S:
        """The state with the event in it.

        May change ``state`` in place and return it: the library keeps the last committed one apart. An error that comes
        twice dead-letters the event, and the fold goes on without it.
        """

    @abstractmethod
    def emit(self, changed: Sequence[Changed[S]]) -> Sequence[O | None]:
        """One output, or None, for each changed key, in the same order: all keys that a batch touched, at once.

        With ``emit_at_most_every_seconds`` the call before a checkpoint has all keys that wait: at most
        ``dirty_keys_max`` and those of a batch.

        Must not change the states. An error that stays dead-letters the emission of the keys that cause it, found by
        bisection; their states stand.
        """

    @abstractmethod
    def encode(self, output: O) -> bytes:
        """An output as the sink writes it: one line of JSON, without the newline."""

    @abstractmethod
    def encode_state(self, state: S) -> bytes:
        """A state as it is stored."""

    @abstractmethod
    def decode_state(self, data: bytes) -> S:
        """Read what ``encode_state`` wrote, for this ``fold_version``."""

    def model_version(self) -> str | None:
        """The version of the model that the last outputs came from, where there is one; telemetry tells it."""
        return None

    def observe(self, telemetry: Telemetry) -> None:
        """The worker starts: what the application has to tell from now on goes to the library's logs and metrics."""
        del telemetry

    def shared(self) -> SharedFold[E, Any] | None:
        """The fold of values across keys, where the application has one."""
        return None

    def use_snapshot(self, snapshot: Snapshot) -> None:
        """Take the latest merged values, between batches. ``emit`` may use them, ``fold`` may not."""
        del snapshot

    def migrate_state(self, data: bytes, fold_version: int) -> S:
        """The state that an older fold wrote, as this one means it: a pure function of the two.

        A processor that can declares it; by default an older state is refused with what to do instead.
        """
        del data
        raise SettingsError(
            f"a state has fold version {fold_version} and this worker {self.fold_version}, and no migration is"
            " declared: override migrate_state, or run the new fold under a new application name, which rebuilds the"
            " states from the stream"
        )


AnyProcessor = Processor[Any, Any] | KeyedProcessor[Any, Any, Any]


class Rejected(msgspec.Struct, frozen=True, gc=False):
    """What becomes of a record that cannot be used: a reason, and the field where it is one field's fault."""

    record: Record
    reason: str
    field: str | None


def decode_all(processor: AnyProcessor, records: Sequence[Record]) -> tuple[list[Received[Any]], list[Rejected]]:
    """Decode a batch: the events in log order, and the records that are rejected.

    An error of ``decode`` rejects the record: it comes from the data, and the same data fails again. One that passes,
    such as a schema registry's timeout, is raised.
    """
    decode = processor.decode
    events: list[Received[Any]] = []
    rejected: list[Rejected] = []
    new, received = tuple.__new__, Received  # a third of what Received(...) costs, for every event
    for record in records:
        try:
            events.append(new(received, (decode(record.data), record)))
        except DecodeError as error:
            rejected.append(Rejected(record, error.reason, error.field))
        except Exception as error:  # user code: whatever it raises of the data's own must not stop the shard
            if is_transient(error):
                raise
            rejected.append(Rejected(record, f"decode failed: {type(error).__name__}: {error}", None))
    return events, rejected
