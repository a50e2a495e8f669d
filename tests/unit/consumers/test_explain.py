"""``streamproc explain``: a list built again from the archived log, and why it is as it is."""

from __future__ import annotations

import gzip
import json
import random
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner
from hypothesis import given, settings, strategies as st

from streamproc.clock import SystemClock
from streamproc.deadletters.memory import MemoryDeadLetters
from streamproc.errors import SettingsError, StreamprocError
from streamproc.namespace import Namespace
from streamproc.processor import Received
from streamproc.record import Batch, Position, Record, shard_id_of
from streamproc.settings import WorkerSettings
from streamproc.shardmap import ALL_HASH_KEYS
from streamproc.sinks.memory import MemorySink
from streamproc.states.memory import MemoryStates
from streamproc.telemetry import Telemetry
from streamproc.worker import Ports, ShardWorker
from streamproc_consumers.archive import Archive
from streamproc_consumers.explain import ArchivedLine, Explained, explain, find, read_log
from streamproc_consumers.explain_commands import explain as command
from streamproc_consumers.recommendation import Recommendation
from streamproc_consumers.recommender import Recommender
from streamproc_models.bundle import Bundle
from streamproc_models.features import fold, new_state
from streamproc_models.filters import Only
from streamproc_models.registry.folder import FolderRegistry
from streamproc_models.scorer import Ranked, Scorer
from streamproc_producers.events import CartEvent, encode

MakeEvent = Callable[..., CartEvent]
NAMESPACE = Namespace("recommender", "stream", 1)


def records(events: Iterable[CartEvent], first: int = 0, shard: int = 0) -> list[Record]:
    return [
        Record(encode(event), event.user_id, Position(shard, number), event.at)
        for number, event in enumerate(events, first)
    ]


def published(bundle: Bundle, log: Sequence[Record], cuts: Iterable[int] = ()) -> list[Recommendation]:
    """What workers publish where the log comes cut in these places: one worker a shard, one after the other."""
    states, sink = MemoryStates(NAMESPACE), MemorySink(NAMESPACE)
    for shard in sorted({record.position.shard_number for record in log}):
        worker = ShardWorker(
            shard_id=shard_id_of(shard),
            hash_range=ALL_HASH_KEYS,
            processor=Recommender(bundle),
            ports=Ports(states=states, deadletters=MemoryDeadLetters(NAMESPACE), sink=sink),
            settings=WorkerSettings(),
            clock=SystemClock(),
            telemetry=Telemetry(),
            abort=threading.Event(),
        )
        worker.start(None)
        of_shard = [record for record in log if record.position.shard_number == shard]
        for start, end in pairwise(sorted({0, *cuts, len(of_shard)})):
            worker.process(Batch(worker.shard_id, of_shard[start:end]))
        worker.make_durable()
    return [msgspec.json.decode(output, type=Recommendation) for output in sink.outputs]


def archived(log: Iterable[Record]) -> list[bytes]:
    """The lines of the archive."""
    archive = Archive()
    return [
        archive.encode(line)
        for line in archive.process([Received(archive.decode(record.data), record) for record in log])
    ]


def explained(bundle: Bundle, of: Recommendation, log: Iterable[Record], *items: str) -> Explained:
    lines = (msgspec.json.decode(line, type=ArchivedLine) for line in archived(log))
    return explain(of, read_log(lines, of, "the archive"), bundle, items)


def of_user(lists: Iterable[Recommendation], user: str) -> Recommendation:
    """The user's last list."""
    return [one for one in lists if one.user_id == user][-1]


@settings(max_examples=10, deadline=None)
@given(st.lists(st.integers(1, 199), max_size=5), st.integers(0, 1 << 16))
def test_every_list_is_the_same_again_wherever_the_batches_were_cut_and_however_the_archive_lies(
    bundle: Bundle, shop_log: list[CartEvent], cuts: list[int], seed: int
) -> None:
    log = records(shop_log[:200])
    rng = random.Random(seed)
    landed = [*log, *rng.sample(log, 50)]
    rng.shuffle(landed)
    for one in published(bundle, log, cuts):
        found = explained(bundle, one, landed)
        assert found.same
        assert found.differences == []
        assert [(each.id, each.probability) for each in found.ranked_again] == [
            (each.id, each.probability) for each in one.items
        ]


def test_copies_of_an_event_that_a_producer_sent_again_are_left_out_as_they_were_live(
    bundle: Bundle, make_event: MakeEvent
) -> None:
    events = [make_event(1, item="item-1", kind="purchase"), make_event(2, item="item-2")]
    log = [*records([*events, events[0]]), *records([make_event(3, item="item-3")], first=3)]
    (one,) = published(bundle, log)
    found = explained(bundle, one, [*log, *log])
    assert found.same
    assert (found.features.events, found.features.events_repeated) == (3, 5)


def test_what_the_user_did_after_the_list_is_not_in_its_features(bundle: Bundle, make_event: MakeEvent) -> None:
    log = records(make_event(number, item=f"item-{number}") for number in range(12))
    lists = published(bundle, log, [5])
    found = explained(bundle, lists[0], log)
    assert (found.same, found.features.events, found.features.events_later) == (True, 5, 7)
    assert found.features.features_as_of == lists[0].features_as_of


def test_positions_go_by_shard_first_so_a_log_across_a_reshard_is_in_order(
    bundle: Bundle, make_event: MakeEvent
) -> None:
    before = records([make_event(1, item="item-1", kind="purchase"), make_event(2, item="item-2")], first=900)
    after = records([make_event(3, item="item-3"), make_event(4, item="item-1")], first=10, shard=2)
    lists = published(bundle, [*before, *after])
    assert [explained(bundle, one, [*after, *before]).features.events for one in lists] == [2, 4]
    assert all(explained(bundle, one, [*after, *before]).same for one in lists)


def test_the_items_are_explained_by_the_features_of_then(bundle: Bundle, make_event: MakeEvent) -> None:
    events = [make_event(number, item=f"item-{number}", kind="purchase") for number in range(4)]
    log = records(events)
    (one,) = published(bundle, log)
    found = explained(bundle, one, log)
    assert [item.item_id for item in found.items] == [item.id for item in one.items]
    for item, place in zip(found.items, one.items, strict=True):
        assert item.published == place
        assert item.explanation is not None
        assert (item.explanation.rank, item.explanation.probability) == (place.rank, place.probability)
        assert item.explanation.sources[0] == place.source
    values = {
        reason.feature: reason.value
        for item in found.items
        if item.explanation and item.item_id == "item-0"
        for reason in item.explanation.reasons
    }
    assert (values["own_adds"], values["user_items"], values["user_purchased_1h"]) == (0, 4, 4)


def test_an_item_that_was_asked_for_is_explained_though_it_is_not_in_the_list(
    bundle: Bundle, make_event: MakeEvent
) -> None:
    log = records([make_event(1)])
    (one,) = published(bundle, log)
    ranked = Scorer(bundle).rank([("ann", fold(new_state(), make_event(1)))], 30)[0].items
    below, unknown = explained(bundle, one, log, ranked[20].item_id, "no-such-item").items
    assert below.published is None
    assert below.explanation is not None
    assert below.explanation.rank == 21
    assert (unknown.published, unknown.explanation) == (None, None)


# Why a list is another one.


def test_without_the_event_at_the_lists_position_the_archive_is_behind(bundle: Bundle, make_event: MakeEvent) -> None:
    log = records([make_event(1, item="item-1"), make_event(2, item="item-2")])
    (one,) = published(bundle, log)
    found = explained(bundle, one, log[:1])
    assert not found.same
    first, second = found.differences
    assert "no event at the list's position (shardId-000000000000:1:0)" in first
    assert "up to 2026-01-01T00:00:02+00:00, the archived events end at 2026-01-01T00:00:01+00:00" in second


def test_without_events_before_the_archive_began_the_features_are_not_those_of_then(
    bundle: Bundle, make_event: MakeEvent
) -> None:
    log = records(make_event(number, item=f"item-{number}", kind="purchase") for number in range(6))
    (one,) = published(bundle, log)
    found = explained(bundle, one, log[3:])
    (why,) = found.differences
    assert "events of the user are missing in the archive" in why
    assert "first line arrived 2026-01-01T00:00:03+00:00" in why


def ranked_otherwise(of: Recommendation, ranked: Ranked) -> Recommendation:
    places = [
        msgspec.structs.replace(of.items[0], id=item.item_id, probability=item.probability, rank=item.rank)
        for item in ranked.items
    ]
    return msgspec.structs.replace(of, items=places)


def test_a_filter_that_decided_is_told_from_other_features(bundle: Bundle, make_event: MakeEvent) -> None:
    log = records([make_event(1)])
    (one,) = published(bundle, log)
    gone = one.items[2].id
    filtered = Scorer(bundle, [Only.in_stock({gone})]).rank([("ann", fold(new_state(), make_event(1)))])[0]
    found = explained(bundle, ranked_otherwise(one, filtered), log)
    (why,) = found.differences
    assert f"here {gone} is ranked and there {filtered.items[-1].item_id}" in why
    assert "a filter" in why


def test_probabilities_that_are_off_by_a_rounding_are_told_as_such(bundle: Bundle, make_event: MakeEvent) -> None:
    log = records([make_event(1)])
    (one,) = published(bundle, log)
    items = [msgspec.structs.replace(item, probability=item.probability + 1e-8) for item in one.items]
    (why,) = explained(bundle, msgspec.structs.replace(one, items=items), log).differences
    assert "differ by 1.0e-08 at most" in why
    assert "rounds otherwise" in why


def test_cross_user_values_from_elsewhere_are_named(bundle: Bundle, make_event: MakeEvent) -> None:
    log = records([make_event(1)])
    (one,) = published(bundle, log)
    other = msgspec.structs.replace(one, item_snapshot="trending:7", items=one.items[::-1])
    (why,) = explained(bundle, other, log).differences
    assert f"the cross-user values trending:7, and the bundle's own are bundle:{bundle.model_version}" in why


def test_a_list_that_was_only_labelled_otherwise_is_told_as_such(bundle: Bundle, make_event: MakeEvent) -> None:
    log = records([make_event(1)])
    (one,) = published(bundle, log)
    found = explained(bundle, msgspec.structs.replace(one, fallback="of_old"), log)
    assert not found.same
    assert "the same, but the fallback was of_old and is None here" in found.differences[0]


# Fallbacks.


def test_a_list_by_popularity_is_explained_by_its_reason(bundle: Bundle, make_event: MakeEvent) -> None:
    log = records([make_event(1, item="new-1"), make_event(2, item="new-2")])
    (one,) = published(bundle, log)
    found = explained(bundle, one, log)
    assert (found.same, found.recommendation.fallback, found.fallback_again) == (True, "no_candidates", "no_candidates")
    assert (found.features.history_items, found.features.history_items_known) == (2, 0)
    assert {item.explanation for item in found.items} == {None}


def test_a_list_without_a_booster_is_the_same_again(bundle_without_model: Bundle, make_event: MakeEvent) -> None:
    log = records([make_event(1)])
    (one,) = published(bundle_without_model, log)
    found = explained(bundle_without_model, one, log)
    assert (found.same, found.fallback_again) == (True, "no_model")


def test_another_fallback_than_then_is_a_difference(bundle: Bundle, make_event: MakeEvent) -> None:
    log = records([make_event(1, item="item-1"), make_event(2, item="new")])
    (one,) = published(bundle, log)
    found = explained(bundle, one, log[1:])
    assert (found.recommendation.fallback, found.fallback_again) == (None, "no_candidates")
    assert not found.same
    assert "events of the user are missing" in found.differences[0]


# Finding.


def test_reading_stops_at_the_list(bundle: Bundle, make_event: MakeEvent) -> None:
    first, second = published(bundle, records([make_event(1, "ann"), make_event(2, "bob")]))

    def lines() -> Iterator[Recommendation]:
        yield first
        yield second
        raise AssertionError("read on")

    assert find(lines(), second.recommendation_id, "lists") is second


def test_a_list_that_is_not_there_is_told_with_the_number_of_lines(bundle: Bundle, make_event: MakeEvent) -> None:
    lists = published(bundle, records([make_event(1, "ann"), make_event(2, "bob")]))
    with pytest.raises(SettingsError, match="lists has no list 00ff among its 2 lines"):
        find(lists, "00ff", "lists")


def test_an_archive_without_the_user_is_told_with_the_number_of_lines(bundle: Bundle, make_event: MakeEvent) -> None:
    log = records([make_event(1, "ann"), make_event(2, "bob"), make_event(3, "ann")])
    one = of_user(published(bundle, log, [1]), "bob")
    with pytest.raises(SettingsError, match="no event of the user 'bob' up to the list, among 2 lines"):
        explained(bundle, one, [log[0], log[2]])


# The command.


class Landed:
    """Folders as Firehose fills them, and a registry."""

    def __init__(self, folder: Path, bundle: Bundle, bundle_folder: Path, log: Sequence[Record]) -> None:
        self.lists = published(bundle, log, [len(log) // 2])
        self._folder = folder
        self._write("lists", [msgspec.json.encode(one) for one in self.lists])
        self._write("events", archived(log))
        self.registry = folder / "models"
        FolderRegistry(self.registry).add(bundle.model_version, bundle_folder)

    def _write(self, name: str, lines: Sequence[bytes]) -> None:
        path = self._folder / name / "2026" / "01"
        path.mkdir(parents=True)
        half = len(lines) // 2
        (path / "1.gz").write_bytes(gzip.compress(b"".join(line + b"\n" for line in lines[half:])))
        (path / "2").write_bytes(b"".join(line + b"\n" for line in lines[:half]))

    def run(self, recommendation_id: str, *words: str, model: Path | str | None = None) -> Any:
        places = ["--recommendations", str(self._folder / "lists"), "--events", str(self._folder / "events")]
        arguments = [recommendation_id, *places, "--model", str(model or self.registry), *words]
        return CliRunner().invoke(command, arguments)


@pytest.fixture
def landed(tmp_path: Path, bundle: Bundle, bundle_folder: Path, make_event: MakeEvent) -> Landed:
    events = [make_event(number, "ann", f"item-{number % 7}", "purchase") for number in range(9)]
    return Landed(tmp_path, bundle, bundle_folder, records([*events, make_event(10, "bob", "new")]))


def fails(result: Any) -> StreamprocError:
    assert isinstance(result.exception, StreamprocError)
    return result.exception


def test_the_command_shows_the_list_and_what_it_was_made_of(landed: Landed, bundle: Bundle) -> None:
    one = of_user(landed.lists, "ann")
    result = landed.run(one.recommendation_id)
    assert result.exit_code == 0, result.exception
    for text in (
        f"list            {one.recommendation_id}",
        "user            ann",
        f"features as of  {one.features_as_of.isoformat()}",
        "position        shardId-000000000000:8:0",
        f"model           {bundle.model_version}, trained on",
        "arm             champion (propensity 1)",
        "fallback        none",
        "log             9 events of the user; 10 lines",
        "ranked again    the same list, bit for bit",
        "The first",
    ):
        assert text in result.output
    for item in one.items:
        assert f"{item.probability:.6f}" in result.output
    assert "own_" in result.output


@pytest.mark.parametrize("alias", ["", "@champion"])
def test_a_bundle_and_a_registry_with_or_without_an_alias_will_do(
    landed: Landed, bundle_folder: Path, alias: str
) -> None:
    recommendation_id = landed.lists[0].recommendation_id
    assert landed.run(recommendation_id, model=bundle_folder).exit_code == 0
    assert landed.run(recommendation_id, model=f"{landed.registry}{alias}").exit_code == 0


def test_json_has_every_feature_of_every_item(landed: Landed, bundle: Bundle) -> None:
    found = json.loads(landed.run(of_user(landed.lists, "ann").recommendation_id, "--json").output)
    assert found["same"] is True
    assert found["recommendation"]["user_id"] == "ann"
    assert {len(item["explanation"]["reasons"]) for item in found["items"]} == {len(bundle.manifest.features)}


def test_an_item_is_shown_with_all_its_features(landed: Landed, bundle: Bundle) -> None:
    result = landed.run(of_user(landed.lists, "ann").recommendation_id, "--item", "item-0", "--item", "nothing")
    assert all(feature in result.output for feature in bundle.manifest.features)
    assert "nothing: not in the list; no source proposes it" in result.output


def test_a_fallback_is_shown_with_its_reason(landed: Landed) -> None:
    result = landed.run(of_user(landed.lists, "bob").recommendation_id)
    assert result.exit_code == 0
    assert "no_candidates: the model knows none of the items" in result.output
    assert "1 items, 0 of them known" in result.output
    asked = landed.run(of_user(landed.lists, "bob").recommendation_id, "--item", "item-0")
    assert "popularity ranked (no_candidates)" in asked.output


def test_a_list_that_differs_is_shown_and_the_exit_code_is_1(landed: Landed, tmp_path: Path) -> None:
    kept = tmp_path / "events" / "2026" / "01" / "2"
    kept.unlink()
    result = landed.run(of_user(landed.lists, "ann").recommendation_id)
    error = fails(result)
    assert error.exit_code == 1
    assert "the list is another one when it is ranked again: the features are not those of then" in str(error)
    assert "ranked again    ANOTHER LIST" in result.output
    assert "ranked again:" in result.output


def test_what_is_no_id_is_refused_before_anything_is_read(landed: Landed) -> None:
    error = fails(landed.run("last"))
    assert error.exit_code == 2
    assert "'last' is no id of a list" in str(error)


def test_an_id_that_did_not_land_is_an_error(landed: Landed) -> None:
    error = fails(landed.run("0" * 32))
    assert error.exit_code == 2
    assert "among its 3 lines" in str(error)


def test_a_version_that_the_registry_does_not_have_is_an_error(landed: Landed, tmp_path: Path) -> None:
    error = fails(landed.run(landed.lists[0].recommendation_id, model=tmp_path / "other"))
    assert error.exit_code == 2
    assert f"has no version {landed.lists[0].model_version}" in str(error)


def test_a_bundle_of_another_version_is_an_error(
    landed: Landed, tmp_path: Path, bundle: Bundle, bundle_folder: Path
) -> None:
    # The same bundle under another name of the registry: only its manifest can tell.
    other = msgspec.structs.replace(landed.lists[0], model_version="0123456789ab")
    (tmp_path / "lists" / "2026" / "01" / "2").write_bytes(msgspec.json.encode(other) + b"\n")
    (tmp_path / "lists" / "2026" / "01" / "1.gz").unlink()
    FolderRegistry(landed.registry).add("0123456789ab", bundle_folder)
    for model in (bundle_folder, landed.registry):
        error = fails(landed.run(other.recommendation_id, model=model))
        assert error.exit_code == 2
        assert f"has version {bundle.model_version} there, and the list was made by 0123456789ab" in str(error)
