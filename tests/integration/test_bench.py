"""The throughput benchmark: a small run of it, and what it says of ways that fail or write something else."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

import msgspec
import pytest

from benchmarks.throughput.expected import Lists, Unequal, compare
from benchmarks.throughput.job import Listed
from benchmarks.throughput.report import Result, figures_of, table
from benchmarks.throughput.runner import Run
from benchmarks.throughput.ways import ALL, of_peers
from streamproc_models.scorer import RankedItem
from streamproc_producers.simulate import Shop, simulate

ROOT = Path(__file__).parents[2]
#: What ``build/bench.json`` promises.
PROMISED = {
    "ratio_to_kclpy_1000",
    "ratio_to_kclpy_5000",
    "ratio_to_bytewax_map_1000",
    "ratio_to_bytewax_best_1000",
    "ratio_to_pyflink_1000",
    "ratio_to_spark_5000",
    "share_of_floor_1000",
    "events_per_user_in_batch_1000",
}


def test_a_small_benchmark_compares_the_lists_of_all_ways_and_says_in_figures_what_they_cost(tmp_path: Path) -> None:
    words = ["--events", "2000", "--rounds", "1", "--peers", "kclpy", "--only", "ours_1000,floor_1000,kclpy"]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.throughput", *words, "--no-scaling", "--json", tmp_path / "bench.json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads((tmp_path / "bench.json").read_text())
    assert figures.keys() >= PROMISED
    assert figures["ratio_to_bytewax_map_1000"] is figures["ratio_to_spark_5000"] is None
    assert figures["ratio_to_kclpy_1000"] > 1
    assert figures["share_of_floor_1000"] > 0
    assert figures["trees"] == 100
    assert (
        figures["kclpy_lists"]
        == 2_000
        > figures["ours_1000_lists"]
        > 2_000 / figures["events_per_user_in_batch_1000"] - 1
    )
    assert figures["dynamodb_items_written_1000"] > 0
    assert "amazon-kclpy" in (tmp_path / "bench.md").read_text()
    assert (tmp_path / "bench.svg").read_text().startswith("<svg")


@pytest.fixture
def written(tmp_path: Path) -> tuple[Path, Lists, Listed]:
    event = next(islice(simulate(Shop(), datetime(2026, 1, 1, tzinfo=UTC)), 1))
    listed = Listed(event.user_id, event.event_id, [RankedItem("item-1", "", 0.5, "history", 1)])
    (tmp_path / "lists.ndjson").write_bytes(msgspec.json.encode(listed) + b"\n")
    return tmp_path, {0: (("item-1",), (0.5,))}, listed


def test_a_list_counts_as_equal_up_to_a_millionth_of_its_scores(written: tuple[Path, Lists, Listed]) -> None:
    out, _, listed = written
    assert compare(out, {0: (("item-1",), (0.5 + 9e-7,))}, {listed.event_id: 0}, 1) == 1


def test_items_whose_scores_differ_by_rounding_may_stand_in_either_order_and_on_either_side_of_the_last_place(
    tmp_path: Path,
) -> None:
    def ranked(*scores: tuple[str, float]) -> list[RankedItem]:
        return [RankedItem(item_id, "", score, "history", rank) for rank, (item_id, score) in enumerate(scores, 1)]

    first = [(f"item-{number}", 0.9 - number / 100) for number in range(9)]
    known = [*first, ("last", 0.5), ("next", 0.5 - 5e-7), ("far", 0.4)]
    known[0], known[1] = ("item-0", 0.88 + 5e-7), ("item-1", 0.88)
    wanted: Lists = {0: (tuple(each for each, _ in known), tuple(score for _, score in known))}
    event = next(islice(simulate(Shop(), datetime(2026, 1, 1, tzinfo=UTC)), 1))

    def is_equal(*scores: tuple[str, float]) -> bool:
        listed = Listed(event.user_id, event.event_id, ranked(*scores))
        (tmp_path / "lists.ndjson").write_bytes(msgspec.json.encode(listed) + b"\n")
        try:
            return compare(tmp_path, wanted, {event.event_id: 0}, 1) == 1
        except Unequal:
            return False

    assert is_equal(*known[:10])
    assert is_equal(known[1], known[0], *known[2:10])
    assert is_equal(*known[:9], known[10])
    assert not is_equal(*known[:9], ("far", 0.4))
    assert not is_equal(*known[:9], ("far", 0.5)), "another score"
    assert not is_equal(*known[:9], ("unknown", 0.5))
    assert not is_equal(*known[:8], known[7], known[9]), "an item twice"
    assert not is_equal(*known[:9]), "a place is empty"


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({0: (("item-2",), (0.5,))}, "after event 0"),
        ({0: (("item-1",), (0.5 + 2e-6,))}, "after event 0"),
        ({0: (("item-1", "item-2"), (0.5, 0.4))}, "after event 0"),
        ({0: (("item-1",), (0.5,)), 1: (("item-1",), (0.5,))}, "1 lists are missing"),
    ],
)
def test_a_list_with_another_item_or_score_and_one_that_is_missing_are_told(
    written: tuple[Path, Lists, Listed], wanted: Lists, said: str
) -> None:
    out, _, listed = written
    with pytest.raises(Unequal, match=said):
        compare(out, wanted, {listed.event_id: 0}, 2)


def test_a_way_that_failed_has_a_reason_and_its_ratio_is_null() -> None:
    run = Run(events=10, cpu_s=1.0, wall_s=1.0, start_cpu_s=1.0, start_wall_s=1.0, peak_mb=1.0, dynamodb={}, counted={})
    ran = {way.name: Result(way, [run], lists=5) for way in of_peers(["kclpy"])}
    ran = {name: result for name, result in ran.items() if result.way.module != "ours"}
    ours = msgspec.structs.replace(run, counted={"checkpoints": 1, "step_seconds": {"fold": 0.1}})
    ran |= {way.name: Result(way, [ours], lists=5) for way in ALL if way.module == "ours"}
    ran["kclpy"].reason = "it ended with code 1: no"
    figures = figures_of(ran)
    assert figures["ratio_to_kclpy_1000"] is None
    assert figures["ratio_to_kclpy_distinct_1000"] == 1
    assert figures["kclpy_failed"] == "it ended with code 1: no"
    about = {"machine_cpu": "", "machine_cores": 2, "machine_load_at_start": 0, "python_version": "", "trees": 100}
    about |= {
        "xgboost_version": "",
        "scored_by": "",
        "redis_py_version": "",
        "events": 10,
        "event_bytes": 200,
        "rounds": 1,
    }
    assert "failed: it ended with code 1: no" in table(figures | about, of_peers(["kclpy"]))
