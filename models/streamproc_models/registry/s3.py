"""A registry below a prefix in S3."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from streamproc.aws import aws_client
from streamproc.errors import SettingsError, code_of, translated
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

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_MISSING = ("NoSuchKey", "404")
# 412, or 409 where another write was under way at the very moment ("Conditional writes", S3 User Guide). With
# If-Match an object that is gone is a 404.
_LOST = ("PreconditionFailed", "ConditionalRequestConflict", "412", "409")
_CHUNK_BYTES = 1 << 20


class S3Registry:
    """Objects ``<prefix>/<version>/...``, the manifest put last and once, and ``<prefix>/aliases/<name>.json``.

    Aliases are moved with If-Match on their ETag, versions and first aliases made with If-None-Match.
    """

    def __init__(self, bucket: str, prefix: str, *, client: S3Client | None = None) -> None:
        self._bucket = bucket
        self._prefix = prefix
        self._client = client or aws_client("s3")

    @property
    def url(self) -> str:
        """See :class:`streamproc_models.registry.base.Registry`."""
        return f"s3://{self._bucket}/{self._prefix}"

    def versions(self) -> list[str]:
        """See :class:`streamproc_models.registry.base.Registry`."""
        found = []
        for name in self._names(""):
            version, _, file = name.partition("/")
            if file == MANIFEST:
                found.append(version)
        return found

    def manifest(self, version: str) -> Manifest:
        """See :class:`streamproc_models.registry.base.Registry`."""
        key = f"{self._prefix}/{checked_version(version)}/{MANIFEST}"
        answer = self._get(key)
        if answer is None:
            raise self._unknown(version)
        with translated(f"reading s3://{self._bucket}/{key}"):
            return decode_manifest(answer["Body"].read(), f"s3://{self._bucket}/{key}")

    def fetch(self, version: str, folder: Path) -> None:
        """See :class:`streamproc_models.registry.base.Registry`."""
        start = f"{checked_version(version)}/"
        names = [name.removeprefix(start) for name in self._names(start)]
        if MANIFEST not in names:
            raise self._unknown(version)
        for name in names:
            if not name or ".." in PurePosixPath(name).parts or name.startswith("/"):
                raise SettingsError(f"{self.url}/{start}{name} cannot be a file of a bundle: delete the object")
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            answer = self._get(f"{self._prefix}/{start}{name}")
            if answer is None:
                raise self._unknown(version)
            with translated(f"reading {self.url}/{start}{name}"), path.open("wb") as file:
                for chunk in answer["Body"].iter_chunks(_CHUNK_BYTES):
                    file.write(chunk)

    def add(self, version: str, folder: Path) -> bool:
        """See :class:`streamproc_models.registry.base.Registry`."""
        start = f"{self._prefix}/{checked_version(version)}/"
        if self._get(start + MANIFEST) is not None:
            return False
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            name = path.relative_to(folder).as_posix()
            if name != MANIFEST:
                with translated(f"writing s3://{self._bucket}/{start}{name}"), path.open("rb") as file:
                    self._client.put_object(Bucket=self._bucket, Key=start + name, Body=file)
        return self._put(start + MANIFEST, (folder / MANIFEST).read_bytes(), None)

    def alias(self, name: str) -> Held | None:
        """See :class:`streamproc_models.registry.base.Registry`."""
        key = self._alias_key(name)
        answer = self._get(key)
        if answer is None:
            return None
        with translated(f"reading s3://{self._bucket}/{key}"):
            data = answer["Body"].read()
        return Held(decode_alias(data, f"s3://{self._bucket}/{key}"), str(answer["ETag"]))

    def move(self, name: str, alias: Alias, expected: str | None) -> None:
        """See :class:`streamproc_models.registry.base.Registry`."""
        data = encode_alias(alias)
        if self._put(self._alias_key(name), data, expected):
            return
        held = self.alias(name)
        # A write whose first answer was lost meets its own object.
        if held is None or held.alias != alias:
            raise moved_meanwhile(name, self.url)

    def _put(self, key: str, data: bytes, expected: str | None) -> bool:
        """Write if the object still has this ETag (None: if there is none). Returns whether it was written."""
        condition: dict[str, Any] = {"IfNoneMatch": "*"} if expected is None else {"IfMatch": expected}
        with translated(f"writing s3://{self._bucket}/{key}"):
            try:
                self._client.put_object(Bucket=self._bucket, Key=key, Body=data, **condition)
            except ClientError as error:
                if code_of(error) not in _LOST and not (expected and code_of(error) in _MISSING):
                    raise
                return False
        return True

    def _get(self, key: str) -> Any:
        with translated(f"reading s3://{self._bucket}/{key}"):
            try:
                return self._client.get_object(Bucket=self._bucket, Key=key)
            except ClientError as error:
                if code_of(error) not in _MISSING:
                    raise
                return None

    def _names(self, start: str) -> list[str]:
        """The keys that begin so, below the prefix."""
        below = f"{self._prefix}/"
        with translated(f"listing {self.url}"):
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=below + start)
            return [item["Key"].removeprefix(below) for page in pages for item in page.get("Contents", [])]

    def _alias_key(self, name: str) -> str:
        return f"{self._prefix}/{ALIASES_FOLDER}/{name}.json"

    def _unknown(self, version: str) -> VersionUnknown:
        return VersionUnknown(f"{self.url} has no version {version}: `streamproc models list` shows what there is")
