"""``streamproc producer verify``."""

import base64
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from streamproc.aggregation import MAGIC, UserRecord, aggregate
from streamproc.errors import SettingsError, StreamNotFound
from streamproc.producer import Producer
from streamproc.testing.kinesis import CallRefused, FakeKinesis
from streamproc_producers import commands

STREAM = "cart-events"


@pytest.fixture(autouse=True)
def _environment(kinesis: FakeKinesis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamproc.aws.aws_client", lambda _service: kinesis)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(commands.producer, ["verify", *arguments])


def test_a_stream_of_this_producer_s_aggregates_is_proved_right(kinesis: Any) -> None:
    with Producer(STREAM, client=kinesis) as producer:
        producer.put_many([(b"%d" % n, f"u{n % 50}") for n in range(500)])
        producer.flush()
        producer.put(b"alone", "u1")
    result = run("--stream", STREAM)
    assert result.exit_code == 0, result.output
    assert "user records     500" in result.output
    assert "KCL would drop     0" in result.output


def test_aws_kinesis_agg_s_aggregates_over_shards_are_found_and_named(
    kinesis: Any, keys_in: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    from aws_kinesis_agg.aggregator import RecordAggregator

    aggregator = RecordAggregator()
    low, high = keys_in(0, of=2)[0], keys_in(1, of=2)[0]
    for key in (low, high):
        aggregator.add_user_record(key, b"x")
    key, _, data = aggregator.clear_and_get().get_contents()
    kinesis.put_records(StreamName=STREAM, Records=[{"Data": data, "PartitionKey": key}])
    result = run("--stream", STREAM)
    assert result.exit_code == 1
    assert "KCL would drop     1" in result.output
    assert f"2 user records; outside: {high!r}" in result.output
    assert "2, of which 0 are in the stream again" in result.output
    kinesis.put_records(StreamName=STREAM, Records=[{"Data": b"x", "PartitionKey": low}])
    assert "2, of which 1 are in the stream again" in run("--stream", STREAM).output


def test_throttled_reads_are_made_again_and_a_time_range_is_kept_to(kinesis: Any, clock: Any) -> None:
    kinesis.put_records(StreamName=STREAM, Records=[{"Data": b"1", "PartitionKey": "k"}])
    clock.now += 3600
    kinesis.put_records(StreamName=STREAM, Records=[{"Data": b"2", "PartitionKey": "k"}])
    kinesis.script("GetRecords", [CallRefused("ProvisionedThroughputExceededException")])
    assert "records            2" in run("--stream", STREAM).output
    middle = "2023-11-14T22:40:00"  # the clock begins at 22:13:20
    assert "records            1" in run("--stream", STREAM, "--from", middle).output
    assert "records            1" in run("--stream", STREAM, "--until", middle).output


def capture(path: Path, *lines: dict[str, Any]) -> str:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


def record(data: bytes, **more: Any) -> dict[str, Any]:
    return {"SequenceNumber": "7", "PartitionKey": "k", "Data": base64.b64encode(data).decode(), **more}


def test_a_capture_is_judged_by_the_shards_that_it_begins_with(kinesis: Any, keys_in: Any, tmp_path: Path) -> None:
    shards = kinesis.list_shards(StreamName=STREAM)["Shards"]
    low, high = keys_in(0, of=2)[0], keys_in(1, of=2)[0]
    data = aggregate([UserRecord(low, b"1"), UserRecord(low, b"2")])
    good = capture(
        tmp_path / "good",
        *shards,
        record(data, ShardId=shards[0]["ShardId"]),
        record(MAGIC + b"x", ShardId=shards[1]["ShardId"]),
    )
    result = run("--capture", good)
    assert result.exit_code == 0, result.output
    assert "unreadable       1" in result.output
    data = aggregate([UserRecord(high, b"1"), UserRecord(low, b"2", int(shards[1]["HashKeyRange"]["StartingHashKey"]))])
    assert run("--capture", capture(tmp_path / "other", shards[0], record(data))).exit_code == 1
    assert run("--capture", capture(tmp_path / "explicit", shards[1], record(data))).exit_code == 0


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ([{"Data": "eA=="}], "line 1: no ShardId"),
        ([{"ShardId": "shardId-000000000009", "Data": "eA=="}], "shardId-000000000009, and no line before"),
        ([{"Data": 5}], "line 1 is neither a shard nor a record"),
    ],
)
def test_a_capture_that_cannot_be_judged_is_refused_with_the_line(lines: Any, says: str, tmp_path: Path) -> None:
    result = run("--capture", capture(tmp_path / "capture", *lines))
    assert isinstance(result.exception, SettingsError)
    assert says in str(result.exception)


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ((), "--stream or --capture"),
        (("--stream", "s", "--capture", "c"), "--stream or --capture"),
        (("--capture", "c", "--from", "2026-01-01"), "--from"),
        (("--capture", "/nowhere/at-all"), "/nowhere/at-all"),
    ],
)
def test_options_that_do_not_go_together_are_refused_with_their_names(arguments: Any, names: str) -> None:
    result = run(*arguments)
    assert isinstance(result.exception, SettingsError)
    assert names in str(result.exception)


def test_a_stream_that_does_not_exist_is_named() -> None:
    assert isinstance(run("--stream", "no-such-stream").exception, StreamNotFound)
