from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from streamproc.errors import SettingsError
from streamproc_consumers.live.catalogue import STATIC
from streamproc_consumers.live.commands import page


def written(*arguments: str) -> None:
    CliRunner().invoke(page, arguments, catch_exceptions=False, standalone_mode=False)


def test_the_shop_alone_is_written_as_static_files(tmp_path: Path) -> None:
    catalogue = tmp_path / "catalogue.json"
    catalogue.write_text('{"products": [{"id": "p1", "name": "A lamp"}]}')
    site = tmp_path / "site"
    written(str(site), "--api", "https://api.shop.example", "--catalogue", str(catalogue))
    assert {path.name for path in site.iterdir()} == {path.name for path in STATIC.iterdir()} | {
        "config.json",
        "catalogue.json",
    }
    assert json.loads((site / "config.json").read_text()) == {
        "api": "https://api.shop.example",
        "catalogue": "catalogue.json",
    }
    products = json.loads((site / "catalogue.json").read_text())["products"]
    assert products == [{"id": "p1", "name": "A lamp", "price": 0.0, "group": ""}]


@pytest.mark.parametrize("api", ["api.shop.example", "javascript:alert(1)", "https://"])
def test_what_is_no_web_address_is_refused(tmp_path: Path, api: str) -> None:
    with pytest.raises(SettingsError, match="--api"):
        written(str(tmp_path), "--api", api)


@pytest.mark.parametrize("content", ["", "[]", '{"products": [{"id": 7}]}', "\xff"])
def test_what_is_no_catalogue_is_refused_with_the_files_name(tmp_path: Path, content: str) -> None:
    catalogue = tmp_path / "sold.json"
    catalogue.write_bytes(content.encode("latin-1"))
    with pytest.raises(SettingsError, match=r"sold\.json"):
        written(str(tmp_path / "site"), "--api", "https://api.shop.example", "--catalogue", str(catalogue))
