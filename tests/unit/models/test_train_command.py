from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from click.testing import CliRunner

from streamproc.errors import SettingsError
from streamproc_models.bundle import load
from streamproc_models.commands import train
from streamproc_models.errors import TrainingDataUnusable
from streamproc_producers.events import CartEvent, encode


@pytest.fixture
def log(shop_log: list[CartEvent], tmp_path: Path) -> Path:
    path = tmp_path / "events.jsonl.gz"
    path.write_bytes(gzip.compress(b"\n".join(encode(event) for event in shop_log)))
    return path


def test_train_writes_a_bundle_and_prints_its_metrics_beside_the_baselines(log: Path, tmp_path: Path) -> None:
    items = tmp_path / "items.csv"
    items.write_text('item_id,name,category\ni00,"Nought, or nothing",Numbers > Small\n')
    arguments = ["--events", str(log), "--items", str(items), "--cut", "2011-11-01", "--out", str(tmp_path / "bundle")]
    result = CliRunner().invoke(train, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    for text in ("hit rate@10", "model", "popularity", "own frequency"):
        assert text in result.output
    bundle = load(tmp_path / "bundle")
    assert bundle.model_version in result.output
    assert bundle.catalogue.names[bundle.catalogue.codes["i00"]] == "Nought, or nothing"
    assert bundle.catalogue.category_of("i00") == "Numbers > Small"


def test_a_bad_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text('{"event_id": 1}\n')
    with pytest.raises(SettingsError, match=r"events\.jsonl, line 1: .*mend or remove the line"):
        CliRunner().invoke(
            train,
            ["--events", str(path), "--cut", "2011-11-01", "--out", str(tmp_path / "bundle")],
            catch_exceptions=False,
        )


def test_a_cut_before_the_log_is_refused(log: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingDataUnusable, match="no event is before the cut, 2001-01-01"):
        CliRunner().invoke(
            train,
            ["--events", str(log), "--cut", "2001-01-01", "--out", str(tmp_path / "bundle")],
            catch_exceptions=False,
        )


def test_a_file_of_items_without_a_head_line_is_refused(log: Path, tmp_path: Path) -> None:
    items = tmp_path / "items.csv"
    items.write_text("i00,Nought\n")
    with pytest.raises(SettingsError, match=r"items\.csv, line 1: 'i00,Nought' does not name the columns"):
        CliRunner().invoke(
            train,
            ["--events", str(log), "--items", str(items), "--cut", "2011-11-01", "--out", str(tmp_path)],
            catch_exceptions=False,
        )
