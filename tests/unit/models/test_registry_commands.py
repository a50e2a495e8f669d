"""``streamproc models``: what an operator types, and what is answered."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner, Result

from streamproc.errors import StreamprocError
from streamproc_models.bundle import MANIFEST
from streamproc_models.registry.commands import models
from streamproc_models.training import TrainingReport, TrainingSettings, train
from streamproc_producers.events import CartEvent

Trained = tuple[Path, TrainingReport]


@pytest.fixture(scope="module")
def bundles(
    trained: Trained, shop_log: list[CartEvent], cut: object, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Two versions, by version: the first one, and a second one that is a little worse."""
    found = {}
    for number, recall in enumerate((0.20, 0.19)):
        folder = tmp_path_factory.mktemp("bundles") / "bundle"
        if number:
            train(shop_log, cut, folder, items={}, settings=TrainingSettings(trees_max=5))  # type: ignore[arg-type]
        else:
            shutil.copytree(trained[0], folder)
        manifest = msgspec.json.decode((folder / MANIFEST).read_bytes())
        rankings = {"model": {"recall_at_10": recall, "baskets": 500}, "popularity": {"recall_at_10": 0.1}}
        manifest["metrics"] = {"warm": rankings}
        (folder / MANIFEST).write_bytes(msgspec.json.encode(manifest))
        found[manifest["model_version"]] = folder
    return found


class Shell:
    """Types commands on a registry of its own."""

    def __init__(self, registry: Path) -> None:
        self.registry = registry

    def __call__(self, *words: str) -> Result:
        return CliRunner().invoke(models, list(words), catch_exceptions=True, env=self._environment())

    def says(self, *words: str) -> str:
        result = self(*words)
        assert result.exit_code == 0, (result.output, result.exception)
        return result.output

    def fails(self, *words: str) -> StreamprocError:
        error = self(*words).exception
        assert isinstance(error, StreamprocError)
        return error

    def _environment(self) -> dict[str, str]:
        return {"STREAMPROC_REGISTRY": str(self.registry), "LOGNAME": "ann", "COLUMNS": "200"}


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path / "registry")


@pytest.fixture
def two(shell: Shell, bundles: dict[str, Path]) -> list[str]:
    """The two versions, pushed."""
    for folder in bundles.values():
        shell.says("push", str(folder))
    return list(bundles)


def test_an_empty_registry_says_how_to_begin(shell: Shell) -> None:
    assert "has no version yet: streamproc models push FOLDER" in shell.says("list")


def test_a_push_names_the_version_and_can_be_repeated(shell: Shell, bundles: dict[str, Path]) -> None:
    version, folder = next(iter(bundles.items()))
    assert shell.says("push", str(folder)) == f"{version} is in {shell.registry}\n"
    assert shell.says("push", str(folder)) == f"{version} was already in {shell.registry}\n"


def test_a_promotion_is_in_the_list_with_who_and_why(shell: Shell, two: list[str]) -> None:
    first, second = two
    assert shell.says("promote", first, "--why", "the first") == f"champion means {first} now, nothing before\n"
    assert shell.says("promote", second, "--to", "challenger") == f"challenger means {second} now, nothing before\n"
    listed = shell.says("list")
    assert "by ann: the first" in listed
    lines = {line.split()[0]: line for line in listed.splitlines()}
    assert "champion" in lines[first]
    assert "challenger" in lines[second]
    assert "recall_at_10 0.1900" in lines[second]


def test_what_is_promoted_already_is_left_alone(shell: Shell, two: list[str]) -> None:
    shell.says("promote", two[0])
    assert shell.says("promote", two[0]) == f"{two[0]} is champion already\n"
    assert shell.says("promote", "champion") == f"{two[0]} is champion already\n"


def test_a_rollback_goes_to_the_version_before(shell: Shell, two: list[str]) -> None:
    first, second = two
    shell.says("promote", first)
    shell.says("promote", second)
    assert shell.says("rollback", "--dry-run") == f"champion would mean {first} again\n"
    assert shell.says("rollback", "--why", "empty lists") == f"champion means {first} again, {second} before\n"
    assert shell.fails("rollback", "--alias", "shadow").exit_code == 2


def test_a_dry_run_says_what_would_happen_and_changes_nothing(shell: Shell, two: list[str]) -> None:
    assert shell.says("promote", two[0], "--dry-run") == f"champion would mean {two[0]} instead of nothing\n"
    assert json.loads(shell.says("list", "--json"))["aliases"] == {}


def test_a_refusal_has_an_exit_code_and_a_line_for_each_reason_and_can_be_forced(
    shell: Shell, bundles: dict[str, Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(next(iter(bundles.values())), tmp_path / "worse"))
    manifest = msgspec.json.decode((folder / MANIFEST).read_bytes())
    manifest["metrics"]["warm"]["popularity"] = {"recall_at_10": 0.9, "baskets": 500}
    (folder / MANIFEST).write_bytes(msgspec.json.encode(manifest))
    version = manifest["model_version"]
    shell.says("push", str(folder))
    dry = shell("promote", version, "--dry-run")
    assert dry.exit_code == 13
    assert "refused unless forced: recall_at_10 on warm states is 0.2000, below 0.9000 of the baseline" in dry.output
    assert shell.fails("promote", version).exit_code == 13
    shell.says("promote", version, "--force", "the baseline knew the future")
    assert "[forced: the baseline knew the future]" in shell.says("list")


def test_two_versions_are_compared_with_what_noise_explains(shell: Shell, two: list[str]) -> None:
    compared = json.loads(shell.says("compare", two[1], two[0], "--json"))
    (row,) = compared["differences"]
    assert (row["metric"], row["value"], row["other"], row["verdict"]) == ("recall_at_10", 0.19, 0.2, "noise")
    shell.says("promote", two[0])
    assert "noise" in shell.says("compare", two[1], "champion")


def test_show_tells_metrics_files_and_training(shell: Shell, two: list[str]) -> None:
    shown = shell.says("show", two[0])
    for text in (two[0], "trained      20", "popularity", "extra/catalogue.msgpack", "model.ubj"):
        assert text in shown
    assert json.loads(shell.says("show", two[0], "--json"))["model_version"] == two[0]


def test_an_unknown_version_is_a_bad_option(shell: Shell, two: list[str]) -> None:
    for words in (["show", "0" * 12], ["promote", "0" * 12], ["compare", two[0], "champion"], ["show", "../x"]):
        error = shell.fails(*words)
        assert error.exit_code == 2
        assert "`streamproc models list` shows what there is" in str(error)


@pytest.mark.parametrize("words", [[], ["push"], ["promote"], ["rollback"], ["compare"], ["list"], ["show"]])
def test_every_command_has_help_with_its_exit_codes(words: list[str]) -> None:
    result = CliRunner().invoke(models, [*words, "--help"])
    assert result.exit_code == 0
    assert "14  somebody else moved the alias" in result.output
