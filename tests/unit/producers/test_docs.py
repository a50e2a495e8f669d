"""The examples of docs/producer.md and producers/README.md run as they are printed."""

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from streamproc.errors import ProducerClosed
from streamproc.producer import ProducerSettings
from streamproc.testing.kinesis import FakeKinesis

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "producer.md"


def examples(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)


@pytest.fixture(autouse=True)
def _kinesis(kinesis: FakeKinesis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamproc.aws.aws_client", lambda _service: kinesis)


def test_the_first_example_sends_three_events(kinesis: Any, read_all: Any, capsys: pytest.CaptureFixture[str]) -> None:
    exec(examples(PAGE)[0], {})  # noqa: S102
    assert sum(len(events) for events in read_all(kinesis).values()) == 3
    assert capsys.readouterr().out.startswith("Acknowledged(shard_id=")


def test_the_asyncio_example_awaits_ten_events(kinesis: Any, read_all: Any, capsys: pytest.CaptureFixture[str]) -> None:
    exec(examples(PAGE)[1], {})  # noqa: S102
    assert capsys.readouterr().out.count("shardId-") == 10
    assert len(read_all(kinesis)) == 10


def test_the_lambda_example_has_stored_its_events_when_it_returns(kinesis: Any, read_all: Any) -> None:
    class Context:
        def get_remaining_time_in_millis(self) -> int:
            return 30_000

    names: dict[str, Any] = {}
    exec(examples(PAGE)[2], names)  # noqa: S102
    for n in range(2):
        assert names["handler"]({"items": [["u1", f"{n}a"], ["u2", f"{n}b"]]}, Context()) == {"stored": 2}
        assert len(read_all(kinesis)["u1"]) == n + 1, "before the process is frozen"
    names["producer"].close()
    with pytest.raises(ProducerClosed):
        names["handler"]({"items": [["u1", "late"]]}, Context())


def test_the_readme_s_example_runs(kinesis: Any, read_all: Any, capsys: pytest.CaptureFixture[str]) -> None:
    exec(examples(ROOT / "producers" / "README.md")[0], {})  # noqa: S102
    assert len(read_all(kinesis)["u1"]) == 3
    assert "Acknowledged" in capsys.readouterr().out


def test_every_setting_is_on_the_page() -> None:
    named = set(re.findall(r"`(\w+)`", PAGE.read_text().partition("## Settings")[2].partition("## Telemetry")[0]))
    assert {field.name for field in msgspec.structs.fields(ProducerSettings)} <= named
