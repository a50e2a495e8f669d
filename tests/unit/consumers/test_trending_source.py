"""Lists with what is trending: the snapshot is named by the record, and the list can be made again with it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from streamproc.clock import SystemClock
from streamproc.deadletters.memory import MemoryDeadLetters
from streamproc.errors import SettingsError
from streamproc.namespace import Namespace
from streamproc.processor import Changed, Received, Snapshot
from streamproc.record import Batch, Position, Record
from streamproc.settings import WorkerSettings
from streamproc.shardmap import ALL_HASH_KEYS
from streamproc.sinks.memory import MemorySink
from streamproc.snapshot import SnapshotCycle, encode_snapshot
from streamproc.snapshots.memory import MemorySnapshots
from streamproc.snapshots.s3 import object_name
from streamproc.states.memory import MemoryStates
from streamproc.telemetry import Retried, Telemetry, TelemetryEvent
from streamproc.worker import Ports, ShardWorker
from streamproc_consumers import recommender
from streamproc_consumers.api.ranking import Rankings, Wish
from streamproc_consumers.api.settings import ApiSettings
from streamproc_consumers.api.snapshots import FollowedSnapshots
from streamproc_consumers.archive import Archive
from streamproc_consumers.explain import ArchivedLine, Explained, explain, read_log
from streamproc_consumers.recommendation import Recommendation
from streamproc_consumers.recommender import ITEMS_PER_LIST, Recommender
from streamproc_consumers.reload import FixedModels
from streamproc_consumers.trending import find_snapshot, read_trending, trend_named, trend_of
from streamproc_models.bundle import Bundle
from streamproc_models.features import UserState, fold, new_state
from streamproc_models.features.trending import Trending, TrendingSnapshot
from streamproc_producers.events import CartEvent, encode

MakeEvent = Callable[..., CartEvent]
NAMESPACE = Namespace("recommender", "stream", 1)


def snapshot(number: int, item_ids: Sequence[str]) -> Snapshot:
    data = TrendingSnapshot(0.0, list(item_ids), [float(len(item_ids) - place) for place in range(len(item_ids))])
    return Snapshot(number, Trending.version, msgspec.json.encode(data), {}, 0.0)


@pytest.fixture
def narrow(bundle: Bundle) -> Bundle:
    """Its own sources propose two items each, so that what is trending gets into lists."""
    return msgspec.structs.replace(bundle, catalogue=msgspec.structs.replace(bundle.catalogue, proposed_max=2))


@pytest.fixture
def least(bundle: Bundle) -> list[str]:
    """What is bought least: nothing but a snapshot proposes it to everybody."""
    return bundle.catalogue.ids[:-21:-1]


def changed(event: CartEvent) -> Changed[UserState]:
    return Changed(event.user_id, fold(new_state(), event), Position(0, 1), event.at, 1)


def test_the_record_names_the_snapshot_that_was_offered_and_the_id_does_not_depend_on_it(
    narrow: Bundle, make_event: MakeEvent, least: list[str]
) -> None:
    processor, user = Recommender(narrow, trending=20), changed(make_event(1))
    (before,) = processor.emit([user])
    processor.use_snapshot(snapshot(7, least))
    (seventh,) = processor.emit([user])
    processor.use_snapshot(snapshot(8, least[::-1][:3]))
    (eighth,) = processor.emit([user])
    version = narrow.model_version
    assert [each.item_snapshot for each in (before, seventh, eighth)] == [
        f"bundle:{version}",
        f"bundle:{version}+trending:7/20",
        f"bundle:{version}+trending:8/20",
    ]
    assert before.recommendation_id == seventh.recommendation_id == eighth.recommendation_id
    assert before.items != seventh.items
    assert "trending" in {item.source for item in seventh.items}


def test_switched_off_a_snapshot_changes_not_one_byte(bundle: Bundle, shop_log: list[CartEvent]) -> None:
    with_it, without = Recommender(bundle), Recommender(bundle)
    with_it.use_snapshot(snapshot(7, bundle.catalogue.ids[-20:]))
    users = [changed(event) for event in shop_log[:50]]
    for one, other in zip(with_it.emit(users), without.emit(users), strict=True):
        assert with_it.encode(msgspec.structs.replace(one, published_ts=other.published_ts)) == without.encode(other)


def test_no_more_items_are_offered_than_the_setting_says() -> None:
    found = trend_of(snapshot(3, [f"item-{number}" for number in range(100)]), 2)
    assert found == ("trending:3/2", ["item-0", "item-1"])
    assert trend_named(f"bundle:abc+{found.name}") == (3, 2)
    assert trend_named("bundle:abc") is None


@pytest.mark.parametrize(("text", "items"), [("", 0), ("0", 0), ("20", 20), ("100", 100)])
def test_the_setting_is_a_number_of_items(text: str, items: int) -> None:
    assert read_trending(text) == items


@pytest.mark.parametrize("text", ["-1", "101", "many", "2.5", " 3", "²"])
def test_a_wrong_setting_is_named(text: str) -> None:
    with pytest.raises(SettingsError, match=r"STREAMPROC_TRENDING is .* a whole number from 0, which is none, to 100"):
        read_trending(text)


def test_the_application_offers_what_the_environment_says(
    bundle_folder: Path, monkeypatch: pytest.MonkeyPatch, make_event: MakeEvent
) -> None:
    monkeypatch.setenv("STREAMPROC_MODEL", str(bundle_folder))
    monkeypatch.setenv("STREAMPROC_BUCKET", "bucket")
    monkeypatch.setenv("STREAMPROC_REDIS_URL", "redis://127.0.0.1:1/0")
    monkeypatch.setenv("STREAMPROC_TRENDING", "5")
    processor: Any = recommender.app().processor()
    processor.use_snapshot(snapshot(1, ["item-1"]))
    assert processor.emit([changed(make_event(1))])[0].item_snapshot.endswith("+trending:1/5")


def worked(processor: Recommender, events: Sequence[CartEvent], snapshots: MemorySnapshots) -> list[Recommendation]:
    """What a worker publishes, an event a batch, with the snapshots of its own partials between them."""
    states, partials, sink = MemoryStates(NAMESPACE), MemoryStates(NAMESPACE.of_partials()), MemorySink(NAMESPACE)
    shard_id, telemetry = "shardId-000000000000", Telemetry()
    cycle = SnapshotCycle(
        Trending(),
        partials,
        snapshots,
        shard_ids=lambda: [shard_id],
        seconds=60.0,
        clock=SystemClock(),
        telemetry=telemetry,
    )
    worker = ShardWorker(
        shard_id=shard_id,
        hash_range=ALL_HASH_KEYS,
        processor=processor,
        ports=Ports(
            states=states, deadletters=MemoryDeadLetters(NAMESPACE), sink=sink, partials=partials, snapshots=cycle
        ),
        settings=WorkerSettings(),
        clock=SystemClock(),
        telemetry=telemetry,
        abort=threading.Event(),
    )
    worker.start(None)
    for number, event in enumerate(events):
        worker.process(Batch(shard_id, [Record(encode(event), event.user_id, Position(0, number), event.at)]))
        worker.make_durable()
        cycle.once()
    return [msgspec.json.decode(output, type=Recommendation) for output in sink.outputs]


def explained(bundle: Bundle, of: Recommendation, events: Sequence[CartEvent], given: Snapshot | None) -> Explained:
    archive = Archive()
    received = [
        Received(event, Record(encode(event), event.user_id, Position(0, number), event.at))
        for number, event in enumerate(events)
    ]
    lines = [msgspec.json.decode(archive.encode(line), type=ArchivedLine) for line in archive.process(received)]
    return explain(of, read_log(lines, of, "the archive"), bundle, snapshot=given)


def test_a_live_list_is_made_again_with_the_snapshot_that_it_names_bit_for_bit(
    narrow: Bundle, make_event: MakeEvent, least: list[str]
) -> None:
    events = [make_event(number, f"user-{number}", item) for number, item in enumerate(least)]
    events += [make_event(100 + number, "ann", item) for number, item in enumerate(narrow.catalogue.ids[5:9])]
    snapshots = MemorySnapshots(NAMESPACE)
    lists = worked(Recommender(narrow, trending=20), events, snapshots)
    assert trend_named(lists[0].item_snapshot) is None
    differs = 0
    for one in lists[1:]:
        number, _ = trend_named(one.item_snapshot) or (0, 0)
        found = explained(narrow, one, events, snapshots.get(number))
        assert (found.same, found.differences) == (True, [])
        for item in found.items:
            assert item.published is not None
            assert one.fallback or (item.explanation is not None and item.explanation.rank == item.published.rank)
        without = explained(narrow, one, events, None)
        if not without.same:
            differs += 1
            assert f"the trending items of snapshot {number}, which is not here" in without.differences[0]
    assert differs


def test_with_a_snapshot_that_cannot_be_read_the_one_before_goes_on(narrow: Bundle, make_event: MakeEvent) -> None:
    processor = Recommender(narrow, trending=20)
    processor.use_snapshot(snapshot(1, ["item-1"]))
    with pytest.raises(msgspec.DecodeError):  # the worker tells it as refused
        processor.use_snapshot(msgspec.structs.replace(snapshot(2, []), data=b"no JSON"))
    (found,) = processor.emit([changed(make_event(1))])
    assert found.item_snapshot == f"bundle:{narrow.model_version}+trending:1/20"


def test_a_snapshot_is_found_by_its_number(tmp_path: Path) -> None:
    kept = snapshot(12, ["item-1"])
    (tmp_path / object_name(12)).write_bytes(encode_snapshot(kept))
    assert find_snapshot(f"{tmp_path}/", 12) == kept
    assert find_snapshot(str(tmp_path), 13) is None
    (tmp_path / object_name(13)).write_bytes(b"what?")
    with pytest.raises(SettingsError, match="000000013 is no snapshot"):
        find_snapshot(str(tmp_path), 13)


# The API.

SETTINGS = ApiSettings(model="fixed", redis_url="redis://unused", trending=20, bucket="bucket")


class OneNamespace:
    """All that is asked of the states."""

    namespace = NAMESPACE


def followed(rankings: Rankings, store_of: Callable[[Namespace], Any], told: list[TelemetryEvent]) -> FollowedSnapshots:
    states: Any = OneNamespace()
    return FollowedSnapshots(SETTINGS, rankings, states, Telemetry(told.append), store_of=store_of)


def test_the_api_and_the_recommender_give_the_same_list_with_the_same_snapshot(
    narrow: Bundle, make_event: MakeEvent, least: list[str]
) -> None:
    snapshots, user = MemorySnapshots(NAMESPACE), changed(make_event(1))
    rankings, processor = Rankings(FixedModels(narrow), None), Recommender(narrow, trending=20)
    following = followed(rankings, lambda _: snapshots, [])

    async def lists() -> list[Any]:
        found = []
        for number in (1, 2):
            snapshots.add(snapshot(number, least[number:]))
            await following.once()
            await following.once()
            found.append((await rankings.rank(Wish("ann", user.state, ITEMS_PER_LIST, False))).served)
        return found

    for number, served in zip((1, 2), asyncio.run(lists()), strict=True):
        processor.use_snapshot(snapshot(number, least[number:]))
        (published,) = processor.emit([user])
        assert (served.ranked.items, served.item_snapshot) == (published.items, published.item_snapshot)


def test_a_snapshot_of_another_version_of_the_fold_is_not_offered(narrow: Bundle) -> None:
    snapshots = MemorySnapshots(NAMESPACE)
    snapshots.add(msgspec.structs.replace(snapshot(1, ["item-1"]), version=Trending.version + 1))
    rankings = Rankings(FixedModels(narrow), None)
    asyncio.run(followed(rankings, lambda _: snapshots, []).once())
    served = asyncio.run(rankings.rank(Wish("ann", new_state(), 5, False))).served
    assert served.trend is None


def test_a_store_of_snapshots_that_is_away_is_told_and_asked_again(narrow: Bundle) -> None:
    told: list[TelemetryEvent] = []

    def away(_: Namespace) -> Any:
        raise SettingsError("away")

    async def run() -> None:
        task = asyncio.create_task(followed(Rankings(FixedModels(narrow), None), away, told).follow())
        while not told:
            await asyncio.sleep(0)
        task.cancel()

    asyncio.run(run())
    assert [type(event) for event in told] == [Retried]


def test_the_api_says_what_it_needs_to_offer_what_is_trending() -> None:
    with pytest.raises(SettingsError, match=r"--trending .* give --bucket, or set STREAMPROC_BUCKET"):
        ApiSettings(model="fixed", redis_url="redis://unused", trending=20)
