from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from streamproc.errors import SettingsError, StreamprocError
from streamproc_models import bundle as bundles
from streamproc_models.booster import Booster
from streamproc_models.bundle import CATALOGUE, GENERATORS, GOLDEN, MANIFEST, MODEL, Bundle, load
from streamproc_models.errors import BundleInvalid
from streamproc_models.features import FEATURES, FOLD_VERSION, features_of, schema_hash
from streamproc_models.training import TrainingReport


@pytest.fixture
def folder(trained: tuple[Path, TrainingReport], tmp_path: Path) -> Path:
    """A copy of the bundle that may be changed."""
    return Path(shutil.copytree(trained[0], tmp_path / "copy"))


def rewrite(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    manifest = msgspec.json.decode((folder / MANIFEST).read_bytes())
    change(manifest)
    (folder / MANIFEST).write_bytes(msgspec.json.encode(manifest))


def test_a_bundle_says_what_it_is(bundle: Bundle, trained: tuple[Path, TrainingReport]) -> None:
    generators = bundle.manifest.generators
    assert generators == bundle.catalogue.generator_names == ("covisit",)
    assert bundle.manifest.features == tuple(feature.name for feature in features_of(generators))
    assert (bundle.manifest.schema_hash, bundle.manifest.fold_version) == (schema_hash(generators), FOLD_VERSION)
    assert bundle.model_version == trained[1].model_version
    assert bundle.item_snapshot == f"bundle:{bundle.model_version}"
    assert set(bundle.manifest.metrics["warm"]) == {"model", "popularity", "own_frequency"}


def test_the_booster_is_the_only_file_of_the_folder_and_the_rest_lies_below_it(
    trained: tuple[Path, TrainingReport],
) -> None:
    folder = trained[0]
    assert [path.name for path in folder.iterdir() if path.is_file()] == [MODEL]
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert files == {MANIFEST, MODEL, CATALOGUE, GENERATORS, GOLDEN}


@pytest.mark.parametrize("name", [MODEL, CATALOGUE, GENERATORS, GOLDEN])
def test_a_changed_file_is_refused_by_name(folder: Path, name: str) -> None:
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(BundleInvalid, match=rf"{name} is not the file that the manifest lists"):
        load(folder)


@pytest.mark.parametrize("name", [MANIFEST, MODEL, CATALOGUE, GENERATORS, GOLDEN])
def test_a_missing_file_is_refused_by_name(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(BundleInvalid, match=rf"{name} cannot be read .*copy the bundle again") as raised:
        load(folder)
    assert isinstance(raised.value, StreamprocError)
    assert raised.value.exit_code == 11


def test_a_manifest_that_is_not_json_is_refused(folder: Path) -> None:
    (folder / MANIFEST).write_bytes(b"{")
    with pytest.raises(BundleInvalid, match="is not readable"):
        load(folder)


@pytest.mark.parametrize(
    ("field", "value", "what"),
    [
        ("format_version", 99, "format version"),
        ("fold_version", 99, "fold version"),
        ("schema_hash", "0" * 64, "feature schema"),
        ("model_version", "0" * 12, "changed after training"),
        ("calibration", [1.0, 2.0], "changed after training"),
    ],
)
def test_a_manifest_of_another_version_is_refused(folder: Path, field: str, value: object, what: str) -> None:
    rewrite(folder, lambda manifest: manifest.update({field: value}))
    with pytest.raises(BundleInvalid, match=what):
        load(folder)


def test_a_file_exchanged_together_with_its_digest_is_refused(folder: Path) -> None:
    content = (folder / CATALOGUE).read_bytes() + b"\x00"
    (folder / CATALOGUE).write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    rewrite(folder, lambda manifest: manifest["files"].update({CATALOGUE: digest}))
    with pytest.raises(BundleInvalid, match="changed after training"):
        load(folder)


def test_a_model_without_golden_rows_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rewrite(folder, lambda manifest: manifest["files"].pop(GOLDEN))
    files = msgspec.json.decode((folder / MANIFEST).read_bytes())["files"]
    monkeypatch.setattr(
        bundles, "_version", lambda *_: msgspec.json.decode((folder / MANIFEST).read_bytes())["model_version"]
    )
    assert GOLDEN not in files
    with pytest.raises(BundleInvalid, match="a file is missing there"):
        load(folder)


def test_golden_rows_that_score_otherwise_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = Booster.scores
    monkeypatch.setattr(Booster, "scores", lambda booster, rows: honest(booster, rows) + np.float32(2e-6))
    with pytest.raises(BundleInvalid, match=rf"{GOLDEN}: a golden row scores"):
        load(folder)


def test_golden_rows_that_score_nan_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = Booster.scores
    monkeypatch.setattr(Booster, "scores", lambda booster, rows: honest(booster, rows) * np.float32("nan"))
    with pytest.raises(BundleInvalid, match="golden row"):
        load(folder)


def test_a_bundle_without_a_model_is_loaded(bundle: Bundle, tmp_path: Path) -> None:
    bundles.write(
        tmp_path,
        bundle.catalogue,
        None,
        golden_rows=np.empty((0, len(FEATURES)), np.float32),
        trained_from="",
        trained_until="2011-11-01T00:00:00+00:00",
        metrics={},
    )
    loaded = load(tmp_path)
    assert loaded.booster is None
    assert loaded.catalogue.ids == bundle.catalogue.ids
    stored, made = (found.catalogue.generators[0].arrays() for found in (loaded, bundle))
    assert stored.keys() == made.keys()
    assert all(np.array_equal(stored[name], made[name]) for name in made)


def test_a_generator_of_an_unknown_kind_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundles, "KINDS", {})
    with pytest.raises(BundleInvalid, match="generator of kind 'links', which this version does not know"):
        load(folder)


def test_a_folder_that_cannot_be_written_is_named(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match="the bundle cannot be written to"):
        bundles.write(
            tmp_path / "file",
            bundle.catalogue,
            None,
            golden_rows=np.empty((0, len(FEATURES)), np.float32),
            trained_from="",
            trained_until="2011-11-01T00:00:00+00:00",
            metrics={},
        )
