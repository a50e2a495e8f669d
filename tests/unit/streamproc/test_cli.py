"""The command line's outermost layer."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint
from typing import Any

import click
import pytest

from streamproc import cli, errors
from streamproc.errors import MissingExtra, StreamprocError

DISTRIBUTIONS = {"demo": "streamproc-consumers[demo]", "replay": "streamproc-producers[cli]"}


@pytest.fixture
def only_run(monkeypatch: pytest.MonkeyPatch) -> click.Group:
    """The group as it is where the library alone is installed, beside a command whose package lacks a module."""
    points = [
        EntryPoint("run", "streamproc.cli:run", "streamproc.commands"),
        EntryPoint("replay", "no_such_module.commands:replay", "streamproc.commands"),
    ]

    def entry_points(**_selection: Any) -> list[EntryPoint]:
        return points

    monkeypatch.setattr(cli.importlib.metadata, "entry_points", entry_points)  # type: ignore[attr-defined] # the module's
    return cli.commands(DISTRIBUTIONS)


def test_a_command_of_a_missing_package_says_what_to_install(only_run: click.Group) -> None:
    with pytest.raises(MissingExtra, match=r"pip install 'streamproc-consumers\[demo\]'"):
        only_run.main(["demo", "--kill"], standalone_mode=False)


def test_a_command_whose_package_lacks_a_module_names_it(only_run: click.Group) -> None:
    with pytest.raises(MissingExtra, match="'no_such_module' is missing"):
        only_run.main(["replay"], standalone_mode=False)


def test_the_help_lists_the_missing_commands_too(only_run: click.Group, capsys: pytest.CaptureFixture[str]) -> None:
    only_run.main(["--help"], standalone_mode=False)
    listed = capsys.readouterr().out
    assert "run" in listed
    assert "not installed: pip install 'streamproc-consumers[demo]'" in listed


def test_an_unknown_command_is_refused(only_run: click.Group) -> None:
    with pytest.raises(click.UsageError, match="No such command 'fly'"):
        only_run.main(["fly"], standalone_mode=False)


def test_every_exit_code_of_an_error_is_in_the_table_of_exit_codes() -> None:
    codes = {
        error.exit_code
        for error in vars(errors).values()
        if isinstance(error, type) and issubclass(error, StreamprocError)
    }
    documented = {int(line.split()[0]) for line in cli.EXIT_CODES.splitlines()[2:]}
    assert codes <= documented


def test_the_script_without_click_says_which_extra_it_needs() -> None:
    program = "import sys; sys.modules['click'] = None; from streamproc.__main__ import main; main()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 9
    assert done.stderr == "streamproc: the command line needs an extra: pip install 'streamproc[cli]'\n"
