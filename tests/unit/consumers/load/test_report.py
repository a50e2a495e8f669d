"""The report: the same figures on a terminal, for machines and as a page."""

from __future__ import annotations

import io

import msgspec
from rich.console import Console

from streamproc_consumers.load.latency import Latencies
from streamproc_consumers.load.report import Bucket, CostLine, Report, Second, buckets, page, show


def a_report(**changes: object) -> Report:
    latencies = Latencies()
    for number in range(100):
        latencies.add(0.100 + number / 1000, number // 10)
    report = Report(
        started_at="2026-11-21T12:00:00+00:00",
        seconds=10.0,
        stopped=False,
        stream="cart-events",
        shape="steady",
        rate=10.0,
        ramp_seconds=0.0,
        users=5000,
        seed=0,
        events_due=100,
        events_put=100,
        events_acknowledged=100,
        events_failed={},
        late_ms_max=1.5,
        event_bytes=196.0,
        recommendations=90,
        recommendation_bytes=1300.0,
        events_without_recommendation=0,
        put_ms=latencies.summary(),
        recommendation_ms=latencies.summary(),
        recommendation_means="until Firehose accepted it",
        prices_date="2026-11-21",
        prices_region="us-east-1",
        dollars_per_million_events=1.2345,
        cost_lines=[CostLine("Firehose", 0.05, "0.35 MB/s as billed")],
        timeline=[Second(*second) for second in latencies.by_second()],
        histogram_ms=buckets(latencies),
    )
    return msgspec.structs.replace(report, **changes)


def shown(report: Report) -> str:
    text = io.StringIO()
    show(report, Console(file=text, width=100))
    return text.getvalue()


def test_the_terminal_shows_percentiles_cost_and_the_date_of_the_prices() -> None:
    text = shown(a_report())
    for part in ("p99.9", "149.5", "198.0", "Firehose", "1.234", "2026-11-21", "us-east-1"):
        assert part in text


def test_events_that_failed_or_came_to_nothing_are_said() -> None:
    text = shown(a_report(events_failed={"Expired": 3}, events_without_recommendation=7, stopped=True))
    assert "failed: 3 Expired" in text
    assert "no recommendation was seen for 7 events" in text
    assert "stopped before its end" in text


def test_a_run_without_recommendations_says_so_on_its_page() -> None:
    text = page(a_report(recommendation_ms=None, recommendation_means=None, timeline=[], histogram_ms=[]))
    assert "no recommendations were looked for" in text
    assert "nothing was measured" in text


def test_the_page_needs_nothing_else_and_runs_nothing() -> None:
    text = page(a_report(stream="<script>alert(1)</script>"))
    assert "<script" not in text
    assert "http://" not in text
    assert "https://" not in text
    assert "default-src 'none'" in text
    assert text.count("<svg") == 3
    assert "$" not in text.replace("$/", "")


def test_json_reads_back_as_the_report_that_it_was() -> None:
    report = a_report()
    assert msgspec.json.decode(msgspec.json.encode(report), type=Report) == report


def test_the_histogram_has_every_event_and_no_empty_ends() -> None:
    latencies = Latencies()
    for ms in (0.5, 120.0, 125.0, 9_000.0):
        latencies.add(ms / 1000)
    bars = buckets(latencies)
    assert sum(bar.events for bar in bars) == 4
    assert bars[0].events
    assert bars[-1].events
    assert bars[-1].to_ms >= 9_000
    assert isinstance(bars[0], Bucket)
