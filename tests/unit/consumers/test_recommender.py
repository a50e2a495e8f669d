"""The recommender: one list for every changed user, the same in every replay."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings, strategies as st

from streamproc.clock import SystemClock
from streamproc.deadletters.memory import MemoryDeadLetters
from streamproc.errors import SettingsError
from streamproc.namespace import Namespace
from streamproc.processor import Changed
from streamproc.record import Batch, Position, Record
from streamproc.settings import WorkerSettings
from streamproc.shardmap import ALL_HASH_KEYS
from streamproc.sinks.memory import MemorySink
from streamproc.states.memory import MemoryStates
from streamproc.telemetry import Telemetry
from streamproc.worker import Ports, ShardWorker
from streamproc_consumers import recommender
from streamproc_consumers.demo import proof
from streamproc_consumers.recommendation import LogPosition, Recommendation, recommendation_id
from streamproc_consumers.recommender import ITEMS_PER_LIST, Recommender, read_seconds
from streamproc_models.bundle import Bundle
from streamproc_models.features import FOLD_VERSION, UserState
from streamproc_models.scorer import Cascade
from streamproc_producers.events import CartEvent, encode, utc

MakeEvent = Callable[..., CartEvent]
NOW = 1_800_000_000.0
NAMESPACE = Namespace("recommender", "stream", 1)


class StandingClock(SystemClock):
    """It is always NOW."""

    def time(self) -> float:
        return NOW


def changed(processor: Recommender, events: Iterable[CartEvent]) -> list[Changed[UserState]]:
    """The users that these events change, in the order of their first one; an event's place is its position."""
    found: dict[str, Changed[UserState]] = {}
    for number, event in enumerate(events):
        key = processor.key(event)
        state = processor.fold(found[key].state if key in found else processor.new_state(), event)
        found[key] = Changed(key, state, Position(0, number), processor.event_time(event), 1)
    return list(found.values())


def recommended(bundle: Bundle, events: Iterable[CartEvent]) -> Sequence[Recommendation]:
    processor = Recommender(bundle, StandingClock())
    return processor.emit(changed(processor, events))


def published(
    bundle: Bundle, events: Sequence[CartEvent], cuts: Iterable[int]
) -> tuple[list[Recommendation], MemoryStates]:
    """What a worker publishes where the log comes cut in these places, and the states it makes durable."""
    states, sink = MemoryStates(NAMESPACE), MemorySink(NAMESPACE)
    worker = ShardWorker(
        shard_id="shardId-000000000000",
        hash_range=ALL_HASH_KEYS,
        processor=Recommender(bundle, StandingClock()),
        ports=Ports(states=states, deadletters=MemoryDeadLetters(NAMESPACE), sink=sink),
        settings=WorkerSettings(),
        clock=SystemClock(),
        telemetry=Telemetry(),
        abort=threading.Event(),
    )
    worker.start(None)
    records = [
        Record(encode(event), event.user_id, Position(0, number), event.at) for number, event in enumerate(events)
    ]
    for start, end in pairwise(sorted({0, *cuts, len(records)})):
        worker.process(Batch(worker.shard_id, records[start:end]))
    worker.make_durable()
    return [msgspec.json.decode(output, type=Recommendation) for output in sink.outputs], states


def test_there_is_one_list_a_changed_user_in_their_order(bundle: Bundle, shop_log: list[CartEvent]) -> None:
    events = shop_log[:300]
    lists = recommended(bundle, events)
    assert [item.user_id for item in lists] == list(dict.fromkeys(event.user_id for event in events))


def test_places_are_ranked_from_one_on_best_first_and_without_repeats(
    bundle: Bundle, shop_log: list[CartEvent]
) -> None:
    for found in recommended(bundle, shop_log[:300]):
        assert [place.rank for place in found.items] == list(range(1, ITEMS_PER_LIST + 1))
        assert len({place.id for place in found.items}) == ITEMS_PER_LIST
        probabilities = [place.probability for place in found.items]
        # A fallback goes by popularity of late, and tells shares of a longer time.
        assert found.fallback or probabilities == sorted(probabilities, reverse=True)
        assert all(0 <= probability <= 1 for probability in probabilities)
        assert {place.source for place in found.items} <= {"history", "covisit", "popular"}


def test_a_list_says_what_it_was_made_of(bundle: Bundle, make_event: MakeEvent) -> None:
    (found,) = recommended(bundle, [make_event(1), make_event(2)])
    assert found.position == LogPosition.of(Position(0, 1))
    assert found.recommendation_id == recommendation_id("ann", Position(0, 1), bundle.model_version)
    assert (found.model_version, found.item_snapshot) == (bundle.model_version, f"bundle:{bundle.model_version}")
    assert (found.arm, found.published_ts) == ("champion", utc(NOW))
    assert found.features_as_of == found.event_ts == datetime(2026, 1, 1, 0, 0, 2, tzinfo=UTC)


def test_after_a_late_event_the_features_are_as_of_the_latest_one(bundle: Bundle, make_event: MakeEvent) -> None:
    (found,) = recommended(bundle, [make_event(60), make_event(2)])
    assert (found.features_as_of.minute, found.event_ts.minute, found.event_ts.second) == (1, 0, 2)


def test_items_have_the_names_of_the_bundle(bundle: Bundle, make_event: MakeEvent) -> None:
    (found,) = recommended(bundle, [make_event(1, item="item-0")])
    assert {place.name for place in found.items if place.id == "item-0"} == {"The first"}


def test_a_models_list_has_no_fallback(bundle: Bundle, make_event: MakeEvent) -> None:
    assert [item.fallback for item in recommended(bundle, [make_event(1)])] == [None]


def test_a_user_of_unknown_items_gets_the_popular_ones_and_the_list_says_why(
    bundle: Bundle, make_event: MakeEvent
) -> None:
    known, unknown = recommended(bundle, [make_event(1, "ann"), make_event(2, "bob", "no-such-item")])
    assert (known.fallback, unknown.fallback) == (None, "no_candidates")
    assert [place.id for place in unknown.items] == bundle.catalogue.ids[:ITEMS_PER_LIST]
    assert [place.rank for place in unknown.items] == list(range(1, ITEMS_PER_LIST + 1))


def test_without_a_booster_popularity_ranks_and_the_list_says_so(
    bundle_without_model: Bundle, make_event: MakeEvent
) -> None:
    assert bundle_without_model.booster is None
    lists = recommended(bundle_without_model, [make_event(1, "ann"), make_event(2, "bob")])
    assert [item.fallback for item in lists] == ["no_model", "no_model"]
    assert [place.id for place in lists[0].items] == bundle_without_model.catalogue.ids[:ITEMS_PER_LIST]
    assert {place.source for place in lists[0].items} == {"popular"}


def test_nothing_is_emitted_for_no_user(bundle: Bundle) -> None:
    assert recommended(bundle, []) == []


@settings(max_examples=25, deadline=None)
@given(st.sets(st.integers(0, 40), min_size=1))
def test_a_list_does_not_depend_on_the_other_users_of_the_batch(
    bundle: Bundle, shop_log: list[CartEvent], kept: set[int]
) -> None:
    processor = Recommender(bundle, StandingClock())
    users = changed(processor, shop_log[:300])
    together = processor.emit(users)
    some = [index for index in sorted(kept) if index < len(users)]
    assert processor.emit([users[index] for index in some]) == [together[index] for index in some]


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, 119), max_size=6), st.lists(st.integers(1, 119), max_size=6))
def test_a_replay_cut_elsewhere_publishes_the_same_list_under_the_same_id(
    bundle: Bundle, shop_log: list[CartEvent], cuts: list[int], others: list[int]
) -> None:
    first, _ = published(bundle, shop_log[:120], cuts)
    again, _ = published(bundle, shop_log[:120], others)
    by_id = {item.recommendation_id: item for item in first}
    assert len(by_id) == len(first)
    assert all(by_id.get(item.recommendation_id, item) == item for item in again)
    # The last list of each user is at the user's last event wherever the log is cut.
    assert {i.user_id: i.recommendation_id for i in first} == {i.user_id: i.recommendation_id for i in again}


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, 119), max_size=6))
def test_the_states_of_a_worker_are_the_oracles_of_the_proof(
    bundle: Bundle, shop_log: list[CartEvent], cuts: list[int]
) -> None:
    _, states = published(bundle, shop_log[:120], cuts)
    durable = {stored.key: stored for stored in states.scan()}
    outcome = proof.applied(proof.oracle(shop_log[:120]), durable, durable)
    assert outcome == proof.Application(120, 0, 0, True, [])


def test_states_carry_the_version_of_the_models_fold(bundle: Bundle, make_event: MakeEvent) -> None:
    assert Recommender.fold_version == FOLD_VERSION
    _, states = published(bundle, [make_event(1)], [])
    assert [stored.fold_version for stored in states.scan()] == [FOLD_VERSION]


def test_a_state_is_read_back_as_it_was_written(bundle: Bundle, shop_log: list[CartEvent]) -> None:
    processor = Recommender(bundle)
    for item in changed(processor, shop_log[:300]):
        written = processor.encode_state(item.state)
        assert processor.encode_state(processor.decode_state(written)) == written


def test_the_key_is_the_user_and_the_id_the_producers(bundle: Bundle, make_event: MakeEvent) -> None:
    processor, event = Recommender(bundle), make_event(77, "bob")
    decoded = processor.decode(encode(event))
    assert decoded == event
    assert processor.key(decoded) == "bob"
    assert processor.event_id(decoded) == event.event_id.bytes
    assert processor.event_time(decoded) == event.ts.timestamp()


def test_the_application_is_told_by_the_environment(bundle_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMPROC_MODEL", str(bundle_folder))
    monkeypatch.setenv("STREAMPROC_BUCKET", "bucket")
    monkeypatch.setenv("STREAMPROC_REDIS_URL", "redis://127.0.0.1:1/0")
    monkeypatch.setenv("STREAMPROC_RECOMMENDER_NAME", "challenger")
    application = recommender.app()
    assert (application.name, application.stream) == ("challenger", "cart-events")


@pytest.mark.parametrize("missing", ["STREAMPROC_MODEL", "STREAMPROC_BUCKET", "STREAMPROC_REDIS_URL"])
def test_a_missing_variable_is_named(bundle_folder: Path, monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    monkeypatch.setenv("STREAMPROC_MODEL", str(bundle_folder))
    monkeypatch.setenv("STREAMPROC_BUCKET", "bucket")
    monkeypatch.setenv("STREAMPROC_REDIS_URL", "redis://127.0.0.1:1/0")
    monkeypatch.delenv(missing)
    with pytest.raises(SettingsError, match=missing):
        recommender.app()


def test_by_a_cascade_a_list_has_the_scores_that_it_has_without(bundle: Bundle, shop_log: list[CartEvent]) -> None:
    def lists(cascade: Cascade | None) -> list[list[tuple[str, float]]]:
        processor = Recommender(bundle, StandingClock(), cascade=cascade)
        outputs = processor.emit(changed(processor, shop_log))
        return [[(item.id, item.probability) for item in output.items] for output in outputs]

    without, by_few, by_all = lists(None), lists(Cascade(first_trees=1, keep=1)), lists(Cascade(keep=100))
    assert by_all == without != by_few
    for user, few in zip(without, by_few, strict=True):
        of_all = dict(user)
        assert [probability for item, probability in few if item in of_all] == [
            of_all[item] for item, _ in few if item in of_all
        ]


def test_how_often_a_user_is_scored_is_a_setting_and_off_by_default() -> None:
    assert read_seconds("") == 0
    assert read_seconds("2.5") == 2.5


@pytest.mark.parametrize("text", ["often", "-1", "nan", "4000"])
def test_an_interval_that_cannot_be_is_refused_with_what_to_write(text: str) -> None:
    with pytest.raises(SettingsError, match=r"STREAMPROC_SCORE_AT_MOST_EVERY is .* from 0 to 3600"):
        read_seconds(text)
