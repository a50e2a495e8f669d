"""Other shoppers, so that the engine has something to do: a gentle, endless stream of visits."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from itertools import cycle

from streamproc.errors import StreamprocError
from streamproc.producer import Acknowledged
from streamproc_consumers.demo.wares import Visit, walked
from streamproc_producers.events import CartEvent

#: So many visits are under way at any time; each buys at most so many products.
_AT_ONCE = 40
_LINES_MAX = 6


class Load:
    """Puts events at random times, at ``rate`` a second in the mean, until it is closed. It may be held for a while."""

    def __init__(
        self,
        visits: Sequence[Visit],
        rate: float,
        put: Callable[[CartEvent], Future[Acknowledged]],
        *,
        seed: int = 0,
    ) -> None:
        self._visits = cycle(visits)
        self._rate = rate
        self._put = put
        self._rng = random.Random(seed)
        self._under_way: list[Iterator[CartEvent]] = []
        self._flows = threading.Event()
        self._flows.set()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="streamproc-load", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def hold(self) -> None:
        """Put nothing until :meth:`go_on`."""
        self._flows.clear()

    def go_on(self) -> None:
        """Put again."""
        self._flows.set()

    def close(self) -> None:
        """End, and wait for the end."""
        self._closed.set()
        self._flows.set()
        if self._thread.is_alive():
            self._thread.join()

    def next_event(self) -> CartEvent:
        """The next event of one of the visits under way."""
        while True:
            while len(self._under_way) < _AT_ONCE:
                self._under_way.append(walked(next(self._visits), _LINES_MAX))
            at = self._rng.randrange(len(self._under_way))
            event = next(self._under_way[at], None)
            if event is not None:
                return event
            self._under_way.pop(at)

    def _run(self) -> None:
        while not self._closed.is_set():
            self._flows.wait()
            if self._closed.wait(self._rng.expovariate(self._rate)):
                return
            try:
                self._put(self.next_event())
            except StreamprocError:
                self._closed.wait(1.0)  # the producer's memory is full: Kinesis is away
