from __future__ import annotations

from streamproc_models.bundle import Bundle
from streamproc_models.related import related


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
