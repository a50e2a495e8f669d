"""``streamproc audit`` as a process on a large sink, and against S3, leases and dead letters on the local stack."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from botocore.exceptions import ClientError
from click.testing import CliRunner

from streamproc import landed
from streamproc.deadletter import DeadLetter, Kind
from streamproc.deadletters.dynamodb import DynamoDBDeadLetters
from streamproc.errors import AccessDenied, SettingsError
from streamproc.lease import SHARD_END, Lease
from streamproc.leases.dynamodb import DynamoDBLeases
from streamproc.local import LocalStack
from streamproc.namespace import Namespace
from streamproc.record import Position
from streamproc.stream import stream_created_at
from streamproc_consumers.audit.commands import audit
from streamproc_consumers.recommendation import LogPosition, Recommendation, RecommendedItem, recommendation_id

ROOT = Path(__file__).parents[2]
START = datetime(2026, 11, 1, tzinfo=UTC)


def measured(tmp_path: Path, megabytes: int, gzip_megabytes: int, out: Path) -> dict[str, Any]:
    words = ["--megabytes", str(megabytes), "--gzip-megabytes", str(gzip_megabytes), "--json", str(out)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.audit", *words],
        cwd=ROOT,
        env={"TMPDIR": str(tmp_path), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    print(done.stdout)  # noqa: T201  # the speed is for whoever reads it: it depends on the machine
    figures: dict[str, Any] = json.loads(out.read_text())
    return figures


@pytest.mark.parametrize(
    ("megabytes", "gzip_megabytes"),
    [(4, 2), pytest.param(2000, 600, marks=pytest.mark.long)],
)
def test_an_audit_finds_just_what_was_planted_in_bounded_memory(
    tmp_path: Path, megabytes: int, gzip_megabytes: int
) -> None:
    name = "audit-long.json" if megabytes > 1000 else "audit.json"
    figures = measured(tmp_path, megabytes, gzip_megabytes, ROOT / "build" / name)
    for form, text_mb in (("plain", megabytes), ("gzip", gzip_megabytes)):
        found = figures[form]
        assert found["found"] == figures["planted"]
        assert found["exit_code"] == 1
        assert found["text_mb"] >= 0.99 * text_mb
        assert found["rss_mb_max"] < 1500
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def bucket(local_aws: LocalStack) -> str:
    name = f"audit-{uuid.uuid4().hex[:8]}"
    local_aws.client("s3").create_bucket(Bucket=name)
    return name


def a_list(user: str, position: Position) -> Recommendation:
    return Recommendation(
        recommendation_id=recommendation_id(user, position, "v1"),
        user_id=user,
        items=[RecommendedItem("a", "A", 0.5, "popular", 1)],
        model_version="v1",
        arm="champion",
        features_as_of=START,
        position=LogPosition.of(position),
        event_ts=START,
        published_ts=START + timedelta(milliseconds=200),
        item_snapshot="s",
        fallback=None,
    )


def archived(user: str, position: Position, number: int) -> bytes:
    event = {"event_id": f"{number:032x}", "event_type": "view", "user_id": user, "item_id": "a", "ts": START}
    return msgspec.json.encode({"position": LogPosition.of(position), "arrived_at": START, "event": event}) + b"\n"


def test_what_is_due_is_what_the_checkpoints_passed_less_the_dead_letters(
    local_aws: LocalStack, bucket: str, tmp_path: Path
) -> None:
    application, stream = f"app-{bucket}", f"stream-{bucket}"
    local_aws.create_stream(stream, 1)
    s3 = local_aws.client("s3")
    lists = [a_list("ann", Position(0, 10)), a_list("ann", Position(2, 70))]
    body = b"".join(msgspec.json.encode(each) + b"\n" for each in lists)
    s3.put_object(Bucket=bucket, Key="lists/2026/1.gz", Body=gzip.compress(body))
    s3.put_object(Bucket=bucket, Key="lists/", Body=b"")
    events = [
        ("bob", Position(0, 10**6)),  # missing: its shard was read to its end, and the lease is gone
        ("eve", Position(1, 10**6)),  # missing: read to its end
        ("jim", Position(2, 100, 3)),  # missing: at the checkpoint
        ("kim", Position(2, 100, 4)),  # not yet
        ("lee", Position(3, 1)),  # not yet: nothing of it was read
        ("max", Position(2, 99)),  # put aside
    ]
    body = b"".join(archived(user, position, number) for number, (user, position) in enumerate(events))
    s3.put_object(Bucket=bucket, Key="archive/1", Body=body)
    leases = DynamoDBLeases(application)
    leases.prepare()
    for number, checkpoint in ((1, SHARD_END), (2, "100"), (3, "TRIM_HORIZON")):
        lease = Lease(shard_id=f"shardId-{number:012d}", checkpoint=checkpoint, checkpoint_sub_sequence_number=3)
        leases.create(lease)
    created_at = stream_created_at(local_aws.client("kinesis"), stream)
    letters = DynamoDBDeadLetters(Namespace(application, stream, created_at), bucket=bucket)
    letters.prepare()
    letters.write(
        [
            DeadLetter(
                shard_id="shardId-000000000002",
                kind=Kind.EVENT,
                position=Position(2, 99),
                reason="no",
                partition_key="max",
                arrived_at=1.0,
                data=b"x",
            )
        ]
    )
    out = tmp_path / "report.json"
    words = [f"s3://{bucket}/lists/", "--archive", f"s3://{bucket}/archive/", "--json", str(out)]
    done = CliRunner().invoke(audit, [*words, "--checkpoints", application, "--stream", stream])
    assert done.exit_code == 1, done.exception
    report = json.loads(out.read_text())
    assert {each["kind"]: each["count"] for each in report["faults"]} == {"missing_position": 3}
    assert sorted(each.partition(": ")[0] for each in report["faults"][0]["examples"]) == [
        "shardId-000000000000:1000000:0",
        "shardId-000000000001:1000000:0",
        "shardId-000000000002:100:3",
    ]
    assert {each["kind"]: each["count"] for each in report["notes"]} == {"not_judged_yet": 2}
    assert report["objects"] == 1

    # Without the stream the dead letter is taken for missing; without checkpoints the published positions count.
    CliRunner().invoke(audit, [*words, "--checkpoints", application])
    assert json.loads(out.read_text())["faults"][0]["count"] == 4
    CliRunner().invoke(audit, words)
    assert json.loads(out.read_text())["faults"] == []
    done = CliRunner().invoke(audit, [*words, "--checkpoints", "nobody"])
    assert isinstance(done.exception, SettingsError)


def test_a_missing_bucket_an_empty_prefix_and_a_refusal_are_told_apart(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = CliRunner().invoke(audit, ["s3://no-such-bucket-here/lists/"])
    assert isinstance(done.exception, SettingsError)
    assert "listing s3://no-such-bucket-here/lists/: The specified bucket does not exist" in str(done.exception)
    done = CliRunner().invoke(audit, [f"s3://{bucket}/lists/"])
    assert f"nothing has landed in s3://{bucket}/lists/ yet" in str(done.exception)

    class Refusing:
        def get_paginator(self, _: str) -> Any:
            raise ClientError({"Error": {"Code": "AccessDenied", "Message": "Access Denied"}}, "ListObjectsV2")

    monkeypatch.setattr(landed, "aws_client", lambda _: Refusing())
    done = CliRunner().invoke(audit, [f"s3://{bucket}/lists/"])
    assert isinstance(done.exception, AccessDenied)
    assert done.exception.exit_code == 5
    assert f"listing s3://{bucket}/lists/: Access Denied" in str(done.exception)
