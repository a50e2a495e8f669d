from __future__ import annotations

from pathlib import Path

from streamproc_models.features.page import page


def test_the_page_of_the_features_is_what_the_declaration_gives() -> None:
    written = Path(__file__).parents[3] / "docs" / "features.md"
    assert written.read_text(encoding="utf-8") == page(), "run: python -m streamproc_models.features.page"
