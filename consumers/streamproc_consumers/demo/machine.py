"""The engine of the served demonstration: what was sent, what came out, the worker, and the drill that kills it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Self

import msgspec

from streamproc.errors import SettingsError, StreamprocError
from streamproc.local import LocalStack
from streamproc.local.firehose_tap import Accepted
from streamproc.namespace import Namespace
from streamproc.producer import Acknowledged, ProducerSettings
from streamproc.projections.redis import RedisProjection
from streamproc.stream import stream_created_at
from streamproc_consumers.demo import proof
from streamproc_consumers.demo.load import Load
from streamproc_consumers.demo.proof import Ledger
from streamproc_consumers.demo.run import (
    RECOMMENDATIONS,
    RECOMMENDER,
    SHARDS,
    STREAM,
    DemoFailed,
    is_durable,
    read_back,
)
from streamproc_consumers.demo.tail import Tail
from streamproc_consumers.demo.trained import Models
from streamproc_consumers.demo.worker import Recommender
from streamproc_consumers.live.engine import Drill, Feature, Proof, Registered, ShopperState, Step, Worker
from streamproc_consumers.live.feed import Feed
from streamproc_consumers.recommendation import Recommendation
from streamproc_models.features import FEATURES, decode_state
from streamproc_models.features.columns import gather
from streamproc_models.features.schema import MISSING, Scope
from streamproc_producers.cart import CartProducer, checked_bytes
from streamproc_producers.events import CartEvent

_LOOK_SECONDS = 0.02
_ASK_SECONDS = 1.0
#: For so long a killed worker stays dead, so that something waits for the next one.
_DEAD_SECONDS = 2.0
_STEP_SECONDS = 90.0
_USER_FEATURES = [feature for feature in FEATURES if feature.scope is Scope.USER]


class Recorded(CartProducer):
    """A producer whose acknowledged events go into the feed and the ledger. Those of ``put_past`` are not measured."""

    def __init__(self, feed: Feed, ledger: Ledger, client: Any) -> None:
        # The API puts from its event loop, which nothing may hold up.
        settings = ProducerSettings(record_ttl_seconds=30.0, full_wait_seconds_max=0.0)
        super().__init__(STREAM, client=client, settings=settings)
        self._feed = feed
        self._ledger = ledger

    def __enter__(self) -> Self:
        return self

    def put(self, event: CartEvent) -> Future[Acknowledged]:
        """See CartProducer."""
        return self._put(event, time.time())

    def put_past(self, event: CartEvent) -> Future[Acknowledged]:
        """Put what happened long ago."""
        return self._put(event, None)

    def _put(self, event: CartEvent, put_at: float | None) -> Future[Acknowledged]:
        # The worker folds what it reads, so the ledger folds what was written.
        _, written = checked_bytes(event)
        future = super().put(event)
        future.add_done_callback(lambda done: self._done(done, written, put_at))
        return future

    def _done(self, future: Future[Acknowledged], event: CartEvent, put_at: float | None) -> None:
        if future.cancelled() or future.exception() is not None:
            return
        self._ledger.add(event)
        self._feed.sent(event, future.result(), put_at, time.time())


class Machine:
    """Follows the files that the stack and the worker write, and runs the drill. Open from ``start`` to ``close``."""

    def __init__(self, stack: LocalStack, worker: Recommender, models: Models) -> None:
        self._stack = stack
        self._recommender = worker
        self._models = models
        self.feed = Feed()
        self.ledger = Ledger()
        self.load: Load | None = None
        created_at = stream_created_at(stack.client("kinesis"), STREAM)
        self._projection = RedisProjection(Namespace(RECOMMENDER, STREAM, created_at), url=stack.redis_url)
        self._accepted = Tail(stack.firehose_journal)
        self._decode_accepted = msgspec.json.Decoder(Accepted).decode
        self._decode_recommendation = msgspec.json.Decoder(Recommendation).decode
        self._drill = Drill()
        self._drill_began = threading.Lock()
        #: One thread, which lasts: the worker that a drill starts ends with the thread that started it.
        self._driller = ThreadPoolExecutor(1, thread_name_prefix="streamproc-drill")
        self._closed = threading.Event()
        self._threads = [
            threading.Thread(target=self._follow, name="streamproc-follow", daemon=True),
            threading.Thread(target=self._ask, name="streamproc-ask", daemon=True),
        ]

    def start(self) -> None:
        """Start the worker, wait until it reads, and follow from now on."""
        for thread in self._threads:
            thread.start()
        self._driller.submit(self._recommender.start).result()
        self._until(lambda: self._recommender.leases >= SHARDS, "the recommender's start")

    def close(self) -> None:
        """Stop following, end a drill and the worker."""
        self._closed.set()
        self._driller.shutdown(wait=True, cancel_futures=True)
        for thread in self._threads:
            thread.join()
        self._recommender.kill()

    def until_known(self) -> None:
        """Wait until every event that was sent is in a published list."""
        self._until(lambda: not self.feed.waiting, "catching up")

    @property
    def controls(self) -> Machine:
        """The buttons."""
        return self

    def worker(self) -> Worker:
        """See :class:`streamproc_consumers.live.engine.Engine`."""
        return self._recommender.figures

    def state(self, user_id: str) -> ShopperState | None:
        """See :class:`streamproc_consumers.live.engine.Engine`."""
        try:
            stored = self._projection.read([user_id]).get(user_id)
        except StreamprocError:
            return None  # Redis is away: it is asked again
        if stored is None:
            return None
        (values,) = gather([decode_state(stored.state)], {}).user_features.tolist()
        return ShopperState(
            stored.position,
            stored.events_folded,
            [
                Feature(
                    feature.name.removeprefix("user_"),
                    feature.description,
                    None if value == MISSING else round(value, 3),
                )
                for feature, value in zip(_USER_FEATURES, values, strict=True)
            ],
        )

    def registered(self) -> Registered:
        """See :class:`streamproc_consumers.live.engine.Controls`."""
        return self._models.registered()

    def promote(self, version: str, force: str | None) -> None:
        """See :class:`streamproc_consumers.live.engine.Controls`."""
        self._models.promote(version, force)

    def rollback(self) -> None:
        """See :class:`streamproc_consumers.live.engine.Controls`."""
        self._models.rollback()

    def drill(self) -> Drill:
        """See :class:`streamproc_consumers.live.engine.Controls`."""
        return self._drill

    def kill(self) -> None:
        """See :class:`streamproc_consumers.live.engine.Controls`."""
        if not self._drill_began.acquire(blocking=False):
            raise SettingsError("a drill is running already: wait for its proof")
        self._drill = Drill(number=self._drill.number + 1, running=True)
        self._driller.submit(self._run_drill)

    def _run_drill(self) -> None:
        began, repeated = time.monotonic(), self.feed.figures(time.time()).repeated
        failed, found = "", None

        def step(told: str) -> None:
            at = Step(round(time.monotonic() - began, 1), told)
            self._drill = msgspec.structs.replace(self._drill, steps=[*self._drill.steps, at])

        try:
            pid = self._recommender.figures.pid
            self._recommender.kill()
            step(f"kill -9 {pid}. Nothing was saved; events go on coming.")
            self._closed.wait(_DEAD_SECONDS)
            step(f"Process {self._recommender.start()} starts.")
            self._until(lambda: self._recommender.leases >= SHARDS, "the next recommender's start")
            step(f"The dead one's {SHARDS} leases stood still, and are taken. {self.feed.waiting} shoppers wait.")
            self._hold()
            self._until(lambda: not self.feed.waiting, "catching up")
            step("Every event is in a published list. The other shoppers pause, to be counted.")
            self._until(lambda: is_durable(self._stack, self.feed.sent_up_to()), "the checkpoint")
            step("Every checkpoint stands at the last event.")
            found = self._prove(repeated)
        except (StreamprocError, OSError) as error:
            failed = str(error)
        finally:
            if self.load is not None:
                self.load.go_on()
            self._drill = msgspec.structs.replace(self._drill, running=False, proof=found, failed=failed)
            self._drill_began.release()

    def _hold(self) -> None:
        if self.load is not None:
            self.load.hold()

    def _prove(self, repeated: int) -> Proof:
        """Count and compare; again where the visitor sent something meanwhile."""
        while True:
            sent, expected = self.feed.events_sent, self.ledger.expected()
            durable, projected, _ = read_back(self._stack, expected)
            if self.feed.events_sent == sent and is_durable(self._stack, self.feed.sent_up_to()):
                break
            self._until(lambda: is_durable(self._stack, self.feed.sent_up_to()), "the checkpoint")
        outcome = proof.applied(expected, durable, projected)
        return Proof(
            sent=sum(user.events_folded for user in expected.values()),
            applied=outcome.events_applied,
            lost=outcome.events_lost,
            twice=outcome.events_applied_twice,
            shoppers=len(expected),
            equal=outcome.states_equal_oracle,
            repeated=self.feed.figures(time.time()).repeated - repeated,
        )

    def _until(self, reached: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + _STEP_SECONDS
        while not reached():
            code = self._recommender.ended()
            if code is not None:
                raise DemoFailed(f"the recommender ended with code {code}:\n{self._recommender.tail()}")
            if time.monotonic() > deadline:
                raise DemoFailed(
                    f"{what} took more than {_STEP_SECONDS:.0f} s; the recommender's log ends with:\n"
                    f"{self._recommender.tail()}"
                )
            if self._closed.wait(0.1):
                raise DemoFailed("the demonstration was stopped")

    def _follow(self) -> None:
        while not self._closed.wait(_LOOK_SECONDS):
            for line in self._accepted.lines():
                accepted = self._decode_accepted(line)
                if accepted.stream == RECOMMENDATIONS:
                    for output in accepted.data.encode().splitlines():
                        self.feed.published(self._decode_recommendation(output), accepted.accepted_at)
            self._recommender.look()

    def _ask(self) -> None:
        while not self._closed.wait(_ASK_SECONDS):
            self._recommender.ask()
