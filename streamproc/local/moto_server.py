"""moto as a server: ``python -m streamproc.local.moto_server DESCRIPTOR [JOURNAL]``.

The socket is inherited, already listening, so no port is guessed and nobody can take it in between. Three things are
added to what moto's own server does:

* One call at a time. moto's ``Shard.put_record`` takes the highest sequence number and adds one, without a lock, so two
  calls at once could write one record over the other; and a read that meets a write fails.
* Firehose's limits, and the journal of what it accepted (see :mod:`streamproc.local.firehose_tap`).
* ``READY_PATH`` is answered once the backends are loaded.
"""

from __future__ import annotations

import io
import sys
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

from streamproc.local.firehose_tap import FirehoseTap
from streamproc.local.readiness import READY_PATH

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment


class _Quiet(WSGIRequestHandler):
    """Keeps connections open, as AWS does, and logs errors alone."""

    protocol_version = "HTTP/1.1"

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Log nothing for a request that was answered."""


class OneAtATime:
    """Reads each request whole, then lets one in at a time."""

    def __init__(self, application: WSGIApplication) -> None:
        self._application = application
        self._lock = threading.Lock()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """See PEP 3333."""
        if environ.get("PATH_INFO") == READY_PATH:
            start_response("200 OK", [("Content-Length", "0")])
            return []
        # Outside the lock, so that a slow sender holds nobody up; a body that has no length is chunked, and moto's own.
        if length := environ.get("CONTENT_LENGTH"):
            environ["wsgi.input"] = io.BytesIO(environ["wsgi.input"].read(int(length)))
        with self._lock:
            return list(self._application(environ, start_response))


def main() -> None:
    """Serve until the process is ended."""
    descriptor, *journal = sys.argv[1:]
    application: WSGIApplication = DomainDispatcherApplication(create_backend_app)
    application = OneAtATime(FirehoseTap(application, Path(journal[0]) if journal else None))
    make_server("127.0.0.1", 0, application, threaded=True, request_handler=_Quiet, fd=int(descriptor)).serve_forever()


if __name__ == "__main__":
    main()
