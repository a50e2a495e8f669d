"""A cut in time: of a shop's own log, and of the UCI "Online Retail" invoices."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

from streamproc.errors import SettingsError
from streamproc_models.datasets.base import Target, Task, data_folder
from streamproc_models.items import Item, named
from streamproc_producers.events import CartEvent, EventType
from streamproc_producers.retail import RetailLog, item_names

FILE = "online_retail.csv.gz"
#: The purchases of so many days after the cut are to be foretold.
DAYS = 30
#: A minute after the last event of the complete file.
_ENDS = datetime(2011, 12, 9, 12, 51, tzinfo=UTC)


class TemporalSplit:
    """A log that is cut in time: what is before the cut is trained on.

    The target of a user is the union of what they buy in the ``days`` from the cut on. Users who bought something
    before the cut are judged; of others nothing is known but what is popular.

    ``read`` opens the log anew, in the order of event time. ``prefixes`` is empty: the log has all there is.
    """

    task = Task.NEXT_BASKET
    item_lines_min = 1

    def __init__(
        self,
        name: str,
        read: Callable[[], Iterable[CartEvent]],
        cut: datetime,
        *,
        days: int = DAYS,
        inner: bool = False,
        items: Callable[[], Mapping[str, Item]] = dict,
    ) -> None:
        self.name = name
        self.items = items
        self.inner = inner
        self._read = read
        self._cut = cut if cut.tzinfo else cut.replace(tzinfo=UTC)
        self._until = self._cut + timedelta(days=days)
        self.ends_at = self._cut.timestamp()
        self.protocol = (
            f"Trained on everything before {self._cut:%Y-%m-%d %H:%M}; judged on all that users who bought before it"
            f" buy in the {days} days after it"
        )

    def events(self) -> Iterator[CartEvent]:
        """See :class:`~streamproc_models.datasets.base.Dataset`."""
        # One event from a clock that is ahead must not end the log.
        return (event for event in self._read() if event.ts < self._cut)

    def prefixes(self) -> Iterator[CartEvent]:
        """None."""
        yield from ()

    def targets(self) -> list[Target]:
        """See :class:`~streamproc_models.datasets.base.Dataset`.

        Raises SettingsError where nobody is to be judged.
        """
        known: set[str] = set()
        bought: dict[str, dict[str, None]] = {}
        for event in self._read():
            if event.event_type is not EventType.PURCHASE or event.ts >= self._until:
                continue
            if event.ts < self._cut:
                known.add(event.user_id)
            elif event.user_id in known:
                bought.setdefault(event.user_id, {})[event.item_id] = None
        if not bought:
            raise SettingsError(
                f"{self.name}: nobody who bought before {self._cut:%Y-%m-%d %H:%M} buys in the"
                f" {(self._until - self._cut).days} days after it, so there is nothing to judge; choose another --cut"
            )
        return [Target(user_id, tuple(items)) for user_id, items in bought.items()]


def online_retail(folder: Path | None = None, *, inner: bool = False) -> TemporalSplit:
    """The complete Online Retail, cut 30 days before its end (1,379 users); ``inner``: 30 days earlier still.

    The inner split ends where the outer one begins: it reads nothing of the last 30 days.
    """
    path = data_folder(folder) / FILE
    cut = _ENDS - timedelta(days=2 * DAYS if inner else DAYS)
    until = _ENDS - timedelta(days=DAYS) if inner else None
    return TemporalSplit(
        "online-retail", lambda: RetailLog(path, until=until), cut, inner=inner, items=lambda: named(item_names(path))
    )
