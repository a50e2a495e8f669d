"""``streamproc experiment report``: what the arms are worth, from lines that landed."""

from __future__ import annotations

import gzip
import json
import math
import random
import uuid
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner
from hypothesis import given, settings, strategies as st

from streamproc.errors import SettingsError, StreamprocError
from streamproc.processor import Received
from streamproc.record import Position, Record
from streamproc_consumers.archive import Archive
from streamproc_consumers.arms import arm_of
from streamproc_consumers.experiment import LandedEvent, Report, report
from streamproc_consumers.experiment_commands import experiment
from streamproc_consumers.recommendation import LogPosition, Recommendation, RecommendedItem, recommendation_id
from streamproc_producers.events import CartEvent, EventType, encode

START = datetime(2026, 11, 1, tzinfo=UTC)
HOUR = 3600.0


def at(number: int) -> datetime:
    """Event ``number`` of the log happens in minute ``number``."""
    return START + timedelta(minutes=number)


def a_list(number: int, user: str = "ann", items: Iterable[str] = ("a", "b"), **more: Any) -> Recommendation:
    """The list after event ``number``."""
    position = Position(0, number)
    model = more.pop("model_version", "v1")
    fields: dict[str, Any] = {
        "recommendation_id": recommendation_id(user, position, model),
        "user_id": user,
        "items": [RecommendedItem(item, "", 0.1, "popular", rank) for rank, item in enumerate(items, 1)],
        "model_version": model,
        "arm": "champion",
        "features_as_of": at(number),
        "position": LogPosition.of(position),
        "event_ts": at(number),
        "published_ts": at(number) + timedelta(milliseconds=500),
        "item_snapshot": "s",
        "fallback": None,
    }
    return Recommendation(**(fields | more))


def an_event(
    number: int, item: str, kind: str = "purchase", user: str = "ann", when: datetime | None = None
) -> LandedEvent:
    event = CartEvent(
        event_id=uuid.UUID(int=number),
        event_type=EventType(kind),
        user_id=user,
        item_id=item,
        ts=when or at(number),
    )
    return LandedEvent(LogPosition.of(Position(0, number)), event)


def told(lists: Iterable[Recommendation], events: Iterable[LandedEvent], **more: Any) -> Report:
    return report(lists, events, **({"window_seconds": 24 * HOUR} | more))


def hits(
    lists: Iterable[Recommendation], events: Iterable[LandedEvent], **more: Any
) -> tuple[float | None, float | None]:
    """Hit rate and conversion of the only arm."""
    (arm,) = told(lists, events, **more).arms
    return arm.hit_rate.value, arm.conversion.value


@pytest.mark.parametrize(
    ("event", "hit", "converted"),
    [
        (an_event(2, "a"), 1.0, 1.0),
        (an_event(2, "b", "view"), 1.0, 0.0),
        (an_event(2, "b", "add_to_cart"), 1.0, 0.0),
        (an_event(2, "b", "remove_from_cart"), 0.0, 0.0),
        (an_event(2, "c"), 0.0, 0.0),  # not in the list
        (an_event(1, "a"), 0.0, 0.0),  # the list was made of it
        (an_event(0, "a"), 0.0, 0.0),  # before the list
        (an_event(2, "a", user="bob"), 0.0, 0.0),
        (an_event(2, "a", when=at(1) + timedelta(hours=24)), 1.0, 1.0),
        (an_event(2, "a", when=at(1) + timedelta(hours=24, seconds=1)), 0.0, 0.0),
    ],
)
def test_a_list_is_answered_by_its_users_later_event_on_its_item_within_the_window(
    event: LandedEvent, hit: float, converted: float
) -> None:
    assert hits([a_list(1)], [event]) == (hit, converted)


def test_each_list_counts_once_however_often_it_is_answered_and_an_event_answers_all_lists_before_it() -> None:
    lists = [a_list(1), a_list(3), a_list(5, items=["c"]), a_list(7)]
    assert hits(lists, [an_event(2, "a"), an_event(4, "b"), an_event(6, "a")]) == (0.5, 1.0)


def test_repeated_lines_count_once() -> None:
    found = told([a_list(1), a_list(1), a_list(1)], [an_event(2, "a"), an_event(2, "a")])
    assert (found.arms[0].lists, found.arms[0].users, found.arms[0].events_per_user) == (1, 1, 1.0)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 30), st.sampled_from(["a", "b", "c"])), max_size=12),
    st.lists(st.tuples(st.integers(0, 30), st.sampled_from(["a", "b", "c"])), max_size=12),
    st.integers(1, 20),
)
def test_hits_are_those_of_looking_at_every_pair(
    made: Sequence[tuple[int, str]], done: Sequence[tuple[int, str]], minutes: int
) -> None:
    lists = [a_list(2 * number, items=[item]) for number, item in dict(made).items()]
    events = [an_event(2 * number + 1, item, "view") for number, item in dict(done).items()]
    expected = sum(
        any(
            event.event.item_id == each.items[0].id
            and timedelta() <= event.event.ts - each.event_ts <= timedelta(minutes=minutes)
            for event in events
        )
        for each in lists
    )
    if not lists:
        assert told(lists, events).arms == []
        return
    assert hits(lists, events, window_seconds=60 * minutes)[0] == pytest.approx(expected / len(lists))


def test_guardrails_are_told_by_arm() -> None:
    lists = [
        a_list(1, fallback="no_model"),
        a_list(2, items=[]),
        a_list(3, published_ts=at(3) + timedelta(seconds=9)),
        a_list(4, "bob"),
    ]
    (arm,) = told(lists, [an_event(5, "z"), an_event(6, "z"), an_event(7, "z", user="carl")]).arms
    assert (arm.fallback_share, arm.empty_share, arm.events_per_user) == (0.25, 0.25, 1.0)
    assert (arm.latency_ms_p50, arm.latency_ms_p99) == (500.0, 9000.0)


def test_lists_outside_the_time_are_left_out() -> None:
    lists = [a_list(number) for number in range(5)]
    found = told(lists, [], since=lists[1].published_ts, until=lists[3].published_ts)
    assert found.arms[0].lists == 2


def population(users: int, rates: dict[str, float], seed: int = 1) -> tuple[list[Recommendation], list[LandedEvent]]:
    """Users dealt in halves by the salt ``s``; each gets two lists and buys from one at the arm's rate."""
    rng = random.Random(seed)
    lists, events = [], []
    weights = dict.fromkeys(rates, 1 / len(rates))
    for number in range(users):
        user = f"user-{number}"
        arm = arm_of("s", user, weights)
        lists += [a_list(10 * number + step, user, arm=arm, propensity=weights[arm]) for step in (1, 2)]
        item = "a" if rng.random() < rates[arm] else "z"
        events.append(an_event(10 * number + 3, item, user=user))
    return lists, events


def test_a_real_difference_is_found_with_an_interval_that_excludes_zero() -> None:
    found = told(*population(4000, {"champion": 0.10, "challenger": 0.20}), salt="s")
    (compared,) = found.comparisons
    assert (compared.arm, compared.base) == ("challenger", "champion")
    for interval in (compared.hit_rate, compared.conversion):
        assert interval.value == pytest.approx(0.10, abs=0.03)
        assert interval.excludes_zero
    assert found.sample_ratio_p is not None
    assert found.sample_ratio_p > 0.001
    assert (found.users_in_several_arms, found.users_in_wrong_arm, found.warnings) == (0, 0, [])


def test_without_a_difference_the_interval_has_zero_nineteen_times_of_twenty() -> None:
    covered = 0
    for seed in range(60):
        (compared,) = told(*population(300, {"champion": 0.2, "challenger": 0.2}, seed)).comparisons
        covered += not compared.conversion.excludes_zero
    assert covered >= 52  # 57 are expected; fewer than 52 come by chance once in fifty


def test_the_interval_of_a_share_is_wilsons() -> None:
    lists = [a_list(10 * number, f"u{number}") for number in range(10)]
    (arm,) = told(lists, [an_event(5, "a", user="u0")]).arms
    # One of ten, 95 %: 0.018 to 0.404 (Newcombe 1998).
    assert (arm.conversion.value, arm.conversion.low, arm.conversion.high) == pytest.approx(
        (0.1, 0.0179, 0.4042), abs=5e-4
    )


def test_lists_of_one_user_do_not_count_as_independent() -> None:
    many = [a_list(100 * user + step, f"u{user}") for user in range(20) for step in range(0, 50, 2)]
    one_each = [a_list(100 * user, f"u{user}") for user in range(20)]
    events = [an_event(100 * user + 99, "a", user=f"u{user}") for user in range(10)]
    ((wide,), (same,)) = (told(lists, events).arms for lists in (many, one_each))
    assert wide.hit_rate.low == pytest.approx(same.hit_rate.low)
    assert wide.hit_rate.high == pytest.approx(same.hit_rate.high)


def test_of_one_user_there_is_no_interval() -> None:
    (arm,) = told([a_list(1)], []).arms
    assert (arm.hit_rate.value, arm.hit_rate.low, arm.hit_rate.high) == (0.0, None, None)


def test_users_in_several_arms_are_left_out_and_told() -> None:
    found = told([a_list(1), a_list(2, arm="challenger"), a_list(3, "bob")], [])
    assert found.users_in_several_arms == 1
    assert [(arm.arm, arm.users) for arm in found.arms] == [("challenger", 0), ("champion", 1)]
    assert any("1 users were in several arms" in warning for warning in found.warnings)


def test_with_a_salt_users_in_another_arm_than_it_deals_are_left_out_and_told() -> None:
    lists, events = population(200, {"champion": 0.1, "challenger": 0.1})
    right, wrong = told(lists, events, salt="s"), told(lists, events, salt="another")
    assert right.users_in_wrong_arm == 0
    assert wrong.users_in_wrong_arm is not None
    assert wrong.users_in_wrong_arm > 50
    assert any("than the salt deals them to" in warning for warning in wrong.warnings)


def test_users_that_are_not_spread_as_the_weights_say_are_an_alarm() -> None:
    lists = [
        a_list(10 * number, f"u{number}", arm="champion" if number < 700 else "challenger", propensity=0.5)
        for number in range(1000)
    ]
    found = told(lists, [])
    assert found.sample_ratio_p is not None
    assert found.sample_ratio_p < 1e-9
    assert any("trust no figure" in warning for warning in found.warnings)


def test_without_the_base_arm_nothing_is_compared_and_the_report_says_so() -> None:
    found = told([a_list(1, arm="challenger")], [])
    assert found.comparisons == []
    assert "no list is of the arm champion, so nothing is compared" in found.warnings


# The command.


def written(folder: Path, lists: Iterable[Recommendation], events: Iterable[LandedEvent]) -> tuple[Path, Path]:
    """Lines as Firehose and the archive write them, the second half compressed."""
    archive = Archive()
    encoded = [archive.encode(line) for line in archive.process([_received(event) for event in events])]
    for name, lines in (("lists", [msgspec.json.encode(each) for each in lists]), ("events", encoded)):
        (folder / name / "2026" / "11").mkdir(parents=True)
        half = len(lines) // 2
        (folder / name / "2026" / "11" / "1").write_bytes(b"".join(line + b"\n" for line in lines[:half]))
        content = gzip.compress(b"".join(line + b"\n" for line in lines[half:]))
        (folder / name / "2026" / "11" / "2.gz").write_bytes(content)
    return folder / "lists", folder / "events"


def _received(landed: LandedEvent) -> Received[CartEvent]:
    event = landed.event
    position = Position(0, int(landed.position.sequence_number))
    return Received(event, Record(encode(event), event.user_id, position, event.at))


@pytest.fixture
def run() -> Callable[..., Any]:
    def run(lists: Path, events: Path, *words: str) -> Any:
        arguments = ["report", "--recommendations", str(lists), "--events", str(events), *words]
        return CliRunner().invoke(experiment, arguments)

    return run


def test_the_command_reads_what_landed_and_prints_and_writes_the_report(
    tmp_path: Path, run: Callable[..., Any]
) -> None:
    lists, events = written(tmp_path, *population(2000, {"champion": 0.1, "challenger": 0.3}))
    result = run(lists, events, "--salt", "s", "--json", str(tmp_path / "report.json"))
    assert result.exit_code == 0, result.exception
    for text in ("champion (50%)", "challenger - champion", "points (", "fallback", "v1"):
        assert text in result.output
    found = json.loads((tmp_path / "report.json").read_text())
    assert [arm["arm"] for arm in found["arms"]] == ["challenger", "champion"]
    assert found["comparisons"][0]["conversion"]["low"] > 0
    assert not any(isinstance(value, float) and math.isnan(value) for value in found["arms"][0].values())


def fails(result: Any) -> StreamprocError:
    assert isinstance(result.exception, StreamprocError)
    return result.exception


def test_a_line_of_another_kind_is_named(tmp_path: Path, run: Callable[..., Any]) -> None:
    lists, events = written(tmp_path, [a_list(1)], [an_event(2, "a")])
    error = fails(run(events, lists))
    assert error.exit_code == 2
    assert "2.gz, line 1, is not what was expected (Object missing required field `recommendation_id`)" in str(error)


def test_a_broken_archive_is_named(tmp_path: Path, run: Callable[..., Any]) -> None:
    lists, events = written(tmp_path, [a_list(1)], [an_event(2, "a")])
    (events / "2026" / "11" / "2.gz").write_bytes(gzip.compress(b"x" * 100)[:20])
    assert "2.gz cannot be decompressed" in str(fails(run(lists, events)))


@pytest.mark.parametrize("window", ["", "24", "0h", "h", "1w"])
def test_a_window_that_cannot_be_is_refused(tmp_path: Path, run: Callable[..., Any], window: str) -> None:
    lists, events = written(tmp_path, [a_list(1)], [an_event(2, "a")])
    assert "--window" in str(fails(run(lists, events, "--window", window)))


def test_where_nothing_landed_the_report_says_so(tmp_path: Path, run: Callable[..., Any]) -> None:
    lists, events = written(tmp_path, [a_list(1)], [an_event(2, "a")])
    (tmp_path / "empty").mkdir()
    assert f"nothing has landed in {tmp_path / 'empty'} yet" in str(fails(run(tmp_path / "empty", events)))
    assert "no list in that time" in str(fails(run(lists, events, "--since", "2030-01-01")))
    with pytest.raises(SettingsError, match="does not exist"):
        raise fails(run(lists, tmp_path / "no-such-folder"))
