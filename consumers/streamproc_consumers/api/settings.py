"""The API's settings, its keys among them."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re

import msgspec

from streamproc.errors import SettingsError
from streamproc_consumers.reload import POLL_SECONDS

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_SHA256 = "sha256:"
_KEY_CHARACTERS_MIN = 16
_ORIGIN = re.compile(r"https?://[^/\s*]+")


class ApiKey(msgspec.Struct, frozen=True):
    """Who may call. The key itself is not kept."""

    #: What logs and derived event ids call it by.
    name: str
    #: SHA-256 of the key. Keys are random and long, so that a slow hash would protect nothing more.
    digest: bytes


def read_keys(text: str, where: str) -> tuple[ApiKey, ...]:
    """Keys as ``NAME:KEY``, or ``NAME:sha256:DIGEST`` in hexadecimal, apart by commas or lines; '#' begins a comment.

    Raises SettingsError, which does not repeat the key.
    """
    keys: dict[str, ApiKey] = {}
    lines = (line.partition("#")[0] for line in text.splitlines())
    for number, entry in enumerate((part.strip() for line in lines for part in line.split(",") if part.strip()), 1):
        name, separator, key = entry.partition(":")
        if not separator or not _NAME.fullmatch(name):
            raise SettingsError(
                f"{where}, key {number}: write NAME:KEY, with a name of 1 to 64 letters, digits, '_', '.', '-'"
            )
        if name in keys:
            raise SettingsError(f"{where}: {name} has two keys: give each key a name of its own")
        if key.startswith(_SHA256):
            try:
                digest = bytes.fromhex(key.removeprefix(_SHA256))
            except ValueError:
                digest = b""
            if len(digest) != hashlib.sha256().digest_size:
                raise SettingsError(f"{where}: the digest of {name} is no SHA-256: it has 64 hexadecimal digits")
        elif len(key) < _KEY_CHARACTERS_MIN:
            raise SettingsError(
                f"{where}: the key of {name} has {len(key)} characters: anything below {_KEY_CHARACTERS_MIN} can be"
                " guessed; make one with `openssl rand -hex 32`"
            )
        else:
            digest = hashlib.sha256(key.encode()).digest()
        keys[name] = ApiKey(name, digest)
    return tuple(keys.values())


def key_named(keys: tuple[ApiKey, ...], given: str) -> str | None:
    """The name of the key that was given. All are compared, each in constant time."""
    digest = hashlib.sha256(given.encode("utf-8", "surrogateescape")).digest()
    found = None
    for key in keys:
        if hmac.compare_digest(key.digest, digest):
            found = key.name
    return found


class ApiSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Where the API reads and sends, whom it answers, and how long it waits."""

    #: As the recommender's STREAMPROC_MODEL: a bundle's folder, or a registry and the alias to follow.
    model: str
    redis_url: str
    stream: str = "cart-events"
    #: The recommender's name: its states are read.
    application: str = "recommender"
    #: As STREAMPROC_EXPERIMENT; users get the list of their arm. The shadow is left to the recommender.
    experiment: str = ""
    #: As STREAMPROC_CASCADE: with another one than the recommender's, lists differ from those that it publishes.
    cascade: str = ""
    #: As STREAMPROC_TRENDING: how many items of the recommender's latest snapshot every user is offered; 0: none.
    trending: int = 0
    #: As STREAMPROC_BUCKET: where the recommender's snapshots are. Not needed without ``trending``.
    bucket: str = ""
    model_poll_seconds: float = POLL_SECONDS
    host: str = "127.0.0.1"
    port: int = 8080
    keys: tuple[ApiKey, ...] = ()
    #: Answer anybody who reaches the address, without keys.
    insecure: bool = False
    #: Origins of pages that may call from a browser, as ``https://shop.example``.
    cors_origins: tuple[str, ...] = ()
    #: Requests a second of a key, or without keys of a client's address; as many may come at once. 0: no limit.
    rate: float = 1000.0
    body_bytes_max: int = 1024 * 1024
    #: An event that Kinesis did not acknowledge for so long is answered with 503.
    acknowledge_seconds: float = 5.0
    #: The longest that a request waits for Redis.
    redis_seconds: float = 0.25
    #: The longest that a request waits for DynamoDB.
    dynamodb_seconds: float = 1.0
    #: A store that failed is not asked again for so long.
    rest_seconds: float = 1.0
    #: Time from one look at which application serves to the next; see :mod:`streamproc.alias`.
    alias_seconds: float = 10.0
    #: Time from one look for a later snapshot to the next.
    snapshot_seconds: float = 10.0

    def __post_init__(self) -> None:
        if not self.keys and not self.insecure and not _is_loopback(self.host):
            raise SettingsError(
                f"--host {self.host} is open to other machines, and there are no API keys: give --keys-file or"
                " STREAMPROC_API_KEYS, or --insecure where something in front checks who calls"
            )
        if not 0 <= self.port <= 65535:
            raise SettingsError(f"--port is {self.port}: a port is a number from 0 to 65535, and 0 takes a free one")
        for origin in self.cors_origins:
            if not _ORIGIN.fullmatch(origin):
                raise SettingsError(f"--cors-origin {origin!r} is no origin: write it as https://shop.example")
        if self.trending and not self.bucket:
            raise SettingsError(
                "--trending offers what the recommender's snapshots say: give --bucket, or set STREAMPROC_BUCKET as"
                " the recommender has it"
            )
        if not self.rate >= 0:
            raise SettingsError(f"--rate is {self.rate}: requests a second, or 0 for no limit")
        if not 1024 <= self.body_bytes_max <= 64 * 1024 * 1024:
            raise SettingsError(
                f"body_bytes_max is {self.body_bytes_max}: take 1024 to 67108864; every request's body is in memory"
            )
        for name in (
            "acknowledge_seconds",
            "redis_seconds",
            "dynamodb_seconds",
            "rest_seconds",
            "alias_seconds",
            "snapshot_seconds",
        ):
            if not 0 < getattr(self, name) <= 60:
                raise SettingsError(f"{name} is {getattr(self, name)}: it must be above 0 and at most 60 seconds")

    @property
    def hosts(self) -> frozenset[str] | None:
        """Names by which it may be called; None for any.

        Without keys a page of another site could point its own name at this address (DNS rebinding) and read answers.
        """
        if self.keys or self.insecure:
            return None
        return frozenset({"127.0.0.1", "localhost", "::1", self.host.lower()})


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
