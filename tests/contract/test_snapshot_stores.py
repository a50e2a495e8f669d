"""What every snapshot store does: one suite, run on the memory one and on S3's API."""

from __future__ import annotations

import uuid
from collections.abc import Callable

import pytest

from streamproc.errors import SettingsError
from streamproc.local import LocalStack
from streamproc.namespace import Namespace
from streamproc.processor import Snapshot
from streamproc.snapshot import SnapshotStore
from streamproc.snapshots.memory import MemorySnapshots
from streamproc.snapshots.s3 import S3Snapshots
from streamproc_consumers.trending import find_snapshot


def snapshot(number: int, data: bytes = b"data") -> Snapshot:
    return Snapshot(number, 1, data, {"shardId-000000000000": f"position {number}"}, 1_700_000_000.5)


class SnapshotContract:
    """The cases. A backend is a ``make`` fixture."""

    def test_a_store_without_snapshots_has_no_latest_one(self, make: Callable[[], SnapshotStore]) -> None:
        store = make()
        assert store.latest() is None
        assert store.get(1) is None

    def test_the_latest_snapshot_is_the_one_with_the_greatest_number(self, make: Callable[[], SnapshotStore]) -> None:
        store = make()
        for number in (1, 2, 9, 10, 11):
            assert store.add(snapshot(number))
        assert store.latest() == snapshot(11)
        assert store.latest(after=10) == snapshot(11)
        assert store.latest(after=11) is None
        assert store.get(9) == snapshot(9)

    def test_a_number_is_given_once_and_the_same_snapshot_may_be_added_again(
        self, make: Callable[[], SnapshotStore]
    ) -> None:
        store = make()
        assert store.add(snapshot(1))
        assert store.add(snapshot(1)), "the reply to the first request was lost"
        assert not store.add(snapshot(1, b"another process's"))
        assert store.get(1) == snapshot(1)


class TestMemorySnapshots(SnapshotContract):
    @pytest.fixture
    def make(self) -> Callable[[], SnapshotStore]:
        return lambda: MemorySnapshots(Namespace("app", "stream", 1))


class TestS3Snapshots(SnapshotContract):
    @pytest.fixture
    def bucket(self, stack: LocalStack) -> str:
        name = f"snapshots-{uuid.uuid4().hex[:8]}"
        stack.client("s3").create_bucket(Bucket=name)
        return name

    @pytest.fixture
    def make(self, stack: LocalStack, bucket: str) -> Callable[[], SnapshotStore]:
        return lambda: S3Snapshots(Namespace("app", "stream", 1), bucket=bucket, client=stack.client("s3"))

    def test_snapshots_are_found_where_the_hint_is_behind_or_gone(
        self, stack: LocalStack, bucket: str, make: Callable[[], SnapshotStore]
    ) -> None:
        store = make()
        for number in (1, 2, 3):
            store.add(snapshot(number))
        s3, hint = stack.client("s3"), "snapshot-numbers/app/stream@1"
        s3.put_object(Bucket=bucket, Key=hint, Body=b"1")
        assert store.latest() == snapshot(3)
        s3.delete_object(Bucket=bucket, Key=hint)
        assert store.latest() == snapshot(3)

    def test_a_number_is_not_given_again_where_its_snapshot_was_removed(
        self, stack: LocalStack, bucket: str, make: Callable[[], SnapshotStore]
    ) -> None:
        store = make()
        for number in (1, 2):
            store.add(snapshot(number))
            stack.client("s3").delete_object(Bucket=bucket, Key=f"snapshots/app/stream@1/{number:09d}")
        assert (store.latest(), store.last_number()) == (None, 2)

    def test_an_object_that_is_no_snapshot_is_named(
        self, stack: LocalStack, bucket: str, make: Callable[[], SnapshotStore]
    ) -> None:
        key = "snapshots/app/stream@1/000000001"
        stack.client("s3").put_object(Bucket=bucket, Key=key, Body=b"{}")
        with pytest.raises(SettingsError, match=f"s3://{bucket}/{key} is no snapshot"):
            make().latest()

    def test_a_list_that_names_a_snapshot_finds_it_by_number(
        self, stack: LocalStack, bucket: str, make: Callable[[], SnapshotStore], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name, value in stack.environment().items():
            monkeypatch.setenv(name, value)
        make().add(snapshot(3))
        assert find_snapshot(f"s3://{bucket}/snapshots/app/stream@1", 3) == snapshot(3)
        assert find_snapshot(f"s3://{bucket}/snapshots/app/stream@1/", 4) is None
        with pytest.raises(SettingsError, match="no-such-bucket"):
            find_snapshot("s3://no-such-bucket/snapshots/app/stream@1", 3)

    def test_a_bucket_that_is_missing_is_named(self, stack: LocalStack) -> None:
        store = S3Snapshots(Namespace("app", "stream", 1), bucket="no-such-bucket", client=stack.client("s3"))
        with pytest.raises(SettingsError, match="no-such-bucket"):
            store.check()
