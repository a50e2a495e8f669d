"""Reads back what landed: lines of JSON in a folder, or below a prefix in S3, as Firehose writes them."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec

from streamproc.aws import aws_client
from streamproc.errors import SettingsError, translated

T = TypeVar("T")

_S3 = "s3://"
_GZIP = b"\x1f\x8b"


class Line(NamedTuple):
    """One line of an object or a file."""

    name: str
    #: From 1.
    number: int
    data: bytes


def raw_lines(address: str) -> Iterator[Line]:
    """Every line below ``s3://bucket/prefix``, in a folder or in a file, plain or gzip; empty ones are left out.

    Raises SettingsError where there is nothing, or something cannot be read.
    """
    files = _objects(address) if address.startswith(_S3) else _files(Path(address))
    empty = True
    for name, content in files:
        empty = False
        for number, line in enumerate(_plain(name, content).splitlines(), 1):
            if line.strip():
                yield Line(name, number, line)
    if empty:
        raise SettingsError(f"nothing has landed in {address} yet: check the bucket and the prefix, or the folder")


def read_lines(address: str, of: type[T]) -> Iterator[T]:
    """Every line of :func:`raw_lines` as this type.

    Raises SettingsError with the object and the line for one that is not of that type.
    """
    decode = msgspec.json.Decoder(of).decode
    for line in raw_lines(address):
        try:
            yield decode(line.data)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise SettingsError(
                f"{line.name}, line {line.number}, is not what was expected ({error}): give the place of these lines"
                " alone"
            ) from error


def _plain(name: str, content: bytes) -> bytes:
    if not content.startswith(_GZIP):
        return content
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise SettingsError(f"{name} cannot be decompressed: {error}") from error


def _files(folder: Path) -> Iterator[tuple[str, bytes]]:
    if not folder.exists():
        raise SettingsError(f"{folder} does not exist: give a file, a folder, or s3://bucket/prefix")
    paths = [folder] if folder.is_file() else sorted(path for path in folder.rglob("*") if path.is_file())
    for path in paths:
        try:
            yield str(path), path.read_bytes()
        except OSError as error:
            raise SettingsError(f"{path} cannot be read: {error.strerror}") from error


def _objects(address: str) -> Iterator[tuple[str, bytes]]:
    bucket, _, prefix = address.removeprefix(_S3).partition("/")
    if not bucket:
        raise SettingsError(f"{address!r} names no bucket: write s3://bucket/prefix")
    client = aws_client("s3")
    with translated(f"listing {address}"):
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        keys = [item["Key"] for page in pages for item in page.get("Contents", [])]
    for key in keys:
        name = f"{_S3}{bucket}/{key}"
        with translated(f"reading {name}"):
            answer: Any = client.get_object(Bucket=bucket, Key=key)
            content = answer["Body"].read()
        yield name, content
