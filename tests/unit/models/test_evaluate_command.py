"""The command, on a shop's own log and on a public set of a few lines."""

from __future__ import annotations

import gzip
import json
import random
import sys
from datetime import datetime
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from streamproc.errors import MissingExtra, SettingsError
from streamproc_models.datasets.tafeng import HISTORY
from streamproc_models.evaluate import Report
from streamproc_models.evaluate.baselines import POPULARITY
from streamproc_models.evaluate.commands import FIGURES, PAGE, REPORT, evaluate as command
from streamproc_models.evaluate.quality import TOGETHER
from streamproc_models.evaluate.report import MODEL
from streamproc_producers.events import CartEvent, encode


@pytest.fixture
def log(shop_log: list[CartEvent], live_log: list[CartEvent], tmp_path: Path) -> Path:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b"\n".join(encode(event) for event in [*shop_log, *live_log]))
    return path


def test_a_bundle_is_judged_on_a_shops_own_log(
    trained: tuple[Path, object], log: Path, cut: datetime, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    arguments = ["--bundle", str(trained[0]), "--events", str(log), "--cut", f"{cut:%Y-%m-%d}", "--out", str(out)]
    result = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    assert "own frequency" in result.output
    [report] = msgspec.json.decode((out / REPORT).read_bytes(), type=list[Report])
    assert report.dataset == "shop"
    assert report.value(MODEL, "recall_at_10") > report.value(POPULARITY, "recall_at_10")
    assert report.candidates[TOGETHER].recall >= report.value(MODEL, "recall_at_20")
    assert report.calibration is not None
    flat = json.loads((out / FIGURES).read_bytes())
    assert flat["shop_recall_at_10"] == report.value(MODEL, "recall_at_10")
    assert "shop" in (out / PAGE).read_text()


def test_a_bundle_that_learned_from_events_after_the_cut_is_refused(trained: tuple[Path, object], log: Path) -> None:
    with pytest.raises(SettingsError, match=r"trained on events up to 2011-10-31T.*after the cut.* the same --cut"):
        CliRunner().invoke(
            command,
            ["--bundle", str(trained[0]), "--events", str(log), "--cut", "2011-10-20"],
            catch_exceptions=False,
        )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "choose either --set, or --bundle with --events and --cut"),
        (["--set", "tafeng", "--bundle", "b"], "choose either --set, or --bundle"),
        (["--bundle", "b", "--events", "e.jsonl"], "--bundle, --events and --cut go together"),
        (["--bundle", "b", "--events", "e", "--cut", "2011-11-01", "--inner"], "--inner and --data belong to --set"),
    ],
)
def test_options_that_do_not_go_together_are_refused(arguments: list[str], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        CliRunner().invoke(command, arguments, catch_exceptions=False)


def test_without_jinja2_the_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, trained: tuple[Path, object], log: Path, cut: datetime, tmp_path: Path
) -> None:
    monkeypatch.delitem(sys.modules, "streamproc_models.evaluate.page")
    monkeypatch.setitem(sys.modules, "jinja2", None)
    arguments = ["--bundle", str(trained[0]), "--events", str(log), "--cut", f"{cut:%Y-%m-%d}", "--out", str(tmp_path)]
    with pytest.raises(MissingExtra, match=r"pip install 'streamproc-models\[evaluate\]'"):
        CliRunner().invoke(command, arguments, catch_exceptions=False)


def test_a_public_set_is_trained_on_and_judged(tmp_path: Path) -> None:
    rng = random.Random(4)
    baskets = {
        str(user): [[-1], *([user % 7, 7 + user % 5, rng.randrange(12, 20)] for _ in range(6)), [-1]]
        for user in range(80)
    }
    path = tmp_path / HISTORY
    path.parent.mkdir()
    path.write_bytes(gzip.compress(json.dumps(baskets).encode()))
    out = tmp_path / "out"
    arguments = ["--set", "tafeng", "--inner", "--data", str(tmp_path), "--out", str(out), "--seed", "3"]
    result = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    assert "tafeng (inner split)" in result.output
    [report] = msgspec.json.decode((out / REPORT).read_bytes(), type=list[Report])
    assert (report.targets, report.inner, report.seed) == (80, True, 3)
    assert report.value(MODEL, "recall_at_10") > report.value(POPULARITY, "recall_at_10")
    assert json.loads((out / FIGURES).read_bytes())["tafeng_inner_hr_at_20"] == report.value(MODEL, "hr_at_20")
