"""``streamproc audit``: sound output has no fault, and each planted one is found exactly."""

from __future__ import annotations

import gzip
import importlib.util
import json
import random
import tempfile
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings, strategies as st

from streamproc.errors import MissingExtra, SettingsError, StreamprocError
from streamproc.record import Position
from streamproc_consumers.audit import objects as audit_objects, run as audit_run
from streamproc_consumers.audit.commands import audit as command
from streamproc_consumers.audit.figures import drift_of
from streamproc_consumers.audit.lines import ListRead
from streamproc_consumers.audit.report import Report
from streamproc_consumers.audit.run import Plan, audit
from streamproc_consumers.experiment import LandedEvent, report as experiment_report
from streamproc_consumers.recommendation import LogPosition, Recommendation, RecommendedItem, recommendation_id
from streamproc_producers.events import CartEvent

START = datetime(2026, 11, 1, tzinfo=UTC)
SHARDS = 3


class Shop(msgspec.Struct):
    """Events in the order of their positions, and lists as a recommender publishes them."""

    events: list[tuple[Position, dict[str, Any]]]
    lists: list[Recommendation]


def a_list(
    user: str, position: Position, at: datetime, items: Sequence[str] = ("a", "b"), **more: Any
) -> Recommendation:
    version = more.get("model_version", "v1")
    fields: dict[str, Any] = {
        "recommendation_id": recommendation_id(user, position, version),
        "user_id": user,
        "items": [RecommendedItem(item, '}{ "name"\n', 0.1, "popular", rank) for rank, item in enumerate(items, 1)],
        "model_version": version,
        "arm": "champion",
        "features_as_of": at,
        "position": LogPosition.of(position),
        "event_ts": at,
        "published_ts": at + timedelta(milliseconds=300),
        "item_snapshot": "s",
        "fallback": None,
    }
    return Recommendation(**(fields | more))


def a_shop(seed: int, events: int = 60) -> Shop:
    """Batches of a few events; each batch's users get a list. Some batches are published again, as after a kill."""
    rng = random.Random(seed)
    shop, latest = Shop([], []), dict[str, datetime]()
    batches: list[list[Recommendation]] = []
    while len(shop.events) < events:
        shard = rng.randrange(SHARDS)
        changed: dict[str, Recommendation] = {}
        for _ in range(rng.randint(1, 5)):
            number = len(shop.events)
            user = f"user-{rng.randrange(4) * SHARDS + shard}"
            # Numbers of different lengths; several user records in one record.
            position = Position(shard, 95 + number // 2 * 3, number % 2)
            at = START + timedelta(minutes=number * 40 - rng.choice([0, 0, 50]))
            latest[user] = max(at, latest.get(user, at))
            shop.events.append((position, an_event(number, user, rng.choice("abcde"), at, rng.choice(KINDS))))
            changed[user] = a_list(
                user, position, at, rng.sample("abcde", rng.choice([3, 3, 2])), features_as_of=latest[user]
            )
        batches.append(list(changed.values()))
        if rng.random() < 0.1:  # the last batches again, later
            batches += [
                [msgspec.structs.replace(each, published_ts=each.published_ts + timedelta(seconds=9)) for each in batch]
                for batch in batches[-2:]
            ]
    shop.lists = [each for batch in batches for each in batch]
    return shop


KINDS = ("view", "add_to_cart", "purchase")


def an_event(number: int, user: str, item: str, at: datetime, kind: str = "view") -> dict[str, Any]:
    return {
        "event_id": f"00000000-0000-7000-8000-{number:012d}",
        "event_type": kind,
        "user_id": user,
        "item_id": item,
        "ts": at,
    }


def archived(events: Iterable[tuple[Position, dict[str, Any]]]) -> list[bytes]:
    return [
        msgspec.json.encode(
            {"position": LogPosition.of(position), "arrived_at": event["ts"] + timedelta(seconds=1), "event": event}
        )
        for position, event in events
    ]


def encoded(lists: Iterable[Recommendation]) -> list[bytes]:
    return [msgspec.json.encode(each) for each in lists]


def land(folder: Path, lines: Sequence[bytes], seed: int = 0) -> list[Path]:
    """Objects of a few lines; plain, gzip of one or two members, or without anything between the records."""
    rng = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    paths: list[Path] = []
    at = 0
    while at < len(lines):
        part = lines[at : at + rng.randint(1, 20)]
        at += len(part)
        form = rng.choice(["plain", "gzip", "members", "joined"])
        whole = b"".join(line + (b"" if form == "joined" else b"\n") for line in part)
        if form == "gzip":
            whole = gzip.compress(whole)
        if form == "members":
            whole = gzip.compress(whole[:50]) + gzip.compress(whole[50:])
        paths.append(folder / f"{len(paths):04d}")
        paths[-1].write_bytes(whole)
    return paths


def audited(folder: Path, lists: Sequence[bytes], events: Sequence[bytes] | None = None, seed: int = 0) -> Report:
    land(folder / "lists", lists, seed)
    if events is not None:
        land(folder / "archive", events, seed)
    return told(folder, archive=events is not None)


def told(folder: Path, *, archive: bool = False, **more: Any) -> Report:
    plan = Plan(address=str(folder / "lists"), archive=str(folder / "archive") if archive else None, **more)
    return audit(plan, lambda _: lambda _: None)


def faults(report: Report) -> dict[str, int]:
    return {fault.kind: fault.count for fault in report.faults}


def notes(report: Report) -> dict[str, int]:
    return {note.kind: note.count for note in report.notes}


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32))
def test_sound_output_has_no_fault_and_its_repeats_are_counted(seed: int) -> None:
    shop = a_shop(seed)
    with tempfile.TemporaryDirectory() as folder:
        report = audited(Path(folder), encoded(shop.lists), archived(shop.events), seed)
    distinct = {each.recommendation_id for each in shop.lists}
    assert report.faults == []
    assert (report.lists, report.distinct_lists) == (len(shop.lists), len(distinct))
    assert notes(report).get("repeat", 0) == len(shop.lists) - len(distinct)
    assert report.users == len({each.user_id for each in shop.lists})
    assert report.archived_events == len(shop.events)


def _conflict(shop: Shop, at: int) -> None:
    shop.lists.append(msgspec.structs.replace(shop.lists[at], items=shop.lists[at].items[:1]))


def _lost(shop: Shop, at: int) -> None:
    """The lists of a user's last batch are not there, although another user's of that shard are beyond them."""
    victim = shop.lists[at].user_id
    last = max(each.position.position() for each in shop.lists if each.user_id == victim)
    shop.lists = [each for each in shop.lists if not (each.user_id == victim and each.position.position() == last)]
    place = Position(last.shard_number, 10**9)
    shop.lists.append(a_list("later", place, START + timedelta(days=9)))
    shop.events = [
        (position, event) for position, event in shop.events if event["user_id"] != victim or position <= last
    ]


def _forgetful(shop: Shop, at: int) -> None:
    user = shop.lists[at].user_id
    shard = shop.lists[at].position.position().shard_number
    shop.lists.append(a_list(user, Position(shard, 10**9), START - timedelta(days=1)))


def _propensity(shop: Shop, at: int) -> None:
    place = Position(0, 10**9 + at)
    shop.lists.append(a_list("nobody", place, START, propensity=0.0))


@pytest.mark.parametrize(
    ("plant", "kind"),
    [
        (_conflict, "conflicting_id"),
        (_lost, "missing_position"),
        (_forgetful, "features_backwards"),
        (_propensity, "propensity"),
    ],
)
@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32))
def test_a_planted_fault_is_found_and_nothing_else(plant: Callable[[Shop, int], None], kind: str, seed: int) -> None:
    shop = a_shop(seed)
    plant(shop, random.Random(seed).randrange(len(shop.lists)))
    with tempfile.TemporaryDirectory() as folder:
        found = faults(audited(Path(folder), encoded(shop.lists), archived(shop.events), seed))
    if kind == "missing_position":
        # As many events as the last batch had of that user.
        assert set(found) == {kind}
    else:
        assert found == {kind: 1}


def _cut_line(folder: Path, lines: list[bytes]) -> None:
    (folder / "zz").write_bytes(lines[0] + b"\n" + lines[1][:-9])


def _cut_gzip(folder: Path, lines: list[bytes]) -> None:
    (folder / "zz.gz").write_bytes(gzip.compress(b"\n".join(lines))[:-40])


def _broken_gzip(folder: Path, lines: list[bytes]) -> None:
    whole = bytearray(gzip.compress(b"\n".join(lines)))
    whole[-6] ^= 255  # of the checksum
    (folder / "zz.gz").write_bytes(whole)


def _empty(folder: Path, _: list[bytes]) -> None:
    (folder / "zz").touch()


def _foreign(folder: Path, _: list[bytes]) -> None:
    (folder / "zz").write_bytes(b"PAR1\x00\xff" * 9000)


def _archive(folder: Path, _: list[bytes]) -> None:
    (folder / "zz").write_bytes(b"\n".join(archived(a_shop(1).events)))


def _old(folder: Path, lines: list[bytes]) -> None:
    fields = json.loads(lines[0])
    del fields["features_as_of"]
    (folder / "zz").write_bytes(lines[0] + b"\n" + json.dumps(fields).encode() + b"\n" + lines[1] + b"\n")


def _wrong_type(folder: Path, lines: list[bytes]) -> None:
    (folder / "zz").write_bytes(lines[0] + b"\n" + json.dumps(json.loads(lines[1]) | {"items": {}}).encode())


def _not_json(folder: Path, lines: list[bytes]) -> None:
    (folder / "zz").write_bytes(lines[0] + b"\nwhat?\n\n" + lines[1] + b"\n")


@pytest.mark.parametrize(
    ("plant", "kind", "says"),
    [
        (_cut_line, "truncated_object", "zz, line 2: the last line is cut"),
        (_cut_gzip, "truncated_object", "zz.gz: the gzip stream is cut"),
        (_broken_gzip, "truncated_object", "zz.gz: cannot be decompressed: Error -6 Incorrect checksum"),
        (_empty, "truncated_object", "zz: the object is empty"),
        (_foreign, "foreign_object", r"zz: no line of it has a recommendation_id; it begins with PAR1\x00"),
        (_archive, "foreign_object", "zz: no line of it has a recommendation_id"),
        (_old, "unknown_schema", "missing required field `features_as_of`: 1 line in"),
        (_wrong_type, "unknown_schema", "Expected `array`, got `object` - at `$.items`: 1 line in"),
        (_not_json, "unreadable_line", "1 line in"),
    ],
)
def test_what_is_no_list_is_found_and_located(
    tmp_path: Path, plant: Callable[[Path, list[bytes]], None], kind: str, says: str
) -> None:
    lists = encoded(a_shop(3).lists)
    land(tmp_path / "lists", lists)
    plant(tmp_path / "lists", encoded(a_list("new", Position(1, 10**6 + each), START) for each in range(50)))
    report = told(tmp_path)
    assert faults(report) == {kind: 1}
    (example,) = report.faults[0].examples
    assert says in example
    if kind in ("unknown_schema", "unreadable_line"):
        assert example.endswith("zz, line 2")
    # What is whole is read all the same.
    assert report.lists >= len(lists)


def comparable(report: Report) -> Any:
    """Without the places that are shown, which are some of many, and the last digits of sums."""

    def rounded(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: rounded(each) for key, each in value.items() if key != "examples"}
        if isinstance(value, list):
            return [rounded(each) for each in value]
        return round(value, 9) if isinstance(value, float) else value

    return rounded(msgspec.to_builtins(report))


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**32), piece=st.integers(300, 5_000))
def test_the_report_does_not_depend_on_how_text_is_cut_and_rows_are_partitioned(seed: int, piece: int) -> None:
    shop = a_shop(seed, 40)
    _conflict(shop, 0)
    lists = encoded(shop.lists)
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        folder = Path(name)
        whole = audited(folder, lists, archived(shop.events), seed)
        patch.setattr(audit_objects, "PIECE_BYTES", piece)
        patch.setattr(audit_objects, "_READ_BYTES", piece // 2 + 1)
        patch.setattr(audit_run, "_PARTITION_BYTES", 10_000)
        assert comparable(told(folder, archive=True)) == comparable(whole)


def test_the_same_list_with_another_time_arm_or_propensity_and_one_with_another_snapshot_are_repeats(
    tmp_path: Path,
) -> None:
    first = a_list("ann", Position(0, 1), START)
    again = [
        msgspec.structs.replace(first, published_ts=START + timedelta(hours=1)),
        msgspec.structs.replace(first, arm="challenger", propensity=0.2),
        msgspec.structs.replace(first, item_snapshot="bundle:v1+trending:8/20", items=first.items[::-1]),
    ]
    report = audited(tmp_path, encoded([first, *again]))
    assert (report.faults, notes(report), report.distinct_lists) == ([], {"repeat": 3}, 1)


def test_a_contradiction_names_both_places(tmp_path: Path) -> None:
    one = a_list("ann", Position(0, 1), START)
    (tmp_path / "lists").mkdir()
    lines = encoded([one, one, msgspec.structs.replace(one, user_id="bob")])
    (tmp_path / "lists" / "o").write_bytes(b"\n".join(lines))
    (fault,) = told(tmp_path).faults
    place = tmp_path / "lists" / "o"
    assert fault.examples == [f"{one.recommendation_id}: {place}, line 3, contradicts {place}, line 1"]


def test_producers_duplicates_and_events_that_have_not_had_their_time_are_not_missing(tmp_path: Path) -> None:
    at = START
    lists = [a_list("ann", Position(0, 5), at), a_list("bob", Position(0, 9), at)]
    events = [
        (Position(0, 5), an_event(1, "ann", "a", at)),
        (Position(0, 6), an_event(1, "ann", "a", at)),  # sent twice
        (Position(0, 9), an_event(2, "bob", "a", at)),
        (Position(0, 10), an_event(3, "ann", "a", at)),  # beyond what was published
        (Position(0, 7), an_event(4, "ann", "a", datetime.now(UTC))),  # Firehose may hold its list
    ]
    report = audited(tmp_path, encoded(lists), archived(events))
    assert (report.faults, notes(report)) == ([], {"not_judged_yet": 2})
    assert faults(told(tmp_path, archive=True, settle_seconds=-60.0)) == {"missing_position": 1}


@pytest.mark.parametrize("seed", range(4))
def test_hit_rates_and_their_intervals_are_those_of_the_experiments_report(tmp_path: Path, seed: int) -> None:
    shop = a_shop(seed, 300)
    report = audited(tmp_path, encoded(shop.lists), archived(shop.events))
    landed = [
        LandedEvent(LogPosition.of(position), msgspec.convert(event, CartEvent)) for position, event in shop.events
    ]
    (arm,) = experiment_report(shop.lists, landed, window_seconds=86_400).arms
    (whole,) = (each for each in report.answered if each.rank == 0)
    got, wanted = whole.hit_rate, arm.hit_rate
    assert wanted.value
    assert (got.value, got.low, got.high) == pytest.approx((wanted.value, wanted.low, wanted.high))
    by_rank = [each for each in report.answered if each.rank]
    assert [each.rank for each in by_rank] == [1, 2, 3]
    assert by_rank[0].lists == whole.lists == arm.lists > by_rank[2].lists


def test_groups_tell_fallbacks_coverage_propensity_and_lags(tmp_path: Path) -> None:
    lists = [
        a_list("ann", Position(0, 1), START, ["a", "b"], published_ts=START + timedelta(seconds=2)),
        a_list("bob", Position(0, 2), START, ["b"], fallback="no_model", published_ts=START + timedelta(seconds=2)),
        a_list("ann", Position(0, 3), START, ["c"], model_version="v2", arm="challenger", propensity=0.25),
        a_list("bob", Position(0, 4), START, [], model_version="v2", arm="challenger", propensity=0.25),
    ]
    report = audited(tmp_path, encoded(lists))
    old, new = report.groups
    assert (old.lists, old.users, old.fallbacks, old.items, old.coverage) == (2, 2, {"no_model": 0.5}, 2, 2 / 3)
    assert old.published.p50 == pytest.approx(2, rel=0.05)
    assert (new.arm, new.propensity_min, new.propensity_max, new.empty_share) == ("challenger", 0.25, 0.25, 0.5)
    assert notes(report) == {"empty_list": 1}
    assert [(day.day, day.model_version, day.lists) for day in report.days] == [
        ("2026-11-01", "v1", 2),
        ("2026-11-01", "v2", 2),
    ]
    assert [(drift.base, drift.other) for drift in report.drift] == [("v1", "v2")]


def test_drift_is_nothing_for_the_same_scores_and_a_shift_for_others() -> None:
    rng = np.random.default_rng(1)
    p, same, other = (np.bincount((rng.beta(2, b, 20_000) * 1000).astype(int), minlength=1001) for b in (9, 9, 5))
    assert drift_of("a", "b", p, same).psi < 0.01
    shifted = drift_of("a", "b", p, other)
    assert shifted.shifted
    assert 0.2 < shifted.ks < 0.6
    # Two bins, halves against 90 and 10 %: 0.4 ln 1.8 + 0.4 ln 5 = 0.8789.
    two = drift_of("a", "b", np.array([5e6, 5e6]), np.array([9e6, 1e6]))
    assert (two.psi, two.ks) == pytest.approx((0.8789, 0.4), abs=1e-4)


def test_what_is_read_in_bulk_has_the_fields_of_the_contract() -> None:
    read, contract = (
        [(each.name, each.default) for each in msgspec.structs.fields(of)] for of in (ListRead, Recommendation)
    )
    assert read == contract


# The command.


@pytest.fixture
def run() -> Callable[..., Any]:
    return lambda *words: CliRunner().invoke(command, [str(word) for word in words])


def test_the_command_prints_and_writes_everything_and_its_code_says_whether_the_data_is_sound(
    tmp_path: Path, run: Callable[..., Any]
) -> None:
    shop = a_shop(5, 200)
    land(tmp_path / "lists", encoded(shop.lists))
    land(tmp_path / "archive", archived(shop.events))
    words = ["--archive", tmp_path / "archive", "--json", tmp_path / "a.json", "--html", tmp_path / "a.html"]
    result = run(tmp_path / "lists", *words, "--parquet", tmp_path / "tables")
    assert result.exit_code == 0, (result.output, result.exception)
    for text in ("event to publication", "champion", "any", "repeat", "sound"):
        assert text in result.output
    written = json.loads((tmp_path / "a.json").read_text())
    assert (written["lists"], written["faults"]) == (len(shop.lists), [])
    page = (tmp_path / "a.html").read_text()
    assert page.count("<svg") >= 3
    assert "Sound: no fault was found." in page
    assert "http" not in page.replace("http-equiv", "")
    tables = pl.read_parquet(tmp_path / "tables" / "lists", hive_partitioning=True)
    assert tables.height == len(shop.lists)
    first = tables.filter(pl.col("recommendation_id") == shop.lists[0].recommendation_id).row(0, named=True)
    assert (first["user_id"], first["items"]) == (shop.lists[0].user_id, [each.id for each in shop.lists[0].items])
    assert first["sequence_number"] == shop.lists[0].position.sequence_number
    ddl = (tmp_path / "tables" / "athena.sql").read_text()
    assert all(f"  {name} " in ddl for name in tables.columns if name not in ("day", "model_version"))
    with pytest.raises(SettingsError, match="is not empty"):
        raise run(tmp_path / "lists", "--parquet", tmp_path / "tables").exception

    (tmp_path / "lists" / "zz").write_text("hello\n<b>")
    result = run(tmp_path / "lists", *words)
    assert result.exit_code == 1
    assert "NOT SOUND" in result.output
    assert "hello\\n&lt;b&gt;" in (tmp_path / "a.html").read_text()


def test_what_cannot_be_done_is_said(tmp_path: Path, run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def error(*words: object) -> StreamprocError:
        exception = run(*words).exception
        assert isinstance(exception, StreamprocError)
        return exception

    (tmp_path / "lists").mkdir()
    assert "nothing has landed in" in str(error(tmp_path / "lists"))
    assert "does not exist" in str(error(tmp_path / "no-such-folder"))
    assert "names no bucket" in str(error("s3:///x"))
    assert "--window '1w': write a number" in str(error(tmp_path / "lists", "--window", "1w"))
    assert "give --archive, too" in str(error(tmp_path / "lists", "--checkpoints", "app"))
    assert "give --checkpoints, too" in str(error(tmp_path / "lists", "--stream", "s"))
    assert "its folder does not exist" in str(error(tmp_path / "lists", "--json", tmp_path / "no" / "a.json"))
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "polars" else find(name, *more)
    )
    missing = error(tmp_path / "lists")
    assert isinstance(missing, MissingExtra)
    assert "pip install 'streamproc-consumers[audit]'" in str(missing)
