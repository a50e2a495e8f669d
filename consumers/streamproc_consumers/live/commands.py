"""The command ``page``."""

from __future__ import annotations

import shutil
from pathlib import Path
from urllib.parse import urlsplit

import click
import msgspec

from streamproc.errors import SettingsError
from streamproc_consumers.live.catalogue import STATIC, Catalogue, products_of, read_catalogue
from streamproc_producers.retail import RetailLog, default_data_path, item_names


@click.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option("--api", required=True, metavar="URL", help="The API's address, as https://api.shop.example.")
@click.option("--api-key", help="A key for browsers. Whoever opens the page can read it.")
@click.option(
    "--catalogue",
    type=click.Path(path_type=Path),
    help="What the shop sells; see docs/live.md. Default: the products of the UCI Online Retail data.",
)
def page(folder: Path, api: str, api_key: str | None, catalogue: Path | None) -> None:
    """Write the shop as static files, for any web server or bucket.

    The API must allow the page's origin (--cors-origin). There is no engine room: its feed is the demonstration's.

    \b
    Examples:
      streamproc page site --api https://api.shop.example
      streamproc page site --api https://api.shop.example --catalogue catalogue.json

    \b
    Exit codes:
      0  the files are written
      2  an option, the catalogue or the data cannot be used
    """
    if urlsplit(api).scheme not in ("http", "https") or not urlsplit(api).netloc:
        raise SettingsError(f"--api {api!r} is no web address: write it as https://api.shop.example")
    sold = read_catalogue(catalogue) if catalogue else _retail()
    folder.mkdir(parents=True, exist_ok=True)
    for path in STATIC.iterdir():
        shutil.copyfile(path, folder / path.name)
    configuration = {"api": api, "catalogue": "catalogue.json", **({"apiKey": api_key} if api_key else {})}
    (folder / "catalogue.json").write_bytes(msgspec.json.encode(sold))
    (folder / "config.json").write_bytes(msgspec.json.encode(configuration))
    click.echo(f"{folder} holds the page with {len(sold.products):,} products")


def _retail() -> Catalogue:
    data = default_data_path()
    return Catalogue(products_of(RetailLog(data), item_names(data)))
