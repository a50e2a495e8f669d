"""Which recommendation knew an event first, and the percentiles of how long that took."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from streamproc.record import Position
from streamproc_consumers.load.generator import Sent
from streamproc_consumers.load.latency import Latencies, Matcher


def sent(number: int, user: str = "ann", due_at: float = 0.0) -> Sent:
    return Sent(user, due_at, due_at, due_at, Position(0, number, 0))


class Matched:
    def __init__(self) -> None:
        self.found: dict[int, float] = {}
        self.matcher = Matcher(self._take)

    def _take(self, event: Sent, at: float) -> None:
        number = event.position.sequence_number
        assert number not in self.found, "an event is matched once"
        self.found[number] = at

    def publish(self, number: int, at: float, user: str = "ann") -> None:
        self.matcher.published(user, Position(0, number, 0), at)


def test_the_first_recommendation_at_or_beyond_an_events_position_counts() -> None:
    run = Matched()
    run.matcher.sent(sent(5))
    run.publish(4, 1.0)
    run.publish(6, 2.0)
    run.publish(7, 3.0)
    assert run.found == {5: 2.0}
    assert run.matcher.waiting == 0


def test_one_recommendation_counts_for_every_event_of_its_user_up_to_its_position() -> None:
    run = Matched()
    for number in (1, 2, 3):
        run.matcher.sent(sent(number))
    run.matcher.sent(sent(1, user="bob"))
    run.publish(2, 9.0)
    assert run.found == {1: 9.0, 2: 9.0}
    assert run.matcher.waiting == 2


def test_a_recommendation_that_is_seen_before_the_acknowledgement_counts_too() -> None:
    run = Matched()
    run.publish(4, 1.0)
    run.publish(8, 2.0)
    run.matcher.sent(sent(5))
    assert run.found == {5: 2.0}


@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 30), st.sampled_from(["ann", "bob"])), max_size=60, unique=True)
)
def test_whatever_comes_first_an_event_is_joined_with_the_earliest_recommendation_that_includes_it(
    steps: list[tuple[bool, int, str]],
) -> None:
    found: dict[tuple[str, int], float] = {}
    matcher = Matcher(lambda event, at: found.__setitem__((event.user_id, event.position.sequence_number), at))
    events, published = [], []
    latest = {"ann": -1, "bob": -1}
    for at, (is_event, number, user) in enumerate(steps):
        if is_event:
            events.append((user, number))
            matcher.sent(sent(number, user))
        elif number > latest[user]:  # a user's recommendations are published in the order of their positions
            latest[user] = number
            published.append((user, number, float(at)))
            matcher.published(user, Position(0, number, 0), float(at))
    expected = {}
    for user, number in events:
        including = [at for other, position, at in published if other == user and position >= number]
        if including:
            expected[user, number] = including[0]
    assert found == expected
    assert matcher.waiting == len(events) - len(expected)


def test_percentiles_are_those_of_all_values() -> None:
    latencies = Latencies()
    for ms in range(1, 1001):
        latencies.add(ms / 1000)
    summary = latencies.summary()
    assert summary is not None
    assert (summary.count, summary.p50, summary.p99, summary.max) == (1000, 500.5, 990.0, 1000.0)
    assert summary.p99_9 == pytest.approx(999.0, abs=0.1)
    assert latencies.counts([0.0, 100.0, 1000.0]) == [99, 901]


def test_without_a_value_there_is_no_summary() -> None:
    assert Latencies().summary() is None
    assert Latencies().by_second() == []


def test_seconds_are_told_apart_whatever_order_their_events_end_in() -> None:
    latencies = Latencies()
    for second, ms in ((1, 30), (0, 10), (1, 50), (3, 5)):
        latencies.add(ms / 1000, second)
    assert latencies.by_second() == [(0, 1, 10.0, 10.0), (1, 2, 40.0, 50.0), (3, 1, 5.0, 5.0)]
