"""``streamproc load`` against the local stack: what it measures is read from what landed."""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from streamproc.application import Application
from streamproc.local import LocalStack, read_journal
from streamproc_consumers.load.published import Objects
from streamproc_consumers.load.report import Report
from streamproc_consumers.recommendation import Recommendation
from streamproc_consumers.recommender import app
from streamproc_producers.events import utc

ROOT = Path(__file__).parents[2]
Start = Callable[[Application], object]


@pytest.fixture
def recommender(
    local_aws: LocalStack, model: Path, running: Start, monkeypatch: pytest.MonkeyPatch
) -> tuple[LocalStack, str]:
    """The stack, and the name of a stream that a recommender reads; its delivery stream has the same name."""
    name = f"load-{uuid.uuid4().hex[:8]}"
    local_aws.create_stream(name, 2)
    local_aws.create_delivery_stream(name, name, "recommendations/")
    for variable, value in {
        "STREAM": name,
        "RECOMMENDER_NAME": name,
        "DELIVERY_STREAM": name,
        "BUCKET": name,
        "MODEL": str(model),
    }.items():
        monkeypatch.setenv(f"STREAMPROC_{variable}", value)
    running(app())
    return local_aws, name


def test_a_load_finds_every_event_in_a_recommendation_and_reports_it(
    recommender: tuple[LocalStack, str],
    streamproc: Callable[..., subprocess.CompletedProcess[str]],
    tmp_path: Path,
) -> None:
    stack, name = recommender
    words = ["--stream", name, "--rate", "60", "--duration", "3", "--ramp", "1", "--users", "20", "--items", "30"]
    places = ["--recommendations", str(stack.firehose_journal), "--delivery-stream", name]
    done = streamproc(
        "load", *words, *places, "--json", str(tmp_path / "load.json"), "--html", str(tmp_path / "load.html")
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "This spends money" not in done.stderr
    report = msgspec.json.decode((tmp_path / "load.json").read_bytes(), type=Report)
    assert report.events_acknowledged == report.events_due == pytest.approx(210, abs=2)
    assert report.events_without_recommendation == 0
    assert report.recommendation_ms is not None
    assert report.recommendation_ms.count == report.events_due
    assert report.put_ms is not None
    assert 0 < report.put_ms.p50 < report.recommendation_ms.p99
    assert report.recommendations == sum(
        accepted.data.count("\n") for accepted in read_journal(stack.firehose_journal) if accepted.stream == name
    )
    assert sum(second.events for second in report.timeline) == report.events_due
    assert "Kinesis" in done.stdout
    assert "<svg" in (tmp_path / "load.html").read_text()


def test_objects_in_s3_are_read_once_and_say_when_their_recommendations_were_published(local_aws: LocalStack) -> None:
    name = f"load-{uuid.uuid4().hex[:8]}"
    s3 = local_aws.client("s3")
    s3.create_bucket(Bucket=name)
    item = {
        "recommendation_id": "r",
        "user_id": "ann",
        "items": [],
        "model_version": "m",
        "arm": "champion",
        "features_as_of": utc(0.0),
        "position": {"shard_id": "shardId-000000000001", "sequence_number": "7", "sub_sequence_number": 3},
        "event_ts": utc(0.0),
        "published_ts": utc(1_800_000_000.25),
        "item_snapshot": "",
        "fallback": None,
    }
    line = msgspec.json.encode(msgspec.convert(item, Recommendation))
    objects = Objects(f"s3://{name}/out/", since=utc(0.0))
    assert list(objects.look()) == []
    s3.put_object(Bucket=name, Key="out/1", Body=line + b"\n")
    [found] = objects.look()
    assert (found.user_id, found.position, found.at) == ("ann", (1, 7, 3), 1_800_000_000.25)
    assert list(objects.look()) == []
    s3.put_object(Bucket=name, Key="out/2", Body=line + b"\n" + line + b"\n")
    assert len(list(objects.look())) == 2
    for key in ("out/3", "out/3-1"):  # one key begins with the other
        s3.put_object(Bucket=name, Key=key, Body=line + b"\n")
    assert len(list(objects.look())) == 2


@pytest.mark.long
def test_the_latency_benchmark_parts_the_time_of_every_event_and_capacity_compares_it_with_its_model(
    tmp_path: Path,
) -> None:
    build = tmp_path / "build"
    words = ["--rates", "100", "--kcl-rates", "100", "--seconds", "6", "--ramp", "2"]
    for command in (
        ["benchmarks.latency", *words, "--json", str(build / "bench-latency.json")],
        ["benchmarks.capacity", "--build", str(build), "--out", str(tmp_path / "capacity.md")],
    ):
        done = subprocess.run(
            [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, timeout=400, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads((build / "bench-latency.json").read_text())
    for prefix in ("", "kcl_"):
        assert figures[f"{prefix}events_100"] == pytest.approx(600, abs=2)
        assert figures[f"{prefix}events_without_recommendation_100"] == 0
        assert 0 < figures[f"{prefix}p50_ms_100"] <= figures[f"{prefix}p99_ms_100"]
        shares = [value for name, value in figures.items() if name.startswith(prefix) and name.endswith("_share_100")]
        assert len(shares) > 9
        parts = ("late", "put", "queue", "checkpoint", "poll", "read", "decode", "load", "fold", "emit", "publish")
        assert sum(figures[f"{prefix}{part}_share_100"] for part in parts) == pytest.approx(1, abs=0.01)
    assert "| 100 |" in (tmp_path / "capacity.md").read_text()
