"""The port: what a registry is asked, and what an alias holds."""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path
from typing import NamedTuple, Protocol

import msgspec

from streamproc.errors import SettingsError, StreamprocError
from streamproc_models.bundle import Manifest

CHAMPION = "champion"
CHALLENGER = "challenger"
SHADOW = "shadow"
#: What an alias can be called.
ALIASES = (CHAMPION, CHALLENGER, SHADOW)
#: The folder of the aliases, beside those of the versions.
ALIASES_FOLDER = "aliases"
_VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z_-]{0,63}")


class VersionUnknown(SettingsError):
    """The registry has no such version, or an alias points nowhere. ``streamproc models list`` shows what is there."""


class PromotionRefused(StreamprocError):
    """The gate refused a promotion. The message has a sentence for each reason.

    What only concerns quality can be overruled with ``--force REASON``, which the alias then keeps.
    """

    exit_code = 13


class AliasMoved(StreamprocError):
    """Somebody else moved the alias since it was read. Nothing was changed; look at it, and decide again."""

    exit_code = 14


class Alias(msgspec.Struct, frozen=True, kw_only=True):
    """Which version an alias means, since when, and by whose decision."""

    version: str
    #: What it meant before; a rollback goes there.
    previous: str | None
    moved_at: datetime
    by: str
    why: str
    #: The reason for which the gate was overruled, None where it let the version pass.
    forced: str | None = None


class Held(NamedTuple):
    """An alias as it was read. ``token`` names this very content; a move must present it."""

    alias: Alias
    token: str


class Registry(Protocol):
    """The versions and the aliases of one model."""

    @property
    def url(self) -> str:
        """Where it is, as it is written in a setting."""
        ...

    def versions(self) -> list[str]:
        """The complete versions, in any order."""
        ...

    def manifest(self, version: str) -> Manifest:
        """What a version says of itself. Raises VersionUnknown, or BundleInvalid where it is not readable."""
        ...

    def fetch(self, version: str, folder: Path) -> None:
        """Copy the files of a version into a folder. Raises VersionUnknown. What it copies is not proven."""
        ...

    def add(self, version: str, folder: Path) -> bool:
        """Copy a bundle in. False where the version is there already, unchanged by this.

        Readers find all of it or nothing: its manifest comes last.
        """
        ...

    def alias(self, name: str) -> Held | None:
        """An alias, None where it was never set."""
        ...

    def move(self, name: str, alias: Alias, expected: str | None) -> None:
        """Set an alias if its token still is ``expected`` (None: if it was never set). Raises AliasMoved."""
        ...


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Alias)
_manifests = msgspec.json.Decoder(Manifest)


def encode_alias(alias: Alias) -> bytes:
    """An alias as its file holds it."""
    return msgspec.json.format(_encoder.encode(alias), indent=2) + b"\n"


def decode_alias(data: bytes, where: str) -> Alias:
    """Read what :func:`encode_alias` wrote. Raises SettingsError, with the file's name, for anything else."""
    try:
        return _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{where} is no alias ({error}): something else wrote there; delete it") from error


def decode_manifest(data: bytes, where: str) -> Manifest:
    """Read a manifest. Raises SettingsError, with the file's name."""
    try:
        return _manifests.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{where} is no manifest of this version ({error}): push the bundle again") from error


def checked_version(version: str) -> str:
    """The version, if it can name a folder. Raises VersionUnknown."""
    if not _VERSION.fullmatch(version) or version == ALIASES_FOLDER:
        raise VersionUnknown(f"{version!r} is no version of a model: `streamproc models list` shows what there is")
    return version


def checked_alias(name: str) -> str:
    """The alias' name, if it is one. Raises SettingsError."""
    if name not in ALIASES:
        raise SettingsError(f"{name!r} is no alias: use one of {', '.join(ALIASES)}")
    return name


def moved_meanwhile(name: str, url: str) -> AliasMoved:
    """The error of a compare-and-swap that lost."""
    return AliasMoved(
        f"somebody else moved {name} in {url} at the same time: nothing was changed; look at it with"
        " `streamproc models list`, and try again if you still want to"
    )
