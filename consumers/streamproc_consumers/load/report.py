"""What a run came to: for a terminal, for machines, and as one HTML page that needs nothing else."""

from __future__ import annotations

import html
from importlib.resources import files
from string import Template

import msgspec
from rich.console import Console
from rich.table import Table

from streamproc_consumers.load.cost import Line
from streamproc_consumers.load.latency import Latencies, Summary

#: Upper bounds of the histogram, milliseconds: each 1.25 times the one before.
_BOUNDS_MS = [0.0, *(round(1.25**step, 4) for step in range(62))]
_WIDTH, _HEIGHT = 640.0, 160.0


class Second(msgspec.Struct, frozen=True):
    """One second of the run: the events that were due in it, and the median and the maximum of their latencies."""

    second: int
    events: int
    ms_p50: float
    ms_max: float


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What is written by ``--json``: the unit last in each name. Times on the clock are ISO 8601."""

    started_at: str
    seconds: float
    stopped: bool
    stream: str
    shape: str
    rate: float
    ramp_seconds: float
    users: int
    seed: int
    #: Events that were meant to be sent until the end of the run, and what became of them.
    events_due: int
    events_put: int
    events_acknowledged: int
    events_failed: dict[str, int]
    #: The latest that the generator put an event after its intended time: above some ms the load machine is too slow.
    late_ms_max: float
    event_bytes: float
    recommendations: int
    recommendation_bytes: float | None
    #: Acknowledged events that no recommendation was seen for; None where none were looked for.
    events_without_recommendation: int | None
    #: From the intended time until Kinesis acknowledged.
    put_ms: Summary | None
    #: From the intended time until the recommendation; ``recommendation_means`` says until what.
    recommendation_ms: Summary | None
    recommendation_means: str | None
    prices_date: str
    prices_region: str
    dollars_per_million_events: float
    cost_lines: list[CostLine]
    #: One line a second.
    timeline: list[Second]
    histogram_ms: list[Bucket]


class CostLine(msgspec.Struct, frozen=True):
    """A service's part of the estimate."""

    what: str
    dollars_per_million_events: float
    note: str


class Bucket(msgspec.Struct, frozen=True):
    """Events with a latency from the bound before up to this one."""

    to_ms: float
    events: int


def buckets(latencies: Latencies) -> list[Bucket]:
    """The histogram, without its empty ends."""
    counts = latencies.counts(_BOUNDS_MS)
    full = [index for index, count in enumerate(counts) if count]
    if not full:
        return []
    return [Bucket(_BOUNDS_MS[index + 1], counts[index]) for index in range(full[0], full[-1] + 1)]


def cost_lines(lines: list[Line], rate: float) -> list[CostLine]:
    """The bill of an hour as dollars for a million events."""
    events = rate * 3600 / 1e6
    return [CostLine(line.what, round(line.dollars_per_hour / events, 4), line.note) for line in lines]


def show(report: Report, console: Console) -> None:
    """Print it."""
    due, put, failed = report.events_due, report.events_put, sum(report.events_failed.values())
    stopped = ", stopped before its end" if report.stopped else ""
    console.print(
        f"{report.shape}, {report.rate:g} events/s, {report.seconds:.0f} s{stopped}: {put:,} of {due:,} events put,"
        f" {report.events_acknowledged:,} acknowledged, {failed:,} failed; put up to {report.late_ms_max:,.1f} ms late",
        soft_wrap=True,
    )
    for code, count in report.events_failed.items():
        console.print(f"  failed: {count:,} {code}")
    table = Table("latency, ms", box=None, pad_edge=False)
    for name in ("p50", "p90", "p95", "p99", "p99.9", "max", "mean", "events"):
        table.add_column(name, justify="right")
    for what, summary in (
        ("acknowledged", report.put_ms),
        ("recommended", report.recommendation_ms),
    ):
        if summary is not None:
            of = (summary.p50, summary.p90, summary.p95, summary.p99, summary.p99_9, summary.max, summary.mean)
            table.add_row(what, *(f"{value:,.1f}" for value in of), f"{summary.count:,}")
    console.print(table)
    if report.recommendation_means:
        console.print(f"recommended: {report.recommendation_means}", soft_wrap=True)
    if report.events_without_recommendation:
        console.print(f"[yellow]no recommendation was seen for {report.events_without_recommendation:,} events[/]")
    show_cost(report.cost_lines, report.dollars_per_million_events, report.prices_date, report.prices_region, console)


def show_cost(lines: list[CostLine], total: float, date: str, region: str, console: Console) -> None:
    """Print the estimate."""
    table = Table("estimate", f"$ per million events ({region}, prices of {date})", "", box=None, pad_edge=False)
    table.columns[1].justify = "right"
    for line in lines:
        table.add_row(line.what, f"{line.dollars_per_million_events:,.3f}", line.note)
    table.add_row("all", f"{total:,.3f}", "for as long as it runs at this rate")
    console.print(table)


def page(report: Report) -> str:
    """The page: no scripts, no fonts, no images from elsewhere."""
    template = Template(files("streamproc_consumers.load").joinpath("page.html").read_text("utf-8"))
    return template.substitute(
        title=html.escape(f"{report.shape}, {report.rate:g} events/s on {report.stream}"),
        started=html.escape(report.started_at),
        sentence=html.escape(
            f"{report.events_put:,} of {report.events_due:,} events put in {report.seconds:.0f} s,"
            f" {report.events_acknowledged:,} acknowledged, {sum(report.events_failed.values()):,} failed;"
            f" the latest {report.late_ms_max:,.1f} ms after its intended time."
            + (" The run was stopped before its end." if report.stopped else "")
        ),
        means=html.escape(report.recommendation_means or "no recommendations were looked for"),
        latencies=_latency_rows(report),
        histogram=_histogram(report.histogram_ms),
        rates=_timeline([(second.second, float(second.events)) for second in report.timeline], "events"),
        medians=_timeline([(s.second, s.ms_p50) for s in report.timeline], "ms"),
        prices=html.escape(f"{report.prices_region}, prices of {report.prices_date}"),
        costs="".join(
            f"<tr><td>{html.escape(line.what)}</td><td>{line.dollars_per_million_events:,.3f}</td>"
            f"<td>{html.escape(line.note)}</td></tr>"
            for line in report.cost_lines
        )
        + f"<tr><td>all</td><td>{report.dollars_per_million_events:,.3f}</td><td></td></tr>",
    )


def _latency_rows(report: Report) -> str:
    rows = ""
    for what, summary in (("put → acknowledged", report.put_ms), ("event → recommendation", report.recommendation_ms)):
        if summary is not None:
            of = (summary.p50, summary.p90, summary.p95, summary.p99, summary.p99_9, summary.max)
            cells = "".join(f"<td>{value:,.1f}</td>" for value in of)
            rows += f"<tr><td>{what}</td>{cells}<td>{summary.count:,}</td></tr>"
    return rows


def _histogram(bars: list[Bucket]) -> str:
    if not bars:
        return "<p>nothing was measured</p>"
    highest = max(bar.events for bar in bars)
    width = _WIDTH / len(bars)
    shapes = ""
    for index, bar in enumerate(bars):
        height = bar.events / highest * _HEIGHT
        shapes += (
            f'<rect x="{index * width:.1f}" y="{_HEIGHT - height:.1f}" width="{max(1.0, width - 1):.1f}"'
            f' height="{height:.1f}"><title>up to {bar.to_ms:,.1f} ms: {bar.events:,} events</title></rect>'
        )
    marks = {0, len(bars) // 4, len(bars) // 2, len(bars) * 3 // 4, len(bars) - 1}
    for index in sorted(marks):
        shapes += f'<text x="{(index + 0.5) * width:.1f}" y="{_HEIGHT + 16:.0f}">{bars[index].to_ms:,.0f}</text>'
    return _svg(shapes, "events by latency in ms")


def _timeline(points: list[tuple[int, float]], unit: str) -> str:
    if len(points) < 2:
        return "<p>too short a run to draw</p>"
    last, highest = max(1, points[-1][0]), max(value for _, value in points) or 1.0
    line = " ".join(f"{at / last * _WIDTH:.1f},{_HEIGHT - value / highest * _HEIGHT:.1f}" for at, value in points)
    labels = (
        f'<text class="first" x="0" y="{_HEIGHT + 16:.0f}">0 s, top {highest:,.0f} {unit}</text>'
        f'<text class="last" x="{_WIDTH:.0f}" y="{_HEIGHT + 16:.0f}">{last} s</text>'
    )
    return _svg(f'<polyline points="{line}"/>{labels}', f"{unit} over the seconds of the run")


def _svg(shapes: str, label: str) -> str:
    box = f"0 -8 {_WIDTH:.0f} {_HEIGHT + 32:.0f}"
    return f'<svg viewBox="{box}" role="img" aria-label="{html.escape(label)}">{shapes}</svg>'
