"""Answers as DynamoDB does, at once, and forgets: what a client's CPU costs, without the service's time.

Reads find nothing, writes succeed. ``GET /`` tells how many calls of each operation there were, and how many items the
transactions wrote.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
from collections import Counter

_ANSWERS = {
    "BatchGetItem": b'{"Responses":{},"UnprocessedKeys":{}}',
    "Query": b'{"Items":[],"Count":0,"ScannedCount":0}',
}
_counts: Counter[str] = Counter()
_lock = threading.Lock()


def serve(connection: socket.socket) -> None:
    """Answer the calls of one connection until it is closed."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    stream = connection.makefile("rb")
    while request := stream.readline():
        length, target = 0, ""
        while (line := stream.readline()) not in (b"\r\n", b""):
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
            elif name.lower() == b"x-amz-target":
                target = value.decode().strip().partition(".")[2]
            elif name.lower() == b"expect":
                connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = stream.read(length)
        with _lock:
            if request.startswith(b"GET"):
                answer = json.dumps(_counts).encode()
            else:
                answer = _ANSWERS.get(target, b"{}")
                _counts[target] += 1
                if target == "TransactWriteItems":
                    _counts["items"] += body.count(b'"Put"')
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-amz-json-1.0\r\nContent-Length: %d\r\n\r\n"
        connection.sendall(head % len(answer) + answer)


def main() -> None:
    """Listen on the socket whose descriptor is the argument."""
    with socket.socket(fileno=int(sys.argv[1])) as listener:
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=serve, args=(connection,), daemon=True).start()


if __name__ == "__main__":
    main()
