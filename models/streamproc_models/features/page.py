"""The page that documents the features, from their declaration: ``python -m streamproc_models.features.page``."""

from __future__ import annotations

from streamproc_models.features.fold import FOLD_VERSION
from streamproc_models.features.schema import FEATURES, Feature, Scope, of_generator

_HEAD = """\
# Features

Written by `python -m streamproc_models.features.page > docs/features.md` from the declaration in
`models/streamproc_models/features/schema.py`; a test compares the two.

A bundle's matrix has one float32 row a user and candidate: the columns below in this order, then three for each
generator of the bundle. Times are event times: *now* is the user's latest event. -1 stands for a missing value. Windows
are sawtooth (exact at the head, rounded up to a whole tile at the tail: 5 minutes, 1 hour or 1 day). The bundle's
manifest names the columns and holds a hash over their declarations; a bundle with other columns is not loaded.

Late and out-of-order events are counted by the rules at the head of `features/fold.py`. A removal undoes the cart, not
the interest.

"""
_TITLES = {
    Scope.USER: "Of the user",
    Scope.ITEM: "Of the item, as of the end of the bundle's log",
    Scope.HISTORY: "Of the user and an item of his history",
    Scope.CANDIDATE: "Of the user and the candidate",
}
_UNITS = ((86_400, "d"), (3_600, "h"))


def page() -> str:
    """The page as Markdown."""
    parts = [_HEAD, f"State version (fold version): {FOLD_VERSION}.\n"]
    for scope, title in _TITLES.items():
        parts.append(_table(title, [feature for feature in FEATURES if feature.scope is scope]))
    parts.append(_table("For each generator, here one named `g`", of_generator("g")))
    return "\n".join(parts)


def _table(title: str, features: list[Feature] | tuple[Feature, ...]) -> str:
    rows = [
        f"| `{feature.name}` | {feature.kind} | {_length(feature.seconds)} | {feature.description} |"
        for feature in features
    ]
    head = [f"## {title}", "", "| feature | kind | window or half-life | what it is |", "| --- | --- | --- | --- |"]
    return "\n".join([*head, *rows]) + "\n"


def _length(seconds: int | None) -> str:
    if seconds is None:
        return ""
    length, unit = next((length, unit) for length, unit in _UNITS if seconds % length == 0)
    return f"{seconds // length} {unit}"


if __name__ == "__main__":
    print(page(), end="")  # noqa: T201  # the page is the output
