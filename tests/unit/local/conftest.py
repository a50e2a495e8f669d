"""A WSGI application that answers as Firehose does, and a way to call one."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Iterable
from typing import Any

import pytest

Answer = tuple[str, Any]


def firehose_that_fails_entries_saying(word: bytes) -> Callable[..., Iterable[bytes]]:
    """A Firehose that refuses the entries whose data holds ``word``."""

    def application(environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
        entries = json.loads(environ["wsgi.input"].read())["Records"]
        results = [
            {"ErrorCode": "ServiceUnavailableException", "ErrorMessage": "slow down"}
            if word in base64.b64decode(entry["Data"])
            else {"RecordId": "id"}
            for entry in entries
        ]
        start_response("200 OK", [])
        return [json.dumps({"RequestResponses": results}).encode()]

    return application


def put(application: Callable[..., Iterable[bytes]], records: list[bytes]) -> Answer:
    """Send one PutRecordBatch; the status line and the decoded reply."""
    body = {"DeliveryStreamName": "outputs", "Records": [{"Data": base64.b64encode(data).decode()} for data in records]}
    environ = {
        "HTTP_X_AMZ_TARGET": "Firehose_20150804.PutRecordBatch",
        "wsgi.input": io.BytesIO(json.dumps(body).encode()),
    }
    statuses: list[str] = []
    reply = b"".join(application(environ, lambda status, _headers: statuses.append(status)))
    return statuses[0], json.loads(reply)


@pytest.fixture(scope="session")
def firehose() -> Callable[..., Iterable[bytes]]:
    return firehose_that_fails_entries_saying(b"refuse me")


@pytest.fixture(scope="session")
def put_record_batch() -> Callable[..., Answer]:
    return put
