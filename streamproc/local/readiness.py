"""Waiting until a child process answers, with its log in the error when it does not."""

from __future__ import annotations

import http.client
import re
import socket
import time

from streamproc.errors import ServiceUnreachable
from streamproc.local.processes import HOST, ChildProcess

#: Answered by our moto process once its backends are loaded.
READY_PATH = "/streamproc-local/ready"
_REDIS_POLL_SECONDS = 0.005


def wait_for_http(child: ChildProcess, port: int, path: str, deadline: float) -> None:
    """Return when ``path`` was answered; ``deadline`` is a time of ``time.monotonic``.

    The socket listens already, so one request waits for the program to come up, and is cut off if that ends.
    Raises ServiceUnreachable.
    """
    connection = http.client.HTTPConnection(HOST, port, timeout=max(0.0, deadline - time.monotonic()))
    try:
        connection.request("GET", path)
        connection.getresponse().read()
    except (OSError, http.client.HTTPException) as error:
        raise _not_ready(child, ended=not isinstance(error, TimeoutError)) from error
    finally:
        connection.close()


def wait_for_redis(child: ChildProcess, port: int, deadline: float) -> None:
    """Return when this very Redis answers on the port: it says its process id. Raises ServiceUnreachable."""
    while child.running and time.monotonic() < deadline:
        try:
            with socket.create_connection((HOST, port), timeout=1.0) as connection:
                connection.sendall(b"INFO server\r\nQUIT\r\n")
                with connection.makefile("rb") as answer:
                    said = re.search(rb"^process_id:(\d+)", answer.read(), re.MULTILINE)
        except OSError:
            said = None
        if said and int(said[1]) == child.pid:
            return
        time.sleep(_REDIS_POLL_SECONDS)
    raise _not_ready(child, ended=not child.running)


def _not_ready(child: ChildProcess, *, ended: bool) -> ServiceUnreachable:
    what = "ended while it started" if ended else "did not answer in time"
    return ServiceUnreachable(f"the local stack's {child.name} process {what}; {child.log_tail()}")
