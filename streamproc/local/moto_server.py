"""Serves moto's backends on a socket that the parent opened: ``python -m streamproc.local.moto_server --help``.

moto's own server is not used, for six reasons. It runs requests side by side, though its backends are not made for
that: two conditional writes to DynamoDB can both find their condition true, two puts to a shard can take the same
sequence number, and a read of a shard raises RuntimeError while another thread puts; here the requests of one service
wait for each other. It looks through all records of a shard at each put and each read. It copies a DynamoDB table for
every item of a transaction, and takes the text of its condition apart once more. It tries a few hundred patterns a
request to find the backend. And it has no place to see what Firehose accepted.
"""

from __future__ import annotations

import argparse
import functools
import io
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import moto.dynamodb.models.table
import moto.kinesis.models
from moto.dynamodb.comparisons import ConditionExpressionParser
from moto.moto_server.werkzeug_app import MotoRequestHandler, create_backend_app
from werkzeug.serving import make_server

from streamproc.local.dynamodb_table import snapshot
from streamproc.local.firehose_tap import FirehoseTap
from streamproc.local.kinesis_shard import IndexedShard
from streamproc.local.processes import HOST
from streamproc.local.readiness import READY_PATH
from streamproc.memory import settle_memory

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment


class Services:
    """Hands each request to its service's backend, one at a time within a service."""

    def __init__(self, services: Iterable[Any], journal: Path | None) -> None:
        self._applications: dict[str, WSGIApplication] = {name: create_backend_app(name) for name in services}
        self._locks = {name: threading.Lock() for name in self._applications}
        if "firehose" in self._applications:
            self._applications["firehose"] = FirehoseTap(self._applications["firehose"], journal)
            self._locks["firehose"] = self._locks["s3"]  # Firehose writes into S3's backend

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request."""
        if environ["PATH_INFO"] == READY_PATH:
            start_response("200 OK", [("Content-Length", "0")])
            return []
        service = _service_of(environ)
        if service not in self._applications:
            refusal = (
                f"this process of the local stack serves {', '.join(self._applications)}, not {service}\n".encode()
            )
            start_response("501 Not Implemented", [("Content-Length", str(len(refusal)))])
            return [refusal]
        # Read before the lock is taken, so that a slow sender holds nobody up. A body without a length is chunked, and
        # left to moto.
        if length := environ.get("CONTENT_LENGTH"):
            environ["wsgi.input"] = io.BytesIO(environ["wsgi.input"].read(int(length)))
        with self._locks[service]:
            return list(self._applications[service](environ, start_response))


def _service_of(environ: WSGIEnvironment) -> str:
    """The service in the signature's credential scope, as in ``.../20300101/eu-west-1/kinesis/aws4_request``.

    A request without a signature, as from a browser, is taken for S3, as moto does.
    """
    _, _, credential = environ.get("HTTP_AUTHORIZATION", "").partition("Credential=")
    scope = credential.partition(",")[0].split("/")
    return scope[3].lower() if len(scope) == 5 else "s3"


class _Handler(MotoRequestHandler):
    protocol_version = "HTTP/1.1"  # keeps connections open between requests, as AWS does
    disable_nagle_algorithm = True  # a reply is several writes; each would wait for the client's delayed ACK

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Log nothing for a request that was answered."""


def main() -> None:
    """Serve until the process is ended."""
    parser = argparse.ArgumentParser(description="Serve moto's backends on an inherited socket that listens.")
    parser.add_argument("--fd", type=int, required=True, help="the socket's descriptor")
    parser.add_argument("--services", required=True, help="of kinesis,dynamodb,firehose,s3; firehose needs s3")
    parser.add_argument("--journal", type=Path, help="append what Firehose accepts to this file")
    options = parser.parse_args()

    moto.dynamodb.models.table.Table.__deepcopy__ = snapshot  # type: ignore[attr-defined] # what copy.deepcopy calls
    tokens = functools.lru_cache(4096)(
        functools.partial(ConditionExpressionParser._lex_one_node, ConditionExpressionParser("", {}, {}))
    )
    ConditionExpressionParser._lex_one_node = lambda _, text: tokens(text)  # type: ignore[method-assign, assignment]
    moto.kinesis.models.Shard = IndexedShard  # type: ignore[misc] # moto makes its shards by this name
    application = Services(options.services.split(","), options.journal)
    settle_memory()
    make_server(HOST, 0, application, threaded=True, request_handler=_Handler, fd=options.fd).serve_forever()


if __name__ == "__main__":
    main()
