"""The registry in a folder: versions are whole or absent, aliases move by compare-and-swap."""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from streamproc.errors import SettingsError
from streamproc_models.bundle import MANIFEST, load
from streamproc_models.registry import Alias, AliasMoved, VersionUnknown, open_registry, split_alias
from streamproc_models.registry.folder import FolderRegistry
from streamproc_models.registry.s3 import S3Registry
from streamproc_models.training import TrainingReport

Trained = tuple[Path, TrainingReport]


def alias(version: str, previous: str | None = None, why: str = "") -> Alias:
    return Alias(version=version, previous=previous, moved_at=datetime(2026, 11, 1, tzinfo=UTC), by="ann", why=why)


@pytest.fixture
def registry(tmp_path: Path) -> FolderRegistry:
    return FolderRegistry(tmp_path / "registry")


def test_a_version_comes_out_as_it_went_in(registry: FolderRegistry, trained: Trained, tmp_path: Path) -> None:
    folder, report = trained
    assert registry.versions() == []
    assert registry.add(report.model_version, folder)
    assert registry.versions() == [report.model_version]
    assert registry.manifest(report.model_version) == load(folder).manifest
    registry.fetch(report.model_version, tmp_path / "copy")
    copied = {path.relative_to(tmp_path / "copy"): path.read_bytes() for path in (tmp_path / "copy").rglob("*.*")}
    assert copied == {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.*")}


def test_a_version_is_added_once(registry: FolderRegistry, trained: Trained) -> None:
    assert registry.add("v1", trained[0])
    assert not registry.add("v1", trained[0])


def test_of_two_pushes_at_the_same_time_one_adds_and_neither_fails(registry: FolderRegistry, trained: Trained) -> None:
    added: list[bool] = []
    threads = [threading.Thread(target=lambda: added.append(registry.add("v1", trained[0]))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(added) == [False, False, False, True]
    assert registry.versions() == ["v1"]


def test_a_folder_without_a_manifest_is_no_version(registry: FolderRegistry, tmp_path: Path) -> None:
    (tmp_path / "registry" / "half").mkdir(parents=True)
    assert registry.versions() == []
    with pytest.raises(VersionUnknown, match="has no version half"):
        registry.fetch("half", tmp_path / "copy")


@pytest.mark.parametrize("version", ["../other", "aliases", "", "a/b", ".hidden"])
def test_what_cannot_be_a_version_reaches_no_file(registry: FolderRegistry, version: str, tmp_path: Path) -> None:
    with pytest.raises(VersionUnknown, match="is no version"):
        registry.fetch(version, tmp_path / "copy")


def test_an_alias_is_read_as_it_was_set(registry: FolderRegistry) -> None:
    assert registry.alias("champion") is None
    registry.move("champion", alias("v1"), None)
    held = registry.alias("champion")
    assert held is not None
    assert held.alias == alias("v1")
    registry.move("champion", alias("v2", "v1"), held.token)
    moved = registry.alias("champion")
    assert moved is not None
    assert moved.alias == alias("v2", "v1")


def test_who_read_an_alias_before_it_moved_cannot_move_it(registry: FolderRegistry) -> None:
    registry.move("champion", alias("v1"), None)
    held = registry.alias("champion")
    assert held is not None
    registry.move("champion", alias("v2"), held.token)
    for expected in (None, held.token):
        with pytest.raises(AliasMoved, match=r"somebody else moved champion .* nothing was changed"):
            registry.move("champion", alias("v3"), expected)
    now = registry.alias("champion")
    assert now is not None
    assert now.alias.version == "v2"


def test_of_many_who_move_an_alias_at_once_one_wins_and_the_others_are_told(registry: FolderRegistry) -> None:
    registry.move("champion", alias("v0"), None)
    held = registry.alias("champion")
    assert held is not None
    outcomes: list[str] = []

    def move(number: int) -> None:
        try:
            registry.move("champion", alias(f"v{number}"), held.token)
            outcomes.append(f"v{number}")
        except AliasMoved:
            outcomes.append("lost")

    threads = [threading.Thread(target=move, args=(number,)) for number in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = [outcome for outcome in outcomes if outcome != "lost"]
    now = registry.alias("champion")
    assert now is not None
    assert now.alias.version == winner


def test_an_alias_that_is_not_readable_is_named(registry: FolderRegistry, tmp_path: Path) -> None:
    path = tmp_path / "registry" / "aliases" / "champion.json"
    path.parent.mkdir(parents=True)
    path.write_text("{")
    with pytest.raises(SettingsError, match=r"champion\.json is no alias .*delete it"):
        registry.alias("champion")


def test_a_manifest_that_is_not_readable_is_named(registry: FolderRegistry, trained: Trained, tmp_path: Path) -> None:
    registry.add("v1", trained[0])
    (tmp_path / "registry" / "v1" / MANIFEST).write_text("{}")
    with pytest.raises(SettingsError, match=r"manifest\.json is no manifest"):
        registry.manifest("v1")


def test_a_registry_that_cannot_be_written_is_named(trained: Trained, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match="check the registry's folder"):
        FolderRegistry(tmp_path / "file").add("v1", trained[0])


def test_an_address_is_a_prefix_in_s3_or_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    found = open_registry("s3://shop-models/models/next-basket/")
    assert isinstance(found, S3Registry)
    assert found.url == "s3://shop-models/models/next-basket"
    assert open_registry("models/next-basket").url == "models/next-basket"


@pytest.mark.parametrize("address", ["", "s3://bucket", "s3:///prefix", "s3://B/prefix", "http://host/models"])
def test_an_address_that_is_neither_is_refused(address: str) -> None:
    with pytest.raises(SettingsError, match="registry"):
        open_registry(address)


def test_an_alias_stands_behind_the_address() -> None:
    assert split_alias("s3://b/models/m@champion") == ("s3://b/models/m", "champion")
    assert split_alias("models/m") == ("models/m", None)
    assert split_alias("me@home/models/m") == ("me@home/models/m", None)
    with pytest.raises(SettingsError, match="'latest' is no alias: use one of champion, challenger, shadow"):
        split_alias("models/m@latest")
