"""The Firehose sink: what it packs, and what it says of each output."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError
from hypothesis import given, strategies as st

from streamproc.errors import SettingsError
from streamproc.local import LocalStack
from streamproc.namespace import Namespace
from streamproc.sinks.firehose import CALL_BYTES_MAX, RECORD_BYTES_MAX, RECORDS_PER_CALL_MAX, FirehoseSink, pack

NAMESPACE = Namespace("app", "stream", 1)


class ScriptedFirehose:
    """Answers as scripted: codes by entry, or an error to raise."""

    def __init__(self, *script: list[str | None] | Exception) -> None:
        self.script = list(script)
        self.calls: list[list[bytes]] = []

    def put_record_batch(self, *, DeliveryStreamName: str, Records: list[dict[str, bytes]]) -> dict[str, Any]:  # noqa: N803  # boto3's names
        assert DeliveryStreamName == "out"
        self.calls.append([record["Data"] for record in Records])
        step = self.script.pop(0) if self.script else [None] * len(Records)
        if isinstance(step, Exception):
            raise step
        entries = [{"RecordId": "1"} if code is None else {"ErrorCode": code, "ErrorMessage": "no"} for code in step]
        return {"FailedPutCount": sum(code is not None for code in step), "RequestResponses": entries}


def sink_on(firehose: ScriptedFirehose) -> FirehoseSink:
    return FirehoseSink(NAMESPACE, delivery_stream="out", client=firehose)  # type: ignore[arg-type]  # a part of the client


@given(st.lists(st.integers(0, 400_000), max_size=30))
def test_every_output_that_fits_is_packed_once_in_order_and_no_record_is_too_large(sizes: list[int]) -> None:
    outputs = [b"x" * size for size in sizes]
    packed = list(pack(outputs))
    assert [index for indices, _ in packed for index in indices] == list(range(len(outputs)))
    assert all(len(data) <= RECORD_BYTES_MAX for _, data in packed)
    assert b"".join(data for _, data in packed) == b"".join(output + b"\n" for output in outputs)


def test_small_outputs_share_one_record_as_lines() -> None:
    firehose = ScriptedFirehose()
    delivery = sink_on(firehose).publish([b'{"n":1}', b'{"n":2}'])
    assert firehose.calls == [[b'{"n":1}\n{"n":2}\n']]
    assert (delivery.pending, delivery.refused) == ([], [])


def test_a_call_stays_within_its_bytes_and_records() -> None:
    firehose = ScriptedFirehose()
    large = b"x" * 900_000
    sink_on(firehose).publish([large] * 10)
    assert all(sum(map(len, call)) <= CALL_BYTES_MAX and len(call) <= RECORDS_PER_CALL_MAX for call in firehose.calls)
    assert sum(map(len, firehose.calls)) == 10


def test_the_outputs_of_a_failed_entry_are_pending_and_the_others_are_not() -> None:
    large = b"x" * 600_000
    delivery = sink_on(ScriptedFirehose([None, "ServiceUnavailableException", None])).publish([large] * 3)
    assert delivery.pending == [1]
    assert "ServiceUnavailableException" in delivery.error


def test_an_output_that_fits_in_no_record_is_refused_and_the_others_are_published() -> None:
    firehose = ScriptedFirehose()
    delivery = sink_on(firehose).publish([b"a", b"x" * RECORD_BYTES_MAX, b"b"])
    assert [index for index, _ in delivery.refused] == [1]
    assert firehose.calls == [[b"a\nb\n"]]


def test_when_the_service_goes_away_between_two_calls_the_first_ones_outputs_stay_published() -> None:
    gone = EndpointConnectionError(endpoint_url="x")
    large = b"x" * 900_000
    delivery = sink_on(ScriptedFirehose([None] * 4, gone)).publish([large] * 10)
    assert delivery.pending == [4, 5, 6, 7, 8, 9]
    assert delivery.error


def test_a_missing_delivery_stream_is_an_error_that_does_not_pass() -> None:
    answer: Any = {"Error": {"Code": "ResourceNotFoundException", "Message": "Firehose out not found"}}
    with pytest.raises(SettingsError, match="delivery stream out"):
        sink_on(ScriptedFirehose(ClientError(answer, "PutRecordBatch"))).publish([b"a"])


def test_what_is_published_lands_in_s3_as_lines(stack: LocalStack) -> None:
    name = f"out-{uuid.uuid4().hex[:8]}"
    stack.create_delivery_stream(name, "landing", f"{name}/")
    sink = FirehoseSink(NAMESPACE, delivery_stream=name, client=stack.client("firehose"))
    assert name in sink.check()
    sink.publish([json.dumps({"n": n}).encode() for n in range(1000)])
    s3 = stack.client("s3")
    objects = s3.list_objects_v2(Bucket="landing", Prefix=f"{name}/")["Contents"]
    lines = [
        json.loads(line)
        for found in objects
        for line in s3.get_object(Bucket="landing", Key=found["Key"])["Body"].read().splitlines()
    ]
    assert [line["n"] for line in lines] == list(range(1000))
