"""What is trending, as lists are made with it: the first items of a numbered snapshot, and where snapshots are kept."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import msgspec
from botocore.exceptions import ClientError

from streamproc.aws import aws_client
from streamproc.errors import SettingsError, code_of, translated
from streamproc.processor import Snapshot
from streamproc.snapshot import decode_snapshot
from streamproc.snapshots.s3 import object_name
from streamproc_models.features.trending import ITEMS_IN_SNAPSHOT, TrendingSnapshot

_S3 = "s3://"
_NAMED = re.compile(r"\+trending:(\d+)/(\d+)")
_decoder = msgspec.json.Decoder(TrendingSnapshot)


class Trend(NamedTuple):
    """What every user is offered beside what the bundle proposes."""

    #: As records say it behind the bundle: the snapshot's number, and how many of its items are offered at most.
    name: str
    #: The most trending first.
    item_ids: list[str]


def trend_of(snapshot: Snapshot, items: int) -> Trend:
    """The first items of a snapshot. Raises msgspec.DecodeError for one that is not of Trending."""
    return Trend(f"trending:{snapshot.number}/{items}", _decoder.decode(snapshot.data).item_ids[:items])


def trend_named(item_snapshot: str) -> tuple[int, int] | None:
    """The number of the snapshot and of its items that a record names; None where it names none."""
    found = _NAMED.search(item_snapshot)
    return (int(found[1]), int(found[2])) if found else None


def read_trending(text: str) -> int:
    """The setting STREAMPROC_TRENDING; 0, which is off, without one. Raises SettingsError."""
    items = int(text) if text.isascii() and text.isdigit() else -1
    if text and not 0 <= items <= ITEMS_IN_SNAPSHOT:
        raise SettingsError(
            f"STREAMPROC_TRENDING is {text!r}: it is how many trending items every user is offered, a whole number from"
            f" 0, which is none, to {ITEMS_IN_SNAPSHOT}"
        )
    return max(items, 0)


def find_snapshot(address: str, number: int) -> Snapshot | None:
    """The snapshot of this number in ``s3://bucket/snapshots/APPLICATION/STREAM@CREATED`` or a folder with its objects.

    None where there is none. Raises SettingsError for what cannot be one, and what S3's errors are translated to.
    """
    name = f"{address.rstrip('/')}/{object_name(number)}"
    data = _object(name) if name.startswith(_S3) else _file(Path(name))
    try:
        return None if data is None else decode_snapshot(data)
    except msgspec.DecodeError as error:
        raise SettingsError(f"{name} is no snapshot ({error}): give the place of a recommender's") from error


def _object(name: str) -> bytes | None:
    bucket, _, key = name.removeprefix(_S3).partition("/")
    with translated(f"reading {name}"):
        try:
            return aws_client("s3").get_object(Bucket=bucket, Key=key)["Body"].read()
        except ClientError as error:
            if code_of(error) not in ("NoSuchKey", "404"):
                raise
            return None


def _file(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}") from error
