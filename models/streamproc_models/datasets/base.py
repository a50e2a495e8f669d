"""What every data set gives: a log to train on, and what came after it."""

from __future__ import annotations

import enum
import gzip
import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Protocol, TypeVar

import msgspec

from streamproc.errors import SettingsError
from streamproc_models.items import Item
from streamproc_producers.events import CartEvent, EventType, utc

DAY = 86_400.0

T = TypeVar("T")


class Task(enum.StrEnum):
    """What is to be foretold."""

    NEXT_BASKET = "next basket"
    NEXT_ITEM = "next item"


class Target(msgspec.Struct, frozen=True, gc=False):
    """What a user did next, and what is to be ranked for: the fold of all events of that user before it.

    A data set has one target a user at most.
    """

    user_id: str
    #: Each once, in the order in which they came; one alone where the task is the next item. Never empty.
    items: tuple[str, ...]


class Dataset(Protocol):
    """A log of cart events and its held-out targets. Everything here gives the same whenever it is read.

    Reading raises SettingsError where a file is missing or is not what it should be.
    """

    @property
    def name(self) -> str:
        """As on the command line, and the beginning of the figures' names."""
        ...

    @property
    def inner(self) -> bool:
        """Whether it is split inside its training part, for choosing settings."""
        ...

    @property
    def protocol(self) -> str:
        """One sentence: what is trained on, who is judged, on what."""
        ...

    @property
    def task(self) -> Task:
        """What is to be foretold."""
        ...

    @property
    def item_lines_min(self) -> int:
        """Items on fewer lines of the log are in no catalogue. As targets they count all the same."""
        ...

    @property
    def ends_at(self) -> float:
        """Seconds since the epoch; all events of the log are before it."""
        ...

    def events(self) -> Iterator[CartEvent]:
        """The log to train on, in its order, which is that of event time in all public sets."""
        ...

    def prefixes(self) -> Iterator[CartEvent]:
        """Events that are folded before ranking and never trained on, of users whom the log does not have."""
        ...

    def targets(self) -> list[Target]:
        """Who is judged, and on what."""
        ...

    def items(self) -> Mapping[str, Item]:
        """What the set tells of items, by id."""
        ...


class Numbered:
    """Makes events of a log that has no ids: they are numbered, so every read gives the same."""

    def __init__(self, first: int = 0) -> None:
        self._next = first

    def event(
        self, event_type: EventType, user_id: str, item_id: str, ts: datetime, order_id: str | None = None
    ) -> CartEvent:
        """The next event."""
        self._next += 1
        return CartEvent(
            event_id=uuid.UUID(int=self._next),
            event_type=event_type,
            user_id=user_id,
            item_id=item_id,
            ts=ts,
            order_id=order_id,
        )


def viewed(numbered: Numbered, user_id: str, items: tuple[str, ...], at: float, step: float) -> Iterator[CartEvent]:
    """One view an item, ``step`` seconds apart, the first one at ``at``."""
    for place, item_id in enumerate(items):
        yield numbered.event(EventType.VIEW, user_id, item_id, utc(at + step * place))


def data_folder(given: Path | None = None) -> Path:
    """The folder of the data sets: as given, else ``STREAMPROC_DATA_DIR``. Raises SettingsError without either."""
    if given is not None:
        return given
    if folder := os.environ.get("STREAMPROC_DATA_DIR"):
        return Path(folder)
    raise SettingsError(
        "no data: pass --data DIR, or set STREAMPROC_DATA_DIR to the folder of online_retail.csv.gz, tafeng/,"
        " diginetica/ and jdata/"
    )


def read_lines(path: Path) -> Iterator[str]:
    """The lines of a gzipped text file, without their ends. Raises SettingsError where it cannot be read to its end."""
    try:
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            for line in lines:
                yield line.rstrip("\r\n")
    except FileNotFoundError as error:
        raise SettingsError(f"{path} does not exist: pass --data DIR or mend STREAMPROC_DATA_DIR") from error
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} cannot be read to its end: {error}; copy it again") from error


def parsed(path: Path, number: int, line: str, parse: Callable[[str], T], form: str) -> T:
    """The line as ``parse`` reads it. Raises SettingsError with its number and the ``form`` that it should have."""
    try:
        return parse(line)
    except ValueError as error:
        raise SettingsError(f"{path}, line {number}: {line[:80]!r} is not {form}; copy the file again") from error
