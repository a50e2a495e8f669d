"""The figures of all runs: flat JSON, a table in Markdown and a plot in SVG."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import msgspec
import redis
import xgboost

from benchmarks.throughput.runner import Run
from benchmarks.throughput.ways import Way
from streamproc_models.booster import scored_by

Figures = dict[str, Any]


class Result(msgspec.Struct):
    """What became of a way."""

    way: Way
    runs: list[Run]
    #: In its first run.
    lists: int = 0
    #: Of the lists that the others wrote, the share of the items that its users see; 1 where they are compared.
    overlap: float = 1.0
    #: Why there are no figures of it, or none of further rounds.
    reason: str = ""

    def median(self, of: Callable[[Run], float]) -> float | None:
        """Over the rounds; None where it was not run or failed."""
        return statistics.median(map(of, self.runs)) if self.runs and not self.reason else None


def rate(run: Run) -> float:
    """Events a CPU second."""
    return run.events / max(run.cpu_s, 1e-9)


#: Name in the JSON -> our way, and what it is divided by. Where that was not run or failed, it is null.
RATIOS = {
    "ratio_to_kclpy_1000": ("ours_1000", "kclpy"),
    "ratio_to_kclpy_5000": ("ours_5000", "kclpy"),
    "ratio_to_kclpy_distinct_1000": ("ours_distinct_1000", "kclpy_distinct"),
    "ratio_to_bytewax_map_1000": ("ours_1000", "bytewax_map_1000"),
    "ratio_to_bytewax_user_1000": ("ours_1000", "bytewax_user_1000"),
    "ratio_to_bytewax_best_1000": ("ours_1000", "bytewax_best_1000"),
    "ratio_to_bytewax_best_onedal_1000": ("ours_1000", "bytewax_best_onedal_1000"),
    "ratio_to_bytewax_best_5000": ("ours_5000", "bytewax_best_5000"),
    "ratio_to_pyflink_1000": ("ours_1000", "pyflink_1000"),
    "ratio_to_spark_5000": ("ours_5000", "spark_5000"),
    "share_of_floor_100": ("ours_100", "floor_100"),
    "share_of_floor_1000": ("ours_1000", "floor_1000"),
    "share_of_floor_onedal_1000": ("ours_1000", "floor_onedal_1000"),
    "share_of_floor_5000": ("ours_5000", "floor_5000"),
}


def figures_of(results: Mapping[str, Result]) -> Figures:
    """The figures of the ways, the ratios first."""
    rates = {name: result.median(rate) for name, result in results.items()}
    figures: Figures = {}
    for name, (way, other) in RATIOS.items():
        above, below = rates.get(way), rates.get(other)
        figures[name] = round(above / below, 3) if above and below else None
    for size in (100, 1_000, 5_000):
        ours = results[f"ours_{size}"]
        known = ours.runs and ours.lists
        figures[f"events_per_user_in_batch_{size}"] = round(ours.runs[0].events / ours.lists, 3) if known else None
    figures |= _inside(results["ours_1000"])
    for name, result in results.items():
        figures |= {f"{name}_{key}": value for key, value in _of_way(result).items()}
    return figures


def _inside(ours: Result) -> Figures:
    """What our worker wrote, and its microseconds an event by step."""
    if not ours.runs:
        return {}
    run = ours.runs[0]
    steps: dict[str, list[float]] = {}
    for one in ours.runs:
        for step, seconds in one.counted["step_seconds"].items():
            steps.setdefault(step, []).append(seconds * 1e6 / one.events)
    return {
        "dynamodb_items_written_1000": run.dynamodb.get("items"),
        "dynamodb_calls_1000": sum(count for name, count in run.dynamodb.items() if name != "items"),
        "checkpoints_1000": run.counted["checkpoints"],
        **{f"ours_1000_{step}_us_per_event": round(statistics.median(took), 2) for step, took in steps.items()},
    }


def _of_way(result: Result) -> Figures:
    rates = [rate(run) for run in result.runs] if not result.reason else []

    def rounded(of: Callable[[Run], float], digits: int) -> float | None:
        value = result.median(of)
        return None if value is None else round(value, digits)

    return {
        "events_per_cpu_second": rounded(rate, 1),
        "events_per_cpu_second_min": round(min(rates), 1) if rates else None,
        "events_per_cpu_second_max": round(max(rates), 1) if rates else None,
        "events_per_second": rounded(lambda run: run.events / max(run.wall_s, 1e-9), 1),
        "start_cpu_s": rounded(lambda run: run.start_cpu_s, 2),
        "start_wall_s": rounded(lambda run: run.start_wall_s, 2),
        "peak_mb": rounded(lambda run: run.peak_mb, 1),
        "events": result.runs[0].events if result.runs else None,
        "lists": result.lists or None,
        "overlap_at_10": round(result.overlap, 4) if result.lists else None,
        "failed": result.reason or None,
    }


def machine() -> Figures:
    """What the figures were measured on."""
    cpuinfo = Path("/proc/cpuinfo")
    models = [line.partition(": ")[2] for line in cpuinfo.open() if "model name" in line] if cpuinfo.exists() else []
    return {
        "machine_cpu": models[0].strip() if models else platform.processor() or platform.machine(),
        "machine_cores": os.cpu_count() or 1,
        "machine_load_at_start": round(os.getloadavg()[0], 2),
        "python_version": platform.python_version(),
        "xgboost_version": xgboost.__version__,
        "scored_by": scored_by(),
        "redis_py_version": redis.__version__,
    }


def table(figures: Figures, ways: Sequence[Way]) -> str:
    """The figures in Markdown."""
    head = ["", "events a CPU s", "least to most", "events a s", "events a list", "start, CPU s", "peak MB"]
    rows = [head, ["---", *["--:"] * (len(head) - 1)]]
    for way in ways:
        of = {
            key.removeprefix(f"{way.name}_"): value for key, value in figures.items() if key.startswith(f"{way.name}_")
        }
        if of["failed"]:
            rows.append([way.label, f"failed: {of['failed']}", *[""] * (len(head) - 2)])
            continue
        spread = f"{_number(of['events_per_cpu_second_min'])} to {_number(of['events_per_cpu_second_max'])}"
        per_list = f"{of['events'] / of['lists']:.2f}" if of["lists"] else ""
        numbers = [_number(of[key]) for key in ("events_per_cpu_second", "events_per_second")]
        rows.append(
            [way.label, numbers[0], spread, numbers[1], per_list, f"{of['start_cpu_s']:.1f}", _number(of["peak_mb"])]
        )
    lines = [f"| {' | '.join(cells)} |" for cells in rows]
    ratios = [f"- `{name}`: {figures[name]}" for name in RATIOS if figures[name] is not None]
    where = (
        "{machine_cpu}, {machine_cores} cores, load {machine_load_at_start} at the start; Python {python_version},"
        " XGBoost {xgboost_version}, ours scored by {scored_by}, redis-py {redis_py_version}; {events:,} events of"
        " {event_bytes:.0f} B; medians of {rounds}. Ours wrote {dynamodb_items_written_1000} items to DynamoDB in"
        " {checkpoints_1000} checkpoints."
    ).format_map({"dynamodb_items_written_1000": None, "checkpoints_1000": None} | figures)
    return "\n".join([where, "", *lines, "", *ratios, *_scaling(figures)])


def _scaling(figures: Figures) -> list[str]:
    if figures.get("scaling_cpu_ratio_2") is None:
        return []
    return [
        "- two workers at once, a core each, do {scaling_cpu_ratio_2} of twice one alone a CPU second, and"
        " {scaling_wall_ratio_2} of it by the clock".format(**figures)
    ]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"


def plot(figures: Figures, ways: Sequence[Way]) -> str:
    """Bars of events a CPU second, with a line from the least to the most."""
    shown = [way for way in ways if figures[f"{way.name}_events_per_cpu_second"] is not None]
    longest = max((figures[f"{way.name}_events_per_cpu_second_max"] for way in shown), default=1.0)
    left, width, step = 340, 460, 24
    height = step * len(shown) + 50
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 900 {height}" font-family="sans-serif" font-size="13">',
        "<title>Events a CPU second</title>",
        f'<rect width="900" height="{height}" fill="#fff"/>',
        '<text x="10" y="24" font-size="16">Events a CPU second, median and spread</text>',
    ]
    for number, way in enumerate(shown):
        y = 40 + step * number
        key = f"{way.name}_events_per_cpu_second"
        length, low, high = (figures[name] / longest * width for name in (key, f"{key}_min", f"{key}_max"))
        colour = "#1f6f5c" if way.module == "ours" else "#9aa5b1" if way.is_floor else "#c8793b"
        parts += [
            f'<text x="{left - 8}" y="{y + 14}" text-anchor="end">{escape(way.label)}</text>',
            f'<rect x="{left}" y="{y + 2}" width="{length:.1f}" height="16" fill="{colour}"/>',
            f'<path d="M{left + low:.1f} {y + 10}H{left + high:.1f}" stroke="#222" stroke-width="2"/>',
            f'<text x="{left + high + 6:.1f}" y="{y + 14}">{figures[key]:,.0f}</text>',
        ]
    return "\n".join([*parts, "</svg>", ""])
