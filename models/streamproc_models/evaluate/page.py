"""The report as one HTML page that needs nothing else: the plots are SVG, the styles are in it, there is no script.

The one file that needs jinja2, which ``streamproc-models[evaluate]`` brings.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from typing import Any, NamedTuple

import jinja2

from streamproc_models.evaluate.metrics import KS
from streamproc_models.evaluate.report import MODEL, Estimate, Report, headlines
from streamproc_models.evaluate.segments import ALL
from streamproc_models.evaluate.wording import headed, named

#: Length of the longest bar, in the units of the SVG.
_LONGEST = 380.0
#: Side of the square of the calibration plot.
_SIDE = 240.0


class _Bar(NamedTuple):
    label: str
    text: str
    length: float
    #: Where the interval's line begins and ends; None without one.
    low: float | None = None
    high: float | None = None
    is_model: bool = False


class _Plot(NamedTuple):
    title: str
    bars: list[_Bar]


class _Point(NamedTuple):
    x: float
    y: float
    text: str


def render(reports: Sequence[Report]) -> str:
    """The page of these reports."""
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    template = environment.from_string(files("streamproc_models.evaluate").joinpath("page.html.j2").read_text("utf-8"))
    return template.render(reports=[_view(report) for report in reports])


def _view(report: Report) -> Mapping[str, Any]:
    metrics = list(next(iter(report.rankings.values())).segments[ALL])
    return {
        "report": report,
        "cards": _cards(report),
        "plots": [_comparison(report), _segments(report), *_candidates(report)],
        "calibration": _calibration(report),
        "side": _SIDE,
        "k": KS[0],
        "metrics": [headed(metric) for metric in metrics],
        "rows": [
            (
                named(name),
                name == MODEL,
                [_cell(judged.segments[ALL][metric]) for metric in metrics],
                f"{judged.spread.coverage:.1%}",
                f"{judged.spread.novelty:.1f}",
            )
            for name, judged in report.rankings.items()
        ],
        "behind": [
            (named(name), [_cell(judged.behind[metric], "+.4f") for metric in metrics])
            for name, judged in report.rankings.items()
            if judged.behind
        ],
    }


def _cell(estimate: Estimate, form: str = ".4f") -> tuple[str, str]:
    return format(estimate.value, form), f"{estimate.low:{form}} to {estimate.high:{form}}"


def _cards(report: Report) -> list[dict[str, str]]:
    cards = []
    for figure in headlines(report):
        best = report.best_baseline(figure.metric, figure.segment)
        ranking = MODEL if MODEL in report.rankings else best
        value = report.value(ranking, figure.metric, figure.segment)
        if math.isnan(value):
            continue
        baseline = report.value(best, figure.metric, figure.segment)
        cards.append(
            {
                "title": headed(figure.metric) + ("" if figure.segment == ALL else f", {named(figure.segment)}"),
                "value": f"{value:.1%}" if figure.scale > 1 else f"{value:.4f}",
                "beside": f"{named(best)}: " + (f"{baseline:.1%}" if figure.scale > 1 else f"{baseline:.4f}"),
            }
        )
    return cards


def _bars(title: str, rows: Iterable[tuple[str, Estimate, bool]]) -> _Plot:
    shown = list(rows)
    scale = _LONGEST / max([estimate.high for _, estimate, _ in shown if estimate.high > 0], default=1.0)
    return _Plot(
        title,
        [
            _Bar(
                label,
                f"{each.value:.3f}",
                each.value * scale,
                None if each.low == each.high else each.low * scale,
                None if each.low == each.high else each.high * scale,
                is_model,
            )
            for label, each, is_model in shown
        ],
    )


def _comparison(report: Report) -> _Plot:
    metric = headlines(report)[0].metric
    rows = ((named(name), judged.segments[ALL][metric], name == MODEL) for name, judged in report.rankings.items())
    return _bars(f"{headed(metric)} of all rankings", rows)


def _segments(report: Report) -> _Plot:
    metric = f"recall_at_{KS[0]}"
    rows: list[tuple[str, Estimate, bool]] = []
    for segment, size in report.sizes.items():
        names = [*([MODEL] if MODEL in report.rankings else []), report.best_baseline(metric, segment)]
        for name in names:
            estimate = report.rankings[name].segments.get(segment, {}).get(metric)
            if estimate is not None:
                label = f"{named(segment)} ({size:,})" if name == names[0] else named(name)
                rows.append((label, estimate, name == MODEL))
    return _bars(f"{headed(metric)} by segment (targets), and of the best baseline there", rows)


def _candidates(report: Report) -> list[_Plot]:
    rows = [
        (f"{named(source)} ({each.a_user:.0f} a user)", Estimate(each.recall, each.recall, each.recall), True)
        for source, each in report.candidates.items()
    ]
    return [_bars("Recall of the candidates", rows)] if rows else []


def _calibration(report: Report) -> Mapping[str, Any] | None:
    found = report.calibration
    if found is None:
        return None
    most = max([max(each.predicted, each.observed) for each in found.bins]) or 1.0
    points = [
        _Point(
            each.predicted / most * _SIDE,
            _SIDE - each.observed / most * _SIDE,
            f"{each.predicted:.4f} foretold, {each.observed:.4f} came ({each.places:,} places)",
        )
        for each in found.bins
    ]
    ratio = "" if found.predicted_by_observed is None else f"; {found.predicted_by_observed:.2f} foretold for each hit"
    return {"points": points, "most": f"{most:.3f}", "text": f"expected calibration error {found.ece:.4f}{ratio}"}
