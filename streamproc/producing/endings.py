"""What ends or copies the process while producers hold events: its exit, SIGTERM, and fork."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
import time
from types import FrameType
from typing import Protocol
from weakref import WeakSet

from streamproc.producing import waiting

#: Together, all producers of a process have so long to send what waits when it ends.
CLOSE_SECONDS_MAX = 30.0


class Endable(Protocol):
    """A producer, as far as this module knows it."""

    def close(self, timeout_seconds: float = ...) -> None:
        """Send what waits and stop."""
        ...

    def begin_anew(self) -> None:
        """In a forked child: forget the parent's events, thread and connections."""
        ...


_producers: WeakSet[Endable] = WeakSet()
#: Held while a client is made, which takes 0.1 s and locks of boto3's that a forked child could never take again.
making_client = threading.Lock()


def watch(producer: Endable) -> None:
    """From here on the producer has events: close it when the process ends. Called in the thread that puts.

    Python ends by SIGTERM without any clean-up, unless the program handles it. Where it does not, and this is the main
    thread (no other may set handlers), SIGTERM raises SystemExit there: ``with`` blocks are left, and ``atexit`` runs.
    A program's own handler, set before or after, is left alone: it has to end the program in order, or to call close.
    """
    _producers.add(producer)
    # A child of multiprocessing runs these at its end instead of atexit.
    if (util := sys.modules.get("multiprocessing.util")) is not None:
        util.Finalize(None, close_all, exitpriority=100)
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _exit)


def close_all() -> None:
    """Close every producer of this process that has a thread."""
    deadline = time.monotonic() + CLOSE_SECONDS_MAX
    for producer in list(_producers):
        producer.close(max(0.1, deadline - time.monotonic()))


def _exit(number: int, frame: FrameType | None) -> None:
    del frame
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # the second one does not wait
    raise SystemExit(128 + number)


def _in_child() -> None:
    making_client.release()
    waiting.begin_anew()
    for producer in list(_producers):
        producer.begin_anew()
    _producers.clear()


atexit.register(close_all)
if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(before=making_client.acquire, after_in_parent=making_client.release, after_in_child=_in_child)
