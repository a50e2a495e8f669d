"""One shard in the local runner: a thread that reads, processes and checkpoints it."""

from __future__ import annotations

import threading
from collections.abc import Callable

from streamproc.checkpoint import Durable, checkpointed
from streamproc.clock import Clock, backoff
from streamproc.errors import LeasesHeldElsewhere, ServiceUnreachable, is_transient
from streamproc.lease import SHARD_END
from streamproc.runners.held import HeldLease
from streamproc.runners.reader import ShardReader, position_of
from streamproc.telemetry import LeaseLost, Retried, ShardEnded, Telemetry
from streamproc.worker import ShardWorker, WorkerAborted


class ShardConsumer(threading.Thread):
    """Read, process, checkpoint when it is due; until told to leave, the shard's end, a lost lease or an error.

    ``leave`` ends it after the batch in hand, with a checkpoint and the lease released. A lost lease ends it at once
    and nothing more is written. ``failure`` is what ended it otherwise; the runner raises it.
    """

    def __init__(
        self,
        held: HeldLease,
        reader: ShardReader,
        worker: ShardWorker,
        *,
        after_death: bool,
        poll_seconds: float,
        clock: Clock,
        telemetry: Telemetry,
        leave: threading.Event,
        ended: threading.Event,
    ) -> None:
        super().__init__(name=worker.shard_id, daemon=True)
        self.held = held
        self.failure: BaseException | None = None
        self._shard_id = worker.shard_id
        self._reader = reader
        self._worker = worker
        self._after_death = after_death
        self._poll_seconds = poll_seconds
        self._clock = clock
        self._telemetry = telemetry
        self._leave = leave
        self._ended = ended

    def run(self) -> None:
        """See the class."""
        try:
            self._worker.start(position_of(self.held.lease), after_death=self._after_death)
            self._reader.seek(self.held.lease, self._clock.time())
            if not self._consume():
                if durable := self._worker.make_durable():
                    self._move_checkpoint(durable)
                self._write_lease("releasing", self.held.release)
        except WorkerAborted as error:
            self._report_loss(error)
        except BaseException as error:  # noqa: BLE001  # raised again by the runner, in the main thread; SystemExit too
            self.failure = error
        finally:
            self._worker.close()
            del self._worker, self._reader  # an ended shard stays in the runner's list, without its states

    def _consume(self) -> bool:
        """Read and process. True once the shard ended, False when told to leave."""
        waits = backoff(base=self._poll_seconds)
        attempt = 0
        while not self._leave.is_set():
            started = self._clock.monotonic()
            try:
                batch = self._reader.read()
            except Exception as error:
                if not is_transient(error):
                    raise
                attempt += 1
                wait = next(waits)
                self._telemetry.emit(
                    Retried(what=f"reading {self._shard_id}", error=str(error), attempt=attempt, wait_seconds=wait)
                )
                self._worker.tend()
                self._advance_checkpoint(until=self._clock.monotonic() + wait)
                self._pause(wait)
                continue
            if attempt:
                attempt, waits = 0, backoff(base=self._poll_seconds)
            if batch is None:
                self._move_checkpoint(self._worker.make_durable(), ended=True)
                self._telemetry.emit(ShardEnded(shard_id=self._shard_id))
                self._ended.set()
                return True
            self._worker.process(batch)
            self._advance_checkpoint(until=started + self._poll_seconds)
            if self.held.lost.is_set():
                raise WorkerAborted(f"the lease of {self._shard_id} was taken")
            self._pause(started + self._poll_seconds - self._clock.monotonic())
        return False

    def _advance_checkpoint(self, until: float) -> None:
        if durable := self._worker.advance_checkpoint(until):
            self._move_checkpoint(durable)

    def _pause(self, seconds: float) -> None:
        if seconds > 0:
            self._clock.wait(seconds, self._leave)

    def _move_checkpoint(self, durable: Durable | None, *, ended: bool = False) -> None:
        """Move the lease's checkpoint to what is durable, or to the shard's end."""
        started = self._clock.monotonic()
        position = None if ended or durable is None else durable.position
        if position is None:
            checkpoint, sub_sequence_number = SHARD_END, 0
        else:
            checkpoint, sub_sequence_number = str(position.sequence_number), position.sub_sequence_number
        self._write_lease("checkpointing", lambda: self.held.checkpoint(checkpoint, sub_sequence_number))
        self._telemetry.emit(checkpointed(self._shard_id, position, durable, self._clock.monotonic() - started))

    def _write_lease(self, what: str, write: Callable[[], bool]) -> None:
        """Write the lease, as long as the errors pass. Raises WorkerAborted where it is lost."""
        for attempt, wait in enumerate(backoff(), 1):
            try:
                held = write()
            except Exception as error:
                if not is_transient(error):
                    raise
                self._telemetry.emit(
                    Retried(what=f"{what} {self._shard_id}", error=str(error), attempt=attempt, wait_seconds=wait)
                )
                self._clock.wait(wait, self.held.lost)
            else:
                if not held:
                    raise WorkerAborted(f"the lease of {self._shard_id} was taken")
                return

    def _report_loss(self, aborted: WorkerAborted) -> None:
        if self.held.given_up:
            self.failure = ServiceUnreachable(
                f"{aborted}: stopped without a last checkpoint; what came after the one before is replayed at the start"
            )
            return
        owner = self.held.taken_by
        self._telemetry.emit(LeaseLost(shard_id=self._shard_id, owner=owner))
        self.failure = LeasesHeldElsewhere(
            f"the lease of {self._shard_id} was taken by {owner or 'another worker'}: this worker stops, and nothing is"
            " lost"
        )
