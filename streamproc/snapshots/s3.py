"""Snapshots as objects in S3."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from botocore.exceptions import ClientError

from streamproc.aws import aws_client
from streamproc.errors import SettingsError, code_of, translated
from streamproc.processor import Snapshot
from streamproc.snapshot import decode_snapshot, encode_snapshot

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

    from streamproc.namespace import Namespace

_MISSING = ("NoSuchKey", "404")
#: So many digits a number has in its object's key: keys then sort as numbers do, for 1,900 years at one a minute.
_DIGITS = 9


def object_name(number: int) -> str:
    """The last part of the key of a snapshot's object."""
    return f"{number:0{_DIGITS}d}"


class S3Snapshots:
    """Objects ``snapshots/<namespace>/<number>``, each written once.

    A number is taken by "If-None-Match: *" ("Conditional writes", S3 User Guide): of two writers one gets a 412. The
    object ``snapshot-numbers/<namespace>`` holds the last one, and may be behind. A lifecycle rule on ``snapshots/``
    may remove old ones; keep them as long as the events that you train from.
    """

    def __init__(self, namespace: Namespace, *, bucket: str, client: S3Client | None = None) -> None:
        self._bucket = bucket
        self._prefix = f"snapshots/{namespace}/"
        self._number_key = f"snapshot-numbers/{namespace}"
        self._client = client or aws_client("s3")

    def check(self) -> str:
        """See :class:`streamproc.snapshot.SnapshotStore`."""
        with translated(f"looking for the bucket {self._bucket}"):
            self._client.head_bucket(Bucket=self._bucket)
        return f"bucket {self._bucket}"

    def latest(self, after: int = 0) -> Snapshot | None:
        """See :class:`streamproc.snapshot.SnapshotStore`."""
        number = self._last_number(after)
        return self.get(number) if number > after else None

    def last_number(self) -> int:
        """See :class:`streamproc.snapshot.SnapshotStore`."""
        return self._last_number(0)

    def _last_number(self, after: int) -> int:
        hint = self._read(self._number_key)
        number = max(after, int(hint) if hint else 0)
        with translated(f"listing s3://{self._bucket}/{self._prefix}"):
            for page in self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=self._prefix, StartAfter=self._key(number)
            ):
                for item in page.get("Contents", []):
                    name = item["Key"].removeprefix(self._prefix)
                    if name.isdigit():
                        number = max(number, int(name))
        return number

    def get(self, number: int) -> Snapshot | None:
        """See :class:`streamproc.snapshot.SnapshotStore`."""
        key = self._key(number)
        data = self._read(key)
        if data is None:
            return None
        try:
            return decode_snapshot(data)
        except msgspec.DecodeError as error:
            raise SettingsError(
                f"s3://{self._bucket}/{key} is no snapshot: {error}. Something else wrote there: delete it"
            ) from error

    def add(self, snapshot: Snapshot) -> bool:
        """See :class:`streamproc.snapshot.SnapshotStore`."""
        key = self._key(snapshot.number)
        with translated(f"writing s3://{self._bucket}/{key}"):
            try:
                self._client.put_object(Bucket=self._bucket, Key=key, Body=encode_snapshot(snapshot), IfNoneMatch="*")
            except ClientError as error:
                if code_of(error) not in ("PreconditionFailed", "ConditionalRequestConflict", "412", "409"):
                    raise
                # Taken by another process, or by this request itself where its first answer was lost.
                return self.get(snapshot.number) == snapshot
            self._client.put_object(Bucket=self._bucket, Key=self._number_key, Body=str(snapshot.number).encode())
        return True

    def _key(self, number: int) -> str:
        return self._prefix + object_name(number)

    def _read(self, key: str) -> bytes | None:
        with translated(f"reading s3://{self._bucket}/{key}"):
            try:
                return self._client.get_object(Bucket=self._bucket, Key=key)["Body"].read()
            except ClientError as error:
                if code_of(error) not in _MISSING:
                    raise
                return None
