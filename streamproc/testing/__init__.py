"""Public tools for tests of applications: fakes, faults, and a check that a processor survives them.

Fixtures for pytest are in :mod:`streamproc.testing.fixtures`.
"""

from __future__ import annotations

from streamproc.testing.check import ExactlyFolded, Faults, NotExactlyFolded, check_exactly_folded
from streamproc.testing.clock import ManualClock
from streamproc.testing.kinesis import CallRefused, EntriesRefused, FakeKinesis, ReplyLost, ServiceAway
from streamproc.testing.proxy import Fault, FaultProxy, ProxyFaults, TcpProxy
from streamproc.testing.simulation import Outcome, Violation, run

__all__ = [
    "CallRefused",
    "EntriesRefused",
    "ExactlyFolded",
    "FakeKinesis",
    "Fault",
    "FaultProxy",
    "Faults",
    "ManualClock",
    "NotExactlyFolded",
    "Outcome",
    "ProxyFaults",
    "ReplyLost",
    "ServiceAway",
    "TcpProxy",
    "Violation",
    "check_exactly_folded",
    "run",
]
