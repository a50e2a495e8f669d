from __future__ import annotations

from datetime import datetime

from streamproc_models.bundle import Bundle
from streamproc_models.items import Item
from streamproc_models.related import related
from streamproc_models.training import TrainingSettings, learn
from streamproc_producers.events import CartEvent


def test_what_is_bought_with_an_item_is_related_to_it(bundle: Bundle) -> None:
    found = related(bundle, "i05", 8)
    tables = bundle.catalogue.generators[0].arrays()["neighbours"][bundle.catalogue.codes["i05"]]
    assert [item.item_id for item in found] == [bundle.catalogue.ids[code] for code in tables[:8]]
    assert "i05" not in {item.item_id for item in found}
    assert [item.rank for item in found] == list(range(1, 9))
    assert {item.source for item in found} == {"covisit"}
    assert 1 >= found[0].probability > found[-1].probability > 0


def test_an_item_that_the_bundle_does_not_know_gets_the_popular_ones_labelled(bundle: Bundle) -> None:
    found = related(bundle, "unknown", 4)
    assert [item.item_id for item in found] == bundle.catalogue.ids[:4]
    assert {(item.source, item.probability) for item in found} == {("popular", 0.0)}


def test_popular_items_fill_what_the_links_leave_open(bundle: Bundle) -> None:
    found = related(bundle, "i05", 39)
    assert len({item.item_id for item in found}) == 39
    assert found[-1].source == "popular"


def test_all_generators_of_a_bundle_propose_those_of_category_and_brand_among_them(
    shop_log: list[CartEvent], cut: datetime, shop_items: dict[str, Item]
) -> None:
    def sources(generators: tuple[str, ...], item_id: str) -> dict[str, str]:
        settings = TrainingSettings(generators=generators, trees_max=2, episodes=2)
        found = related(learn(shop_log, cut, items=shop_items, settings=settings), item_id, 40)
        return {item.item_id: item.source for item in found if item.source != "popular"}

    of_brand = [item_id for item_id, item in shop_items.items() if item.brand == shop_items["i09"].brand != ""]
    of_category = [item_id for item_id, item in shop_items.items() if item.category == shop_items["i09"].category]
    assert sources(("category", "brand"), "i09") == {
        **dict.fromkeys(set(of_brand) - {"i09"}, "brand"),
        **dict.fromkeys(set(of_category) - {"i09"}, "category"),
    }
    with_others = sources(("together", "category", "brand"), "i09")
    assert with_others.keys() >= {*of_brand, *of_category} - {"i09"}
    assert "together" in with_others.values()
