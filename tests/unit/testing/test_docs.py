"""The code of docs/testing.md runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).parents[3] / "docs" / "testing.md"


def block(holds: str) -> str:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (source,) = (block for block in blocks if holds in block)
    return str(source)


def test_the_processor_of_the_page_survives_everything(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}
    exec(block("class Spend"), names)  # noqa: S102  # the page's own code
    names["test_my_processor_survives_everything"]()
    assert capsys.readouterr().out.startswith("200 schedules of 80 events with ")


def test_the_fake_of_the_page_takes_its_script() -> None:
    names: dict[str, Any] = {}
    exec(block("kinesis.script"), names)  # noqa: S102  # likewise
    assert names["kinesis"].describe_stream_summary(StreamName="cart-events")


def test_the_page_names_the_fixtures_module() -> None:
    assert "streamproc.testing.fixtures" in block("pytest_plugins")
