"""The projection in Redis: one hash a key, written by a script that refuses what is earlier than what is there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from streamproc.errors import ServiceUnreachable, SettingsError
from streamproc.state import StoredState, decode_stored, encode_stored

if TYPE_CHECKING:
    from streamproc.namespace import Namespace

#: The field that holds the envelope.
BODY = "body"
#: Keys a script call takes: enough to make the round trip cheap, few enough to let other clients in between.
KEYS_PER_CALL = 250

# The fence: positions are text that sorts as they do. An equal one is our own repeated request.
_PROJECT = """
local refused = 0
local expire_seconds = tonumber(ARGV[#ARGV])
for i, key in ipairs(KEYS) do
  local projected = redis.call('HGET', key, 'position')
  if projected and projected > ARGV[2 * i - 1] then
    refused = refused + 1
  else
    redis.call('HSET', key, 'position', ARGV[2 * i - 1], 'body', ARGV[2 * i])
    if expire_seconds > 0 then redis.call('EXPIRE', key, expire_seconds) end
  end
end
return refused
"""


class _Packer:
    """Packs a command into one piece. redis-py's own sends each large value by itself, one system call after the other,
    which takes longer than all else that a batch does here.
    """

    def pack(self, *args: str | bytes | float) -> list[bytes]:
        """The command in Redis' protocol; its first argument may be several words."""
        words: list[bytes] = [
            *_bytes(args[0]).split(),
            *[arg if type(arg) is bytes else _bytes(arg) for arg in args[1:]],
        ]
        framed = [b""] * (2 * len(words))
        framed[::2] = [b"\r\n$%d\r\n" % len(word) for word in words]
        framed[1::2] = words
        return [b"".join([b"*%d" % len(words), *framed, b"\r\n"])]


def _bytes(argument: str | bytes | float) -> bytes:
    return argument if isinstance(argument, bytes) else str(argument).encode()


def prefix_of(namespace: Namespace) -> str:
    """What the hashes of a namespace begin with, before the key."""
    return f"{namespace}:"


class RedisProjection:
    """Hashes ``<application>/<stream>@<its creation>:<key>`` with the fields ``position`` and ``body``, the envelope.

    A key without an event for ``expire_after_seconds`` expires; None keeps all. Every error of Redis is one that
    passes: the projection is a copy, and its loss must not stop the stream.
    """

    def __init__(self, namespace: Namespace, *, url: str, expire_after_seconds: int | None = None) -> None:
        if expire_after_seconds is not None and expire_after_seconds < 1:
            raise SettingsError(f"expire_after_seconds is {expire_after_seconds}: every key would be gone at once")
        self._expire_seconds = expire_after_seconds or 0
        self._prefix = prefix_of(namespace)
        try:
            # No retries and short waits: the worker goes on without Redis and comes back to it.
            self._redis = redis.Redis.from_url(
                url,
                socket_timeout=2.0,
                socket_connect_timeout=0.5,
                retry=Retry(NoBackoff(), 0),
                decode_responses=False,
                command_packer=_Packer(),
            )
        except ValueError as error:
            raise SettingsError(f"the Redis URL {url!r} cannot be used: {error}") from error
        self._script_sha = self._redis.register_script(_PROJECT).sha

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        try:
            yield
        except redis.RedisError as error:
            raise ServiceUnreachable(f"Redis: {error}") from error

    def check(self) -> str:
        """See :class:`streamproc.projection.Projection`."""
        with self._reaching():
            info = self._redis.info("server")
        return f"{info.get('server_name', 'redis')} {info.get('redis_version', '')}"

    def project(self, states: Sequence[StoredState]) -> int:
        """See :class:`streamproc.projection.Projection`."""
        with self._reaching():
            try:
                return self._project(states)
            except redis.exceptions.NoScriptError:  # a server that has not seen it; what was written is written again
                self._redis.script_load(_PROJECT)
                return self._project(states)

    def _project(self, states: Sequence[StoredState]) -> int:
        """Send all calls, then await the answers: Redis works on one call while the next is made."""
        pool = self._redis.connection_pool
        connection: Any = pool.get_connection()  # its methods have no types
        try:
            starts = range(0, len(states), KEYS_PER_CALL)
            for start in starts:
                chunk = states[start : start + KEYS_PER_CALL]
                keys = [(self._prefix + stored.key).encode() for stored in chunk]
                arguments: list[bytes] = []
                for stored in chunk:
                    position = stored.position.sortable()
                    arguments += (position.encode(), encode_stored(stored, position))
                connection.send_command("EVALSHA", self._script_sha, len(keys), *keys, *arguments, self._expire_seconds)
            return sum([cast(int, connection.read_response()) for _ in starts])
        except BaseException:
            connection.disconnect()  # the answers that were not read must not be taken for those of other commands
            raise
        finally:
            pool.release(connection)

    def read(self, keys: Sequence[str]) -> dict[str, StoredState]:
        """See :class:`streamproc.projection.Projection`."""
        with self._reaching():
            pipeline = self._redis.pipeline(transaction=False)
            for key in keys:
                pipeline.hget(self._prefix + key, BODY)
            bodies: list[Any] = pipeline.execute()
        return {key: decode_stored(body) for key, body in zip(keys, bodies, strict=True) if body is not None}

    def forget(self, key: str) -> bool:
        """See :class:`streamproc.projection.Projection`."""
        with self._reaching():
            return bool(self._redis.delete(self._prefix + key))
