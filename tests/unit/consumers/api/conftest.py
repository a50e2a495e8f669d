"""The API on fakes: a Redis and a producer that do as they are told, and states in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack
from typing import Any

import pytest
from litestar import Litestar
from litestar.testing import TestClient

from streamproc.errors import PutFailed, ServiceUnreachable
from streamproc.namespace import Namespace
from streamproc.producer import Acknowledged
from streamproc.projections.redis import BODY, prefix_of
from streamproc.record import Position
from streamproc.registry import Registry
from streamproc.state import StoredState, encode_stored, fingerprint, remember
from streamproc.states.memory import MemoryStates
from streamproc.telemetry import Telemetry, TelemetryEvent
from streamproc_consumers.api.app import create_app
from streamproc_consumers.api.idempotency import Idempotency
from streamproc_consumers.api.ranking import Rankings
from streamproc_consumers.api.sending import Sending
from streamproc_consumers.api.services import Services
from streamproc_consumers.api.settings import ApiSettings
from streamproc_consumers.api.states import States
from streamproc_consumers.reload import FixedModels
from streamproc_models.bundle import Bundle
from streamproc_models.features import FOLD_VERSION, encode_state, fold, new_state
from streamproc_producers.cart import checked_bytes
from streamproc_producers.events import CartEvent

NAMESPACE = Namespace("recommender", "cart-events", 1)


class FakeRedis:
    """Strings and the one field of hashes; ``away`` is what every command then raises, and ``hangs`` answers none."""

    def __init__(self) -> None:
        self.data: dict[str, bytes] = {}
        self.ttls: dict[str, int] = {}
        self.away: Exception | None = None
        self.hangs = False
        self.commands = 0

    async def _answer(self, value: Any) -> Any:
        self.commands += 1
        if self.hangs:
            await asyncio.Event().wait()
        if self.away is not None:
            raise self.away
        return value

    async def hget(self, name: str, field: str) -> Any:
        assert field == BODY
        return await self._answer(self.data.get(name))

    async def get(self, name: str) -> Any:
        return await self._answer(self.data.get(name))

    async def set(self, name: str, value: bytes, *, ex: int, nx: bool = False) -> Any:
        taken = nx and name in self.data
        await self._answer(None)
        if not taken:
            self.data[name], self.ttls[name] = value, ex
        return None if taken else True

    async def delete(self, name: str) -> Any:
        await self._answer(None)
        return self.data.pop(name, None)

    def pipeline(self, *, transaction: bool) -> FakePipeline:
        assert not transaction
        return FakePipeline(self)

    async def aclose(self) -> None:
        """Nothing is open."""


class FakePipeline:
    """Commands that go together."""

    def __init__(self, of: FakeRedis) -> None:
        self._of = of
        self._names: list[str] = []

    def hget(self, name: str, field: str) -> None:
        assert field == BODY
        self._names.append(name)

    async def execute(self) -> Any:
        return await self._of._answer([self._of.data.get(name) for name in self._names])


class FakeProducer:
    """Acknowledges at once, in one shard; or refuses, or never answers."""

    def __init__(self) -> None:
        self.sent: list[CartEvent] = []
        self.refuses = self.hangs = False

    def put(self, event: CartEvent) -> Future[Acknowledged]:
        checked_bytes(event)  # as the real one: raises DecodeError
        future: Future[Acknowledged] = Future()
        if self.hangs:
            return future
        if self.refuses:
            future.set_exception(PutFailed("throttled", code="ProvisionedThroughputExceededException", event=event))
            return future
        self.sent.append(event)
        future.set_result(Acknowledged("shardId-000000000000", str(1000 + len(self.sent)), 0))
        return future

    def close(self, timeout_seconds: float = 30.0) -> None:
        """Nothing waits."""


class FakeStates(MemoryStates):
    """States in memory; ``away`` is what reading them raises."""

    away: Exception | None = None

    def load(self, keys: Any) -> dict[str, StoredState]:
        if self.away is not None:
            raise self.away
        return super().load(keys)


class Running:
    """An API on its fakes, called in this process."""

    def __init__(self, settings: ApiSettings, bundle: Bundle, rankings: Rankings | None = None) -> None:
        self.redis, self.producer, self.store = FakeRedis(), FakeProducer(), FakeStates(NAMESPACE)
        #: What the log has.
        self.told: list[TelemetryEvent] = []
        self.registry = Registry()
        telemetry = Telemetry(self._note, self.registry)
        client: Any = self.redis
        self.states = States(settings, NAMESPACE, telemetry, client=client, store=self.store)
        self.services = Services(
            settings=settings,
            telemetry=telemetry,
            rankings=rankings or Rankings(FixedModels(bundle), None),
            states=self.states,
            sending=Sending(self.producer, settings.acknowledge_seconds),
            idempotency=Idempotency(settings, client, self.states.redis),
        )
        self.app: Litestar = create_app(settings, services=self.services)
        self.http: TestClient[Litestar] = TestClient(self.app, base_url="http://127.0.0.1")

    def _note(self, event: TelemetryEvent) -> None:
        if event.level != "debug":
            self.told.append(event)

    def measured(self, name: str) -> dict[tuple[str, ...], Any]:
        """The values of a metric, by its labels."""
        return next(dict(values) for metric, values in self.registry.collect() if metric.name == name)

    def put(self, *events: CartEvent, redis: bool = True, store: bool = False) -> StoredState:
        """What the recommender would have of these events of one user."""
        state, window = new_state(), b""
        for number, event in enumerate(events, 1):
            state = fold(state, event)
            window = remember(window, fingerprint(event.event_id.bytes), Position(0, number, 0))
        user, position = events[0].user_id, Position(0, len(events), 0)
        stored = StoredState(user, position, len(events), 0, window, FOLD_VERSION, encode_state(state))
        if redis:
            self.redis.data[prefix_of(NAMESPACE) + user] = encode_stored(stored)
        if store:
            self.store.store([stored])
        return stored

    def list_of(self, user: str, **query: Any) -> dict[str, Any]:
        answer = self.http.get("/v1/recommendations/personalized", params={"userId": user, **query})
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def send(self, body: Any, key: str | None = None, path: str = "/v1/events") -> Any:
        return self.http.post(path, json=body, headers={"Idempotency-Key": key} if key else {})


SETTINGS = ApiSettings(
    model="fixed", redis_url="redis://unused", redis_seconds=0.05, acknowledge_seconds=0.2, rest_seconds=60.0
)
AWAY = ServiceUnreachable("Redis: connection refused")


@pytest.fixture
def start(bundle: Bundle) -> Iterator[Callable[..., Running]]:
    with ExitStack() as stack:

        def run(settings: ApiSettings = SETTINGS, rankings: Rankings | None = None) -> Running:
            running = Running(settings, bundle, rankings)
            stack.enter_context(running.http)
            return running

        yield run


@pytest.fixture
def api(start: Callable[..., Running]) -> Running:
    return start()
