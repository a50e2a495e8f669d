"""What each distribution brings to a user's site-packages, and what the SDK alone asks for."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
#: The folder of each distribution, by the one import name that it adds.
FOLDERS = {
    "streamproc": ROOT,
    "streamproc_producers": ROOT / "producers",
    "streamproc_models": ROOT / "models",
    "streamproc_consumers": ROOT / "consumers",
}
#: What `pip install streamproc-producers` installs: boto3, msgspec, protobuf and aws-kinesis-agg, and what those need.
SDK_DISTRIBUTIONS = {
    "streamproc",
    "streamproc-producers",
    "aws-kinesis-agg",
    "boto3",
    "botocore",
    "jmespath",
    "msgspec",
    "protobuf",
    "python-dateutil",
    "s3transfer",
    "six",
    "urllib3",
}
#: The modules that need an extra, by what they miss without it. All others import.
NEED_AN_EXTRA = {
    "streamproc.cli": "click",
    "streamproc.metrics.prometheus": "prometheus_client",
    "streamproc.projections.redis": "redis",
    "streamproc.local.dynamodb_table": "moto",
    "streamproc.local.kinesis_shard": "moto",
    "streamproc.local.moto_server": "moto",
    "streamproc.testing.fixtures": "pytest",
    "streamproc_producers.commands": "click",
} | {
    f"streamproc.operations.{path.stem}": "click"
    for path in (ROOT / "streamproc/operations").glob("[!_]*.py")
    if path.stem != "lag"  # it only reads
}

IMPORT_EVERYTHING = """
import importlib, importlib.metadata, importlib.util, json, pathlib
missing, imported = {}, 0
for package in ("streamproc", "streamproc_producers"):
    root = pathlib.Path(importlib.util.find_spec(package).origin).parent
    for file in sorted(root.rglob("*.py")):
        module = ".".join(file.relative_to(root.parent).with_suffix("").parts).removesuffix(".__init__")
        try:
            importlib.import_module(module)
            imported += 1
        except ModuleNotFoundError as error:
            missing[module] = error.name
distributions = sorted(each.metadata["Name"] for each in importlib.metadata.distributions())
print(json.dumps({"missing": missing, "imported": imported, "distributions": distributions}))
"""


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The wheel of each import name, built as for a release. The backend is installed, so nothing is fetched."""
    folder = tmp_path_factory.mktemp("wheels")
    for source in FOLDERS.values():
        subprocess.run(
            [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(source)],
            check=True,
            capture_output=True,
        )
    return {path.name.partition("-")[0]: path for path in folder.glob("*.whl")}


def names_in(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


@pytest.mark.parametrize("name", FOLDERS)
def test_a_wheel_adds_exactly_one_import_name(wheels: Mapping[str, Path], name: str) -> None:
    top_levels = {entry.partition("/")[0] for entry in names_in(wheels[name])}

    assert {each for each in top_levels if not each.endswith(".dist-info")} == {name}


@pytest.mark.parametrize("name", FOLDERS)
def test_a_wheel_holds_the_packages_modules_with_their_templates_and_pages_and_the_typing_marker_alone(
    wheels: Mapping[str, Path], name: str
) -> None:
    folder = FOLDERS[name]
    patterns = ("*.py", "*.j2", "static/*", "load/*.html", "load/*.json", "load/*.toml")
    modules = {str(path.relative_to(folder)) for pattern in patterns for path in (folder / name).rglob(pattern)}
    held = {entry for entry in names_in(wheels[name]) if ".dist-info/" not in entry}

    assert held == modules | {f"{name}/py.typed"}


def clean_environment() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}


@pytest.fixture(scope="session")
def sdk(wheels: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new virtual environment with the SDK installed from its wheels, and from the versions of the lock."""
    uv = shutil.which("uv") or shutil.which("uv", path=ROOT / ".uv" / "bin")
    assert uv, "uv is neither on PATH nor in .uv: run `make setup`"
    folder = tmp_path_factory.mktemp("sdk")
    constraints = folder / "constraints.txt"
    locked = (ROOT / "requirements.lock").read_text().splitlines()
    constraints.write_text("\n".join(line.rstrip("\\ ") for line in locked if "==" in line and line[0] != " "))
    environment = clean_environment()
    subprocess.run(
        [uv, "venv", "--quiet", "--python", sys.executable, str(folder / "venv")],
        check=True,
        env=environment,
    )
    python = folder / "venv" / "bin" / "python"
    subprocess.run(
        [
            *[uv, "pip", "install", "--quiet", "--python", str(python), "--constraints", str(constraints)],
            *[str(wheels["streamproc"]), str(wheels["streamproc_producers"])],
        ],
        check=True,
        env=environment,
    )
    return python


def test_the_sdk_installs_boto3_msgspec_and_protobuf_and_every_module_without_an_extra_imports(sdk: Path) -> None:
    run = subprocess.run(
        [str(sdk), "-I", "-c", IMPORT_EVERYTHING], check=True, capture_output=True, text=True, env=clean_environment()
    )
    found = json.loads(run.stdout)

    assert set(found["distributions"]) == SDK_DISTRIBUTIONS
    assert found["missing"] == NEED_AN_EXTRA
    assert found["imported"] > len(NEED_AN_EXTRA)


def test_the_command_without_its_extra_says_what_to_install(sdk: Path) -> None:
    run = subprocess.run(
        [str(sdk.with_name("streamproc")), "--help"],
        capture_output=True,
        text=True,
        env=clean_environment(),
        check=False,
    )

    assert run.returncode == 9
    assert run.stderr == "streamproc: the command line needs an extra: pip install 'streamproc[cli]'\n"
