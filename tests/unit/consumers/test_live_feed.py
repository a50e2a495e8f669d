from __future__ import annotations

import uuid
from datetime import UTC, datetime

from streamproc.producer import Acknowledged
from streamproc.record import Position
from streamproc_consumers.live.feed import BOUNDS_MS, RATE_SECONDS, WINDOW_SECONDS, Feed
from streamproc_consumers.recommendation import LogPosition, Recommendation
from streamproc_producers.events import CartEvent, EventType

SHARD = "shardId-000000000001"
NOW = 1_000_000.0


def event(user: str = "u1") -> CartEvent:
    return CartEvent(
        event_id=uuid.uuid4(),
        event_type=EventType.VIEW,
        user_id=user,
        item_id="85123A",
        ts=datetime(2026, 1, 1, tzinfo=UTC),
    )


def at(sequence_number: int) -> Acknowledged:
    return Acknowledged(SHARD, str(sequence_number))


def published(sequence_number: int, user: str = "u1", arm: str = "champion", version: str = "m1") -> Recommendation:
    when = datetime(2026, 1, 1, tzinfo=UTC)
    return Recommendation(
        recommendation_id="",
        user_id=user,
        items=[],
        model_version=version,
        arm=arm,
        features_as_of=when,
        position=LogPosition.of(Position(1, sequence_number, 0)),
        event_ts=when,
        published_ts=when,
        item_snapshot="",
        fallback=None,
    )


def test_an_event_takes_from_its_put_until_the_first_list_that_knows_it() -> None:
    feed = Feed()
    feed.sent(event(), at(5), NOW, NOW)
    feed.sent(event(), at(6), NOW + 0.1, NOW + 0.1)
    feed.published(published(4), NOW + 0.2)
    assert feed.figures(NOW + 0.2).latency.events == 0
    feed.published(published(6), NOW + 0.375)
    latency = feed.figures(NOW + 0.5).latency
    assert latency.events == 2
    assert latency.p50 == 325.0
    assert latency.counts[BOUNDS_MS.index(300)] == latency.counts[BOUNDS_MS.index(400)] == 1


def test_a_list_that_came_before_the_acknowledgement_counts_for_its_event() -> None:
    feed = Feed()
    feed.published(published(5), NOW + 0.25)
    feed.sent(event(), at(5), NOW, NOW + 0.3)
    assert feed.figures(NOW + 0.4).latency.p99 == 250.0
    assert feed.waiting == 0


def test_a_latency_beyond_the_last_bound_is_in_the_last_bar() -> None:
    feed = Feed()
    feed.sent(event(), at(5), NOW, NOW)
    feed.published(published(5), NOW + 60)
    assert feed.figures(NOW + 60).latency.counts[-1] == 1


def test_a_shopper_waits_until_a_list_knows_the_last_event() -> None:
    feed = Feed()
    feed.sent(event("u1"), at(5), NOW, NOW)
    feed.sent(event("u2"), at(6), NOW, NOW)
    feed.published(published(5, "u1"), NOW)
    assert feed.waiting == 1
    feed.published(published(6, "u2"), NOW)
    assert feed.waiting == 0


def test_a_list_at_a_position_that_was_published_before_is_a_repetition() -> None:
    feed = Feed()
    for _ in range(2):
        feed.published(published(5), NOW)
    figures = feed.figures(NOW)
    assert (figures.published, figures.repeated) == (2, 1)


def test_what_happened_long_ago_is_sent_and_neither_measured_nor_shown() -> None:
    feed = Feed()
    feed.sent(event(), at(5), None, NOW)
    feed.published(published(5), NOW + 9)
    figures = feed.figures(NOW + 9)
    assert (figures.sent, figures.events_per_second, figures.latency.events) == (1, 0.0, 0)
    assert feed.seen_after(0, 10) == []


def test_figures_forget_what_is_older_than_their_window() -> None:
    feed = Feed()
    feed.sent(event(), at(5), NOW, NOW)
    feed.published(published(5), NOW)
    assert feed.figures(NOW + 1).events_per_second == 1 / RATE_SECONDS
    later = feed.figures(NOW + WINDOW_SECONDS + 1)
    assert (later.events_per_second, later.latency.events, later.arms) == (0.0, 0, [])
    assert later.latency.p50 is None


def test_arms_say_which_model_made_how_many_lists() -> None:
    feed = Feed()
    for number, (arm, version) in enumerate([("champion", "m1"), ("challenger", "m2"), ("champion", "m1")]):
        feed.published(published(number, f"u{number}", arm, version), NOW)
    arms = [(each.arm, each.model_version, each.lists) for each in feed.figures(NOW).arms]
    assert arms == [("challenger", "m2", 1), ("champion", "m1", 2)]


def test_a_page_that_was_away_gets_the_last_events_in_their_order() -> None:
    feed = Feed()
    for number in range(30):
        feed.sent(event(), at(number), NOW, NOW)
    assert [seen.sequence_number for seen in feed.seen_after(3, 5)] == ["25", "26", "27", "28", "29"]
    assert [seen.number for seen in feed.seen_after(28, 5)] == [29, 30]
    assert feed.sent_up_to() == {SHARD: 29}


def test_a_page_that_asks_late_still_sees_all_that_its_own_shopper_did() -> None:
    feed = Feed()
    for number in range(30):
        feed.sent(event(user="own" if number in (1, 7) else "u1"), at(number), NOW, NOW)
    assert [seen.number for seen in feed.seen_after(0, 3, "own")] == [2, 8, 28, 29, 30]
