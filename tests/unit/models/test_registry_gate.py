"""The gate: one sentence for each reason against a bundle, and nothing of it is ever executed."""

from __future__ import annotations

import json
import pickle
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import xgboost
from hypothesis import given, strategies as st

from streamproc.errors import SettingsError
from streamproc_models import bundle as bundles
from streamproc_models.booster import Booster
from streamproc_models.bundle import CATALOGUE, MANIFEST, MODEL, Manifest
from streamproc_models.items import Item
from streamproc_models.registry import AliasMoved, PromotionRefused, promotion
from streamproc_models.registry.folder import FolderRegistry
from streamproc_models.registry.gate import proven, quality
from streamproc_models.registry.pickles import has_pickle
from streamproc_models.registry.significance import differences
from streamproc_models.scorer import Scorer
from streamproc_models.training import TrainingReport, TrainingSettings, train
from streamproc_producers.events import CartEvent

Trained = tuple[Path, TrainingReport]
Metrics = dict[str, dict[str, dict[str, float]]]


class Harmful:
    """Unpickling it creates a file."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self._path, "w")


@pytest.fixture
def folder(trained: Trained, tmp_path: Path) -> Path:
    """A copy of the bundle that may be changed."""
    return Path(shutil.copytree(trained[0], tmp_path / "copy"))


@pytest.fixture(scope="module")
def another(
    shop_log: list[CartEvent], cut: Any, shop_items: dict[str, Item], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Another version, trained otherwise. Not to be written to."""
    out = tmp_path_factory.mktemp("another")
    train(shop_log, cut, out, items=shop_items, settings=TrainingSettings(trees_max=5))
    return out


@pytest.fixture
def with_metrics(trained: Trained, another: Path, tmp_path: Path) -> Callable[[Metrics, bool], Path]:
    """A bundle with these metrics: the one version, or the other one."""

    def make(metrics: Metrics, other: bool = False) -> Path:
        target = tmp_path / ("b" if other else "a")
        shutil.copytree(another if other else trained[0], target, dirs_exist_ok=True)
        rewrite(target, lambda manifest: manifest.update(metrics=metrics))
        return target

    return make


def rewrite(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    manifest = msgspec.json.decode((folder / MANIFEST).read_bytes())
    change(manifest)
    (folder / MANIFEST).write_bytes(msgspec.json.encode(manifest))


def sentences(folder: Path) -> list[str]:
    bundle, refusals = proven(folder)
    assert (bundle is None) == bool(refusals)
    assert not any(refusal.overrulable for refusal in refusals)
    return [refusal.sentence for refusal in refusals]


def metrics(model: float, popularity: float, baskets: float | None = 1000) -> Metrics:
    told = {} if baskets is None else {"baskets": baskets}
    return {"warm": {"model": {"recall_at_10": model, **told}, "popularity": {"recall_at_10": popularity, **told}}}


def manifest_with(trained: Trained, values: Metrics, version: str = "") -> Manifest:
    found = bundles.load(trained[0]).manifest
    return msgspec.structs.replace(found, metrics=values, model_version=version or found.model_version)


def test_a_bundle_as_it_was_trained_passes(folder: Path) -> None:
    assert sentences(folder) == []


def test_only_the_booster_is_where_sagemakers_container_looks_for_models(folder: Path) -> None:
    """``get_loaded_booster`` of the container: every file of the folder itself, none below it, is loaded as a model."""

    def walked() -> Iterator[xgboost.Booster]:
        for path in sorted(folder.iterdir()):
            if not path.is_file():
                continue
            content = path.read_bytes()
            with pytest.raises(pickle.UnpicklingError):  # the container's first try; what follows is its second
                pickle.loads(content)  # noqa: S301  # as the container does
            booster = xgboost.Booster()
            booster.load_model(bytearray(content))
            booster.set_param({"nthread": 1})
            yield booster

    (booster,) = walked()
    assert booster.num_features() == len(bundles.load(folder).manifest.features)


def test_another_file_beside_the_booster_is_refused(folder: Path) -> None:
    (folder / "metrics.json").write_text("{}")
    rewrite(folder, lambda manifest: manifest["files"].update({"metrics.json": "0" * 64}))
    assert sentences(folder) == [
        "metrics.json is beside model.ubj: SageMaker's container would load it as a second model"
    ]


def test_a_changed_file_is_refused(folder: Path) -> None:
    content = (folder / CATALOGUE).read_bytes()
    (folder / CATALOGUE).write_bytes(content.replace(b"i00", b"i99"))
    (found,) = sentences(folder)
    assert "catalogue.msgpack is not the file that the manifest lists (SHA-256 differs)" in found


def test_unknown_features_are_named(folder: Path) -> None:
    rewrite(folder, lambda manifest: manifest.update(features=[*manifest["features"], "moon_phase"], schema_hash="0"))
    assert sentences(folder) == [
        "the model wants features that this version does not compute (moon_phase): deploy one that does, or train"
    ]


def test_another_schema_of_the_same_features_is_refused(folder: Path) -> None:
    rewrite(folder, lambda manifest: manifest.update(schema_hash="0"))
    (found,) = sentences(folder)
    assert "feature schema" in found


def test_golden_rows_that_score_otherwise_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = Booster.scores
    monkeypatch.setattr(Booster, "scores", lambda booster, rows: honest(booster, rows) + np.float32(2e-6))
    (found,) = sentences(folder)
    assert "a golden row scores" in found


def test_a_bundle_that_loads_and_cannot_rank_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Scorer, "rank", lambda *_, **__: 1 / 0)
    assert sentences(folder) == ["it cannot rank a new user: ZeroDivisionError: division by zero"]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("name", [MODEL, CATALOGUE])
def test_a_pickle_under_any_name_is_refused_and_not_loaded(
    folder: Path, tmp_path: Path, name: str, protocol: int
) -> None:
    (folder / name).write_bytes(pickle.dumps(Harmful(tmp_path / "harm"), protocol))
    assert f"{name} has a pickle in it: loading one runs its author's code; save the model as .ubj" in sentences(folder)
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_pickle_inside_another_file_is_refused(folder: Path, tmp_path: Path, protocol: int) -> None:
    hidden = pickle.dumps(Harmful(tmp_path / "harm"), protocol)
    (folder / CATALOGUE).write_bytes(msgspec.msgpack.encode({"ids": [], "extra": hidden}))
    assert any("has a pickle in it" in sentence for sentence in sentences(folder))


@given(st.binary(max_size=2000))
def test_whatever_bytes_there_are_looking_for_pickles_ends_without_an_error(content: bytes) -> None:
    assert has_pickle(content) in (True, False)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner)))
def test_every_pickle_is_found(value: object) -> None:
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert has_pickle(pickle.dumps(value, protocol))


def test_a_model_of_the_shop_has_no_pickle_in_it(folder: Path) -> None:
    assert not [path for path in folder.rglob("*.*") if has_pickle(path.read_bytes())]


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("extra/model.pkl", b"x", r"model\.pkl is none of \.ubj, \.msgpack, \.json"),
        ("extra/setup.py", b"", r"setup\.py is none of"),
        ("extra/notes.json", b"{}", r"notes\.json is not in the manifest"),
        (CATALOGUE, b"\xc1", r"catalogue\.msgpack is not msgpack inside"),
        (MODEL, b"PK\x03\x04", r"model\.ubj is not ubj inside"),
    ],
)
def test_a_file_that_is_not_data_of_the_bundle_is_refused(folder: Path, name: str, content: bytes, why: str) -> None:
    (folder / name).write_bytes(content)
    (found,) = sentences(folder)
    assert re.search(why, found)


def test_a_link_out_of_the_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    shutil.copy(folder / CATALOGUE, tmp_path / "elsewhere")
    (folder / CATALOGUE).unlink()
    (folder / CATALOGUE).symlink_to(tmp_path / "elsewhere")
    assert sentences(folder) == ["extra/catalogue.msgpack is a link: a bundle has its files in itself"]


def test_a_folder_without_a_manifest_is_refused(tmp_path: Path) -> None:
    (found,) = sentences(tmp_path)
    assert "manifest.json cannot be read" in found


@pytest.mark.parametrize(
    ("model", "other", "baskets", "refused"),
    [
        (0.20, 0.18, 1000, False),
        (0.20, 0.20, 1000, False),
        (0.19, 0.20, 1000, False),  # noise of a thousand baskets explains 0.04
        (0.15, 0.20, 1000, True),
        (0.19, 0.20, 1_000_000, True),
        (0.19, 0.20, None, True),  # nothing says what noise explains
    ],
)
def test_a_model_is_refused_where_it_is_worse_beyond_noise_than_a_baseline_or_the_champion(
    trained: Trained, model: float, other: float, baskets: float | None, refused: bool
) -> None:
    against_baseline = quality(manifest_with(trained, metrics(model, other, baskets)), None, "champion")
    champion = manifest_with(trained, metrics(other, 0.0, baskets), "the-champion")
    against_champion = quality(manifest_with(trained, metrics(model, 0.0, baskets)), champion, "challenger")
    for found, name in ((against_baseline, "the baseline popularity"), (against_champion, "the champion the-champion")):
        assert [refusal.overrulable for refusal in found] == [True] * refused
        assert all(f"recall_at_10 on warm states is {model:.4f}, below 0.2000 of {name}" in r.sentence for r in found)
        assert all(("any loss counts" in refusal.sentence) == (baskets is None) for refusal in found)


def test_without_metrics_a_model_is_refused(trained: Trained) -> None:
    (found,) = quality(manifest_with(trained, {}), None, "champion")
    assert "no validation metrics" in found.sentence


def test_a_model_that_shares_no_metric_with_the_champion_is_refused(trained: Trained) -> None:
    champion = manifest_with(trained, {"warm": {"model": {"precision_at_20": 0.5}}}, "c")
    (found,) = quality(manifest_with(trained, metrics(0.2, 0.1)), champion, "champion")
    assert found.sentence == "no metric of it can be compared with the champion's (c)"


def test_quality_keeps_nothing_from_being_the_shadow(trained: Trained) -> None:
    assert quality(manifest_with(trained, {}), None, "shadow") == []


def test_the_number_of_baskets_is_no_metric() -> None:
    values = metrics(0.2, 0.1)
    assert {found.metric for found in differences(values, "model", values, "popularity")} == {"recall_at_10"}


def promoted(registry: FolderRegistry, version: str, **more: Any) -> Any:
    return promotion.promote(registry, promotion.examine(registry, version), by="ann", why="because", **more)


def test_a_bundle_is_pushed_promoted_and_rolled_back(with_metrics: Callable[..., Path], tmp_path: Path) -> None:
    registry = FolderRegistry(tmp_path / "registry")
    first, added = promotion.push(registry, with_metrics(metrics(0.2, 0.1)))
    assert added
    assert promotion.push(registry, with_metrics(metrics(0.2, 0.1))) == (first, False)
    second, _ = promotion.push(registry, with_metrics(metrics(0.21, 0.1), True))
    assert promoted(registry, first.model_version).previous is None
    alias = promoted(registry, second.model_version)
    assert (alias.version, alias.previous, alias.by, alias.why, alias.forced) == (
        second.model_version,
        first.model_version,
        "ann",
        "because",
        None,
    )
    back = promotion.rollback(registry, "champion", by="bob", why="empty lists")
    assert (back.version, back.previous) == (first.model_version, second.model_version)


def test_a_rollback_does_not_ask_for_quality(with_metrics: Callable[..., Path], tmp_path: Path) -> None:
    registry = FolderRegistry(tmp_path / "registry")
    first, _ = promotion.push(registry, with_metrics(metrics(0.1, 0.05)))
    second, _ = promotion.push(registry, with_metrics(metrics(0.4, 0.05), True))
    promoted(registry, first.model_version)
    promoted(registry, second.model_version)
    assert promotion.rollback(registry, "champion", by="bob", why="").version == first.model_version


def test_without_a_version_before_there_is_nothing_to_roll_back_to(
    with_metrics: Callable[..., Path], tmp_path: Path
) -> None:
    registry = FolderRegistry(tmp_path / "registry")
    first, _ = promotion.push(registry, with_metrics(metrics(0.2, 0.1)))
    with pytest.raises(SettingsError, match="meant no other version before"):
        promotion.rollback(registry, "champion", by="bob", why="")
    promoted(registry, first.model_version)
    with pytest.raises(SettingsError, match="meant no other version before"):
        promotion.rollback(registry, "champion", by="bob", why="")


def test_a_step_back_can_be_forced_and_the_alias_keeps_the_reason(
    with_metrics: Callable[..., Path], tmp_path: Path
) -> None:
    registry = FolderRegistry(tmp_path / "registry")
    found, _ = promotion.push(registry, with_metrics(metrics(0.1, 0.2)))
    with pytest.raises(PromotionRefused, match=r"was not promoted to champion:\n  - recall_at_10 .*\nGive --force"):
        promoted(registry, found.model_version)
    assert registry.alias("champion") is None
    assert promoted(registry, found.model_version, force="the baseline cheats").forced == "the baseline cheats"


def test_what_no_consumer_could_serve_cannot_be_forced(with_metrics: Callable[..., Path], tmp_path: Path) -> None:
    registry = FolderRegistry(tmp_path / "registry")
    found, _ = promotion.push(registry, with_metrics(metrics(0.2, 0.1)))
    path = tmp_path / "registry" / found.model_version / CATALOGUE
    path.write_bytes(path.read_bytes().replace(b"i00", b"i99"))
    with pytest.raises(PromotionRefused, match="SHA-256 differs") as raised:
        promoted(registry, found.model_version, force="I say so")
    assert "--force" not in str(raised.value)


def test_a_bundle_that_cannot_be_served_is_not_pushed(folder: Path, tmp_path: Path) -> None:
    (folder / CATALOGUE).write_bytes(pickle.dumps([]))
    registry = FolderRegistry(tmp_path / "registry")
    with pytest.raises(PromotionRefused, match=r"was not pushed:\n  - .* has a pickle in it"):
        promotion.push(registry, folder)
    assert registry.versions() == []


def test_a_version_is_never_exchanged_for_one_with_another_manifest(
    with_metrics: Callable[..., Path], tmp_path: Path
) -> None:
    registry = FolderRegistry(tmp_path / "registry")
    promotion.push(registry, with_metrics(metrics(0.2, 0.1)))
    with pytest.raises(SettingsError, match="with another manifest"):
        promotion.push(registry, with_metrics(metrics(0.9, 0.1)))


def test_files_under_another_versions_name_are_refused(with_metrics: Callable[..., Path], tmp_path: Path) -> None:
    registry = FolderRegistry(tmp_path / "registry")
    registry.add("another-name", with_metrics(metrics(0.2, 0.1)))
    with pytest.raises(PromotionRefused, match="the files under another-name are those of"):
        promoted(registry, "another-name")


def test_an_alias_that_moved_since_the_examination_is_left_alone(
    with_metrics: Callable[..., Path], tmp_path: Path
) -> None:
    registry = FolderRegistry(tmp_path / "registry")
    first, _ = promotion.push(registry, with_metrics(metrics(0.2, 0.1)))
    second, _ = promotion.push(registry, with_metrics(metrics(0.2, 0.1), True))
    examined = promotion.examine(registry, second.model_version)
    promoted(registry, first.model_version)
    with pytest.raises(AliasMoved):
        promotion.promote(registry, examined, by="ann", why="")
    held = registry.alias("champion")
    assert held is not None
    assert held.alias.version == first.model_version
    assert json.loads((tmp_path / "registry" / "aliases" / "champion.json").read_text())["by"] == "ann"
