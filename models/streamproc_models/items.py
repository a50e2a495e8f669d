"""What a shop tells of its items: name, category and brand, where they are known."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

import msgspec

from streamproc.errors import SettingsError

#: Between the parts of a category, from the department down: ``Kitchen > Mugs``.
PATH = " > "
COLUMNS = ("item_id", "name", "category", "brand")


class Item(msgspec.Struct, frozen=True, gc=False):
    """What does not change with the log. What is not known is empty."""

    name: str = ""
    #: A path, with :data:`PATH` between its parts.
    category: str = ""
    brand: str = ""


def named(names: Mapping[str, str]) -> dict[str, Item]:
    """Items of which the names alone are known."""
    return {item_id: Item(name) for item_id, name in names.items()}


def read_items(path: Path) -> dict[str, Item]:
    """A CSV file whose first line names its columns: ``item_id``, and those of name, category and brand that there are.

    Raises SettingsError with the file and the line for what is none.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = csv.reader(file, strict=True)
            head = [column.strip() for column in next(lines, [])]
            _check_head(path, head)
            found: dict[str, Item] = {}
            for cells in lines:
                if cells:
                    item_id, item = _item(path, lines.line_num, dict(zip(head, cells, strict=False)), len(cells), head)
                    if item_id in found:
                        raise SettingsError(
                            f"{path}, line {lines.line_num}: the item {item_id!r} is there twice; remove one line"
                        )
                    found[item_id] = item
            return found
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SettingsError(f"{path} cannot be read: {error}") from error


def _check_head(path: Path, head: list[str]) -> None:
    wrong = [column for column in head if column not in COLUMNS]
    if "item_id" not in head or wrong or len({*head}) < len(head):
        raise SettingsError(
            f"{path}, line 1: {','.join(head)[:80]!r} does not name the columns: write item_id there, and those of"
            " name, category and brand that follow, each once"
        )


def _item(path: Path, line: int, cells: Mapping[str, str], count: int, head: list[str]) -> tuple[str, Item]:
    item_id = cells.get("item_id", "")
    if count != len(head) or not item_id:
        raise SettingsError(
            f"{path}, line {line}: it has {count} cells, the first line names {len(head)}, and item_id is"
            f" {item_id[:80]!r}; mend or remove the line"
        )
    parts = (part.strip() for part in cells.get("category", "").split(PATH.strip()))
    return item_id, Item(
        cells.get("name", "").strip(), PATH.join(part for part in parts if part), cells.get("brand", "").strip()
    )
