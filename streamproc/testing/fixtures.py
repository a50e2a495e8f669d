"""Fixtures for pytest. Enable them in ``conftest.py``: ``pytest_plugins = ["streamproc.testing.fixtures"]``."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from streamproc.local import LocalStack
from streamproc.testing.clock import ManualClock
from streamproc.testing.kinesis import FakeKinesis


@pytest.fixture
def manual_clock() -> ManualClock:
    """A clock that stands still until the test moves it."""
    return ManualClock()


@pytest.fixture
def fake_kinesis(manual_clock: ManualClock) -> FakeKinesis:
    """A Kinesis in memory without streams. Its records and iterators age by ``manual_clock``."""
    return FakeKinesis(clock=manual_clock)


@pytest.fixture(scope="session")
def local_stack() -> Iterator[LocalStack]:
    """The local AWS stack, started once a session. Tests share it, so each makes streams and tables of its own."""
    with LocalStack() as stack:
        yield stack
