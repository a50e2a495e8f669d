"""The registry in S3, on a real server: pushed, promoted by compare-and-swap, followed, rolled back, reported on."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from streamproc.application import Application
from streamproc.errors import SettingsError
from streamproc.landed import read_lines
from streamproc.local import LocalStack
from streamproc.telemetry import ModelLoaded, Telemetry, TelemetryEvent
from streamproc_consumers import recommender
from streamproc_consumers.experiment_commands import experiment
from streamproc_consumers.facts import ModelOffered, ModelRejected
from streamproc_consumers.recommendation import LogPosition, Recommendation, RecommendedItem
from streamproc_consumers.reload import FollowedModels, Models, models_at
from streamproc_models.bundle import CATALOGUE, MANIFEST, load
from streamproc_models.registry import Alias, AliasMoved, VersionUnknown, open_registry
from streamproc_models.registry.commands import models as commands
from streamproc_models.registry.s3 import S3Registry
from streamproc_models.training import train
from streamproc_producers.events import CartEvent, EventType, encode
from streamproc_producers.simulate import Shop, simulate


@pytest.fixture
def bucket(local_aws: LocalStack) -> str:
    name = f"models-{uuid.uuid4().hex[:8]}"
    local_aws.client("s3").create_bucket(Bucket=name)
    return name


@pytest.fixture
def registry(bucket: str) -> S3Registry:
    found = open_registry(f"s3://{bucket}/models/next-basket")
    assert isinstance(found, S3Registry)
    return found


def alias(version: str, previous: str | None = None, by: str = "ann") -> Alias:
    return Alias(version=version, previous=previous, moved_at=datetime.now(UTC), by=by, why="")


def point(registry: S3Registry, version: str, previous: str | None = None) -> None:
    held = registry.alias("champion")
    registry.move("champion", alias(version, previous), held.token if held else None)


def test_a_version_comes_out_as_it_went_in_and_is_never_changed(
    registry: S3Registry, model: Path, tmp_path: Path
) -> None:
    version = load(model).model_version
    assert registry.versions() == []
    assert registry.add(version, model)
    assert not registry.add(version, model)
    assert registry.versions() == [version]
    assert registry.manifest(version) == load(model).manifest
    registry.fetch(version, tmp_path)
    assert load(tmp_path).model_version == version


def test_a_push_that_broke_off_is_no_version_until_it_is_repeated(
    local_aws: LocalStack, bucket: str, registry: S3Registry, model: Path, tmp_path: Path
) -> None:
    key = f"models/next-basket/v1/{CATALOGUE}"
    local_aws.client("s3").put_object(Bucket=bucket, Key=key, Body=(model / CATALOGUE).read_bytes()[:100])
    assert registry.versions() == []
    with pytest.raises(VersionUnknown, match="has no version v1"):
        registry.fetch("v1", tmp_path)
    assert registry.add("v1", model)
    registry.fetch("v1", tmp_path)
    assert load(tmp_path).model_version == load(model).model_version


def test_of_many_who_move_an_alias_at_once_one_wins_and_the_others_are_told(registry: S3Registry) -> None:
    for round_ in range(3):  # the first one makes the alias, the others replace it
        held = registry.alias("champion")
        token = held.token if held else None
        outcomes: list[int] = []

        def move(number: int, token: str | None = token, outcomes: list[int] = outcomes, round_: int = round_) -> None:
            try:
                registry.move("champion", alias(f"v{round_}", by=f"user-{number}"), token)
                outcomes.append(number)
            except AliasMoved:
                outcomes.append(-1)

        threads = [threading.Thread(target=move, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        (winner,) = [number for number in outcomes if number >= 0]
        assert len(outcomes) == 6
        now = registry.alias("champion")
        assert now is not None
        assert (now.alias.version, now.alias.by) == (f"v{round_}", f"user-{winner}")


def test_an_alias_that_was_deleted_is_not_moved_by_who_read_it(
    local_aws: LocalStack, bucket: str, registry: S3Registry
) -> None:
    point(registry, "v1")
    held = registry.alias("champion")
    assert held is not None
    local_aws.client("s3").delete_object(Bucket=bucket, Key="models/next-basket/aliases/champion.json")
    with pytest.raises(AliasMoved):
        registry.move("champion", alias("v2"), held.token)
    assert registry.alias("champion") is None


@pytest.mark.usefixtures("local_aws")
def test_a_bucket_that_is_not_there_is_a_setting_to_mend() -> None:
    with pytest.raises(SettingsError, match="NoSuchBucket"):
        open_registry("s3://no-such-bucket-here/models/m").versions()


def test_a_running_process_follows_the_commands_and_a_bad_bundle_does_not_reach_it(
    local_aws: LocalStack,
    bucket: str,
    registry: S3Registry,
    model: Path,
    until: Callable[[Callable[[], bool]], None],
) -> None:
    version = load(model).model_version

    def command(*words: str) -> str:
        result = CliRunner().invoke(commands, [*words], env={"STREAMPROC_REGISTRY": registry.url, "LOGNAME": "ann"})
        assert result.exit_code == 0, result.exception
        return result.output

    command("push", str(model))
    command("promote", version, "--force", "an afternoon is too little for metrics")
    told: list[TelemetryEvent] = []
    models: Models = models_at(f"{registry.url}@champion", poll_seconds=0.05)
    assert isinstance(models, FollowedModels)
    models.start(Telemetry(told.append))
    assert models.serving.bundles["champion"].model_version == version

    bad = {path: path.read_bytes() for path in model.rglob("*.*") if path.is_file()}
    s3 = local_aws.client("s3")
    for path, content in bad.items():
        name = path.relative_to(model).as_posix()
        body = content if name == MANIFEST else content[:-1]
        s3.put_object(Bucket=bucket, Key=f"models/next-basket/bad/{name}", Body=body)
    point(registry, "bad", version)
    until(lambda: any(isinstance(event, ModelRejected) for event in told))
    (found,) = [event for event in told if isinstance(event, ModelRejected)]
    assert (found.model_version, found.serving) == ("bad", version)
    assert "SHA-256 differs" in found.reason
    assert models.serving.bundles["champion"].model_version == version
    assert f"champion means {version} again" in command("rollback", "--why", "it was bad")


def test_a_running_recommender_takes_a_promotion_and_its_records_and_its_telemetry_say_so(
    local_aws: LocalStack,
    bucket: str,
    registry: S3Registry,
    model: Path,
    running: Callable[[Application], Any],
    until: Callable[[Callable[[], bool]], None],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    shopping = islice(simulate(Shop(users=10, items=20, rate=1.0, seed=2), start), 500)
    train(shopping, datetime(2027, 1, 1, tzinfo=UTC), tmp_path / "second", items={})
    first, second = (load(folder).model_version for folder in (model, tmp_path / "second"))
    registry.add(first, model)
    registry.add(second, tmp_path / "second")
    point(registry, first)
    local_aws.create_stream(bucket, shards=1)
    local_aws.create_delivery_stream(bucket, bucket, "lists/")
    for name, value in {
        "STREAMPROC_MODEL": f"{registry.url}@champion",
        "STREAMPROC_MODEL_POLL_SECONDS": "1",
        "STREAMPROC_STREAM": bucket,
        "STREAMPROC_DELIVERY_STREAM": bucket,
        "STREAMPROC_BUCKET": bucket,
        "STREAMPROC_RECOMMENDER_NAME": bucket,
    }.items():
        monkeypatch.setenv(name, value)
    run = running(recommender.app())

    def put(user: str) -> None:
        event = CartEvent(
            event_id=uuid.uuid4(), event_type=EventType.VIEW, user_id=user, item_id="item-1", ts=datetime.now(UTC)
        )
        local_aws.client("kinesis").put_record(StreamName=bucket, Data=encode(event), PartitionKey=user)

    def told(kind: type[ModelLoaded | ModelOffered]) -> list[str]:
        return [event.model_version for event in run.telemetry if isinstance(event, kind)]

    put("ann")
    until(lambda: run.records() == 1)
    point(registry, second, first)
    until(lambda: told(ModelOffered) == [first, second])
    put("bob")
    until(lambda: run.records() == 2)
    run.stop()
    assert told(ModelLoaded) == [first, second]
    lists = {line.user_id: line for line in read_lines(f"s3://{bucket}/lists/", Recommendation)}
    assert {user: line.model_version for user, line in lists.items()} == {"ann": first, "bob": second}


def test_the_report_reads_what_landed_in_s3(local_aws: LocalStack, bucket: str) -> None:
    s3 = local_aws.client("s3")
    moment = datetime(2026, 11, 1, tzinfo=UTC)
    for number in range(4):
        line = Recommendation(
            recommendation_id=f"{number:032x}",
            user_id=f"u{number}",
            items=[RecommendedItem("a", "", 0.5, "popular", 1)],
            model_version="v1",
            arm=("champion", "challenger")[number % 2],
            propensity=0.5,
            features_as_of=moment,
            position=LogPosition("shardId-000000000000", str(10 * number), 0),
            event_ts=moment,
            published_ts=moment,
            item_snapshot="s",
            fallback=None,
        )
        s3.put_object(Bucket=bucket, Key=f"lists/2026/{number}", Body=msgspec.json.encode(line) + b"\n")
        event = {
            "position": msgspec.structs.asdict(LogPosition("shardId-000000000000", str(10 * number + 1), 0)),
            "arrived_at": moment.isoformat(),
            "event": {
                "event_id": str(uuid.UUID(int=number)),
                "event_type": "purchase",
                "user_id": f"u{number}",
                "item_id": "a" if number % 2 else "b",
                "ts": moment.isoformat(),
            },
        }
        s3.put_object(Bucket=bucket, Key=f"events/2026/{number}", Body=json.dumps(event).encode() + b"\n")
    words = ["report", "--recommendations", f"s3://{bucket}/lists/", "--events", f"s3://{bucket}/events/"]
    result = CliRunner().invoke(experiment, words)
    assert result.exit_code == 0, result.exception
    assert "challenger - champion  +100.00 points" in result.output
