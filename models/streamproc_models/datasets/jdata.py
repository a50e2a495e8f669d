"""JD.com "JData" 2017: the hours of a real shop with removals from the cart."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from streamproc.errors import SettingsError
from streamproc_models.datasets.base import Numbered, data_folder, parsed, read_lines
from streamproc_producers.events import CartEvent, EventType

FILES = ("jdata/JData_Action_201602.csv.gz", "jdata/JData_Action_201603.csv.gz")
HEAD = "user_id,sku_id,time,model_id,type,cate,brand"
#: What the set's types become. 5, following an item, is interest without a cart: a view.
#: 6, a click, stands on a page whose view is a line of its own, and would count it twice: no event.
EVENT_TYPES = {
    1: EventType.VIEW,
    2: EventType.ADD_TO_CART,
    3: EventType.REMOVE_FROM_CART,
    4: EventType.PURCHASE,
    5: EventType.VIEW,
    6: None,
}


class _Line(NamedTuple):
    user_id: str
    item_id: str
    ts: datetime
    event_type: EventType | None


def jdata_events(folder: Path | None = None) -> Iterator[CartEvent]:
    """The lines of both files as events, in their order, which is that of time; to be folded, not to be judged.

    Of lines that are equal in every column the first one is taken. Quantities and orders are not told: an addition is
    one piece, a removal takes all of the item out, purchases near each other are one order. Times are read as UTC.

    Raises SettingsError for a file that is missing or is not this set.
    """
    numbered = Numbered()
    for file in FILES:
        path = data_folder(folder) / file
        lines = read_lines(path)
        if (head := next(lines, "")) != HEAD:
            raise SettingsError(f"{path}: the first line is {head[:80]!r} instead of {HEAD!r}; copy the file again")
        seen: set[str] = set()
        for number, line in enumerate(lines, 2):
            if line in seen:
                continue
            seen.add(line)
            found = parsed(path, number, line, _line, "an action")
            if found.event_type is not None:
                yield numbered.event(found.event_type, found.user_id, found.item_id, found.ts)


def _line(text: str) -> _Line:
    user_id, item_id, time, _, number, _, _ = text.split(",")
    if not user_id or not item_id or int(number) not in EVENT_TYPES:
        raise ValueError(text)
    # The data set went through a float: "266079.0" is user 266079.
    return _Line(
        user_id.removesuffix(".0"),
        item_id,
        datetime.fromisoformat(time).replace(tzinfo=UTC),
        EVENT_TYPES[int(number)],
    )
