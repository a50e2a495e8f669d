"""AWS' wire formats, as far as a proxy plays the service: who is asked for what, and how each service says no."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any, NamedTuple

_HOP_BY_HOP = {"connection", "content-length", "expect", "keep-alive", "transfer-encoding"}

# "Common errors" and the API pages of each service. What the control plane's calls answer is another code.
_KINESIS_DATA = {"PutRecord", "PutRecords", "GetRecords", "GetShardIterator"}
_DYNAMODB_DATA = {
    *("GetItem", "PutItem", "UpdateItem", "DeleteItem", "Query", "Scan"),
    *("BatchGetItem", "BatchWriteItem", "TransactGetItems", "TransactWriteItems"),
}
_TOO_MUCH = "ProvisionedThroughputExceededException"


class Request(NamedTuple):
    """What a client asked."""

    method: str
    path: str
    headers: list[tuple[str, str]]
    body: bytes

    @property
    def target(self) -> str:
        """As in ``Kinesis_20131202.PutRecords``; empty for S3."""
        return next((value for name, value in self.headers if name.lower() == "x-amz-target"), "")

    @property
    def operation(self) -> str:
        """As in ``PutRecords``; for S3, the method and the path, as in ``PUT /bucket/key``."""
        return self.target.partition(".")[2] or f"{self.method} {self.path.partition('?')[0]}"

    @property
    def service(self) -> str:
        """``kinesis``, ``dynamodb``, ``firehose`` or ``s3``."""
        return self.target.partition("_")[0].lower() or "s3"


class Reply(NamedTuple):
    """What a service answered."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes


def end_to_end(headers: Collection[tuple[str, str]]) -> list[tuple[str, str]]:
    """The headers that are for the other end, and not for the connection."""
    return [(name, value) for name, value in headers if name.lower() not in _HOP_BY_HOP]


def throttled(request: Request) -> Reply:
    """The service asks for fewer requests."""
    operation = request.operation
    match request.service:
        case "kinesis" if operation in _KINESIS_DATA:
            return _refusal(request, 400, _TOO_MUCH, "Rate exceeded for shard shardId-000000000000")
        case "dynamodb" if operation == "TransactWriteItems":
            return _cancelled(request)
        case "dynamodb" if operation in _DYNAMODB_DATA:
            return _refusal(request, 400, _TOO_MUCH, "The level of configured provisioned throughput was exceeded.")
        case "dynamodb":
            return _refusal(request, 400, "ThrottlingException", "Rate of requests exceeds the allowed throughput.")
        case "firehose" if operation in ("PutRecord", "PutRecordBatch"):
            return _refusal(request, 503, "ServiceUnavailableException", "Slow down.")
        case "s3":
            return _refusal(request, 503, "SlowDown", "Please reduce your request rate.")
    return _refusal(request, 400, "LimitExceededException", "Rate exceeded")


def internal_failure(request: Request) -> Reply:
    """The service failed by itself."""
    codes = {"dynamodb": "InternalServerError", "s3": "InternalError"}
    code = codes.get(request.service, "InternalFailure")
    return _refusal(request, 500, code, "The request processing has failed because of an unknown error.")


def _cancelled(request: Request) -> Reply:
    """A transaction is throttled by its items: "TransactWriteItems", cancellation reasons."""
    reasons: list[dict[str, str]] = [{"Code": "None"} for _ in json.loads(request.body)["TransactItems"]]
    reasons[0] = {"Code": "ThrottlingError", "Message": "Throughput exceeds the current capacity of your table."}
    codes = ", ".join(reason["Code"] for reason in reasons)
    message = f"Transaction cancelled, please refer cancellation reasons for specific reasons [{codes}]"
    document = {
        "__type": "com.amazonaws.dynamodb.v20120810#TransactionCanceledException",
        "Message": message,
        "CancellationReasons": reasons,
    }
    return _json(400, document)


def _refusal(request: Request, status: int, code: str, message: str) -> Reply:
    if request.service == "s3":
        body = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>{message}</Message></Error>'
        return Reply(status, [("Content-Type", "application/xml")], body.encode())
    return _json(status, {"__type": code, "message": message})


def _json(status: int, document: Any) -> Reply:
    return Reply(status, [("Content-Type", "application/x-amz-json-1.1")], json.dumps(document).encode())


class _Results(NamedTuple):
    """How a call with ``Records`` answers them: a result each, in order, and how many failed."""

    results: str
    failures: str
    error: dict[str, str]


_RESULTS = {
    "PutRecords": _Results(
        "Records",
        "FailedRecordCount",
        {"ErrorCode": _TOO_MUCH, "ErrorMessage": "Rate exceeded for shard shardId-000000000000"},
    ),
    "PutRecordBatch": _Results(
        "RequestResponses",
        "FailedPutCount",
        {"ErrorCode": "ServiceUnavailableException", "ErrorMessage": "Slow down."},
    ),
}
#: The calls whose entries can fail one by one.
BATCHES = (*_RESULTS, "BatchGetItem")


class Batch:
    """A request whose entries can fail one by one. Entries are counted through, over all tables of a BatchGetItem."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._document: Any = json.loads(request.body)

    def __len__(self) -> int:
        if "Records" in self._document:
            return len(self._document["Records"])
        return sum(len(wanted["Keys"]) for wanted in self._document["RequestItems"].values())

    def without(self, failed: Collection[int]) -> Request | None:
        """The request without these entries; None where nothing is left of it.

        Its signature is that of the whole: the local services verify none.
        """
        if len(failed) == len(self):
            return None
        if "Records" in self._document:
            records = [entry for index, entry in enumerate(self._document["Records"]) if index not in failed]
            document = {**self._document, "Records": records}
        else:
            document = {**self._document, "RequestItems": self._tables(failed, keep=False)}
        return self._request._replace(body=json.dumps(document).encode())

    def merged(self, reply: Reply | None, failed: Collection[int]) -> Reply:
        """The service's answer for the rest (None: there was no rest), with the failed entries put in.

        An answer that refuses the rest as a whole refuses the batch. BatchGetItem is throttled as a whole where it gets
        nothing, as its API page says.
        """
        if reply is not None and reply.status != 200:
            return reply
        answer: Any = json.loads(reply.body) if reply is not None else {}
        shape = _RESULTS.get(self._request.operation)
        if shape is not None:
            passed = iter(answer.get(shape.results, []))
            answer[shape.results] = [shape.error if index in failed else next(passed) for index in range(len(self))]
            answer[shape.failures] = answer.get(shape.failures, 0) + len(failed)
        elif reply is None:
            return throttled(self._request)
        else:
            for table, wanted in self._tables(failed, keep=True).items():
                unprocessed = answer.setdefault("UnprocessedKeys", {}).setdefault(table, {**wanted, "Keys": []})
                unprocessed["Keys"] += wanted["Keys"]
        merged = _json(200, answer)
        if reply is None:
            return merged
        # The checksum that DynamoDB gives is that of its own answer.
        return merged._replace(headers=[header for header in reply.headers if header[0].lower() != "x-amz-crc32"])

    def _tables(self, failed: Collection[int], *, keep: bool) -> dict[str, Any]:
        """The tables of a BatchGetItem with the failed keys alone, or without them."""
        tables = {}
        index = 0
        for table, wanted in self._document["RequestItems"].items():
            keys = [key for at, key in enumerate(wanted["Keys"], index) if (at in failed) == keep]
            index += len(wanted["Keys"])
            if keys:
                tables[table] = {**wanted, "Keys": keys}
        return tables
