"""Reads a user's state: from Redis, where it has none from DynamoDB, and where neither answers from nothing.

A store that is away is never waited for longer than its limit, and then left alone for a moment. Which namespace is
read follows the alias of the application, so that a switch to a rebuild reaches readers too.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, NamedTuple

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from streamproc.alias import Rebuilds
from streamproc.aws import aws_client
from streamproc.clock import Clock, SystemClock
from streamproc.errors import SettingsError, StateUnreadable
from streamproc.namespace import Namespace
from streamproc.projections.redis import BODY, prefix_of
from streamproc.record import Position
from streamproc.state import StateStore, StoredState, decode_stored
from streamproc.states.dynamodb import BATCH_GET_KEYS_MAX, DynamoDBStates
from streamproc.stream import stream_created_at
from streamproc.telemetry import Telemetry
from streamproc_consumers.api.answers import StateSource
from streamproc_consumers.api.breaker import Breaker
from streamproc_consumers.api.facts import ServingMoved, StateUnusable
from streamproc_consumers.api.gathering import Gathered
from streamproc_consumers.api.settings import ApiSettings
from streamproc_models.features import FOLD_VERSION, UserState, decode_state, new_state

#: Users of one round trip to Redis.
_KEYS_PER_CALL = 250
#: A read that outlived its limit holds one until its socket's own limit ends it.
_THREADS = 4
REDIS: Final = "redis"
DYNAMODB: Final = "dynamodb"
#: What a store has of a user: the envelope as bytes or read already, or why it cannot be read.
_Stored = bytes | StoredState | StateUnreadable | None


class Found(NamedTuple):
    """A user's state, the caller's own copy."""

    state: UserState
    #: The last event in it, and the ids of the last ones; None for a user without events.
    stored: StoredState | None
    source: StateSource

    @property
    def position(self) -> Position | None:
        """The last event in the state."""
        return self.stored.position if self.stored else None


def serving_namespace(application: str, stream: str) -> Namespace:
    """Whose states serve now. Raises what :func:`streamproc.errors.translated` does."""
    return Namespace(Rebuilds(application).serving(), stream, stream_created_at(aws_client("kinesis"), stream))


def redis_client(settings: ApiSettings) -> redis.asyncio.Redis:
    """A client that neither retries nor waits. Raises SettingsError for a URL that is none."""
    try:
        return redis.asyncio.Redis.from_url(
            settings.redis_url,
            socket_timeout=settings.redis_seconds,
            socket_connect_timeout=settings.redis_seconds,
            retry=Retry(NoBackoff(), 0),
            decode_responses=False,
        )
    except ValueError as error:
        raise SettingsError(f"the Redis URL {settings.redis_url!r} cannot be used: {error}") from error


class States:
    """The states of one application, for one event loop. Reads of the same moment go together."""

    def __init__(
        self,
        settings: ApiSettings,
        namespace: Namespace,
        telemetry: Telemetry,
        *,
        client: redis.asyncio.Redis,
        store: StateStore | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._settings = settings
        self._telemetry = telemetry
        self._clock = clock or SystemClock()
        self._looked_at = float("-inf")
        self._client: Any = client  # redis-py types its commands for both kinds of clients at once
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="streamproc-states")
        self.redis = Breaker(REDIS, settings.rest_seconds, telemetry, clock)
        self.dynamodb = Breaker(DYNAMODB, settings.rest_seconds, telemetry, clock)
        self._from_redis = Gathered(self._ask_redis, most=_KEYS_PER_CALL)
        self._from_dynamodb = Gathered(self._ask_dynamodb, most=BATCH_GET_KEYS_MAX)
        self.namespace = namespace
        self._store = store or self._store_of(namespace)

    async def read(self, user_id: str) -> Found:
        """The user's state. Raises nothing."""
        # Redis alone cannot tell a new user from one that it has lost.
        known = False
        sources: tuple[tuple[StateSource, Gathered[str, _Stored]], ...] = (
            (REDIS, self._from_redis),
            (DYNAMODB, self._from_dynamodb),
        )
        for source, ask in sources:
            try:
                found = await ask(user_id)
                if found is not None:
                    stored = _opened(found)
                    return Found(_decoded(user_id, stored), stored, source)
                known = source == DYNAMODB
            except _Away:
                continue
            except Exception as error:  # noqa: BLE001  # what another program wrote there can fail in any way
                self.unusable(source, user_id, error)
        return Found(new_state(), None, "none" if known else "unavailable")

    def unusable(self, source: str, user_id: str, error: BaseException) -> None:
        """Tell of a state that cannot be read or ranked."""
        self._telemetry.emit(StateUnusable(store=source, user_id=user_id, error=f"{type(error).__name__}: {error}"))

    async def look(self) -> None:
        """Ask each store that may be asked for nothing in particular, so that its health is known.

        Not more often than a store that failed is tried again: whoever asks for health needs no key.
        """
        now = self._clock.monotonic()
        if now - self._looked_at >= self._settings.rest_seconds:
            self._looked_at = now
            await self.read("#health")

    async def follow(self) -> None:
        """Follow the alias until cancelled. A look that fails changes nothing."""
        loop, settings = asyncio.get_running_loop(), self._settings
        while True:
            await asyncio.sleep(settings.alias_seconds)
            with contextlib.suppress(Exception):
                namespace = await loop.run_in_executor(
                    self._threads, serving_namespace, settings.application, settings.stream
                )
                if namespace != self.namespace:
                    self._store = self._store_of(namespace)
                    self.namespace = namespace
                    self._telemetry.emit(ServingMoved(namespace=str(namespace)))

    async def close(self) -> None:
        """Close the connections."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        with contextlib.suppress(Exception):
            await self._client.aclose()

    def _store_of(self, namespace: Namespace) -> StateStore:
        return DynamoDBStates(namespace, client=aws_client("dynamodb", answer_seconds=self._settings.dynamodb_seconds))

    async def _ask_redis(self, users: Sequence[str]) -> list[_Stored]:
        prefix = prefix_of(self.namespace)
        async with _asking(self.redis, self._settings.redis_seconds):
            if len(users) == 1:
                bodies = [await self._client.hget(prefix + users[0], BODY)]
            else:
                pipeline = self._client.pipeline(transaction=False)
                for user_id in users:
                    pipeline.hget(prefix + user_id, BODY)
                bodies = await pipeline.execute()
        return bodies

    async def _ask_dynamodb(self, users: Sequence[str]) -> list[_Stored]:
        loop = asyncio.get_running_loop()
        async with _asking(self.dynamodb, self._settings.dynamodb_seconds):
            return await loop.run_in_executor(self._threads, _loaded, self._store, users)


class _Away(Exception):
    """A store does not answer; internal to this module."""


@contextlib.asynccontextmanager
async def _asking(breaker: Breaker, seconds: float) -> AsyncIterator[None]:
    """Within it a store is asked. Raises _Away where it is left alone or does not answer."""
    if not breaker.may_ask:
        raise _Away
    try:
        async with asyncio.timeout(seconds):
            yield
    except Exception as error:  # whatever a store does, the shopper gets a list
        breaker.failed(error)
        raise _Away from error
    breaker.answered()


def _loaded(store: StateStore, users: Sequence[str]) -> list[_Stored]:
    distinct = list(dict.fromkeys(users))
    try:
        found: dict[str, Any] = dict(store.load(distinct))
    except StateUnreadable as error:
        if len(distinct) == 1:
            return [error] * len(users)
        found = {user_id: _loaded(store, [user_id])[0] for user_id in distinct}  # one of them spoils no other
    return [found.get(user_id) for user_id in users]


def _opened(found: bytes | StoredState | StateUnreadable) -> StoredState:
    """The envelope. Raises StateUnreadable, or msgspec.DecodeError."""
    if isinstance(found, StateUnreadable):
        raise found
    return found if isinstance(found, StoredState) else decode_stored(found)


def _decoded(user_id: str, stored: StoredState) -> UserState:
    if stored.key != user_id:
        raise StateUnreadable(f"it says that it is of the key {stored.key!r}")
    if stored.fold_version != FOLD_VERSION:
        raise StateUnreadable(
            f"fold version {stored.fold_version} wrote it, and this API has {FOLD_VERSION}: deploy both with the same"
        )
    return decode_state(stored.state)
