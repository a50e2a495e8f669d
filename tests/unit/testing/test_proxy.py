from __future__ import annotations

import http.server
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import pytest
from botocore.exceptions import ClientError, ConnectionClosedError
from hypothesis import given, strategies as st

from streamproc.aws import aws_client
from streamproc.errors import SettingsError, code_of, is_transient
from streamproc.testing.proxy import Fault, FaultProxy, ProxyFaults
from streamproc.testing.proxying.faults import FaultPlan

SERVICES = ("kinesis", "dynamodb", "firehose", "s3")


class Service(http.server.ThreadingHTTPServer):
    """Answers as AWS does where all goes well, and remembers what arrived."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        #: (operation, document), or (method and path, body) for S3.
        self.arrived: list[tuple[str, Any]] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def operations(self) -> list[str]:
        return [operation for operation, _ in self.arrived]


class _Answer(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Service

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        _, _, operation = self.headers.get("X-Amz-Target", "").partition(".")
        document = json.loads(body) if operation else body
        self.server.arrived.append((operation or f"{self.command} {self.path}", document))
        answer = self.ANSWERS[operation](document, len(self.server.arrived)) if operation in self.ANSWERS else {}
        data = json.dumps(answer).encode() if operation else b""
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("x-amz-crc32", "1")
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_HEAD = do_POST = do_PUT = answer  # noqa: N815  # http.server's names

    ANSWERS: ClassVar[dict[str, Callable[[Any, int], Any]]] = {
        "PutRecords": lambda asked, _: {
            "FailedRecordCount": 0,
            "Records": [
                {"SequenceNumber": record["PartitionKey"], "ShardId": "shardId-000000000000"}
                for record in asked["Records"]
            ],
        },
        "PutRecordBatch": lambda asked, _: {
            "FailedPutCount": 0,
            "RequestResponses": [{"RecordId": record["Data"]} for record in asked["Records"]],
        },
        "BatchGetItem": lambda asked, _: {
            "Responses": {table: wanted["Keys"] for table, wanted in asked["RequestItems"].items()},
            "UnprocessedKeys": {},
        },
        "GetItem": lambda _, ordinal: {"Item": {"ordinal": {"N": str(ordinal)}}},
    }

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@pytest.fixture
def service() -> Iterator[Service]:
    with Service() as service:
        thread = threading.Thread(target=service.serve_forever, args=[0.01])
        thread.start()
        yield service
        service.shutdown()
        thread.join()


@pytest.fixture
def proxy(service: Service) -> Iterator[FaultProxy]:
    with FaultProxy(service.url) as proxy:
        yield proxy


@pytest.fixture
def client(proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], Any]:
    """The library's own clients, which try once."""
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for name in SERVICES:
        monkeypatch.setenv(f"AWS_ENDPOINT_URL_{name.upper()}", proxy.url)
    return aws_client


def put_records(kinesis: Any, entries: int) -> Any:
    records = [{"Data": b"data", "PartitionKey": str(index)} for index in range(entries)]
    return kinesis.put_records(StreamName="stream", Records=records)


def get_item(dynamodb: Any) -> int:
    """The ordinal of the request that the service answered."""
    return int(dynamodb.get_item(TableName="table", Key={"pk": {"S": "key"}})["Item"]["ordinal"]["N"])


CALLS: dict[str, tuple[str, Callable[[Any], object]]] = {
    "PutRecords": ("kinesis", lambda client: put_records(client, 1)),
    "ListShards": ("kinesis", lambda client: client.list_shards(StreamName="stream")),
    "GetItem": ("dynamodb", get_item),
    "DescribeTable": ("dynamodb", lambda client: client.describe_table(TableName="table")),
    "TransactWriteItems": (
        "dynamodb",
        lambda client: client.transact_write_items(
            TransactItems=[{"Delete": {"TableName": "table", "Key": {"pk": {"S": key}}}} for key in "ab"]
        ),
    ),
    "PutRecordBatch": (
        "firehose",
        lambda client: client.put_record_batch(DeliveryStreamName="outputs", Records=[{"Data": b"data"}]),
    ),
    "DescribeDeliveryStream": (
        "firehose",
        lambda client: client.describe_delivery_stream(DeliveryStreamName="outputs"),
    ),
    "PUT /bucket/key": ("s3", lambda client: client.put_object(Bucket="bucket", Key="key", Body=b"body")),
    "HEAD /bucket": ("s3", lambda client: client.head_bucket(Bucket="bucket")),
}


@pytest.mark.parametrize("operation", CALLS)
def test_a_request_without_a_fault_reaches_the_service_and_is_answered(
    operation: str, service: Service, proxy: FaultProxy, client: Callable[[Any], Any]
) -> None:
    name, call = CALLS[operation]
    call(client(name))
    assert service.operations() == [operation]
    assert not proxy.counts


@pytest.mark.parametrize(
    ("operation", "status", "code"),
    [
        ("PutRecords", 400, "ProvisionedThroughputExceededException"),
        ("ListShards", 400, "LimitExceededException"),
        ("GetItem", 400, "ProvisionedThroughputExceededException"),
        ("DescribeTable", 400, "ThrottlingException"),
        ("TransactWriteItems", 400, "TransactionCanceledException"),
        ("PutRecordBatch", 503, "ServiceUnavailableException"),
        ("DescribeDeliveryStream", 400, "LimitExceededException"),
        ("PUT /bucket/key", 503, "SlowDown"),
        ("HEAD /bucket", 503, "503"),  # an answer to HEAD has no body, and so no code
    ],
)
def test_a_throttle_is_the_services_own_error_and_the_request_never_arrives(
    operation: str, status: int, code: str, service: Service, proxy: FaultProxy, client: Callable[[Any], Any]
) -> None:
    name, call = CALLS[operation]
    proxy.fail_next(operation, Fault.THROTTLE)
    with pytest.raises(ClientError) as raised:
        call(client(name))
    assert (raised.value.response["ResponseMetadata"]["HTTPStatusCode"], code_of(raised.value)) == (status, code)
    if operation == "TransactWriteItems":
        reasons: Any = raised.value.response
        assert [reason["Code"] for reason in reasons["CancellationReasons"]] == ["ThrottlingError", "None"]
    assert service.arrived == []
    assert proxy.counts == {Fault.THROTTLE: 1}


@pytest.mark.parametrize("operation", CALLS)
def test_an_internal_failure_has_status_500_and_the_request_never_arrives(
    operation: str, service: Service, proxy: FaultProxy, client: Callable[[Any], Any]
) -> None:
    name, call = CALLS[operation]
    proxy.fail_next(operation, Fault.INTERNAL)
    with pytest.raises(ClientError) as raised:
        call(client(name))
    assert raised.value.response["ResponseMetadata"]["HTTPStatusCode"] == 500
    assert is_transient(raised.value)
    assert service.arrived == []


@pytest.mark.parametrize("operation", CALLS)
def test_a_request_that_is_cut_off_never_arrives_and_one_whose_reply_is_lost_did(
    operation: str, service: Service, proxy: FaultProxy, client: Callable[[Any], Any]
) -> None:
    name, call = CALLS[operation]
    made = client(name)
    for fault, arrived in ((Fault.CUT, 0), (Fault.LOST_REPLY, 1)):
        proxy.fail_next(operation, fault)
        with pytest.raises(ConnectionClosedError) as raised:
            call(made)
        assert is_transient(raised.value)
        assert len(service.arrived) == arrived


def test_a_late_request_arrives_when_the_test_says_so(
    service: Service, proxy: FaultProxy, client: Callable[[Any], Any]
) -> None:
    dynamodb = client("dynamodb")
    proxy.fail_next("DescribeTable", Fault.LATE)
    with pytest.raises(ConnectionClosedError):
        dynamodb.describe_table(TableName="table")
    get_item(dynamodb)
    assert service.operations() == ["GetItem"]
    assert proxy.release_late() == 1
    assert service.operations() == ["GetItem", "DescribeTable"]
    assert proxy.release_late() == 0


def test_a_late_request_arrives_after_so_many_further_ones_and_before_the_last_of_them_is_answered(
    service: Service, proxy: FaultProxy, client: Callable[[Any], Any]
) -> None:
    dynamodb = client("dynamodb")
    proxy.fail_next("DescribeTable", Fault.LATE, after_requests=2)
    with pytest.raises(ConnectionClosedError):
        dynamodb.describe_table(TableName="table")
    get_item(dynamodb)
    assert service.operations() == ["GetItem"]
    get_item(dynamodb)
    assert service.operations() == ["GetItem", "GetItem", "DescribeTable"]


def test_a_request_that_is_still_late_at_the_end_never_arrives(
    service: Service, client: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with FaultProxy(service.url, faults=ProxyFaults(1, late=1.0)) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL_DYNAMODB", proxy.url)
        with pytest.raises(ConnectionClosedError):
            get_item(client("dynamodb"))
    assert service.arrived == []


def test_a_duplicate_arrives_twice_and_the_client_gets_the_first_answer(
    service: Service, proxy: FaultProxy, client: Callable[[Any], Any]
) -> None:
    proxy.fail_next("GetItem", Fault.DUPLICATE)
    assert get_item(client("dynamodb")) == 1
    assert service.operations() == ["GetItem", "GetItem"]


def test_a_request_with_latency_is_answered_later(service: Service) -> None:
    with FaultProxy(service.url, faults=ProxyFaults(1, latency=1.0, latency_seconds=0.05)) as proxy:
        with socket.create_connection(("127.0.0.1", int(proxy.url.rpartition(":")[2]))) as connection:
            started = time.monotonic()
            connection.sendall(b"GET /bucket/key HTTP/1.1\r\nHost: s3\r\n\r\n")
            assert connection.recv(100).startswith(b"HTTP/1.1 200 OK")
        assert time.monotonic() - started >= 0.05
        assert proxy.counts == {Fault.LATENCY: 1}


def test_failed_entries_of_put_records_do_not_arrive_and_stand_in_the_answer_where_they_were(
    service: Service, proxy: FaultProxy, client: Callable[[Any], Any]
) -> None:
    proxy.fail_next("PutRecords", Fault.PARTIAL, entries=[0, 2])
    answer = put_records(client("kinesis"), 4)
    assert answer["FailedRecordCount"] == 2
    assert [record.get("SequenceNumber") for record in answer["Records"]] == [None, "1", None, "3"]
    assert {record.get("ErrorCode") for record in answer["Records"]} == {None, "ProvisionedThroughputExceededException"}
    ((_, asked),) = service.arrived
    assert [record["PartitionKey"] for record in asked["Records"]] == ["1", "3"]


def test_failed_entries_of_put_record_batch_do_not_arrive_and_stand_in_the_answer_where_they_were(
    service: Service, proxy: FaultProxy, client: Callable[[Any], Any]
) -> None:
    proxy.fail_next("PutRecordBatch", Fault.PARTIAL, entries=[1])
    records = [{"Data": data} for data in (b"a", b"b")]
    answer = client("firehose").put_record_batch(DeliveryStreamName="outputs", Records=records)
    assert answer["FailedPutCount"] == 1
    assert ["ErrorCode" in result for result in answer["RequestResponses"]] == [False, True]
    ((_, asked),) = service.arrived
    assert len(asked["Records"]) == 1


def test_failed_keys_of_batch_get_item_are_unprocessed_with_what_was_asked_of_their_table(
    service: Service, proxy: FaultProxy, client: Callable[[Any], Any]
) -> None:
    keys = [{"pk": {"S": name}} for name in "abc"]
    asked: Any = {"one": {"Keys": keys, "ConsistentRead": True}, "two": {"Keys": keys[:1]}}
    proxy.fail_next("BatchGetItem", Fault.PARTIAL, entries=[1, 3])
    answer = client("dynamodb").batch_get_item(RequestItems=asked)
    assert answer["Responses"] == {"one": [keys[0], keys[2]]}
    assert answer["UnprocessedKeys"] == {
        "one": {"Keys": [keys[1]], "ConsistentRead": True},
        "two": {"Keys": [keys[0]]},
    }
    assert service.arrived[0][1]["RequestItems"] == {"one": {"Keys": [keys[0], keys[2]], "ConsistentRead": True}}


def test_a_batch_whose_entries_all_fail_does_not_arrive_and_batch_get_item_is_then_throttled(
    service: Service, proxy: FaultProxy, client: Callable[[Any], Any]
) -> None:
    proxy.fail_next("PutRecords", Fault.PARTIAL, entries=[0, 1])
    answer = put_records(client("kinesis"), 2)
    assert answer["FailedRecordCount"] == len([record for record in answer["Records"] if "ErrorCode" in record]) == 2
    proxy.fail_next("BatchGetItem", Fault.PARTIAL)
    with pytest.raises(ClientError, match="ProvisionedThroughputExceededException"):
        client("dynamodb").batch_get_item(RequestItems={"table": {"Keys": [{"pk": {"S": "a"}}]}})
    assert service.arrived == []


def test_only_a_batch_can_be_told_to_fail_in_part(proxy: FaultProxy) -> None:
    with pytest.raises(SettingsError, match="'GetItem' cannot fail in part: name one of PutRecords"):
        proxy.fail_next("GetItem", Fault.PARTIAL)


def test_scripted_faults_meet_matching_requests_one_each_in_the_order_in_which_they_were_told(
    service: Service, proxy: FaultProxy, client: Callable[[Any], Any]
) -> None:
    proxy.fail_next("Get*", Fault.INTERNAL)
    proxy.fail_next("GetItem", Fault.THROTTLE)
    proxy.fail_next("PUT /bucket/*", Fault.CUT)
    dynamodb = client("dynamodb")
    with pytest.raises(ClientError, match="InternalServerError"):
        get_item(dynamodb)
    with pytest.raises(ClientError, match="ProvisionedThroughputExceededException"):
        get_item(dynamodb)
    assert get_item(dynamodb) == 1
    with pytest.raises(ConnectionClosedError):
        client("s3").put_object(Bucket="bucket", Key="some/key", Body=b"body")
    assert service.operations() == ["GetItem"]


def test_a_service_that_is_away_looks_like_a_connection_that_was_cut(
    client: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    with FaultProxy(f"http://127.0.0.1:{port}") as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL_DYNAMODB", proxy.url)
        with pytest.raises(ConnectionClosedError):
            get_item(client("dynamodb"))


@given(
    seed=st.integers(0, 2**32),
    others=st.lists(st.sampled_from(["GetRecords", "PUT /bucket/a", "PUT /bucket/b"]), max_size=20),
)
def test_the_nth_request_of_an_operation_meets_the_same_fault_whatever_comes_between(
    seed: int, others: list[str]
) -> None:
    faults = ProxyFaults(seed, throttle=0.3, late=0.3, duplicate=0.2)

    def strikes(between: list[str]) -> list[tuple[Fault, int | None] | None]:
        plan = FaultPlan(faults)
        found = []
        for index in range(10):
            for other in between[index * 2 : index * 2 + 2]:
                plan.next(other)
            strike = plan.next("GetItem")
            found.append(strike and (strike.fault, strike.after_requests))
        return found

    assert strikes(others) == strikes([])


def test_each_fault_strikes_its_share_of_the_requests() -> None:
    plan = FaultPlan(ProxyFaults(7, **{fault.value: 0.1 for fault in Fault}))  # type: ignore[arg-type] # shares alone
    drawn = [strike.fault if (strike := plan.next("GetItem")) else None for _ in range(5000)]
    assert all(400 < drawn.count(fault) < 600 for fault in Fault)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"throttle": 1.1}, "throttle is 1.1"),
        ({"cut": -0.1}, "cut is -0.1"),
        ({"cut": 0.6, "late": 0.6}, "above 1 together"),
        ({"late_requests_max": 0}, "late_requests_max is 0"),
    ],
)
def test_shares_that_cannot_be_are_refused(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SettingsError, match=sentence):
        ProxyFaults(1, **settings)


def test_an_endpoint_that_the_proxy_cannot_read_is_refused() -> None:
    with pytest.raises(SettingsError, match="begins with http://"):
        FaultProxy("https://kinesis.eu-west-1.amazonaws.com")
