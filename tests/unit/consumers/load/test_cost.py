"""The arithmetic of the bill, and the price table."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import given, strategies as st

from streamproc.errors import SettingsError
from streamproc_consumers.load.cost import (
    Demand,
    bill,
    distinct_users,
    endpoint_design,
    fargate_dollars_per_hour,
    kinesis_lines,
    measured,
    needs,
    per_million,
    shards_for,
)
from streamproc_consumers.load.prices import read_prices

CONSTANTS = measured()
PRICES = read_prices()


def test_the_table_has_a_date_a_region_and_says_of_each_price_whether_it_was_confirmed() -> None:
    assert (PRICES.date, PRICES.region) == ("2026-11-21", "us-east-1")
    assert all(price.dollars > 0 and price.unit for price in PRICES.price.values())
    assert {price.confirmed for price in PRICES.price.values()} == {True, False}


def test_the_constants_say_how_and_when_they_were_made() -> None:
    assert CONSTANTS.made_by
    assert CONSTANTS.date
    assert CONSTANTS.machine


def test_a_table_of_ones_own_replaces_the_prices_that_it_names(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        'date = "2027-01-01"\nregion = "eu-west-1"\n[price.kinesis_shard_hour]\ndollars = 0.017\nunit = "shard-hour"\n'
    )
    mine = read_prices(path)
    assert (mine["kinesis_shard_hour"], mine.region) == (0.017, "eu-west-1")
    assert mine["firehose_gb"] == PRICES["firehose_gb"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("date = 1", "region|date"),
        ("no toml", "Expected|invalid"),
        ('date = "d"\nregion = "r"\n[price.beer]\ndollars = 3.0\nunit = "pint"', "nothing costs beer"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused_with_its_name_and_what_is_wrong(
    tmp_path: Path, text: str, says: str
) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(SettingsError, match=f"mine.toml.*({says})"):
        read_prices(path)


@given(rate=st.floats(1, 1e6), seconds=st.floats(0.1, 3600), users=st.integers(1, 10**9))
def test_no_more_users_have_an_event_than_there_are_events_or_users(rate: float, seconds: float, users: int) -> None:
    found = distinct_users(rate, seconds, users, CONSTANTS)
    assert 0 < found <= min(rate * seconds, users) * 1.0001


def test_a_user_of_a_session_is_written_once_an_interval_so_a_longer_one_writes_less_an_event() -> None:
    def written(checkpoint: float) -> float:
        demand = Demand(rate=1000, users=10**7, shards=1, checkpoint_seconds=checkpoint)
        return needs(demand, CONSTANTS).states_written / 1000

    assert written(5) > 2 * written(60) > 4 * written(600)


def test_firehose_bills_whole_steps_of_five_kilobytes_a_record() -> None:
    need = needs(Demand(rate=2, users=1000, shards=1, archive=False), CONSTANTS)
    assert need.firehose_billed_bytes == pytest.approx(need.firehose_records * 5 * 1024)
    assert need.firehose_billed_bytes > 3 * need.output_bytes
    busy = needs(Demand(rate=2000, users=10**6, shards=1, archive=False), CONSTANTS)
    assert busy.firehose_billed_bytes < 1.01 * busy.output_bytes


def test_shards_are_as_many_as_the_bytes_or_the_records_ask_for() -> None:
    constants = msgspec.structs.replace(CONSTANTS, event_bytes=200.0)
    assert shards_for(100, constants) == 1
    assert shards_for(30_000, constants) == 10
    assert shards_for(30_000, constants, events_per_record=1.0) == 50


def test_an_on_demand_stream_rounds_each_record_up_to_a_kilobyte_and_counts_each_reader() -> None:
    constants = msgspec.structs.replace(CONSTANTS, event_bytes=200.0)
    demand = Demand(rate=1000, users=1000, shards=1, events_per_record=1.0, archive=True)
    _, on_demand = kinesis_lines(demand, needs(demand, constants), PRICES)
    written, read = 1000 * 1024 * 3600 / 1e9, 1000 * 200 * 2 * 3600 / 1e9
    assert on_demand.dollars_per_hour == pytest.approx(0.04 + written * 0.08 + read * 0.04)


def test_kinesis_is_billed_in_the_mode_of_the_stream_and_in_the_cheaper_one_where_there_is_none() -> None:
    demand = Demand(rate=1000, users=10**6, shards=2)
    need = needs(demand, CONSTANTS)
    names = {mode: bill(demand, need, CONSTANTS, PRICES, on_demand=mode)[0].what for mode in (True, False, None)}
    assert names == {True: "Kinesis, on demand", False: "Kinesis, provisioned", None: "Kinesis, provisioned"}


def test_a_million_events_cost_less_the_more_there_are_of_them() -> None:
    totals = []
    for rate in (100, 1_000, 10_000):
        demand = Demand(rate=rate, users=rate * 1000, shards=shards_for(rate, CONSTANTS))
        need = needs(demand, CONSTANTS)
        totals.append(per_million(sum(line.dollars_per_hour for line in bill(demand, need, CONSTANTS, PRICES)), rate))
        assert fargate_dollars_per_hour(need, PRICES) > 0
    assert totals == sorted(totals, reverse=True)


def test_asking_an_endpoint_for_each_event_costs_several_times_the_compute() -> None:
    rate = 10_000
    theirs = {line.what: line.dollars_per_hour for line in endpoint_design(rate, CONSTANTS, PRICES)}
    demand = Demand(rate=rate, users=10**7, shards=4)
    ours = {line.what: line.dollars_per_hour for line in bill(demand, needs(demand, CONSTANTS), CONSTANTS, PRICES)}
    assert theirs["Lambda"] + theirs["SageMaker endpoint"] > 5 * ours["EC2"]
