"""The price table: ``prices.toml``, or a file of one's own for another region or contract."""

from __future__ import annotations

import tomllib
from functools import cache
from importlib.resources import files
from pathlib import Path

import msgspec

from streamproc.errors import SettingsError


class Price(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Dollars for one unit."""

    dollars: float
    unit: str
    #: Whether pages that do not copy each other agree on it.
    confirmed: bool = False


class Prices(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a region's services cost, as seen on a date."""

    #: ISO 8601: when the prices were looked up.
    date: str
    region: str
    source: str = ""
    price: dict[str, Price]

    def __getitem__(self, name: str) -> float:
        return self.price[name].dollars


@cache
def read_prices(path: Path | None = None) -> Prices:
    """The table in this file, or the one that comes with the package.

    A file of one's own may leave prices out; the package's are then taken. Raises SettingsError for one that cannot be
    used.
    """
    text = files("streamproc_consumers.load").joinpath("prices.toml").read_text("utf-8")
    ours = msgspec.convert(tomllib.loads(text), Prices)
    if path is None:
        return ours
    try:
        theirs = msgspec.convert(tomllib.loads(path.read_text("utf-8")), Prices)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise SettingsError(f"--prices {path}: {error}; write it as the package's prices.toml is written") from error
    if unknown := sorted(theirs.price.keys() - ours.price.keys()):
        raise SettingsError(
            f"--prices {path}: nothing costs {', '.join(unknown)}; known: {', '.join(sorted(ours.price))}"
        )
    return msgspec.structs.replace(theirs, price={**ours.price, **theirs.price})
