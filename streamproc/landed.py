"""Reads back what landed: lines of JSON in a folder, or below a prefix in S3, as Firehose writes them."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec

from streamproc.aws import aws_client
from streamproc.errors import SettingsError, translated

T = TypeVar("T")

S3 = "s3://"
#: What gzip begins with.
GZIP = b"\x1f\x8b"


class Landed(NamedTuple):
    """One object, or one file."""

    name: str
    #: As it is stored, compressed or not.
    size: int
    #: S3's LastModified, which is when the object was complete.
    modified: datetime


class Line(NamedTuple):
    """One line of an object or a file."""

    name: str
    #: From 1.
    number: int
    data: bytes


def listed(address: str) -> Iterator[Landed]:
    """What there is below ``s3://bucket/prefix``, in a folder, or the one file, in the order of the names.

    Raises SettingsError for a bucket or a folder that is not there.
    """
    return _objects(address) if address.startswith(S3) else _files(Path(address))


def raw_lines(address: str) -> Iterator[Line]:
    """Every line of what is :func:`listed`, plain or gzip; empty ones are left out.

    Raises SettingsError where there is nothing, or something cannot be read.
    """
    found = list(listed(address))
    if not found:
        raise SettingsError(nothing_landed(address))
    for landed in found:
        yield from lines_of(landed.name)


def nothing_landed(address: str) -> str:
    """What to say where nothing is listed."""
    return f"nothing has landed in {address} yet: check the bucket and the prefix, or the folder"


def lines_of(name: str) -> Iterator[Line]:
    """Every line of one object or file; see :func:`raw_lines`."""
    for number, line in enumerate(_plain(name, _content(name)).splitlines(), 1):
        if line.strip():
            yield Line(name, number, line)


def read_lines(address: str, of: type[T]) -> Iterator[T]:
    """Every line of :func:`raw_lines` as this type; see :func:`decoded`."""
    return decoded(raw_lines(address), of)


def decoded(lines: Iterable[Line], of: type[T]) -> Iterator[T]:
    """The lines as this type. Raises SettingsError with the object and the line for one that is not of that type."""
    decode = msgspec.json.Decoder(of).decode
    for line in lines:
        try:
            yield decode(line.data)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise SettingsError(
                f"{line.name}, line {line.number}, is not what was expected ({error}): give the place of these lines"
                " alone"
            ) from error


def _plain(name: str, content: bytes) -> bytes:
    if not content.startswith(GZIP):
        return content
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise SettingsError(f"{name} cannot be decompressed: {error}") from error


def _files(path: Path) -> Iterator[Landed]:
    if not path.exists():
        raise SettingsError(f"{path} does not exist: give a file, a folder, or s3://bucket/prefix")
    for file in [path] if path.is_file() else sorted(each for each in path.rglob("*") if each.is_file()):
        status = file.stat()
        yield Landed(str(file), status.st_size, datetime.fromtimestamp(status.st_mtime, UTC))


def _objects(address: str) -> Iterator[Landed]:
    bucket, prefix = parted(address)
    if not bucket:
        raise SettingsError(f"{address!r} names no bucket: write s3://bucket/prefix")
    with translated(f"listing {address}"):
        for page in aws_client("s3").get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
            for item in page.get("Contents", []):
                yield Landed(f"{S3}{bucket}/{item['Key']}", item["Size"], item["LastModified"])


def parted(address: str) -> tuple[str, str]:
    """The bucket, and the prefix or key, of ``s3://bucket/prefix``."""
    bucket, _, rest = address.removeprefix(S3).partition("/")
    return bucket, rest


def _content(name: str) -> bytes:
    if not name.startswith(S3):
        try:
            return Path(name).read_bytes()
        except OSError as error:
            raise SettingsError(f"{name} cannot be read: {error.strerror}") from error
    bucket, key = parted(name)
    with translated(f"reading {name}"):
        answer: Any = aws_client("s3").get_object(Bucket=bucket, Key=key)
        content: bytes = answer["Body"].read()
    return content
