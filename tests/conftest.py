"""What all tests share: a clean environment, and one local AWS stack for those that ask for it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from streamproc.local import LocalStack


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of the developer's machine reaches a test, and no test reaches AWS."""
    for name in list(os.environ):
        if name.startswith(("AWS_", "STREAMPROC_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)


@pytest.fixture(scope="session")
def stack() -> Iterator[LocalStack]:
    """moto and Redis, started once. Tests share it, so each makes names of its own."""
    with LocalStack() as stack:
        yield stack
