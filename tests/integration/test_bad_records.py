"""docs/bad-records.md, row by row, through the real recommender on the local stack."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from streamproc.application import Application
from streamproc.deadletters.dynamodb import DynamoDBDeadLetters
from streamproc.local import LocalStack
from streamproc.namespace import Namespace
from streamproc.projections.redis import RedisProjection
from streamproc.settings import WorkerSettings
from streamproc.sinks.firehose import FirehoseSink
from streamproc.states.dynamodb import DynamoDBStates
from streamproc.stream import stream_created_at
from streamproc_consumers.recommender import Recommender
from streamproc_models import bundle

PAGE = Path(__file__).parents[2] / "docs" / "bad-records.md"
MIB = 1024 * 1024
USER = "user"


def event(**changes: Any) -> dict[str, Any]:
    fields = {
        "event_id": str(uuid.uuid4()),
        "event_type": "view",
        "user_id": USER,
        "item_id": "item",
        "ts": datetime.now(UTC).isoformat(),
    }
    return {name: value for name, value in (fields | changes).items() if value is not None}


def padded(size: int) -> bytes:
    bare = json.dumps(event(note="")).encode()
    return bare.replace(b'"note": ""', b'"note": "' + b"x" * (size - len(bare)) + b'"')


RECORDS: dict[str, bytes] = {
    "0 bytes": b"",
    "broken JSON": b'{"event_id": ',
    "a missing field": json.dumps(event(item_id=None)).encode(),
    "a wrong type": json.dumps(event(user_id=7)).encode(),
    "unknown fields": json.dumps(event(campaign="spring", nested={"a": [1]})).encode(),
    "an unknown event type": json.dumps(event(event_type="gaze")).encode(),
    "a time without an offset": json.dumps(event(ts="2026-01-01T00:00:00")).encode(),
    "a partition key that is not the user": json.dumps(event(user_id="somebody else")).encode(),
    "1 MiB of noise": b"\xff" * (MIB - len(USER)),
    "1 MiB, an event with a very long unknown field": padded(MIB - len(USER)),
    "a time more than a day after its arrival": json.dumps(
        event(ts=(datetime.now(UTC) + timedelta(days=2)).isoformat())
    ).encode(),
    "a time far in the past": json.dumps(event(ts="1999-12-31T23:59:59Z")).encode(),
}


GOOD = [json.dumps(event()).encode() for _ in range(2)]


def table() -> dict[str, tuple[str, str, str]]:
    rows = [[cell.strip() for cell in line.strip("|\n").split("|")] for line in PAGE.read_text().splitlines()]
    return {
        row[0]: (row[1], row[2], row[3]) for row in rows if len(row) == 4 and not row[0].startswith(("record", "-"))
    }


@pytest.fixture
def application(local_aws: LocalStack, model: Path) -> Application:
    name = f"bad-{uuid.uuid4().hex[:8]}"
    local_aws.create_stream(name, 1)
    local_aws.create_delivery_stream(name, name, "recommendations/")
    loaded = bundle.load(model)
    return Application(
        name=name,
        stream=name,
        processor=lambda: Recommender(loaded),
        states=DynamoDBStates,
        deadletters=partial(DynamoDBDeadLetters, bucket=name),
        sink=partial(FirehoseSink, delivery_stream=name),
        projection=partial(RedisProjection, url=local_aws.redis_url),
        worker=WorkerSettings(checkpoint_seconds=1),
    )


def test_the_page_and_this_test_list_the_same_records() -> None:
    assert list(table()) == list(RECORDS)


@pytest.mark.parametrize("record", RECORDS)
def test_a_bad_record_has_the_outcome_of_its_row_and_the_batch_goes_on(
    record: str,
    application: Application,
    local_aws: LocalStack,
    running: Callable[[Application], Any],
    until: Callable[[Callable[[], bool]], None],
) -> None:
    outcome, reason, field = table()[record]
    kinesis = local_aws.client("kinesis")
    entries = [{"Data": data, "PartitionKey": USER} for data in (GOOD[0], RECORDS[record], GOOD[1])]
    for entry in entries:
        kinesis.put_records(StreamName=application.stream, Records=[entry])  # type: ignore[list-item]  # boto3's stubs

    run = running(application)
    until(lambda: run.failure is not None or run.records() == len(entries))
    run.stop()
    assert run.failure is None

    namespace = Namespace(application.name, application.stream, stream_created_at(kinesis, application.stream))
    ports = application.ports(namespace)
    letters = list(ports.deadletters.scan())
    stored = ports.states.load([USER])[USER]
    assert stored.events_folded + len(letters) == len(entries)
    assert ports.projection is not None
    assert ports.projection.read([USER])[USER] == stored
    if outcome.startswith("dead-lettered"):
        (letter,) = letters
        assert letter.data == RECORDS[record]
        assert reason.replace("`", "") in letter.reason.replace("`", "")
        assert letter.field == (field or None)
    else:
        assert letters == []
    objects = local_aws.client("s3").list_objects_v2(Bucket=application.name, Prefix="deadletters/")
    assert objects["KeyCount"] == ("in S3" in outcome)
