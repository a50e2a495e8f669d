"""Real shopping data as cart events: the UCI "Online Retail" invoices (data set 352, CC BY 4.0)."""

from __future__ import annotations

import csv
import enum
import gzip
import lzma
import math
import os
import re
import uuid
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import IO, NamedTuple

from streamproc.errors import SettingsError
from streamproc_producers.events import CartEvent, EventType

COLUMNS = ("InvoiceNo", "StockCode", "Description", "Quantity", "InvoiceDate", "UnitPrice", "CustomerID", "Country")
SAMPLE = "online_retail_2011-08_2011-11.csv.xz"

#: Products have five digits and up to two letters for a variant. The other codes are postage, fees and corrections.
_PRODUCT = re.compile(r"\d{5}[A-Za-z]{0,2}")
_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "https://doi.org/10.24432/C5BW33")


class Dirt(enum.StrEnum):
    """Why a line became no event. The first reason that holds counts."""

    UNREADABLE = "unreadable line"
    DUPLICATE = "exact duplicate of a line of its invoice"
    NO_CUSTOMER = "no CustomerID"
    NOT_A_PRODUCT = "not a product"
    QUANTITY = "quantity of the wrong sign"
    PRICE = "price not above 0"


#: Gives an event its id, from the invoice's number, the line's number in the invoice (from 1), and what happened.
EventIds = Callable[[str, int, EventType], uuid.UUID]


def stable_event_id(invoice: str, line: int, event_type: EventType) -> uuid.UUID:
    """The same id for the same line whenever it is read, in the sample and in the whole file: a UUID of version 5."""
    return uuid.uuid5(_NAMESPACE, f"{invoice}/{line}/{event_type}")


class _Line(NamedTuple):
    #: In its invoice, from 1, over all lines of it.
    number: int
    invoice: str
    ts: datetime
    user_id: str
    item_id: str
    quantity: int
    price: float


class RetailLog:
    """The invoices as events, in order of event time, in one pass.

    A line of an invoice is an ``add_to_cart`` at its time. After its last line come the purchases, one event a line,
    with the invoice as ``order_id``, at the time of that last line. A line of a cancellation (its InvoiceNo begins with
    ``C``) is a ``remove_from_cart``. Events of one minute keep the order of the file. Dates are taken as UTC.

    Lines that are no shopping are counted by reason in ``dirty``, never dropped silently; ``unreadable`` holds a
    sentence for each of the first ten that cannot be read. A line without a Description is used: its code is enough.

    ``event_ids`` makes the events' ids. :func:`stable_event_id`, the default, suits training and comparisons: every
    read gives the same events. Sent to a stream a second time they would be duplicates, which a consumer drops as far
    as its window reaches; so a replay into a live stream passes ``lambda *_: new_event_id()``.

    Iterating raises SettingsError for a file that is not this data set, is cut short, or is not in order of time.
    """

    def __init__(
        self,
        path: Path,
        *,
        event_ids: EventIds = stable_event_id,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> None:
        self.path = path
        self._event_ids = event_ids
        # The file's dates have one fixed form, so they compare as text does.
        self._since = "" if since is None else _as_written(since)
        self._until = "9999" if until is None else _as_written(until)
        #: Lines from ``since`` (included) to ``until`` (not included).
        self.lines = 0
        self.dirty: Counter[Dirt] = Counter()
        self.unreadable: list[str] = []

    def __iter__(self) -> Iterator[CartEvent]:
        self.lines = 0
        self.dirty = Counter()
        self.unreadable = []
        numbers: Counter[str] = Counter()
        last = datetime.min.replace(tzinfo=UTC)
        # One invoice of the data set comes in two parts, with others between them; each part is one purchase.
        for invoice, rows in groupby(_rows(self.path), key=lambda row: row[1][0] if row[1] else ""):
            lines = self._clean(invoice, rows, numbers)
            for line in lines:
                if line.ts < last:
                    raise SettingsError(
                        f"{self.path}: invoice {invoice} is dated {line.ts:%Y-%m-%d %H:%M}, before an earlier line;"
                        " sort the file by InvoiceDate, since events are sent in order of time"
                    )
                last = line.ts
            if invoice.startswith("C"):
                yield from self._events(EventType.REMOVE_FROM_CART, lines)
            else:
                yield from self._events(EventType.ADD_TO_CART, lines)
                yield from self._events(EventType.PURCHASE, lines)

    def _events(self, event_type: EventType, lines: list[_Line]) -> Iterator[CartEvent]:
        bought = event_type is EventType.PURCHASE
        for line in lines:
            yield CartEvent(
                event_id=self._event_ids(line.invoice, line.number, event_type),
                event_type=event_type,
                user_id=line.user_id,
                item_id=line.item_id,
                ts=lines[-1].ts if bought else line.ts,
                order_id=line.invoice if bought else None,
                quantity=line.quantity,
                price=line.price,
            )

    def _is_outside(self, row: list[str]) -> bool:
        # What is no date is inside, and counted as unreadable.
        date = row[_DATE] if len(row) > _DATE else ""
        return date[:4].isdigit() and not self._since <= date < self._until

    def _clean(self, invoice: str, rows: Iterable[tuple[int, list[str]]], numbers: Counter[str]) -> list[_Line]:
        """The usable lines among these of one invoice; counts the others."""
        seen: set[tuple[str, ...]] = set()
        lines: list[_Line] = []
        for line_number, row in rows:
            numbers[invoice] += 1
            if self._is_outside(row):
                continue
            self.lines += 1
            found = _parsed(row, numbers[invoice], seen)
            if isinstance(found, _Line):
                lines.append(found)
                continue
            dirt, detail = found
            self.dirty[dirt] += 1
            if detail and len(self.unreadable) < 10:
                self.unreadable.append(f"line {line_number}: {detail}")
        return lines


_DATE = COLUMNS.index("InvoiceDate")


def _parsed(row: list[str], number: int, seen: set[tuple[str, ...]]) -> _Line | tuple[Dirt, str]:
    """The line, or why it is none, with a sentence where it cannot be read."""
    if len(row) != len(COLUMNS):
        return Dirt.UNREADABLE, f"{len(row)} columns instead of {len(COLUMNS)}"
    invoice, item_id, _, quantity_text, date_text, price_text, customer, _ = row
    try:
        name, text = "Quantity", quantity_text
        quantity = int(quantity_text)
        name, text = "UnitPrice", price_text
        price = float(price_text)
        name, text = "InvoiceDate", date_text
        ts = datetime.fromisoformat(date_text).replace(tzinfo=UTC)
    except ValueError:
        return Dirt.UNREADABLE, f"{name} is {text!r}"
    if not math.isfinite(price):
        return Dirt.UNREADABLE, f"UnitPrice is {price_text!r}"
    as_read = tuple(row)
    if as_read in seen:
        return Dirt.DUPLICATE, ""
    seen.add(as_read)
    if not customer:
        return Dirt.NO_CUSTOMER, ""
    if not _PRODUCT.fullmatch(item_id):
        return Dirt.NOT_A_PRODUCT, ""
    if invoice.startswith("C"):
        quantity = -quantity
    if quantity <= 0:
        return Dirt.QUANTITY, ""
    if price <= 0:
        return Dirt.PRICE, ""
    # The data set went through a float: "17850.0" is customer 17850.
    return _Line(number, invoice, ts, customer.removesuffix(".0"), item_id, quantity, price)


def item_names(path: Path) -> dict[str, str]:
    """The name of each product: its most frequent description, the first one where several are.

    Lines without a price are left out: their descriptions are notes of the warehouse ("damaged", "?").
    Raises SettingsError as :class:`RetailLog` does.
    """
    names: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for _, row in _rows(path):
        if len(row) != len(COLUMNS) or not _PRODUCT.fullmatch(row[1]) or row[5] in ("0", "0.0"):
            continue
        if name := row[2].strip():
            names[row[1]][name] += 1
    return {item_id: counted.most_common(1)[0][0] for item_id, counted in names.items()}


def default_data_path(given: Path | None = None) -> Path:
    """Where the data set is: as given, else in ``STREAMPROC_DATA_DIR``, else the sample of a source checkout.

    Raises SettingsError where it is in none of them, or not where it was said to be.
    """
    if given is None and (folder := os.environ.get("STREAMPROC_DATA_DIR")):
        given = Path(folder) / "online_retail.csv.gz"
    if given is not None:
        if not given.exists():
            raise _missing(given)
        return given
    sample = Path(__file__).parents[2] / "tests" / "data" / SAMPLE
    if sample.exists():
        return sample
    raise SettingsError(
        "no data set: pass --data PATH, or set STREAMPROC_DATA_DIR to the folder of online_retail.csv.gz (the UCI data"
        " set 352, https://doi.org/10.24432/C5BW33); a source checkout has a sample of it"
    )


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The file's rows below its head, with their line numbers, decompressed by suffix."""
    try:
        with _opened(path) as file:
            reader = csv.reader(file)
            head = next(reader, [])
            if tuple(head) != COLUMNS:
                raise SettingsError(f"{path}: the first line is {','.join(head)!r} instead of {','.join(COLUMNS)!r}")
            for row in reader:
                yield reader.line_num, row
    except FileNotFoundError as error:
        raise _missing(path) from error
    except (OSError, EOFError, lzma.LZMAError, zlib.error, csv.Error) as error:
        raise SettingsError(f"{path} cannot be read to its end: {error}") from error


def _missing(path: Path) -> SettingsError:
    return SettingsError(f"{path} does not exist: pass --data PATH or mend STREAMPROC_DATA_DIR")


def _opened(path: Path) -> IO[str]:
    # Only descriptions have more than ASCII, and some copies of the data set have them in another encoding.
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8", errors="replace", newline="")
    if path.suffix == ".xz":
        return lzma.open(path, "rt", encoding="utf-8", errors="replace", newline="")
    return path.open(encoding="utf-8", errors="replace", newline="")


def _as_written(when: datetime) -> str:
    when = when.astimezone(UTC) if when.tzinfo else when
    return when.strftime("%Y-%m-%d %H:%M:%S")
