"""What a proxy can do to a request, and which request it does it to: by a script, else by a seed."""

from __future__ import annotations

import enum
import random
import threading
from collections import Counter
from collections.abc import Collection
from dataclasses import KW_ONLY, dataclass
from fnmatch import fnmatchcase
from typing import NamedTuple

from streamproc.errors import SettingsError


class Fault(enum.StrEnum):
    """What happens to one request."""

    #: The service's own answer to too many requests; it never saw this one.
    THROTTLE = "throttle"
    #: The service's answer to a failure of its own, status 500; it never saw this one.
    INTERNAL = "internal"
    #: The request is passed on later, and answered.
    LATENCY = "latency"
    #: The connection is cut before the request reaches the service.
    CUT = "cut"
    #: The request reaches the service and takes effect; the connection is cut instead of the answer.
    LOST_REPLY = "lost_reply"
    #: The connection is cut, and the request reaches the service later, when its client has given it up.
    LATE = "late"
    #: The service gets the request twice, one after the other; the client gets the first answer.
    DUPLICATE = "duplicate"
    #: Some entries of a batch fail and do not reach the service; the others are passed on.
    PARTIAL = "partial"


@dataclass(frozen=True)
class ProxyFaults:
    """How often each fault strikes: the share of requests, from 0 to 1, together at most 1.

    The n-th request of an operation meets the same fault in every run with the same seed, whatever other operations'
    requests come between. Raises SettingsError for shares that cannot be.
    """

    seed: int
    _: KW_ONLY
    throttle: float = 0.0
    internal: float = 0.0
    latency: float = 0.0
    cut: float = 0.0
    lost_reply: float = 0.0
    late: float = 0.0
    duplicate: float = 0.0
    partial: float = 0.0
    #: How long a request that meets ``latency`` is held.
    latency_seconds: float = 0.05
    #: A late request arrives after so many further requests of its proxy, at most.
    late_requests_max: int = 5

    def __post_init__(self) -> None:
        for fault in Fault:
            if not 0 <= self.share(fault) <= 1:
                raise SettingsError(f"{fault} is {self.share(fault)}: the share of requests is from 0 to 1")
        if sum(map(self.share, Fault)) > 1:
            raise SettingsError("the shares of all faults are above 1 together: a request meets one fault at most")
        if self.late_requests_max < 1:
            raise SettingsError(f"late_requests_max is {self.late_requests_max}: it must be 1 or more")

    def share(self, fault: Fault) -> float:
        """The share of requests that meet this fault."""
        share: float = getattr(self, fault)
        return share


class Strike(NamedTuple):
    """A fault that meets one request."""

    fault: Fault
    #: LATE: after how many further requests it arrives; None: when the test says so.
    after_requests: int | None
    #: PARTIAL: the entries that fail, by index.
    entries: frozenset[int] | None
    rng: random.Random

    def failed(self, entries: int) -> frozenset[int]:
        """The indices that fail, of so many entries: those that were given, else drawn ones, and at least one."""
        if self.entries is not None:
            return self.entries & frozenset(range(entries))
        drawn = frozenset(index for index in range(entries) if self.rng.random() < 0.5)
        return drawn or frozenset({self.rng.randrange(entries)} if entries else ())


class FaultPlan:
    """Which request meets which fault, and what was done so far. Thread-safe."""

    def __init__(self, faults: ProxyFaults | None) -> None:
        self.faults = faults or ProxyFaults(0)
        #: How many requests met each fault.
        self.counts: Counter[Fault] = Counter()
        self._lock = threading.Lock()
        self._seen: Counter[str] = Counter()
        self._script: list[tuple[str, Fault, int | None, frozenset[int] | None]] = []

    def fail_next(
        self,
        operation: str,
        fault: Fault,
        *,
        after_requests: int | None = None,
        entries: Collection[int] | None = None,
    ) -> None:
        """The next request that matches ``operation`` (a name, or a pattern of fnmatch) meets this fault.

        Calls add up: each is for one request, the earliest first.
        """
        with self._lock:
            self._script.append((operation, fault, after_requests, None if entries is None else frozenset(entries)))

    def next(self, operation: str) -> Strike | None:
        """The fault that this request meets, if any; not counted before :meth:`struck`."""
        # Paths are all different; their method is what makes them one kind.
        kind = operation.partition(" ")[0]
        with self._lock:
            ordinal = self._seen[kind]
            self._seen[kind] += 1
            rng = random.Random(f"{self.faults.seed}/{kind}/{ordinal}")
            drawn = self._drawn(rng)
            for index, (pattern, fault, after_requests, entries) in enumerate(self._script):
                if fnmatchcase(operation, pattern):
                    del self._script[index]
                    return Strike(fault, after_requests, entries, rng)
            if drawn is None:
                return None
            return Strike(drawn, rng.randint(1, self.faults.late_requests_max), None, rng)

    def _drawn(self, rng: random.Random) -> Fault | None:
        draw = rng.random()
        for fault in Fault:
            draw -= self.faults.share(fault)
            if draw < 0:
                return fault
        return None

    def struck(self, fault: Fault) -> None:
        """Count a fault."""
        with self._lock:
            self.counts[fault] += 1
