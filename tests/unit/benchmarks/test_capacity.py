"""The capacity model and the parts of the latency benchmark, which are code that figures rest on."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given, strategies as st

from streamproc.record import Position
from streamproc_consumers.load.cost import Demand, measured, needs, shards_for
from streamproc_consumers.load.generator import Sent
from streamproc_consumers.load.prices import read_prices

if TYPE_CHECKING:
    from benchmarks import capacity, capacity_limits, capacity_measure, capacity_model, latency, latency_app
else:
    sys.path.insert(0, str(Path(__file__).parents[3]))  # benchmarks are scripts of the repository, not a package
    from benchmarks import capacity, capacity_limits, capacity_measure, capacity_model, latency, latency_app

    sys.path.pop(0)

CONSTANTS = measured()


def test_with_little_to_do_half_of_the_events_wait_for_half_of_an_interval() -> None:
    around = capacity_model.Surroundings(put_seconds=0.0, read_seconds=0.0, publish_seconds=0.0, poll_seconds=0.2)
    free = msgspec.structs.replace(
        CONSTANTS, cpu_us_per_event=0.0, cpu_us_per_event_io=0.0, cpu_us_per_user=0.0, cpu_us_per_batch=0.0
    )
    predicted = capacity_model.simulate(500, 4, free, around)
    assert predicted.p50_ms == pytest.approx(100, abs=3)
    assert predicted.p99_ms == pytest.approx(198, abs=3)
    assert predicted.busy == 0


def test_latency_grows_with_the_rate_and_leaps_beyond_saturation() -> None:
    limit = capacity_model.saturation(4, CONSTANTS, users=10**7)
    around = capacity_model.Surroundings(users=10**7)
    p99 = [capacity_model.simulate(limit * share, 4, CONSTANTS, around).p99_ms for share in (0.1, 0.5, 1.2)]
    assert p99[0] < p99[1] < 400
    assert p99[2] > 2_000


def test_a_checkpoint_delays_the_events_that_come_while_it_is_made_and_hardly_the_median() -> None:
    quick, slow = (
        capacity_model.simulate(500, 4, CONSTANTS, capacity_model.Surroundings(checkpoint_seconds=seconds))
        for seconds in (0.0, 0.6)
    )
    assert slow.p99_ms > quick.p99_ms + 200
    assert slow.p50_ms < quick.p50_ms + 40


def test_larger_batches_cost_less_an_event() -> None:
    costs = [capacity_model.cpu_us_per_event(size, 1.0, CONSTANTS) for size in (1, 10, 100, 1_000)]
    assert costs == sorted(costs, reverse=True)


def test_the_cpu_of_events_users_and_batches_is_found_again_from_three_batch_sizes() -> None:
    bench = {}
    for size, per_user in ((100, 1.5), (1_000, 2.4), (5_000, 4.2)):
        bench[f"events_per_user_in_batch_{size}"] = per_user
        bench[f"ours_{size}_events_per_cpu_second"] = 1e6 / (30 + 50 / per_user + 2_000 / size)
    assert capacity_measure.fitted_cpu(bench) == pytest.approx((30, 50, 2_000), rel=0.01)
    assert capacity_measure.fitted_cpu({}) is None


def test_what_a_running_consumer_needs_beyond_the_worker_is_never_below_nothing() -> None:
    latency_figures = {"consumer_cpu_us_per_event_1000": 1.0, "batch_events_1000": 50.0, "users_per_event_1000": 1.0}
    assert capacity_measure.io_cpu(latency_figures, CONSTANTS) == 0.0
    assert capacity_measure.io_cpu({}, CONSTANTS) is None


def test_without_figures_of_this_checkout_the_constants_are_those_of_the_file(tmp_path: Path) -> None:
    assert capacity_measure.constants_here(CONSTANTS, tmp_path) == CONSTANTS


def test_limits_are_in_one_order_and_only_grow_with_the_rate() -> None:
    found = []
    for rate in (1_000, 10_000, 100_000):
        demand = Demand(rate=rate, users=rate * 2_000, shards=shards_for(rate, CONSTANTS))
        found.append(capacity_limits.limits(demand, needs(demand, CONSTANTS), CONSTANTS))
    assert len({tuple(limit.name for limit in each) for each in found}) == 1
    for same in zip(*found, strict=True):
        if "steps" not in same[0].name and "process" not in same[0].name:
            assert [limit.used for limit in same] == sorted(limit.used for limit in same)


def test_the_page_is_filled_in_and_says_where_there_was_no_run_to_compare_with() -> None:
    page = capacity.render(CONSTANTS, read_prices(), {})
    assert "{{" not in page
    assert "nothing to compare with" in page
    assert "**no**" in page


def a_batch(
    read_started: float, read_ended: float, ended: float, reads_in_java: bool, *calls: tuple[float, float]
) -> latency_app.Batch:
    return latency_app.Batch(
        shard_id="shardId-000000000000",
        position="shardId-000000000000:1:0",
        records=1,
        users=1,
        read_started=None if reads_in_java else read_started,
        read_ended=None if reads_in_java else read_ended,
        next_read=None if reads_in_java else read_started + 0.2,
        calls=[*calls],
        ended=max(ended, read_ended),
        seconds=max(ended, read_ended) - read_ended,
        steps={"decode": 0.01, "load": 0.01, "fold": 0.02, "emit": 0.05, "publish": 0.01},
    )


@given(st.lists(st.floats(0, 1), min_size=11, max_size=11), st.booleans())
def test_the_parts_of_a_latency_add_up_to_it_whatever_came_first(marks: list[float], reads_in_java: bool) -> None:
    due, put, acknowledged, read_started, read_ended, ended, accepted, *earlier = marks
    began, idle, checkpointing, durable = sorted(earlier)
    read_started, read_ended = sorted((read_started, read_ended))
    batch = a_batch(read_started, read_ended, ended, reads_in_java, (checkpointing, durable))
    before = a_batch(began, began, idle, reads_in_java)
    event = Sent("ann", due, put, acknowledged, Position(0, 1, 0))
    parts = latency.parted(event, accepted, batch, before)
    assert len(parts) == len(latency.STEPS)
    assert sum(parts) == pytest.approx(accepted - due)
    assert min(parts[:6]) >= -1e-12


def test_the_wait_for_a_read_is_parted_into_the_batch_before_what_a_checkpoint_holds_up_and_the_poll() -> None:
    # Stored at 1.0; the batch before was read at 1.2 and ended at 1.3; parts of a checkpoint were written from 1.3 to
    # 1.35, and from 1.35 to 1.7, but the read was due at 1.4; it began at 1.8.
    event = Sent("ann", 0.9, 0.9, 1.0, Position(0, 1, 0))
    before = a_batch(1.2, 1.2, 1.3, False)
    batch = a_batch(1.8, 1.9, 2.2, False, (1.3, 1.35), (1.35, 1.7))
    named = dict(zip(latency.STEPS, latency.parted(event, 2.3, batch, before), strict=True))
    assert named["queue"] == pytest.approx(0.1)
    assert named["checkpoint"] == pytest.approx(0.3)
    assert named["poll"] == pytest.approx(0.4)
    assert named["read"] == pytest.approx(0.1)


def test_a_batchs_position_is_read_back_as_the_telemetry_wrote_it() -> None:
    position = Position(3, 49590338271490256608559692538361571095921575989136588898, 17)
    assert latency.position_of(str(position)) == position


def test_the_cpu_of_a_process_and_its_children_is_found() -> None:
    assert latency.cpu_seconds(os.getpid()) > 0
    assert latency.cpu_seconds(2**22 + 1) == 0


def test_what_limits_a_rate_is_said_with_its_figure() -> None:
    figures = {"kinesis_cpu_share_5000": 0.97, "put_mean_ms_5000": 40.0, "read_mean_ms_5000": 9.0}
    [sentence] = latency.limits(figures, [5_000])
    assert "97% of one core" in sentence
    slow_store = {"checkpoint_share_100": 0.4, "checkpoint_ms_100": 300.0, "dynamodb_cpu_share_100": 0.9}
    [sentence] = latency.limits(slow_store, [100])
    assert "40% of the time is DynamoDB's" in sentence
    assert latency.limits({"kinesis_cpu_share_100": 0.1, "machine_cpu_share_100": 0.2}, [100]) == []
