"""The body that is written in place of botocore's says the same, and only in the producer's own calls."""

import json
import threading
from typing import Any

import boto3
import pytest
from botocore.awsrequest import AWSResponse
from hypothesis import given, strategies as st

from streamproc.producing.wire import put_records

REPLY = json.dumps({"FailedRecordCount": 0, "Records": [{"ShardId": "s", "SequenceNumber": "1"}]}).encode()


class Raw:
    """What a response is read from."""

    def stream(self) -> list[bytes]:
        return [REPLY]


class Recorded:
    """A client of boto3 that notes what it would send."""

    def __init__(self) -> None:
        self.client: Any = boto3.session.Session().client(
            "kinesis",
            region_name="eu-west-1",
            endpoint_url="http://127.0.0.1:1",
            aws_access_key_id="a",
            aws_secret_access_key="b",  # noqa: S106
        )
        self.sent: list[Any] = []
        self.client.meta.events.register("before-send.kinesis.PutRecords", self._note)

    def _note(self, request: Any, **_: Any) -> Any:
        self.sent.append(request)
        raw: Any = Raw()
        headers: Any = {"content-type": "application/x-amz-json-1.1"}
        return AWSResponse(request.url, 200, headers, raw)

    def bodies(self) -> list[Any]:
        return [json.loads(request.body) for request in self.sent]


@pytest.fixture(scope="module")
def recorded() -> Recorded:
    return Recorded()


records = st.lists(
    st.fixed_dictionaries(
        {"Data": st.binary(max_size=100), "PartitionKey": st.text(min_size=1, max_size=20)},
        optional={"ExplicitHashKey": st.integers(0, 2**128 - 1).map(str)},
    ),
    min_size=1,
    max_size=5,
)


@given(records)
def test_it_says_what_botocore_would_say(recorded: Recorded, records: list[dict[str, Any]]) -> None:
    recorded.sent.clear()
    recorded.client.put_records(StreamName="cart-events", Records=records)
    answer = put_records(recorded.client, "cart-events", records)
    theirs, ours = recorded.bodies()
    assert ours == theirs
    assert answer["Records"] == [{"ShardId": "s", "SequenceNumber": "1"}]


def test_the_length_and_the_signature_are_those_of_the_body(recorded: Recorded) -> None:
    recorded.sent.clear()
    put_records(recorded.client, "cart-events", [{"Data": b"x" * 1000, "PartitionKey": "k"}])
    [request] = recorded.sent
    assert int(request.headers["Content-Length"]) == len(request.body)
    assert b"Signature=" in request.headers["Authorization"]


def test_other_calls_of_the_same_client_go_out_as_they_are(recorded: Recorded) -> None:
    recorded.sent.clear()
    put_records(recorded.client, "cart-events", [{"Data": b"ours", "PartitionKey": "k"}])
    recorded.client.put_records(StreamName="other", Records=[{"Data": b"theirs", "PartitionKey": "k"}])
    thread = threading.Thread(
        target=recorded.client.put_records,
        kwargs={"StreamName": "third", "Records": [{"Data": b"x", "PartitionKey": "k"}]},
    )
    thread.start()
    thread.join()
    assert [body["StreamName"] for body in recorded.bodies()] == ["cart-events", "other", "third"]


def test_a_client_that_is_not_botocore_s_is_called_as_usual() -> None:
    class Client:
        def put_records(self, StreamName: str, Records: list[Any]) -> Any:  # noqa: N803  # boto3's names
            return {StreamName: Records}

    records = [{"Data": b"x", "PartitionKey": "k"}]
    assert put_records(Client(), "s", records) == {"s": records}
