"""Real invoices as events, and every kind of dirt in them."""

import gzip
import lzma
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from streamproc.errors import SettingsError
from streamproc_producers.events import CartEvent, new_event_id
from streamproc_producers.retail import COLUMNS, Dirt, RetailLog, default_data_path, item_names, stable_event_id

HEAD = ",".join(COLUMNS)
LANTERN = "536365,71053,WHITE METAL LANTERN,6,2010-12-01 08:26:00,3.39,17850.0,United Kingdom"
HEART = "536365,85123A,WHITE HANGING HEART,2,2010-12-01 08:26:00,2.55,17850.0,United Kingdom"
Written = Callable[..., Path]


@pytest.fixture
def written(tmp_path: Path) -> Written:
    """A data set of these lines."""

    def write(*lines: str, head: str = HEAD) -> Path:
        path = tmp_path / "retail.csv"
        path.write_text("\n".join((head, *lines)) + "\n", encoding="utf-8")
        return path

    return write


def shown(events: list[CartEvent]) -> list[tuple[str, str, int | None]]:
    return [(event.event_type.value, event.item_id, event.quantity) for event in events]


def test_an_invoice_is_put_into_the_cart_line_by_line_and_then_bought(written: Written) -> None:
    events = list(RetailLog(written(LANTERN, HEART)))
    assert shown(events) == [
        ("add_to_cart", "71053", 6),
        ("add_to_cart", "85123A", 2),
        ("purchase", "71053", 6),
        ("purchase", "85123A", 2),
    ]
    assert {event.user_id for event in events} == {"17850"}
    assert {event.ts for event in events} == {datetime(2010, 12, 1, 8, 26, tzinfo=UTC)}
    assert [event.order_id for event in events] == [None, None, "536365", "536365"]
    assert [event.price for event in events] == [3.39, 2.55, 3.39, 2.55]


def test_an_invoice_over_two_minutes_is_bought_in_the_second(written: Written) -> None:
    events = list(RetailLog(written(LANTERN, HEART.replace("08:26", "08:27"))))
    assert [event.ts.minute for event in events] == [26, 27, 27, 27]


def test_a_cancellation_takes_out_of_the_cart(written: Written) -> None:
    line = "C536379,22632,HAND WARMER,-3,2010-12-01 09:41:00,1.85,14527.0,United Kingdom"
    [event] = RetailLog(written(line))
    assert (event.event_type, event.user_id, event.item_id, event.quantity) == ("remove_from_cart", "14527", "22632", 3)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (HEART.replace("17850.0", ""), Dirt.NO_CUSTOMER),
        (HEART.replace("85123A", "POST"), Dirt.NOT_A_PRODUCT),
        (HEART.replace("85123A", "BANK CHARGES"), Dirt.NOT_A_PRODUCT),
        (HEART.replace(",2,", ",0,"), Dirt.QUANTITY),
        (HEART.replace(",2,", ",-2,"), Dirt.QUANTITY),
        (HEART.replace("536365", "C536365"), Dirt.QUANTITY),
        (HEART.replace("2.55", "0.0"), Dirt.PRICE),
        (HEART.replace("2.55", "-2.55"), Dirt.PRICE),
        (LANTERN, Dirt.DUPLICATE),
    ],
)
def test_a_line_that_is_no_shopping_is_counted_by_its_reason(written: Written, line: str, reason: Dirt) -> None:
    log = RetailLog(written(LANTERN, line))
    assert shown(list(log)) == [("add_to_cart", "71053", 6), ("purchase", "71053", 6)]
    assert (log.lines, log.dirty, log.unreadable) == (2, {reason: 1}, [])


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (HEART.replace(",2,", ",two,"), "line 3: Quantity is 'two'"),
        (HEART.replace("2.55", "free"), "line 3: UnitPrice is 'free'"),
        (HEART.replace("2.55", "nan"), "line 3: UnitPrice is 'nan'"),
        (HEART.replace("2010-12-01 08:26:00", "12/1/2010 8:26"), "line 3: InvoiceDate is '12/1/2010 8:26'"),
        (HEART + ",more", "line 3: 9 columns instead of 8"),
        ("536365", "line 3: 1 columns instead of 8"),
    ],
)
def test_a_line_that_cannot_be_read_is_counted_and_named(written: Written, line: str, says: str) -> None:
    log = RetailLog(written(LANTERN, line))
    assert len(list(log)) == 2
    assert log.dirty == {Dirt.UNREADABLE: 1}
    assert log.unreadable == [says]


def test_a_line_without_a_description_is_used(written: Written) -> None:
    assert len(list(RetailLog(written(HEART.replace("WHITE HANGING HEART", ""))))) == 2


def test_the_same_lines_have_the_same_ids_on_every_read_and_no_two_events_share_one(written: Written) -> None:
    # The last line is the data set's one invoice that goes on after another one.
    path = written(LANTERN, HEART, LANTERN.replace("536365", "536366"), HEART.replace(",2,", ",1,"))
    first, second = list(RetailLog(path)), list(RetailLog(path))
    assert first == second
    assert len({event.event_id for event in first}) == len(first) == 8
    assert first[0].event_id == stable_event_id("536365", 1, first[0].event_type)


def test_ids_can_be_new_on_every_read(written: Written) -> None:
    log = RetailLog(written(LANTERN), event_ids=lambda *_: new_event_id())
    assert {event.event_id for event in log}.isdisjoint(event.event_id for event in log)


def test_a_part_of_the_time_has_the_ids_that_it_has_in_the_whole(written: Written) -> None:
    path = written(LANTERN, HEART.replace("08:26", "08:27"), LANTERN.replace("365", "366").replace("08:26", "09:00"))
    since = datetime(2010, 12, 1, 8, 27, tzinfo=UTC)
    log = RetailLog(path, since=since, until=datetime(2010, 12, 1, 9, 0, tzinfo=UTC))
    part = list(log)
    assert shown(part) == [("add_to_cart", "85123A", 2), ("purchase", "85123A", 2)]
    assert {event.event_id for event in part} < {event.event_id for event in RetailLog(path)}
    assert log.lines == 1


def test_lines_out_of_order_are_refused_with_what_to_do(written: Written) -> None:
    with pytest.raises(SettingsError, match=r"536365.*sort the file by InvoiceDate"):
        list(RetailLog(written(LANTERN.replace("365", "364").replace("08:26", "09:00"), HEART)))


def test_a_file_with_other_columns_is_refused(written: Written) -> None:
    with pytest.raises(SettingsError, match="InvoiceNo,StockCode"):
        list(RetailLog(written(LANTERN, head="Invoice,StockCode")))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"nothing\.csv does not exist"):
        list(RetailLog(tmp_path / "nothing.csv"))


def test_files_are_decompressed_by_suffix_and_a_cut_one_is_named(written: Written, tmp_path: Path) -> None:
    plain = written(LANTERN, HEART).read_bytes()
    for suffix, compressed in ((".gz", gzip.compress(plain)), (".xz", lzma.compress(plain))):
        path = tmp_path / f"retail.csv{suffix}"
        path.write_bytes(compressed)
        assert len(list(RetailLog(path))) == 4
        path.write_bytes(compressed[:-20])
        with pytest.raises(SettingsError, match="cannot be read to its end"):
            list(RetailLog(path))
        path.write_bytes(b"no such format")
        with pytest.raises(SettingsError, match="cannot be read to its end"):
            list(RetailLog(path))


def test_an_items_name_is_its_most_frequent_description_and_no_note_of_the_warehouse(written: Written) -> None:
    path = written(
        HEART.replace("WHITE HANGING HEART", "HEART, WHITE").replace("HEART, WHITE", '"HEART, WHITE"'),
        HEART,
        HEART,
        *[HEART.replace("WHITE HANGING HEART", "damaged").replace("2.55", "0.0")] * 5,
        HEART.replace("85123A", "POST"),
        HEART.replace("85123A", "22632").replace("WHITE HANGING HEART", ""),
    )
    assert item_names(path) == {"85123A": "WHITE HANGING HEART"}


def test_the_data_is_as_given_or_in_the_folder_of_the_variable_or_the_sample(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    mine, shared = tmp_path / "mine.csv", tmp_path / "online_retail.csv.gz"
    mine.touch()
    monkeypatch.setenv("STREAMPROC_DATA_DIR", str(tmp_path))
    assert default_data_path(mine) == mine
    with pytest.raises(SettingsError, match="mend STREAMPROC_DATA_DIR"):
        default_data_path()
    shared.touch()
    assert default_data_path() == shared
    monkeypatch.delenv("STREAMPROC_DATA_DIR")
    assert default_data_path().name == "online_retail_2011-08_2011-11.csv.xz"
    monkeypatch.setattr("streamproc_producers.retail.SAMPLE", "gone.csv.xz")
    with pytest.raises(SettingsError, match="--data PATH, or set STREAMPROC_DATA_DIR"):
        default_data_path()


def test_the_sample_is_small_and_holds_four_months_with_known_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STREAMPROC_DATA_DIR", raising=False)
    path = default_data_path()
    assert path.stat().st_size <= 1_500_000
    log = RetailLog(path)
    last = datetime.min.replace(tzinfo=UTC)
    events = 0
    for event in log:
        assert event.ts >= last
        last = event.ts
        events += 1
    assert (log.lines, events) == (230_963, 358_948)
    assert log.dirty == {Dirt.DUPLICATE: 2726, Dirt.NO_CUSTOMER: 46_174, Dirt.NOT_A_PRODUCT: 839, Dirt.PRICE: 18}
    assert log.lines == sum(log.dirty.values()) + (177_742 + 3464)
    assert last < datetime(2011, 12, 1, tzinfo=UTC)
