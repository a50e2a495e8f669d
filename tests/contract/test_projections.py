"""What every projection does: one suite, run on the memory one and on a real Redis server."""

from __future__ import annotations

import uuid
from collections.abc import Callable

import pytest
import redis

from streamproc.errors import ServiceUnreachable, SettingsError, is_transient
from streamproc.local import LocalStack
from streamproc.namespace import Namespace
from streamproc.projection import Projection
from streamproc.projections.memory import MemoryProjection
from streamproc.projections.redis import KEYS_PER_CALL, RedisProjection
from streamproc.record import Position
from streamproc.state import StoredState


def stored(key: str, sequence_number: int) -> StoredState:
    return StoredState(key, Position(0, sequence_number), sequence_number, 7, b"w", 1, b"state \xff")


class ProjectionContract:
    """The cases. A backend is a ``make`` fixture."""

    def test_what_was_projected_is_read_and_other_keys_are_left_out(self, make: Callable[[], Projection]) -> None:
        projection = make()
        states = {f"user-{n}": stored(f"user-{n}", n) for n in range(600)}  # more than one call takes
        assert projection.project(list(states.values())) == 0
        assert projection.read([*states, "nobody"]) == states

    def test_an_earlier_state_is_refused_by_the_fence_and_an_equal_one_is_not(
        self, make: Callable[[], Projection]
    ) -> None:
        projection = make()
        projection.project([stored("a", 9)])
        assert projection.project([stored("a", 8), stored("b", 1)]) == 1
        assert projection.project([stored("a", 9)]) == 0
        assert projection.project([stored("a", 10)]) == 0  # as text, "10" would sort before "9"
        assert projection.read(["a"])["a"].events_folded == 10

    def test_a_key_is_forgotten_alone_and_again_without_harm(self, make: Callable[[], Projection]) -> None:
        projection = make()
        projection.project([stored("a", 9), stored("b", 9)])
        assert projection.forget("a")
        assert not projection.forget("a")
        assert projection.read(["a", "b"]).keys() == {"b"}
        assert projection.project([stored("a", 1)]) == 0

    def test_a_check_says_what_there_is(self, make: Callable[[], Projection]) -> None:
        assert make().check()


class TestMemoryProjection(ProjectionContract):
    @pytest.fixture
    def make(self) -> Callable[[], Projection]:
        return lambda: MemoryProjection(Namespace("app", "stream", 1))


class TestRedisProjection(ProjectionContract):
    @pytest.fixture
    def make(self, stack: LocalStack) -> Callable[[], Projection]:
        return lambda: RedisProjection(Namespace(uuid.uuid4().hex, "stream", 1), url=stack.redis_url)


def test_an_idle_key_expires_and_an_event_puts_it_off(stack: LocalStack) -> None:
    namespace = Namespace(uuid.uuid4().hex, "stream", 1)
    RedisProjection(namespace, url=stack.redis_url, expire_after_seconds=500).project([stored("a", 1)])
    RedisProjection(namespace, url=stack.redis_url).project([stored("b", 1)])
    client = redis.Redis.from_url(stack.redis_url)
    assert 490 <= client.ttl(f"{namespace}:a") <= 500
    assert client.ttl(f"{namespace}:b") == -1
    RedisProjection(namespace, url=stack.redis_url, expire_after_seconds=900).project([stored("a", 2)])
    assert client.ttl(f"{namespace}:a") > 800
    client.close()


def test_a_redis_that_forgot_the_script_is_given_it_again_in_the_midst_of_many_calls(stack: LocalStack) -> None:
    projection = RedisProjection(Namespace(uuid.uuid4().hex, "stream", 1), url=stack.redis_url)
    with redis.Redis.from_url(stack.redis_url) as client:
        client.script_flush()
    states = {f"user-{n}": stored(f"user-{n}", n) for n in range(5 * KEYS_PER_CALL)}
    assert projection.project(list(states.values())) == 0
    assert projection.project([stored("user-7", 1)]) == 1
    assert projection.read([*states]) == states


def test_a_redis_that_is_away_is_an_error_that_passes() -> None:
    projection = RedisProjection(Namespace("app", "stream", 1), url="redis://127.0.0.1:1/0")
    with pytest.raises(ServiceUnreachable) as caught:
        projection.project([stored("a", 1)])
    assert is_transient(caught.value)


def test_a_redis_url_that_cannot_be_used_is_refused_with_its_value() -> None:
    with pytest.raises(SettingsError, match="nonsense://"):
        RedisProjection(Namespace("app", "stream", 1), url="nonsense://x")
