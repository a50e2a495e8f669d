"""What a shop tells of its items: read from a file, kept by the bundle, and linked by category and brand."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import msgspec
import numpy as np
import pytest

from streamproc.errors import SettingsError
from streamproc_models import bundle as bundles
from streamproc_models.bundle import CATALOGUE, Bundle, load
from streamproc_models.catalogue import UNKNOWN
from streamproc_models.features import new_state
from streamproc_models.items import Item, named, read_items
from streamproc_models.retrieval.fits import fit_attribute
from streamproc_models.retrieval.links import Links
from streamproc_models.retrieval.steps import Steps
from streamproc_models.scorer import Scorer
from streamproc_models.training import TrainingSettings, learn, train
from streamproc_models.training.recipes import RECIPES
from streamproc_producers.events import CartEvent

DAY = 86_400.0


@pytest.fixture
def csv(tmp_path: Path) -> Path:
    return tmp_path / "items.csv"


def test_a_file_tells_names_category_paths_and_brands(csv: Path) -> None:
    csv.write_text(
        "item_id,name,category,brand\n"
        '1,"Mug, large",Kitchen>  Mugs ,Heartland\n'
        "2,,,\n"
        '3,"Two\nlines",Kitchen, Heartland \n'
        "\n"
        '"4",Lamp, > Home > > Lights,\n'
    )
    assert read_items(csv) == {
        "1": Item("Mug, large", "Kitchen > Mugs", "Heartland"),
        "2": Item(),
        "3": Item("Two\nlines", "Kitchen", "Heartland"),
        "4": Item("Lamp", "Home > Lights", ""),
    }


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("item_id\n1\n", Item()),
        ("brand,item_id\nHeartland,1\n", Item(brand="Heartland")),
        ("\ufeffitem_id,name\n1,Mug\n", Item("Mug")),
        ("item_id, name\r\n1,Mug\r\n", Item("Mug")),
    ],
)
def test_columns_come_in_any_order_and_only_the_id_is_needed(csv: Path, text: str, found: Item) -> None:
    csv.write_text(text, newline="", encoding="utf-8")
    assert read_items(csv) == {"1": found}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", r"items\.csv, line 1: '' does not name the columns: write item_id there"),
        ("85123A,White heart\n", r"items\.csv, line 1: '85123A,White heart' does not name the columns"),
        ("item_id,catgory\n", r"line 1: 'item_id,catgory' does not name the columns"),
        ("item_id,name,name\n", "does not name the columns"),
        ("item_id,name\n1\n", r"line 2: it has 1 cells, the first line names 2, and item_id is '1'; mend or remove"),
        ("item_id,name\n1,Mug,large\n", "line 2: it has 3 cells"),
        ("item_id,name\n1,Mug\n,Mug\n", r"line 3: .* item_id is ''; mend or remove the line"),
        ("item_id,name\n1,Mug\n1,Cup\n", r"line 3: the item '1' is there twice; remove one line"),
        ('item_id,name\n1,"Mug\n', r"items\.csv cannot be read"),
        (b"item_id,name\n1,\xff\n", r"items\.csv cannot be read"),
    ],
)
def test_a_file_that_is_none_is_refused_with_the_line(csv: Path, text: str | bytes, says: str) -> None:
    csv.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(SettingsError, match=says):
        read_items(csv)


def test_a_file_that_is_missing_is_named(csv: Path) -> None:
    with pytest.raises(SettingsError, match=r"items\.csv cannot be read: .*No such file"):
        read_items(csv)


def test_a_bundle_keeps_categories_and_brands(bundle: Bundle, shop_items: dict[str, Item]) -> None:
    catalogue = bundle.catalogue
    for code, item_id in enumerate(catalogue.ids):
        told = shop_items[item_id]
        assert Item(catalogue.names[code], catalogue.categories[code], catalogue.brands[code]) == told
        assert catalogue.category_of(item_id) == told.category
    assert catalogue.category_of("no-such-item") == ""


def test_where_nothing_is_told_the_catalogue_is_stored_as_it_was_before_it_could_be(
    shop_log: list[CartEvent], cut: datetime, tmp_path: Path
) -> None:
    train(shop_log, cut, tmp_path, items=named({"i00": "Nought"}), settings=TrainingSettings(trees_max=2, episodes=2))
    stored = msgspec.msgpack.decode((tmp_path / CATALOGUE).read_bytes())
    assert list(stored) == ["ids", "names", "features", "candidates_max", "proposed_max"]
    loaded = load(tmp_path)
    assert (loaded.catalogue.categories, loaded.catalogue.brands) == ([], [])
    assert loaded.catalogue.category_of("i00") == ""
    assert bundles.FORMAT_VERSION == 2


def test_what_is_told_of_items_changes_no_list_where_no_generator_asks(
    shop_log: list[CartEvent], cut: datetime, shop_items: dict[str, Item]
) -> None:
    names = named({item_id: item.name for item_id, item in shop_items.items()})
    settings = TrainingSettings(trees_max=2, episodes=2)
    told, untold = (learn(shop_log, cut, items=each, settings=settings).model for each in (shop_items, names))
    assert Scorer(told).rank([("new", new_state())]) == Scorer(untold).rank([("new", new_state())])
    assert told.booster is not None
    assert untold.booster is not None
    assert told.booster.trained.save_raw() == untold.booster.trained.save_raw()
    assert not any({"category", "brand"} & {*settings.generators} for settings in RECIPES.values())


# Links.


def table(links: Links) -> dict[int, dict[int, float]]:
    return {
        code: {int(to): float(link) for to, link in zip(row, values, strict=True) if to != UNKNOWN}
        for code, (row, values) in enumerate(zip(links.neighbours, links.links, strict=True))
        if row[0] != UNKNOWN
    }


def bought(codes: list[int], days: list[float], items: int) -> Steps:
    """One user, an item a step."""
    zeros, steps = np.zeros(len(codes), np.int64), np.arange(len(codes))
    return Steps(zeros, steps, np.array(codes, np.int64), np.array(days) * DAY, items)


def test_an_item_is_linked_to_the_others_of_its_value_by_their_share_of_what_is_bought_of_it() -> None:
    steps = bought([0, 0, 0, 1, 1, 2, 4], [0.0] * 7, 6)
    links = table(fit_attribute(steps, ["mugs", "mugs", "mugs", "", "lamps", ""], name="category"))
    assert links == {
        0: pytest.approx({1: 2 / 6, 2: 1 / 6}, rel=2**-11),
        1: pytest.approx({0: 3 / 6, 2: 1 / 6}, rel=2**-11),
        2: pytest.approx({0: 3 / 6, 1: 2 / 6}, rel=2**-11),
    }


def test_what_was_bought_a_half_life_ago_counts_half() -> None:
    steps = bought([0, 0, 1, 2], [0.0, 0.0, 30.0, 30.0], 3)
    links = table(fit_attribute(steps, ["mugs"] * 3, name="category", half_life_days=30.0))
    assert links[2] == pytest.approx({0: 1 / 3, 1: 1 / 3}, rel=2**-11)


def test_only_the_most_bought_are_kept_of_equals_the_more_popular_and_never_the_item_itself() -> None:
    links = table(fit_attribute(bought([0, 1, 2, 3], [0.0] * 4, 4), ["mugs"] * 4, name="brand", width=2))
    assert {code: list(to) for code, to in links.items()} == {0: [1, 2], 1: [0, 2], 2: [0, 1], 3: [0, 1]}


def test_without_attributes_there_are_no_links() -> None:
    assert table(fit_attribute(bought([0, 1], [0.0, 0.0], 2), ["", ""], name="brand")) == {}


def test_the_generators_are_known_by_name_and_propose_what_is_bought_of_the_same_category(
    shop_log: list[CartEvent], cut: datetime, shop_items: dict[str, Item]
) -> None:
    settings = TrainingSettings(generators=("category", "brand"), trees_max=2, episodes=2)
    catalogue = learn(shop_log, cut, items=shop_items, settings=settings).catalogue
    assert catalogue.generator_names == ("category", "brand")
    for generator, values in zip(catalogue.generators, (catalogue.categories, catalogue.brands), strict=True):
        assert isinstance(generator, Links)
        found = table(generator)
        assert all(values[code] == values[to] != "" for code, others in found.items() for to in others)
        shared = {code for code, value in enumerate(values) if value and values.count(value) > 1}
        assert found.keys() == shared
