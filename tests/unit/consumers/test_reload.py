"""Hot reload: aliases are followed, bad bundles rejected, and no batch is scored by two bundles."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from streamproc.clock import SystemClock
from streamproc.deadletters.memory import MemoryDeadLetters
from streamproc.errors import ServiceUnreachable, SettingsError
from streamproc.namespace import Namespace
from streamproc.processor import Changed
from streamproc.record import Batch, Position, Record
from streamproc.settings import WorkerSettings
from streamproc.shardmap import ALL_HASH_KEYS
from streamproc.sinks.memory import MemorySink
from streamproc.states.memory import MemoryStates
from streamproc.telemetry import BatchCommitted, ModelLoaded, Retried, Telemetry, TelemetryEvent
from streamproc.worker import Ports, ShardWorker
from streamproc_consumers import recommender as recommenders
from streamproc_consumers.facts import ModelOffered, ModelRejected
from streamproc_consumers.recommendation import Recommendation
from streamproc_consumers.recommender import ITEMS_PER_LIST, Recommender
from streamproc_consumers.reload import FixedModels, FollowedModels, models_at, poll_seconds
from streamproc_models.bundle import Bundle, load
from streamproc_models.errors import BundleInvalid
from streamproc_models.features import UserState
from streamproc_models.registry import Alias, Held, VersionUnknown
from streamproc_models.registry.folder import FolderRegistry
from streamproc_models.scorer import Scorer
from streamproc_models.training import TrainingSettings, train
from streamproc_producers.events import CartEvent, encode

NAMESPACE = Namespace("recommender", "stream", 1)


def named(bundle: Bundle, version: str) -> Bundle:
    """The same bundle as another version."""
    return msgspec.structs.replace(bundle, manifest=msgspec.structs.replace(bundle.manifest, model_version=version))


class FakeRegistry:
    """Aliases in memory; a version's files are its name, and :meth:`load` makes the bundle of it."""

    url = "fake"

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self.aliases: dict[str, Alias] = {}
        #: Version -> what loading it raises.
        self.broken: dict[str, Exception] = {}
        self.away: Exception | None = None
        self.fetched: list[str] = []
        self._moves = 0

    def point(self, alias: str, version: str, previous: str | None = None) -> None:
        self._moves += 1
        moved_at = datetime.fromtimestamp(self._moves, UTC)
        self.aliases[alias] = Alias(version=version, previous=previous, moved_at=moved_at, by="ann", why="")

    def alias(self, name: str) -> Held | None:
        if self.away is not None:
            raise self.away
        found = self.aliases.get(name)
        return None if found is None else Held(found, f"{found.moved_at}")

    def fetch(self, version: str, folder: Path) -> None:
        if version == "nowhere":
            raise VersionUnknown("fake has no version nowhere")
        self.fetched.append(version)
        (folder / "version").write_text(version)

    def load(self, folder: Path) -> Bundle:
        version = (folder / "version").read_text()
        if version in self.broken:
            raise self.broken[version]
        return named(self._bundle, version)

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"nobody who follows aliases needs {name}")


@pytest.fixture
def registry(bundle_without_model: Bundle) -> FakeRegistry:
    found = FakeRegistry(bundle_without_model)
    found.point("champion", "v1")
    return found


@pytest.fixture
def told() -> list[TelemetryEvent]:
    return []


@pytest.fixture
def follow(registry: FakeRegistry, told: list[TelemetryEvent]) -> Callable[..., FollowedModels]:
    def follow(*others: str) -> FollowedModels:
        models = FollowedModels(registry, "champion", others, clock=OneLook(), load=registry.load)
        models.start(Telemetry(told.append))
        return models

    return follow


class OneLook(SystemClock):
    """Nobody waits on it: the thread ends at once, and the test looks itself."""

    def wait(self, seconds: float, stop: threading.Event | None = None) -> bool:
        del seconds, stop
        return True


def version_of(models: FollowedModels, alias: str = "champion") -> str:
    return models.serving.bundles[alias].model_version


def worker_of(
    processor: Recommender, telemetry: Telemetry, states: MemoryStates | None = None, sink: MemorySink | None = None
) -> ShardWorker:
    """A worker with its ports in memory."""
    return ShardWorker(
        shard_id="shardId-000000000000",
        hash_range=ALL_HASH_KEYS,
        processor=processor,
        ports=Ports(
            states=states or MemoryStates(NAMESPACE),
            deadletters=MemoryDeadLetters(NAMESPACE),
            sink=sink or MemorySink(NAMESPACE),
        ),
        settings=WorkerSettings(),
        clock=SystemClock(),
        telemetry=telemetry,
        abort=threading.Event(),
    )


def rejected(told: Sequence[TelemetryEvent]) -> list[ModelRejected]:
    return [event for event in told if isinstance(event, ModelRejected)]


def test_what_the_alias_means_at_the_start_serves(follow: Callable[..., FollowedModels]) -> None:
    assert version_of(follow()) == "v1"


def test_a_moved_alias_is_followed_and_told(
    follow: Callable[..., FollowedModels], registry: FakeRegistry, told: list[TelemetryEvent]
) -> None:
    models = follow()
    before = models.serving
    registry.point("champion", "v2")
    models.once()
    assert version_of(models) == "v2"
    assert before.bundles["champion"].model_version == "v1", "who took the one before still has it whole"
    assert [event.model_version for event in told if isinstance(event, ModelOffered)] == ["v1", "v2"]


def test_an_alias_that_did_not_move_costs_no_fetch(
    follow: Callable[..., FollowedModels], registry: FakeRegistry
) -> None:
    models = follow()
    for _ in range(3):
        models.once()
    assert registry.fetched == ["v1"]


def test_a_rollback_needs_no_fetch(follow: Callable[..., FollowedModels], registry: FakeRegistry) -> None:
    models = follow()
    first = models.serving.bundles["champion"]
    registry.point("champion", "v2", "v1")
    models.once()
    registry.point("champion", "v1", "v2")
    models.once()
    assert models.serving.bundles["champion"] is first
    assert registry.fetched == ["v1", "v2"]


@pytest.mark.parametrize("error", [BundleInvalid("a golden row scores 1 off"), ValueError("broken generator")])
def test_a_bad_bundle_is_rejected_once_with_an_alarm_while_the_old_one_serves(
    follow: Callable[..., FollowedModels], registry: FakeRegistry, told: list[TelemetryEvent], error: Exception
) -> None:
    models = follow()
    registry.broken["v2"] = error
    registry.point("champion", "v2", "v1")
    for _ in range(3):
        models.once()
    assert version_of(models) == "v1"
    (found,) = rejected(told)
    assert (found.level, found.alias, found.model_version, found.serving) == ("error", "champion", "v2", "v1")
    assert str(error) in found.reason
    assert registry.fetched == ["v1", "v2"]


def test_a_bundle_that_loads_and_cannot_rank_is_rejected(
    follow: Callable[..., FollowedModels],
    registry: FakeRegistry,
    told: list[TelemetryEvent],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    models = follow()
    monkeypatch.setattr(Scorer, "rank", lambda *_, **__: 1 / 0)
    registry.point("champion", "v2")
    models.once()
    assert version_of(models) == "v1"
    assert "ZeroDivisionError" in rejected(told)[0].reason


def test_a_rejected_version_is_tried_again_when_it_is_promoted_again(
    follow: Callable[..., FollowedModels], registry: FakeRegistry
) -> None:
    models = follow()
    registry.broken["v2"] = BundleInvalid("half a file")
    registry.point("champion", "v2")
    models.once()
    del registry.broken["v2"]
    registry.point("champion", "v2")
    models.once()
    assert version_of(models) == "v2"


def test_files_of_another_version_are_rejected(
    follow: Callable[..., FollowedModels],
    registry: FakeRegistry,
    told: list[TelemetryEvent],
    bundle_without_model: Bundle,
) -> None:
    models = follow()
    models._load = lambda _folder: named(bundle_without_model, "v9")
    registry.point("champion", "v2")
    models.once()
    assert version_of(models) == "v1"
    assert rejected(told)[0].reason == "the files under v2 are those of v9"


def test_an_alias_that_points_nowhere_is_an_alarm(
    follow: Callable[..., FollowedModels], registry: FakeRegistry, told: list[TelemetryEvent]
) -> None:
    models = follow()
    registry.point("champion", "nowhere")
    models.once()
    assert version_of(models) == "v1"
    assert rejected(told)[0].reason == "fake has no version nowhere"


def test_while_the_registry_is_away_the_old_one_serves_and_it_is_tried_again(
    follow: Callable[..., FollowedModels], registry: FakeRegistry, told: list[TelemetryEvent]
) -> None:
    models = follow()
    registry.point("champion", "v2")
    registry.away = ServiceUnreachable("reading s3://b/k: timed out")
    models.once()
    assert version_of(models) == "v1"
    assert [event.what for event in told if isinstance(event, Retried)] == ["following champion"]
    registry.away = None
    models.once()
    assert version_of(models) == "v2"


def test_without_an_alias_there_is_nothing_to_start_with(registry: FakeRegistry) -> None:
    registry.aliases.clear()
    with pytest.raises(SettingsError, match="fake has no champion: push a bundle and promote it"):
        FollowedModels(registry, "champion", load=registry.load)


def test_a_process_that_starts_under_a_bad_bundle_serves_what_the_alias_meant_before(
    follow: Callable[..., FollowedModels], registry: FakeRegistry, told: list[TelemetryEvent]
) -> None:
    registry.broken["v2"] = BundleInvalid("half a file")
    registry.point("champion", "v2", "v1")
    models = follow()
    assert version_of(models) == "v1"
    assert [event.reason for event in rejected(told)] == ["half a file"], "what happened before anybody listened"
    models.once()
    assert version_of(models) == "v1"


def test_where_nothing_can_be_served_the_process_does_not_start(registry: FakeRegistry) -> None:
    registry.broken |= {"v1": BundleInvalid("no catalogue"), "v2": BundleInvalid("half a file")}
    registry.point("champion", "v2", "v1")
    with pytest.raises(BundleInvalid, match=r"half a file; no catalogue"):
        FollowedModels(registry, "champion", load=registry.load)
    registry.point("champion", "v2")
    with pytest.raises(BundleInvalid, match=r"champion of fake cannot be used: half a file"):
        FollowedModels(registry, "champion", load=registry.load)


def test_an_alias_that_is_set_later_is_followed_from_then_on(
    follow: Callable[..., FollowedModels], registry: FakeRegistry
) -> None:
    models = follow("challenger")
    assert [*models.serving.bundles] == ["champion"]
    registry.point("challenger", "v2")
    models.once()
    assert version_of(models, "challenger") == "v2"


def test_two_aliases_of_one_version_share_a_bundle(
    follow: Callable[..., FollowedModels], registry: FakeRegistry
) -> None:
    registry.point("challenger", "v1")
    models = follow("challenger")
    assert models.serving.bundles["challenger"] is models.serving.bundles["champion"]


def test_the_thread_follows_until_nobody_uses_the_models(registry: FakeRegistry) -> None:
    class Steps(SystemClock):
        """Lets the thread look whenever the test says so."""

        def __init__(self) -> None:
            self.go, self.looked = threading.Semaphore(0), threading.Semaphore(0)

        def wait(self, seconds: float, stop: threading.Event | None = None) -> bool:
            del seconds, stop
            self.looked.release()
            self.go.acquire()
            return False

    clock = Steps()
    models: FollowedModels | None = FollowedModels(registry, "champion", clock=clock, load=registry.load)
    assert models is not None
    models.start(Telemetry())
    models.start(Telemetry())  # a shard more
    (thread,) = [each for each in threading.enumerate() if each.name == "streamproc-models"]
    clock.looked.acquire()
    registry.point("champion", "v2")
    clock.go.release()
    clock.looked.acquire()
    assert version_of(models) == "v2"
    models = None
    clock.go.release()
    thread.join(timeout=10)
    assert not thread.is_alive()


def test_a_folder_with_a_bundle_is_fixed(bundle_folder: Path) -> None:
    models = models_at(str(bundle_folder))
    assert isinstance(models, FixedModels)
    assert models.serving.bundles["champion"].model_version == load(bundle_folder).model_version


def test_a_fixed_bundle_has_no_arms(bundle_folder: Path) -> None:
    with pytest.raises(SettingsError, match="STREAMPROC_EXPERIMENT names challenger, and STREAMPROC_MODEL is a fixed"):
        models_at(str(bundle_folder), ["challenger"])


def test_a_registry_in_s3_needs_an_alias() -> None:
    with pytest.raises(SettingsError, match=r"as s3://bucket/models/m@champion"):
        models_at("s3://bucket/models/m")


@pytest.mark.parametrize("text", ["", "soon", "0", "-1", "nan", "86400"])
def test_a_time_between_polls_that_cannot_be_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="STREAMPROC_MODEL_POLL_SECONDS"):
        poll_seconds(text)


def test_the_application_follows_the_alias_that_it_is_told(
    bundle_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = FolderRegistry(tmp_path / "next-basket")
    version = load(bundle_folder).model_version
    registry.add(version, bundle_folder)
    moved_at = datetime(2026, 1, 1, tzinfo=UTC)
    registry.move("champion", Alias(version=version, previous=None, moved_at=moved_at, by="ann", why=""), None)
    monkeypatch.setenv("STREAMPROC_MODEL", f"{registry.url}@champion")
    monkeypatch.setenv("STREAMPROC_EXPERIMENT", '{"salt": "a", "weights": {"champion": 0.5, "challenger": 0.5}}')
    monkeypatch.setenv("STREAMPROC_BUCKET", "bucket")
    monkeypatch.setenv("STREAMPROC_REDIS_URL", "redis://127.0.0.1:1/0")
    processor = recommenders.app().processor()
    assert isinstance(processor, Recommender)
    assert processor.model_version() == version


def test_a_worker_starts_the_following_and_tells_the_model_of_each_batch(
    registry: FakeRegistry, make_event: Callable[..., CartEvent]
) -> None:
    models = FollowedModels(registry, "champion", clock=OneLook(), load=registry.load)
    told: list[TelemetryEvent] = []
    worker = worker_of(Recommender(models), Telemetry(told.append))
    worker.start(None)

    def batch(number: int) -> None:
        event = make_event(number)
        records = [Record(encode(event), event.user_id, Position(0, number), event.at)]
        worker.process(Batch(worker.shard_id, records))

    batch(1)
    registry.point("champion", "v2")
    models.once()
    batch(2)
    batch(3)
    registry.broken["v3"] = BundleInvalid("half a file")
    registry.point("champion", "v3")
    models.once()
    batch(4)
    names = {ModelOffered: "offered", ModelLoaded: "loaded", ModelRejected: "rejected", BatchCommitted: "batch"}
    assert [(names[type(event)], getattr(event, "model_version", "")) for event in told if type(event) in names] == [
        ("offered", "v1"),
        ("loaded", "v1"),
        ("batch", ""),
        ("offered", "v2"),
        ("loaded", "v2"),
        ("batch", ""),
        ("batch", ""),
        ("rejected", "v3"),
        ("batch", ""),
    ]


# A reload under load, with real bundles.


@pytest.fixture(scope="module")
def two_bundles(
    shop_log: list[CartEvent], bundle_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """Two versions with a booster each, whose lists differ."""
    other = tmp_path_factory.mktemp("other")
    train(shop_log[: len(shop_log) * 3 // 4], shop_log[-1].ts, other, items={}, settings=TrainingSettings(trees_max=5))
    return bundle_folder, other


def test_under_load_no_batch_is_lost_and_each_is_scored_by_one_whole_model(
    two_bundles: tuple[Path, Path], shop_log: list[CartEvent], tmp_path: Path
) -> None:
    folders = {load(folder).model_version: folder for folder in two_bundles}
    first, second = folders
    registry = FolderRegistry(tmp_path / "registry")
    for version, folder in folders.items():
        registry.add(version, folder)

    def point(version: str) -> None:
        held = registry.alias("champion")
        moved = Alias(version=version, previous=None, moved_at=datetime.now(UTC), by="ann", why="")
        registry.move("champion", moved, held.token if held else None)

    point(first)
    models = FollowedModels(registry, "champion", clock=OneLook())
    done, batches = threading.Event(), []
    processor = Recommender(models)
    honest = processor.emit

    def emit(changed: Sequence[Changed[UserState]]) -> Sequence[Recommendation]:
        states = {each.key: processor.encode_state(each.state) for each in changed}
        lists = honest(changed)
        batches.append((states, lists))
        return lists

    def reload_all_the_time() -> None:
        number = 0
        while not done.is_set():
            number += 1
            models._previous.clear()  # so that each time the files are read, proven and warmed up
            point((second, first)[number % 2])
            models.once()

    processor.emit = emit  # type: ignore[method-assign]  # to see the states that the lists were made of
    sink, states = MemorySink(NAMESPACE), MemoryStates(NAMESPACE)
    worker = worker_of(processor, Telemetry(), states, sink)
    worker.start(None)
    records = [
        Record(encode(event), event.user_id, Position(0, number), event.at) for number, event in enumerate(shop_log)
    ]
    reloading = threading.Thread(target=reload_all_the_time)
    reloading.start()
    try:
        for start in range(0, len(records), 20):
            worker.process(Batch(worker.shard_id, records[start : start + 20]))
    finally:
        done.set()
        reloading.join()
    worker.make_durable()

    published = [msgspec.json.decode(output, type=Recommendation) for output in sink.outputs]
    assert sum(stored.events_folded for stored in states.scan()) == len(records), "no event was lost"
    assert len(batches) == len(records) / 20
    assert len(published) == sum(len(lists) for _, lists in batches), "no list was lost"
    scorers = {version: Scorer(load(folder)) for version, folder in folders.items()}
    for encoded, lists in batches:
        (version,) = {each.model_version for each in lists}
        users = [(user, processor.decode_state(state)) for user, state in encoded.items()]
        own = scorers[version].rank(users, ITEMS_PER_LIST)
        assert [[(item.id, item.probability) for item in each.items] for each in lists] == [
            [(item.item_id, item.probability) for item in ranked.items] for ranked in own
        ]
    assert {lists[0].model_version for _, lists in batches} == {first, second}, "both served"
