"""From a setting to a registry."""

from __future__ import annotations

import re
from pathlib import Path

from streamproc.errors import SettingsError
from streamproc_models.registry.base import Registry, checked_alias
from streamproc_models.registry.folder import FolderRegistry
from streamproc_models.registry.s3 import S3Registry

_S3 = "s3://"
# The rules for bucket names, as far as a typing error can break them.
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")


def open_registry(url: str) -> Registry:
    """The registry at ``s3://bucket/prefix`` or in a folder. Nothing is read yet. Raises SettingsError."""
    if not url:
        raise SettingsError("the registry has no address: write s3://bucket/models/NAME, or a folder")
    if not url.startswith(_S3):
        if "://" in url:
            raise SettingsError(f"the registry {url!r} is neither s3://bucket/prefix nor a folder")
        return FolderRegistry(Path(url))
    bucket, _, prefix = url.removeprefix(_S3).partition("/")
    prefix = prefix.strip("/")
    if not _BUCKET.fullmatch(bucket) or not prefix:
        raise SettingsError(f"the registry {url!r} names no bucket and prefix: write s3://bucket/models/NAME")
    return S3Registry(bucket, prefix)


def split_alias(address: str) -> tuple[str, str | None]:
    """``s3://bucket/models/next-basket@champion`` as registry and alias; None where there is no alias.

    Raises SettingsError for an alias that there cannot be.
    """
    url, separator, alias = address.rpartition("@")
    if not separator or "/" in alias:
        return address, None
    return url, checked_alias(alias)
