"""What Firehose accepted, and when: a journal beside the backend, independent of whoever reads S3."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

# "Amazon Data Firehose Quota" and the API page of PutRecordBatch.
RECORDS_PER_CALL_MAX = 500
CALL_BYTES_MAX = 4 * 1024 * 1024
RECORD_BYTES_MAX = 1000 * 1024


class Accepted(msgspec.Struct, frozen=True):
    """A line of the journal: one record of a PutRecordBatch, as it was put."""

    #: The delivery stream's name.
    stream: str
    #: Seconds since the epoch at which the reply was ready.
    accepted_at: float
    #: The record's text; this library's sinks put many lines of JSON into one record.
    data: str


def read_journal(journal: Path) -> Iterator[Accepted]:
    """What was accepted so far, in order. A last line that is still being written is left out."""
    if not journal.exists():
        return
    decode = msgspec.json.Decoder(Accepted).decode
    with journal.open("rb") as lines:
        for line in lines:
            if line.endswith(b"\n"):
                yield decode(line)


class _Entry(msgspec.Struct):
    Data: bytes  # msgspec decodes the base64


class _Request(msgspec.Struct):
    DeliveryStreamName: str
    Records: list[_Entry]


class _Result(msgspec.Struct):
    ErrorCode: str | None = None


class _Reply(msgspec.Struct):
    RequestResponses: list[_Result]


class FirehoseTap:
    """Firehose's backend, with the service's limits, which moto does not know, and with the journal.

    Each entry of a PutRecordBatch that was answered with 200 and without an error of its own becomes one line of the
    journal before the reply leaves, so a client that holds the reply finds its records there.
    """

    def __init__(self, application: WSGIApplication, journal: Path | None) -> None:
        self._application = application
        self._journal = journal
        self._request = msgspec.json.Decoder(_Request)
        self._reply = msgspec.json.Decoder(_Reply)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request. Its body is in memory (``wsgi.input`` can seek), and no other one runs meanwhile."""
        if not environ.get("HTTP_X_AMZ_TARGET", "").endswith(".PutRecordBatch"):
            return self._application(environ, start_response)
        body = environ["wsgi.input"].read()
        environ["wsgi.input"].seek(0)
        request = self._request.decode(body)
        if sentence := _beyond_limit([len(entry.Data) for entry in request.Records]):
            refusal = msgspec.json.encode({"__type": "InvalidArgumentException", "message": sentence})
            headers = [("Content-Type", "application/x-amz-json-1.1"), ("Content-Length", str(len(refusal)))]
            start_response("400 Bad Request", headers)
            return [refusal]

        status = ""

        def start(line: str, headers: list[tuple[str, str]], *more: object) -> object:
            nonlocal status
            status = line
            return start_response(line, headers, *more)  # type: ignore[arg-type] # exc_info, passed through

        reply = b"".join(self._application(environ, start))  # type: ignore[arg-type] # *more stands for exc_info
        if self._journal and status.startswith("200"):
            self._append(request, self._reply.decode(reply))
        return [reply]

    def _append(self, request: _Request, reply: _Reply) -> None:
        now = time.time()
        lines = [
            msgspec.json.encode(Accepted(request.DeliveryStreamName, now, entry.Data.decode(errors="replace")))
            for entry, result in zip(request.Records, reply.RequestResponses, strict=True)
            if result.ErrorCode is None
        ]
        if lines and self._journal:
            with self._journal.open("ab") as journal:
                journal.write(b"\n".join(lines) + b"\n")


def _beyond_limit(record_bytes: list[int]) -> str | None:
    """Why Firehose would refuse this call, if it would."""
    if len(record_bytes) > RECORDS_PER_CALL_MAX:
        return f"{len(record_bytes)} records in one call; PutRecordBatch takes {RECORDS_PER_CALL_MAX}"
    if max(record_bytes, default=0) > RECORD_BYTES_MAX:
        return f"a record of {max(record_bytes)} bytes; Firehose takes records of up to {RECORD_BYTES_MAX}"
    if sum(record_bytes) > CALL_BYTES_MAX:
        return f"{sum(record_bytes)} bytes in one call; PutRecordBatch takes {CALL_BYTES_MAX}"
    return None
