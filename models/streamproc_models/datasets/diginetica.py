"""Diginetica (CIKM Cup 2016), the split of SR-GNN: sessions of views, and the next view to be foretold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

from streamproc_models.datasets.base import (
    Numbered,
    Target,
    Task,
    data_folder,
    parsed,
    read_lines,
    viewed,
)
from streamproc_models.items import Item
from streamproc_producers.events import CartEvent

TRAIN = "diginetica/train_sessions.txt.gz"
TEST = "diginetica/test_prefix_label.tsv.gz"
#: Seconds between two views. The set has none.
VIEW_SECONDS = 30.0
#: The inner split holds so many sessions out, the last ones.
INNER_SESSIONS = 20_000
#: The set's first day.
_STARTS = datetime(2016, 1, 1, tzinfo=UTC).timestamp()
_PREFIX_NUMBERS = 1 << 64

_Sessions = list[tuple[str, ...]]


class Diginetica:
    """186,670 sessions, and 60,858 prefixes of later ones with the item that was viewed next.

    A session is a user, each item of it a view. The sessions stand in the file in the order of time, but it has no
    times, so they are made: views are 30 s apart and the sessions follow each other without overlap, from 2016 on.

    Each row of the test is a user of its own (one session gives several rows, whose prefixes hold each other's labels),
    whose prefix begins when the log ends.

    ``inner`` holds the last 20,000 sessions out in place of the test, which is then not read: each of their prefixes is
    a row, the longest first, as in the test.
    """

    name = "diginetica"
    task = Task.NEXT_ITEM
    item_lines_min = 1

    def __init__(self, folder: Path | None = None, *, inner: bool = False) -> None:
        self._folder = data_folder(folder)
        self.inner = inner
        self.protocol = (
            f"Trained on all training sessions but the last {INNER_SESSIONS:,}; judged on the next item after each of"
            " their prefixes"
            if inner
            else "Trained on the training sessions; judged on the next item after each test prefix (split of SR-GNN)"
        )

    @property
    def ends_at(self) -> float:
        """See :class:`~streamproc_models.datasets.base.Dataset`."""
        return _STARTS + VIEW_SECONDS * sum(len(session) for session in self._sessions[0])

    def events(self) -> Iterator[CartEvent]:
        """See :class:`~streamproc_models.datasets.base.Dataset`."""
        numbered = Numbered()
        at = _STARTS
        for number, session in enumerate(self._sessions[0], 1):
            yield from viewed(numbered, f"session-{number}", session, at, VIEW_SECONDS)
            at += VIEW_SECONDS * len(session)

    def prefixes(self) -> Iterator[CartEvent]:
        """The views before each target. They all begin when the log ends: event times rise within a user alone."""
        numbered = Numbered(_PREFIX_NUMBERS)
        at = self.ends_at
        for number, (prefix, _) in enumerate(self._rows(), 1):
            yield from viewed(numbered, f"row-{number}", prefix, at, VIEW_SECONDS)

    def items(self) -> Mapping[str, Item]:
        """Nothing: they are numbers."""
        return {}

    def targets(self) -> list[Target]:
        """See :class:`~streamproc_models.datasets.base.Dataset`."""
        return [Target(f"row-{number}", (label,)) for number, (_, label) in enumerate(self._rows(), 1)]

    @cached_property
    def _sessions(self) -> tuple[_Sessions, _Sessions]:
        """The sessions of the log, and those that the inner split holds out."""
        path = self._folder / TRAIN
        sessions = [
            parsed(path, number, line, _items, "item ids with a space between them")
            for number, line in enumerate(read_lines(path), 1)
        ]
        # A small file is halved, so that both parts have something.
        held_out = min(INNER_SESSIONS, len(sessions) // 2) if self.inner else 0
        return sessions[: len(sessions) - held_out], sessions[len(sessions) - held_out :]

    def _rows(self) -> Iterator[tuple[tuple[str, ...], str]]:
        if self.inner:
            for session in self._sessions[1]:
                for length in range(len(session) - 1, 0, -1):
                    yield session[:length], session[length]
            return
        path = self._folder / TEST
        for number, line in enumerate(read_lines(path), 1):
            yield parsed(path, number, line, _row, "a prefix, a tab, and the next item")


def _items(text: str) -> tuple[str, ...]:
    items = tuple(text.split())
    if not items or not all(item.isdigit() for item in items):
        raise ValueError(text)
    return items


def _row(line: str) -> tuple[tuple[str, ...], str]:
    prefix, label = line.split("\t")
    [item] = _items(label)
    return _items(prefix), item
