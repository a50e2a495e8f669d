"""A registry in a folder: of one machine, or on a disk that several share."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from streamproc.errors import SettingsError
from streamproc_models.bundle import MANIFEST, Manifest
from streamproc_models.registry.base import (
    ALIASES_FOLDER,
    Alias,
    Held,
    VersionUnknown,
    checked_version,
    decode_alias,
    decode_manifest,
    encode_alias,
    moved_meanwhile,
)


class FolderRegistry:
    """Versions are renamed into place whole; an alias is read and replaced under a lock that ends with its holder."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._aliases = path / ALIASES_FOLDER

    @property
    def url(self) -> str:
        """See :class:`streamproc_models.registry.base.Registry`."""
        return str(self._path)

    def versions(self) -> list[str]:
        """See :class:`streamproc_models.registry.base.Registry`."""
        with _explained(f"listing {self._path}"):
            return [path.name for path in self._path.glob("[!.]*") if (path / MANIFEST).is_file()]

    def manifest(self, version: str) -> Manifest:
        """See :class:`streamproc_models.registry.base.Registry`."""
        path = self._version(version) / MANIFEST
        with _explained(f"reading {path}"):
            return decode_manifest(path.read_bytes(), str(path))

    def fetch(self, version: str, folder: Path) -> None:
        """See :class:`streamproc_models.registry.base.Registry`."""
        path = self._version(version)
        with _explained(f"copying {path}"):
            shutil.copytree(path, folder, dirs_exist_ok=True)

    def add(self, version: str, folder: Path) -> bool:
        """See :class:`streamproc_models.registry.base.Registry`."""
        path = self._path / checked_version(version)
        with _explained(f"writing {path}"):
            self._path.mkdir(parents=True, exist_ok=True)
            if path.exists():
                return False
            with tempfile.TemporaryDirectory(prefix=".push-", dir=self._path) as staging:
                copy = Path(shutil.copytree(folder, Path(staging) / version))
                try:
                    copy.rename(path)  # onto a folder with files in it no rename succeeds
                except OSError:
                    if (path / MANIFEST).is_file():
                        return False  # another push of it came first
                    raise
        return True

    def alias(self, name: str) -> Held | None:
        """See :class:`streamproc_models.registry.base.Registry`."""
        path = self._alias_file(name)
        with _explained(f"reading {path}"):
            try:
                data = path.read_bytes()
            except FileNotFoundError:
                return None
        return Held(decode_alias(data, str(path)), hashlib.sha256(data).hexdigest())

    def move(self, name: str, alias: Alias, expected: str | None) -> None:
        """See :class:`streamproc_models.registry.base.Registry`."""
        path = self._alias_file(name)
        with _explained(f"writing {path}"):
            self._aliases.mkdir(parents=True, exist_ok=True)
            with _locked(self._aliases / ".lock"):
                held = self.alias(name)
                if (held.token if held else None) != expected:
                    raise moved_meanwhile(name, self.url)
                written = path.with_suffix(".new")
                written.write_bytes(encode_alias(alias))
                written.replace(path)  # a reader sees the one or the other

    def _alias_file(self, name: str) -> Path:
        return self._aliases / f"{name}.json"

    def _version(self, version: str) -> Path:
        path = self._path / checked_version(version)
        if not (path / MANIFEST).is_file():
            raise VersionUnknown(f"{self._path} has no version {version}: `streamproc models list` shows what there is")
        return path


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _explained(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SettingsError(f"{what}: {error.strerror or error}; check the registry's folder") from error
