"""Ta-Feng: a grocery's baskets without times, and everybody's last basket to be foretold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from streamproc.errors import SettingsError
from streamproc_models.datasets.base import DAY, Numbered, Target, Task, data_folder, read_lines
from streamproc_models.items import Item
from streamproc_producers.events import CartEvent, EventType, utc

HISTORY = "tafeng/tafeng_history.json.gz"
FUTURE = "tafeng/tafeng_future.json.gz"
#: Marks the beginning and the end of a user's baskets in the files.
_MARK = -1
#: The set ends in February 2001. The held-out baskets would be bought then.
_ENDS = datetime(2001, 3, 1, 12, tzinfo=UTC).timestamp()
#: A shopper comes once a week: the set spans four months and a shopper has 5.6 baskets in its history.
BASKET_DAYS = 7

_Baskets = dict[str, list[list[int]]]


class TaFeng:
    """13,858 users, each with a history of baskets and a next one.

    A basket is an order: one purchase an item, with an ``order_id``. The set has no times, so they are made: the k-th
    last basket of *every* user is bought ``7 k`` days before the end, at noon. A cut in time is then the same for
    everybody: the last seven days are the last history basket of every user. Within a day the users keep the order of
    the file.

    ``inner`` holds the last basket of the history out in place of the future, which is then not read.
    """

    name = "tafeng"
    task = Task.NEXT_BASKET
    item_lines_min = 3

    def __init__(self, folder: Path | None = None, *, inner: bool = False) -> None:
        self._folder = data_folder(folder)
        self.inner = inner
        self.protocol = (
            "Trained on all history baskets but each user's last; judged on that last one"
            if inner
            else "Trained on all history baskets; judged on each user's next basket"
        )
        self.ends_at = _ENDS - (DAY * BASKET_DAYS if inner else 0)

    def events(self) -> Iterator[CartEvent]:
        """See :class:`~streamproc_models.datasets.base.Dataset`."""
        history = self._read(HISTORY)
        by_day: list[list[tuple[str, int, list[int]]]] = [
            [] for _ in range(max(map(len, history.values()), default=0) + 1)
        ]
        for user_id, baskets in history.items():
            for number, basket in enumerate(baskets):
                by_day[len(baskets) - number].append((user_id, number + 1, basket))
        numbered = Numbered()
        # The last history basket of the inner split is the target.
        for ago in range(len(by_day) - 1, 1 if self.inner else 0, -1):
            ts = utc(_ENDS - DAY * BASKET_DAYS * ago)
            for user_id, number, basket in by_day[ago]:
                for item in basket:
                    yield numbered.event(EventType.PURCHASE, user_id, str(item), ts, f"{user_id}/{number}")

    def prefixes(self) -> Iterator[CartEvent]:
        """None: every user has a history."""
        yield from ()

    def items(self) -> Mapping[str, Item]:
        """Nothing: they are numbers."""
        return {}

    def targets(self) -> list[Target]:
        """See :class:`~streamproc_models.datasets.base.Dataset`."""
        if self.inner:
            held_out = {user_id: baskets[-1] for user_id, baskets in self._read(HISTORY).items() if len(baskets) > 1}
        else:
            held_out = {user_id: baskets[0] for user_id, baskets in self._read(FUTURE).items() if baskets}
        return [
            Target(user_id, tuple(str(item) for item in dict.fromkeys(items))) for user_id, items in held_out.items()
        ]

    def _read(self, file: str) -> _Baskets:
        path = self._folder / file
        try:
            users = msgspec.json.decode("\n".join(read_lines(path)), type=_Baskets)
        except msgspec.DecodeError as error:
            raise SettingsError(f"{path} is not a map of users to lists of baskets ({error}); copy it again") from error
        return {
            user_id: [basket for basket in baskets if basket and basket != [_MARK]]
            for user_id, baskets in users.items()
        }
