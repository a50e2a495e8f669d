"""The report as one HTML page that needs nothing else: the plots are SVG, the styles are in it, there is no script."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from importlib.resources import files
from typing import NamedTuple

import jinja2

from streamproc_consumers.audit.commands import lag_texts, share_text
from streamproc_consumers.audit.report import Answered, Report

_WIDTH, _HEIGHT, _LEFT = 600.0, 180.0, 8.0
#: One for a model version and arm; the page's styles name as many.
COLORS = 6


class Mark(NamedTuple):
    """A point of a plot, and its interval."""

    x: float
    y: float
    low: float
    high: float
    text: str


class Series(NamedTuple):
    """What has one color."""

    name: str
    color: int
    marks: list[Mark]

    @property
    def path(self) -> str:
        """The line through the points."""
        return "".join(f"{'L' if index else 'M'}{mark.x:.1f} {mark.y:.1f}" for index, mark in enumerate(self.marks))


class Plot(NamedTuple):
    """Points over ranks or days; upwards from 0."""

    title: str
    most: str
    labels: list[tuple[float, str]]
    series: list[Series]
    joined: bool


def render(report: Report) -> str:
    """The page."""
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    template = environment.from_string(files("streamproc_consumers.audit").joinpath("page.html.j2").read_text("utf-8"))
    return template.render(
        report=report,
        plots=plots(report),
        width=_WIDTH,
        height=_HEIGHT,
        lag_texts=lag_texts,
        share_text=share_text,
    )


def plots(report: Report) -> list[Plot]:
    """Answers by rank, lists, fallbacks and scores by day; none where there is one day, or no archive."""
    found = []
    by_rank = [each for each in report.answered if each.rank]
    for title, name in (
        ("Hit rate by rank", "hit_rate"),
        ("Click-through by rank", "click_through"),
        ("Conversion by rank", "conversion"),
    ):
        if any(getattr(each, name).value for each in by_rank):
            found.append(_by_rank(title, name, by_rank))
    days = sorted({day.day for day in report.days})
    if len(days) > 1:
        figures = (
            ("Lists a day", [(day, float(day.lists), f"{day.lists:,}") for day in report.days]),
            ("Fallbacks a day", [(day, day.fallback_share, f"{day.fallback_share:.2%}") for day in report.days]),
            (
                "Mean probability of the first item a day",
                [(day, day.score, f"{day.score:.4f}") for day in report.days if day.score is not None],
            ),
        )
        for title, rows in figures:
            points: defaultdict[str, list[tuple[str, float, float, float, str]]] = defaultdict(list)
            for day, value, text in rows:
                points[f"{day.model_version}, {day.arm}"].append((day.day, value, value, value, f"{day.day}: {text}"))
            found.append(_plot(title, days, points, joined=True))
    return found


def _by_rank(title: str, name: str, answered: Sequence[Answered]) -> Plot:
    points: defaultdict[str, list[tuple[str, float, float, float, str]]] = defaultdict(list)
    for each in answered:
        share = getattr(each, name)
        if share.value is not None:
            low, high = (share.value if bound is None else bound for bound in (share.low, share.high))
            text = f"rank {each.rank}: {share_text(share)}"
            points[f"{each.model_version}, {each.arm}"].append((str(each.rank), share.value, low, high, text))
    ranks = sorted({each.rank for each in answered})
    return _plot(title, [str(rank) for rank in ranks], points, joined=False)


def _plot(
    title: str, places: list[str], points: dict[str, list[tuple[str, float, float, float, str]]], *, joined: bool
) -> Plot:
    most = max((high for marks in points.values() for *_, high, _ in marks), default=0.0) or 1.0
    step = (_WIDTH - 2 * _LEFT) / max(1, len(places))
    at = {place: _LEFT + (index + 0.5) * step for index, place in enumerate(places)}
    # Series stand beside each other, so that no interval hides another.
    beside = 0.0 if joined else min(10.0, step * 0.6 / max(1, len(points)))
    series = [
        Series(
            name,
            index % COLORS,
            [
                Mark(
                    at[place] + (index - (len(points) - 1) / 2) * beside,
                    _up(value, most),
                    _up(low, most),
                    _up(high, most),
                    text,
                )
                for place, value, low, high, text in marks
            ],
        )
        for index, (name, marks) in enumerate(sorted(points.items()))
    ]
    shown = max(1, len(places) // 8)
    labels = [(at[place], place) for index, place in enumerate(places) if index % shown == 0]
    return Plot(title, f"{most:,.0f}" if most > 1 else f"{most:.2%}", labels, series, joined)


def _up(value: float, most: float) -> float:
    return _HEIGHT * (1 - value / most)
