"""Small files of each form, and what becomes of them."""

from __future__ import annotations

import gzip
import json
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest

from streamproc.errors import SettingsError
from streamproc_models.datasets import DATASETS, Dataset, TemporalSplit, jdata_events, open_dataset
from streamproc_models.datasets.base import DAY
from streamproc_models.datasets.diginetica import TEST, TRAIN, VIEW_SECONDS
from streamproc_models.datasets.jdata import FILES, HEAD
from streamproc_models.datasets.retail import FILE
from streamproc_models.datasets.tafeng import BASKET_DAYS, FUTURE, HISTORY
from streamproc_producers.events import CartEvent, EventType
from streamproc_producers.retail import COLUMNS


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode()))


def invoice(number: int, when: str, customer: int, item: int = 10_001) -> str:
    return f"{number},{item},THING,1,{when}:00,1.5,{customer}.0,United Kingdom"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """All sets, a few lines of each."""
    history = {
        "7": [[-1], [1, 2], [3], [2, 4], [-1]],
        "8": [[-1], [5], [1], [-1]],
        "9": [[-1], [6], [-1]],
    }
    write(tmp_path / HISTORY, json.dumps(history))
    future = {"7": [[-1], [4, 5, 4], [-1]], "8": [[-1], [99], [-1]], "9": [[-1], [6, 1], [-1]]}
    write(tmp_path / FUTURE, json.dumps(future))
    write(tmp_path / TRAIN, "1 2 3\n4 5\n6 7 8\n9 1\n")
    write(tmp_path / TEST, "2 3\t4\n2\t3\n")
    lines = [
        invoice(1, "2011-09-01 10:00", 100),
        invoice(2, "2011-10-20 10:00", 100, 10_002),
        invoice(3, "2011-11-09 12:50", 200),
        invoice(4, "2011-11-09 12:51", 100, 10_003),
        invoice(5, "2011-11-20 12:00", 100, 10_002),
        invoice(6, "2011-11-21 12:00", 300),
        invoice(7, "2011-12-09 12:50", 200, 10_002),
    ]
    write(tmp_path / FILE, "\n".join([",".join(COLUMNS), *lines]) + "\n")
    actions = [
        "5.0,77,2016-01-31 23:59:02,,1,8,403",
        "5.0,77,2016-01-31 23:59:03,0,6,8,403",
        "5.0,77,2016-01-31 23:59:03,0,6,8,403",
        "5.0,77,2016-01-31 23:59:04,,2,8,403",
        "5.0,77,2016-01-31 23:59:04,,2,8,403",
        "5.0,77,2016-01-31 23:59:05,,3,8,403",
        "6,78,2016-01-31 23:59:06,,5,8,403",
        "6,78,2016-01-31 23:59:07,,4,8,403",
    ]
    for file in FILES:
        write(tmp_path / file, "\n".join([HEAD, *actions]) + "\n")
    return tmp_path


def shown(events: list[CartEvent]) -> list[tuple[str, str]]:
    return [(event.user_id, event.item_id) for event in events]


@pytest.mark.parametrize("inner", [False, True])
@pytest.mark.parametrize("name", [*DATASETS])
def test_the_log_is_in_the_order_of_time_and_ends_before_everything_that_is_held_out(
    folder: Path, name: str, inner: bool
) -> None:
    dataset = open_dataset(name, folder, inner=inner)
    times = [event.at for event in dataset.events()]
    assert all(earlier <= later for earlier, later in pairwise(times))
    assert times[-1] < dataset.ends_at
    last: dict[str, float] = {}
    for event in dataset.prefixes():
        assert event.at >= last.get(event.user_id, dataset.ends_at)
        last[event.user_id] = event.at
    assert last.keys().isdisjoint(event.user_id for event in dataset.events())


@pytest.mark.parametrize("inner", [False, True])
@pytest.mark.parametrize("name", [*DATASETS])
def test_every_read_gives_the_same_and_no_event_id_twice(folder: Path, name: str, inner: bool) -> None:
    dataset = open_dataset(name, folder, inner=inner)
    events = [*dataset.events(), *dataset.prefixes()]
    assert events == [*dataset.events(), *dataset.prefixes()]
    assert dataset.targets() == open_dataset(name, folder, inner=inner).targets()
    assert len({event.event_id for event in events}) == len(events)


@pytest.mark.parametrize("name", [*DATASETS])
def test_a_user_has_one_target_and_events_before_it(folder: Path, name: str) -> None:
    for dataset in (open_dataset(name, folder), open_dataset(name, folder, inner=True)):
        users = [target.user_id for target in dataset.targets()]
        assert users
        assert len(users) == len(set(users))
        known = {event.user_id for event in [*dataset.events(), *dataset.prefixes()]}
        assert known.issuperset(users)
        assert all(target.items for target in dataset.targets())


def test_a_basket_is_an_order_and_the_last_baskets_of_all_users_are_of_one_day(folder: Path) -> None:
    dataset = open_dataset("tafeng", folder)
    events = list(dataset.events())
    assert shown(events) == [
        ("7", "1"), ("7", "2"), ("7", "3"), ("8", "5"), ("7", "2"), ("7", "4"), ("8", "1"), ("9", "6"),
    ]  # fmt: skip
    assert {event.event_type for event in events} == {EventType.PURCHASE}
    assert [event.order_id for event in events] == ["7/1", "7/1", "7/2", "8/1", "7/3", "7/3", "8/2", "9/1"]
    days_ago = [round((dataset.ends_at - event.at) / DAY) for event in events]
    assert days_ago == [BASKET_DAYS * ago for ago in (3, 3, 2, 2, 1, 1, 1, 1)]


def test_the_next_basket_is_the_target_with_each_item_once(folder: Path) -> None:
    targets = open_dataset("tafeng", folder).targets()
    assert [(target.user_id, target.items) for target in targets] == [
        ("7", ("4", "5")),
        ("8", ("99",)),
        ("9", ("6", "1")),
    ]


def test_the_inner_next_basket_is_the_last_of_the_history_and_the_future_is_not_read(folder: Path) -> None:
    (folder / FUTURE).unlink()
    dataset = open_dataset("tafeng", folder, inner=True)
    assert [(target.user_id, target.items) for target in dataset.targets()] == [("7", ("2", "4")), ("8", ("1",))]
    assert shown(list(dataset.events())) == [("7", "1"), ("7", "2"), ("7", "3"), ("8", "5")]


def test_a_session_is_a_user_who_views_its_items(folder: Path) -> None:
    events = list(open_dataset("diginetica", folder).events())
    assert shown(events)[:5] == [("session-1", item) for item in "123"] + [("session-2", item) for item in "45"]
    assert {event.event_type for event in events} == {EventType.VIEW}
    assert {later.at - earlier.at for earlier, later in pairwise(events)} == {VIEW_SECONDS}


def test_a_test_prefix_is_a_user_of_its_own(folder: Path) -> None:
    dataset = open_dataset("diginetica", folder)
    assert shown(list(dataset.prefixes())) == [("row-1", "2"), ("row-1", "3"), ("row-2", "2")]
    assert [(target.user_id, target.items) for target in dataset.targets()] == [("row-1", ("4",)), ("row-2", ("3",))]


def test_the_inner_test_is_all_prefixes_of_the_last_sessions_and_the_test_is_not_read(folder: Path) -> None:
    (folder / TEST).unlink()
    dataset = open_dataset("diginetica", folder, inner=True)
    assert {event.user_id for event in dataset.events()} == {"session-1", "session-2"}
    assert [target.items for target in dataset.targets()] == [("8",), ("7",), ("1",)]
    assert shown(list(dataset.prefixes())) == [("row-1", "6"), ("row-1", "7"), ("row-2", "6"), ("row-3", "9")]


def test_the_target_of_a_shopper_is_all_that_they_buy_in_the_days_after_the_cut(folder: Path) -> None:
    dataset = open_dataset("online-retail", folder)
    # The last minute before the cut is history, the last minute of the file is in the target.
    targets = {target.user_id: target.items for target in dataset.targets()}
    assert targets == {"100": ("10003", "10002"), "200": ("10002",)}
    assert {event.user_id for event in dataset.events()} == {"100", "200"}


def test_the_inner_cut_is_thirty_days_earlier_and_reads_nothing_of_the_last_thirty(folder: Path) -> None:
    dataset = open_dataset("online-retail", folder, inner=True)
    assert [(target.user_id, target.items) for target in dataset.targets()] == [("100", ("10002",))]
    assert shown([event for event in dataset.events() if event.event_type is EventType.PURCHASE]) == [("100", "10001")]


def test_a_cut_with_nobody_to_judge_is_refused(folder: Path) -> None:
    events = list(open_dataset("online-retail", folder).events())
    split = TemporalSplit("shop", lambda: events, datetime(2012, 5, 1, tzinfo=UTC))
    with pytest.raises(SettingsError, match=r"shop: nobody who bought before 2012-05-01.* another --cut"):
        split.targets()


def test_actions_become_events_without_clicks_and_without_exact_duplicates(folder: Path) -> None:
    events = list(jdata_events(folder))
    assert [(event.event_type.value, event.user_id, event.item_id) for event in events[: len(events) // 2]] == [
        ("view", "5", "77"),
        ("add_to_cart", "5", "77"),
        ("remove_from_cart", "5", "77"),
        ("view", "6", "78"),
        ("purchase", "6", "78"),
    ]
    assert events[0].ts == datetime(2016, 1, 31, 23, 59, 2, tzinfo=UTC)


def read_all(dataset: Dataset) -> None:
    list(dataset.events())
    list(dataset.prefixes())
    dataset.targets()


@pytest.mark.parametrize(
    ("name", "file"),
    [("tafeng", HISTORY), ("tafeng", FUTURE), ("diginetica", TRAIN), ("diginetica", TEST), ("online-retail", FILE)],
)
def test_a_missing_file_is_named(folder: Path, name: str, file: str) -> None:
    (folder / file).unlink()
    with pytest.raises(SettingsError, match=rf"{file} does not exist: pass --data .* or mend STREAMPROC_DATA_DIR"):
        read_all(open_dataset(name, folder))


def test_without_a_folder_the_variable_is_named(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.delenv("STREAMPROC_DATA_DIR", raising=False)
    with pytest.raises(SettingsError, match="pass --data DIR, or set STREAMPROC_DATA_DIR"):
        open_dataset("tafeng")
    monkeypatch.setenv("STREAMPROC_DATA_DIR", str(folder))
    assert open_dataset("tafeng").targets()


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        (HISTORY, "[1, 2]", "is not a map of users to lists of baskets"),
        (TRAIN, "1 2\n3 x\n", "line 2: '3 x' is not item ids"),
        (TEST, "1 2 3\n", "line 1: '1 2 3' is not a prefix, a tab, and the next item"),
        (TEST, "1 2\t3 4\n", "line 1: .* is not a prefix, a tab, and the next item"),
    ],
)
def test_a_file_of_another_form_is_named_with_its_line(folder: Path, file: str, text: str, said: str) -> None:
    write(folder / file, text)
    with pytest.raises(SettingsError, match=rf"{file}.* ?{said}"):
        read_all(open_dataset(file.split("/")[0], folder))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a,b\n", "the first line is 'a,b' instead of 'user_id"),
        (f"{HEAD}\n5,77,2016-01-31 23:59:02,,7,8,403\n", "line 2: .* is not an action"),
        (f"{HEAD}\n5,77,yesterday,,1,8,403\n", "line 2: .* is not an action"),
    ],
)
def test_actions_of_another_form_are_named(folder: Path, text: str, said: str) -> None:
    write(folder / FILES[0], text)
    with pytest.raises(SettingsError, match=said):
        list(jdata_events(folder))


def test_a_file_that_is_cut_short_is_named(folder: Path) -> None:
    whole = (folder / TRAIN).read_bytes()
    (folder / TRAIN).write_bytes(whole[:-4])
    with pytest.raises(SettingsError, match=rf"{TRAIN} cannot be read to its end"):
        read_all(open_dataset("diginetica", folder))


def test_an_event_from_a_clock_that_is_ahead_does_not_end_the_log(folder: Path) -> None:
    events = list(open_dataset("online-retail", folder).events())
    cut = events[-1].ts + timedelta(seconds=1)
    ahead = msgspec.structs.replace(events[0], ts=cut + timedelta(days=400))
    assert list(TemporalSplit("shop", lambda: [ahead, *events], cut).events()) == events
