"""One shard's worker: the commit protocol. It knows no runner, no lease and no AWS.

For each batch, in this order:

1. decode; a record that cannot be decoded is rejected
2. load the states of the keys in it: memory, else the store
3. skip what a state already contains: position at or below the state's, or an event id in its window
4. fold the rest, into the states and then into the shard's partial; make the rejected records durable as dead letters;
   emit once for all keys that changed; publish and wait until every output is acknowledged, sending again only what
   failed
5. project the states for readers; where the projection is away, go on and catch up later
6. when a checkpoint is due: write the partial, then the dirty states to the store, in parts beside the next batches;
   only after the last one may the runner move the lease's checkpoint

**Nothing advances on a failure.** What passes is tried again, with backoff, while reading stands still. What does not
pass ends the worker with the error, and the next one starts from the checkpoint. The *abort* event ends every wait: the
lease is lost, or the deadline for a shutdown has passed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any, TypeVar

import msgspec

from streamproc.checkpoint import STATES_PER_WRITE, Checkpoints, Durable
from streamproc.clock import Clock, backoff
from streamproc.deadletter import DeadLetter, Kind
from streamproc.errors import DecodeError, SettingsError
from streamproc.fold import Accepted, in_log_order
from streamproc.keyed import Keyed, keyed_of
from streamproc.late import LateProjection, in_parts
from streamproc.pace import Pace
from streamproc.partial import ShardPartial
from streamproc.ports import Ports
from streamproc.processor import (
    AnyProcessor,
    Changed,
    KeyedProcessor,
    Processor,
    Received,
    Rejected,
    Snapshot,
    decode_all,
)
from streamproc.quarantine import Quarantine
from streamproc.record import Batch, Position, Record, shard_number_of
from streamproc.replayed import MAGIC, unwrap
from streamproc.retry import Retries, WorkerAborted
from streamproc.settings import WorkerSettings
from streamproc.shardmap import HashRange
from streamproc.sink import Delivery
from streamproc.state import StoredState
from streamproc.steps import Steps
from streamproc.telemetry import (
    BatchCommitted,
    BatchRead,
    DeadLettered,
    ModelLoaded,
    ReplayedSkipped,
    SnapshotRefused,
    Telemetry,
)

__all__ = ["Ports", "ShardWorker", "WorkerAborted"]

#: Dead letters that are written, and tried again, together.
LETTERS_PER_WRITE = 25
REASON_CHARACTERS_MAX = 2000

T = TypeVar("T")
R = TypeVar("R")


class ShardWorker:
    """Processes the batches of one shard. Not thread-safe: one thread feeds one worker.

    A runner calls :meth:`start` with the lease's checkpoint, :meth:`process` for every read (an empty one too: it lets
    the projection catch up), and, after each, :meth:`advance_checkpoint`, which says in the end where the lease may be
    moved to. :meth:`make_durable` does all of it, before the worker ends.
    """

    def __init__(
        self,
        *,
        shard_id: str,
        hash_range: HashRange,
        processor: AnyProcessor,
        ports: Ports,
        settings: WorkerSettings,
        clock: Clock,
        telemetry: Telemetry,
        abort: threading.Event,
        states_per_write: int = STATES_PER_WRITE,
    ) -> None:
        self.shard_id = shard_id
        self._hash_range = hash_range
        self._processor = processor
        if not isinstance(processor, (Processor, KeyedProcessor)):
            raise SettingsError(
                f"the application's processor is a {type(processor).__name__}: a KeyedProcessor or a Processor was"
                " expected"
            )
        self._retries = Retries(shard_id, clock, telemetry, abort)
        self._keyed: Keyed | None = None
        if isinstance(processor, KeyedProcessor):
            self._keyed = keyed_of(shard_id, processor, settings, hash_range, ports.partials, self._retries)
        self._snapshot: Snapshot | None = None
        self._model_version: str | None = None
        self._ports = ports
        self._settings = settings
        self._clock = clock
        self._telemetry = telemetry
        # Before the first record of this shard, whatever its first sequence number is.
        self._done = Position(shard_number_of(shard_id), -1, -1)
        self._millis_behind_latest = 0
        self._checkpoints = Checkpoints(
            shard_id,
            self._done,
            keyed=self._keyed,
            store=ports.states,
            settings=settings,
            clock=clock,
            telemetry=telemetry,
            retries=self._retries,
            states_per_write=states_per_write,
        )
        self._dead_letters_ahead: set[Position] = set()
        #: Where replayed records of this batch first stood.
        self._first_positions: dict[Position, Position] = {}
        self._quarantine = Quarantine(shard_id, ports.deadletters)
        # All that waits is emitted before a checkpoint anyway; a longer interval would keep more keys for nothing.
        every = min(settings.emit_at_most_every_seconds, settings.checkpoint_seconds)
        self._pace = Pace(every, clock) if every else None
        self._projection: LateProjection | None = None
        if ports.projection and self._keyed:
            self._projection = LateProjection(shard_id, ports.projection, self._latest, clock, telemetry)

    def start(self, checkpoint: Position | None, *, after_death: bool = False) -> None:
        """Begin after this position (None: at the shard's first record). Reads the dead letters beyond it.

        ``after_death`` says that the worker before this one died; see :mod:`streamproc.quarantine`.

        An event that was dead-lettered before a crash must not be folded by the replay, even where it now could be:
        later states already passed it.
        """
        if checkpoint is not None:
            self._done = self._checkpoints.durable = checkpoint
        self._dead_letters_ahead = self._retries.call(
            "reading dead letters", lambda: self._ports.deadletters.event_positions_after(self.shard_id, self._done)
        )
        if after_death:
            self._retries.call("reading what a dead worker left", self._quarantine.start)
        self._processor.observe(self._telemetry)
        self._tell_model()

    def _tell_model(self) -> None:
        version = self._processor.model_version()
        if version is not None and version != self._model_version:
            self._model_version = version
            self._telemetry.emit(ModelLoaded(shard_id=self.shard_id, model_version=version))

    def close(self) -> None:
        """The worker ends, in order or not. It must not be used again."""
        self._quarantine.close()
        # It asks the worker for states: the two would keep each other, and all states, until the collector comes by.
        self._projection = None

    def process(self, batch: Batch) -> None:
        """Take one batch through steps 1 to 5.

        Raises WorkerAborted, or an error that does not pass. Afterwards the worker must not be used again.
        """
        self._millis_behind_latest = behind = batch.millis_behind_latest
        self._telemetry.emit(BatchRead(shard_id=self.shard_id, records=len(batch.records), millis_behind_latest=behind))
        self._take_snapshot()
        records = self._quarantined(self._unwrapped(self._new(batch.records)))
        if records:
            for group in self._quarantine.groups(records):
                self._process(group)
        else:
            self.tend()
        if batch.records:
            # Also past what was put aside before, by this worker or the one before it: the checkpoint moves on.
            self._done = max(self._done, batch.records[-1].position)

    def tend(self) -> None:
        """What is due without records, also while reads fail: outputs that waited long enough, a late projection."""
        self._emit_waiting()
        if self._projection is not None:
            self._projection.project([])

    def _process(self, records: list[Record]) -> None:
        started, steps = perf_counter(), Steps()
        events, rejected = self._retries.call(
            "decoding", lambda: self._in_user_code(records, lambda: decode_all(self._processor, records))
        )
        steps.end("decode")
        if self._keyed is None:
            counts = self._process_stateless(records, events, rejected, steps)
        else:
            counts = self._process_keyed(self._keyed, records, events, rejected, steps)
        self._done = records[-1].position
        self._tell_model()
        self._committed(len(records), counts, started, steps)

    def _committed(self, records: int, counts: tuple[int, int, int], started: float, steps: Steps) -> None:
        folded, skipped, outputs = counts
        self._telemetry.emit(
            BatchCommitted(
                shard_id=self.shard_id,
                records=records,
                events_folded=folded,
                events_skipped=skipped,
                outputs=outputs,
                batch_seconds=perf_counter() - started,
                step_seconds=steps.seconds,
                emit_seconds=steps.parts.seconds,
                millis_behind_latest=self._millis_behind_latest,
                position=str(self._done),
            )
        )

    def _quarantined(self, records: list[Record]) -> list[Record]:
        """The records without the one that killed the process. Its dead letter is durable before any other is tried."""
        position = self._quarantine.condemned
        condemned = [] if position is None else [record for record in records if record.position == position]
        if condemned:
            reason = "the process died in the application's code on this record, tried alone"
            self._write_rejected([Rejected(record, reason, None) for record in condemned])
            records = [record for record in records if record not in condemned]
        return records

    def _in_user_code(self, records: Sequence[Record], call: Callable[[], T]) -> T:
        with self._quarantine.user_code(records, lambda write: self._retries.call("noting an attempt", write)):
            return call()

    def _new(self, records: list[Record]) -> list[Record]:
        """The records beyond what is done. An iterator opened at the checkpoint's record returns that one again."""
        done, ahead = self._done, self._dead_letters_ahead
        if records and records[0].position <= done:
            records = [record for record in records if record.position > done]
        if ahead:
            records = [record for record in records if record.position not in ahead]
        return records

    def _unwrapped(self, records: list[Record]) -> list[Record]:
        """The records, those that replay a dead letter of ours out of their envelopes, and without other copies."""
        if not [record for record in records if record.data.startswith(MAGIC)]:  # a generator costs more
            return records
        self._first_positions.clear()
        unwrapped: list[Record] = []
        for record in records:
            if not record.data.startswith(MAGIC):
                unwrapped.append(record)
                continue
            try:
                replayed = unwrap(record.data)
            except DecodeError as error:
                self._write_rejected([Rejected(record, error.reason, None)])
                continue
            if self._claims(replayed.namespace, replayed.first_position, record.position):
                unwrapped.append(msgspec.structs.replace(record, data=replayed.data))
                self._first_positions[record.position] = replayed.first_position
            else:
                first = str(replayed.first_position)
                self._telemetry.emit(
                    ReplayedSkipped(shard_id=self.shard_id, position=str(record.position), first_position=first)
                )
        return unwrapped

    def _claims(self, namespace: str, first_position: Position, position: Position) -> bool:
        """Whether the record at ``position`` is the one copy of our dead letter that is to be folded."""
        if namespace != str(self._ports.namespace):
            return False
        return self._retries.call(
            "claiming a dead letter", lambda: self._ports.deadletters.claim(first_position, position)
        )

    def _take_snapshot(self) -> None:
        cycle = self._ports.snapshots
        if cycle is None or self._keyed is None or cycle.current is None or cycle.current is self._snapshot:
            return
        self._snapshot = cycle.current
        try:
            self._keyed.processor.use_snapshot(self._snapshot)
        except Exception as error:  # noqa: BLE001  # user code; the one it has is worth more than a stopped stream
            reason = f"{type(error).__name__}: {error}"
            self._telemetry.emit(SnapshotRefused(shard_id=self.shard_id, number=self._snapshot.number, reason=reason))

    def _process_stateless(
        self, records: list[Record], events: list[Received[Any]], rejected: list[Rejected], steps: Steps
    ) -> tuple[int, int, int]:
        processor = self._processor
        assert isinstance(processor, Processor)  # noqa: S101  # narrows the union for mypy

        def attempt(part: Sequence[Received[Any]]) -> list[tuple[Record, bytes]]:
            # An output has no key here; the last event of the part that gave it names it.
            def run() -> list[tuple[Record, bytes]]:
                return [(part[-1].record, processor.encode(output)) for output in processor.process(part)]

            return self._in_user_code(records, run)

        outputs, failed = self._bisected("processing", events, attempt)
        steps.end("emit")
        self._write_rejected(rejected + [Rejected(item.record, f"process failed: {why}", None) for item, why in failed])
        refused = self._publish([output for _, output in outputs])
        self._write_letters(
            [
                self._letter(outputs[index][0], Kind.EMISSION, f"refused: {why}", outputs[index][1], ordinal=index)
                for index, why in refused
            ]
        )
        steps.end("publish")
        return len(events) - len(failed), 0, len(outputs) - len(refused)

    def _process_keyed(
        self,
        keyed: Keyed,
        records: list[Record],
        events: list[Received[Any]],
        rejected: list[Rejected],
        steps: Steps,
    ) -> tuple[int, int, int]:
        by_key = self._in_user_code(records, lambda: keyed.admission.by_key(events, rejected))
        keyed.load(by_key, self._ports.states, self._retries)
        steps.end("load")
        folded = self._in_user_code(records, lambda: keyed.states.fold(by_key))
        self._write_rejected(rejected + folded.rejected)
        if keyed.partial is not None:
            self._fold_partial(keyed.partial, in_log_order(folded.accepted, events), records)
        steps.end("fold")
        # Without a sink nobody would read the outputs: a rebuild's shadow only folds.
        changed = keyed.states.changed() if self._ports.sink is not None else []
        if self._pace is not None:
            changed = keyed.states.live(self._pace.due(changed, at_once=self._quarantine.is_careful))
        outputs = self._emit(keyed, changed, records, steps)
        committed = keyed.states.commit()
        if self._projection is not None:
            self._projection.project(committed)
        steps.end("project")
        return len(folded.accepted), folded.events_skipped, outputs

    def _emit(self, keyed: Keyed, changed: list[Changed[Any]], records: Sequence[Record], steps: Steps) -> int:
        """Emit these and publish what that gives; returns how many outputs were acknowledged."""
        processor = keyed.processor

        def attempt(part: Sequence[Changed[Any]]) -> list[tuple[Changed[Any], bytes]]:
            with steps.in_emit():
                outputs = self._in_user_code(records, lambda: processor.emit(part))
            if len(outputs) != len(part):
                raise ValueError(f"emit returned {len(outputs)} outputs for {len(part)} changed keys")
            encode = processor.encode
            encoded = [(item, encode(output)) for item, output in zip(part, outputs, strict=True) if output is not None]
            steps.parts.end("encode")
            return encoded

        emissions, failed = self._bisected("emitting", changed, attempt)
        steps.end("emit")
        refused = self._publish([output for _, output in emissions])
        self._write_letters(
            [self._emission_letter(item, f"emit failed: {why}", b"") for item, why in failed]
            + [
                self._emission_letter(emissions[index][0], f"refused: {why}", emissions[index][1])
                for index, why in refused
            ]
        )
        steps.end("publish")
        return len(emissions) - len(refused)

    def _emit_waiting(self, *, at_once: bool = False) -> None:
        """Emit the keys whose interval is over, or all that wait."""
        if self._pace is None or self._keyed is None:
            return
        started, steps = perf_counter(), Steps()
        if changed := self._keyed.states.live(self._pace.due([], at_once=at_once)):
            outputs = self._emit(self._keyed, changed, [], steps)
            self._tell_model()
            self._committed(0, (0, 0, outputs), started, steps)

    def _fold_partial(self, partial: ShardPartial, accepted: list[Accepted], records: Sequence[Record]) -> None:
        left_out = self._in_user_code(records, lambda: partial.fold(accepted, records[-1].position))
        self._write_letters(
            [self._letter(item.record, Kind.SHARED, item.reason, item.record.data) for item in left_out]
        )

    def _bisected(
        self, what: str, items: Sequence[T], attempt: Callable[[Sequence[T]], list[R]]
    ) -> tuple[list[R], list[tuple[T, str]]]:
        """Run user code on all items at once; where it fails, halve until the items that cause it stand alone."""
        if not items:
            return [], []
        try:
            return self._retries.call(what, lambda: attempt(items)), []
        except WorkerAborted:
            raise
        except Exception as error:  # noqa: BLE001  # user code
            if len(items) == 1:
                return [], [(items[0], f"{type(error).__name__}: {error}")]
        middle = len(items) // 2
        left, right = (self._bisected(what, part, attempt) for part in (items[:middle], items[middle:]))
        return left[0] + right[0], left[1] + right[1]

    def _publish(self, outputs: Sequence[bytes]) -> list[tuple[int, str]]:
        """Publish until every output is acknowledged or refused for good; return the refused ones."""
        sink = self._ports.sink
        if sink is None or not outputs:
            return []
        refused: list[tuple[int, str]] = []
        pending = list(range(len(outputs)))
        waits = backoff()
        attempt = 0
        while pending:
            attempt += 1

            def send(indices: list[int] = pending) -> Delivery:
                return sink.publish([outputs[index] for index in indices])

            delivery = self._retries.call("publishing", send)
            refused += [(pending[index], reason) for index, reason in delivery.refused]
            pending = [pending[index] for index in delivery.pending]
            if pending:
                self._retries.wait(f"publishing {len(pending)} outputs again", delivery.error, attempt, next(waits))
        return refused

    def advance_checkpoint(self, until: float) -> Durable | None:
        """Step 6, as far as it comes until that moment of the clock; begins a checkpoint where one is due.

        Returns where the lease may move to, once everything up to there is durable, and None before that: a lease
        ahead of a state would lose the events between them at the next start. After an error the worker must not be
        used again.
        """
        if self._checkpoints.begins(self._done):
            self._emit_waiting(at_once=True)
            self._checkpoints.begin(self._done)
        return self._checkpointed(self._checkpoints.advance(self._done, until))

    def make_durable(self) -> Durable | None:
        """Step 6 at once, for everything that is done. None where nothing was done since the last time."""
        self._emit_waiting(at_once=True)
        return self._checkpointed(self._checkpoints.complete(self._done))

    def _checkpointed(self, durable: Durable | None) -> Durable | None:
        if durable is not None:
            self._quarantine.close()
            self._dead_letters_ahead = {letter for letter in self._dead_letters_ahead if letter > durable.position}
        return durable

    def _latest(self, keys: Sequence[str]) -> list[StoredState]:
        """The latest committed states of these keys: in memory, else as the store has them."""
        committed = self._keyed.states.committed(keys) if self._keyed else []
        found = {stored.key for stored in committed}
        missing = [key for key in keys if key not in found]
        return [*committed, *self._ports.states.load(missing).values()]

    def _write_rejected(self, rejected: list[Rejected]) -> None:
        self._write_letters(
            [self._letter(item.record, Kind.EVENT, item.reason, item.record.data, item.field) for item in rejected]
        )

    def _letter(
        self, record: Record, kind: Kind, reason: str, data: bytes, field: str | None = None, *, ordinal: int = 0
    ) -> DeadLetter:
        return DeadLetter(
            shard_id=self.shard_id,
            position=record.position,
            kind=kind,
            ordinal=ordinal,
            # An error's text can hold the whole event, and an item has a bound.
            reason=reason[:REASON_CHARACTERS_MAX],
            field=field and field[:REASON_CHARACTERS_MAX],
            partition_key=record.partition_key,
            data=data,
            arrived_at=record.arrived_at,
            first_position=self._first_positions.get(record.position),
        )

    def _emission_letter(self, changed: Changed[Any], reason: str, output: bytes) -> DeadLetter:
        record = Record(output, changed.key, changed.position, self._clock.time())
        return self._letter(record, Kind.EMISSION, reason, output)

    def _write_letters(self, letters: list[DeadLetter]) -> None:
        if not letters:
            return
        for part in in_parts(letters, LETTERS_PER_WRITE):

            def write(part: Sequence[DeadLetter] = part) -> None:
                self._ports.deadletters.write(part)

            self._retries.call("writing dead letters", write)
        for letter in letters:
            self._telemetry.emit(
                DeadLettered(
                    shard_id=self.shard_id, position=str(letter.position), kind=letter.kind, reason=letter.reason
                )
            )
