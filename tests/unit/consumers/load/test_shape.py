"""The intended times of a load."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given, strategies as st

from streamproc.errors import SettingsError
from streamproc_consumers.load.shape import SHAPES, Shape


def test_a_steady_shape_spaces_its_events_evenly() -> None:
    due = list(Shape(rate=50, seconds=4).due_seconds())
    assert len(due) == 200
    assert due[0] == 0
    gaps = [after - before for before, after in pairwise(due)]
    assert gaps == pytest.approx([0.02] * len(gaps))


def test_a_ramp_comes_before_the_run_and_has_half_the_events_of_its_length() -> None:
    due = list(Shape(rate=100, seconds=10, ramp_seconds=10).due_seconds())
    assert sum(at < 10 for at in due) == pytest.approx(500, abs=2)
    assert sum(at >= 10 for at in due) == pytest.approx(1000, abs=2)
    assert sum(at < 5 for at in due) == pytest.approx(125, abs=2)


def test_a_spike_is_five_times_the_rate_in_the_middle_tenth() -> None:
    due = list(Shape(rate=100, seconds=100, kind="spike").due_seconds())
    assert sum(45 <= at < 55 for at in due) == pytest.approx(5000, abs=5)
    assert sum(at < 45 for at in due) == pytest.approx(4500, abs=5)


def test_a_day_has_its_low_at_both_ends_its_high_in_the_middle_and_the_rate_as_its_mean() -> None:
    shape = Shape(rate=100, seconds=100, kind="diurnal")
    due = list(shape.due_seconds())
    assert len(due) == pytest.approx(10_000, rel=0.01)
    assert sum(at < 5 for at in due) < 0.25 * sum(47.5 <= at < 52.5 for at in due)
    assert shape.rate_at(50) == pytest.approx(shape.peak_rate)


@given(
    rate=st.floats(0.5, 3000),
    seconds=st.floats(0.1, 5),
    ramp=st.sampled_from([0.0, 0.5, 3.0]),
    kind=st.sampled_from(SHAPES),
)
def test_intended_times_ascend_within_the_run_and_are_as_many_as_the_rate_adds_up_to(
    rate: float, seconds: float, ramp: float, kind: str
) -> None:
    shape = Shape(rate=rate, seconds=seconds, ramp_seconds=ramp, kind=kind)
    due = list(shape.due_seconds())
    assert due == sorted(due)
    assert all(0 <= at < shape.total_seconds for at in due)
    steps = 5_000
    width = shape.total_seconds / steps
    expected = math.fsum(shape.rate_at((step + 0.5) * width) * width for step in range(steps))
    # A step of ten milliseconds has one rate, so an edge of a spike may be off by as much.
    assert len(due) == pytest.approx(expected, abs=2 + shape.peak_rate * 0.03)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"rate": 0.0}, "rate is 0.0"),
        ({"rate": math.inf}, "rate is inf"),
        ({"seconds": -1.0}, "seconds is -1.0"),
        ({"ramp_seconds": -1.0}, "ramp_seconds is -1.0"),
        ({"kind": "square"}, "one of steady, spike, diurnal"),
    ],
)
def test_a_shape_that_would_send_nothing_is_refused_with_the_setting(settings: dict[str, float], says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        Shape(**{"rate": 1.0, "seconds": 1.0, **settings})  # type: ignore[arg-type]  # what a user may give
