"""Requests that may be sent again: the first answer under an Idempotency-Key is kept for a day in Redis.

After draft-ietf-httpapi-idempotency-key-header. Without Redis a repeated request is done again, and its events have
the same ids as the first time, so that the stream's consumers count each once all the same.
"""

from __future__ import annotations

import asyncio
import re
from enum import Enum
from hashlib import blake2b
from typing import Any

import msgspec

from streamproc_consumers.api.breaker import Breaker
from streamproc_consumers.api.errors import Refused
from streamproc_consumers.api.settings import ApiSettings

KEPT_SECONDS = 24 * 3600
#: An API that died in a request leaves its mark for so long.
_UNDER_WAY_SECONDS = 60
_KEY = re.compile(r"[\x21-\x7e]{1,255}")


class Kept(msgspec.Struct, array_like=True):
    """What is kept of a request; without an answer it is under way."""

    fingerprint: bytes
    status: int = 0
    body: bytes = b""


class Memory(Enum):
    """What Redis says of a request."""

    #: Nobody sent it before: do it, then keep the answer.
    FIRST = "first"
    #: Redis does not answer: do it, and keep nothing.
    AWAY = "away"


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Kept).decode


def fingerprint(path: str, body: bytes) -> bytes:
    """What tells one request from another."""
    return blake2b(path.encode() + b"\x00" + body, digest_size=16).digest()


def checked_key(given: str | None) -> str | None:
    """The key of a request, None without one. Raises Refused."""
    if given is not None and not _KEY.fullmatch(given):
        raise Refused(400, "Idempotency-Key must be 1 to 255 visible ASCII characters", "invalid_idempotency_key")
    return given


class Idempotency:
    """Remembers requests by caller and key."""

    def __init__(self, settings: ApiSettings, client: Any, breaker: Breaker) -> None:
        self._client = client
        self._breaker = breaker
        self._seconds = settings.redis_seconds
        # No stream's name has a '#', so that no state has such a key.
        self._prefix = f"{settings.application}/{settings.stream}#idempotency:"

    async def begin(self, caller: str, key: str, mark: bytes) -> Kept | Memory:
        """The answer that was given before; or that this is the first time, which is noted.

        Raises Refused with 409 where the first one is under way, and with 422 where it was another request.
        """
        name = self._name(caller, key)
        # Twice: the first one's mark may go between the two commands.
        for _ in range(2):
            mine = await self._ask("set", name, _encode(Kept(mark)), nx=True, ex=_UNDER_WAY_SECONDS)
            if mine is Memory.AWAY or mine:
                return Memory.AWAY if mine is Memory.AWAY else Memory.FIRST
            data = await self._ask("get", name)
            if data is Memory.AWAY:
                return Memory.AWAY
            if data is not None:
                return _judged(data, mark)
        return Memory.AWAY

    async def keep(self, caller: str, key: str, kept: Kept) -> None:
        """Keep the answer for a day."""
        await self._ask("set", self._name(caller, key), _encode(kept), ex=KEPT_SECONDS)

    async def forget(self, caller: str, key: str) -> None:
        """The request failed in a way that passes: the next one is done anew."""
        await self._ask("delete", self._name(caller, key))

    def _name(self, caller: str, key: str) -> str:
        return f"{self._prefix}{caller}:{key}"

    async def _ask(self, command: str, *arguments: Any, **options: Any) -> Any:
        if not self._breaker.may_ask:
            return Memory.AWAY
        try:
            async with asyncio.timeout(self._seconds):
                answer = await getattr(self._client, command)(*arguments, **options)
        except Exception as error:  # noqa: BLE001  # without Redis there is no memory, and requests go on
            self._breaker.failed(error)
            return Memory.AWAY
        self._breaker.answered()
        return answer


def _judged(data: bytes, mark: bytes) -> Kept | Memory:
    try:
        kept = _decode(data)
    except msgspec.DecodeError:
        return Memory.AWAY  # something else wrote there
    if kept.fingerprint != mark:
        raise Refused(422, "this Idempotency-Key was used for another request: take a new one", "idempotency_mismatch")
    if not kept.status:
        raise Refused(
            409, "a request with this Idempotency-Key is under way", "idempotency_in_flight", {"Retry-After": "1"}
        )
    return kept
