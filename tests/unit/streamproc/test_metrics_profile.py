"""The profile: where a worker's time goes, by step."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from streamproc import telemetry as facts
from streamproc.cli import run
from streamproc.errors import SettingsError
from streamproc.metrics.profile import SECONDS, Profile
from streamproc.steps import Steps, part_ended

ONE = "shardId-000000000001"


def committed(records: int = 1_000) -> facts.BatchCommitted:
    return facts.BatchCommitted(
        shard_id=ONE,
        records=records,
        events_folded=records,
        events_skipped=0,
        outputs=1,
        batch_seconds=0.1,
        step_seconds={"decode": 0.01, "emit": 0.06, "project": 0.02},
        emit_seconds={"predict": 0.04, "encode": 0.01},
        millis_behind_latest=0,
    )


def rows_of(table: str) -> dict[str, list[str]]:
    """The columns of each row, by what it begins with; a part of emit by its indented name."""
    return {line[:14].rstrip(): line[14:].split() for line in table.splitlines()[2:]}


def test_each_step_has_its_seconds_its_cost_a_record_and_its_share_and_the_parts_of_emit_stand_below_it() -> None:
    tables: list[str] = []
    profile = Profile(tables.append)
    for _ in range(10):
        profile(committed())
    profile(facts.Checkpointed(shard_id=ONE, position="p", states_written=3, seconds=1.0))
    profile.close()
    (table,) = tables
    assert table.splitlines()[0] == "profile: 10,000 records in 10 batches, 2.0 s"
    assert list(rows_of(table).items()) == [
        ("decode", ["0.10", "10.0", "5.0%"]),
        ("emit", ["0.60", "60.0", "30.0%"]),
        ("  predict", ["0.40", "40.0", "20.0%"]),
        ("  encode", ["0.10", "10.0", "5.0%"]),
        ("  other", ["0.10", "10.0", "5.0%"]),
        ("project", ["0.20", "20.0", "10.0%"]),
        ("commit", ["1.00", "100.0", "50.0%"]),
        ("other", ["0.10", "10.0", "5.0%"]),
    ]


def test_there_is_a_table_every_minute_of_the_whole_run_so_far() -> None:
    tables: list[str] = []
    at = 0.0
    profile = Profile(tables.append, now=lambda: at)
    profile(committed())
    assert not tables
    at = SECONDS
    profile(committed())
    at += SECONDS / 2
    profile(committed())
    assert [table.splitlines()[0] for table in tables] == ["profile: 2,000 records in 2 batches, 0.2 s"]


def test_a_run_without_a_batch_says_so() -> None:
    tables: list[str] = []
    Profile(tables.append).close()
    assert tables == ["profile: no batch yet"]


def test_a_part_counts_inside_emit_alone() -> None:
    steps = Steps()
    part_ended("before")
    with steps.in_emit():
        part_ended("predict")
        part_ended("predict")
    part_ended("after")
    assert list(steps.parts.seconds) == ["predict"]


def test_a_fleet_is_not_profiled_and_the_message_says_where_its_steps_are() -> None:
    with pytest.raises(SettingsError, match=r"--profile is for --runner local.*streamproc_batch_step_seconds"):
        CliRunner().invoke(run, ["-A", "shop.app:app", "--runner", "kcl", "--profile"], catch_exceptions=False)
