"""The oracle from the archive, and how the operator's commands read positions and archives."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from streamproc.deadletter import Kind
from streamproc.errors import SettingsError
from streamproc.namespace import Namespace
from streamproc.operations.common import position_of
from streamproc.operations.oracle import ArchivedLog, Verdict
from streamproc.record import Batch, Position, Record
from streamproc.replayed import wrap
from streamproc.settings import WorkerSettings

NAMESPACE = Namespace("app", "stream", 1)  # the bench's
events = st.tuples(
    st.sampled_from("ab"), st.sampled_from(["good", "good", "again", "poison", "from the future", "broken"])
)
steps = st.one_of(events, st.just("flush"), st.integers(0, 20))


# The fixtures are functions, and each case makes a bench of its own.
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(log=st.lists(steps, max_size=40), random=st.randoms(use_true_random=False))
def test_every_state_of_a_worker_equals_the_archive_whatever_was_put_aside_and_replayed(
    make_bench: Callable[[], Any],
    make_record: Callable[..., Record],
    make_batch: Callable[[Iterable[Record]], Batch],
    log: list[Any],
    random: Any,
) -> None:
    bench = make_bench()
    worker = bench.worker()
    sent: list[Record] = []
    archive: list[Record] = []
    unread: list[Record] = []

    def flush() -> None:
        worker.process(make_batch(unread))
        unread.clear()
        worker.make_durable()

    for number, step in enumerate(log):
        if step == "flush":
            flush()
        elif isinstance(step, int):  # replay a dead letter, the same one twice perhaps
            flush()
            letters = sorted(bench.deadletters.scan(), key=lambda letter: letter.position)
            letters = [letter for letter in letters if letter.kind is Kind.EVENT]
            if letters:
                letter = letters[step % len(letters)]
                data = wrap(NAMESPACE, letter.position, letter.data)
                unread.append(Record(data, letter.partition_key, Position(0, number), 3e9))
        else:
            key, flavour = step
            more: dict[str, Any] = {"at": 2e9} if flavour == "from the future" else {}
            if flavour == "again" and sent:
                more["event_id"] = f"id-{sent[-1].position.sequence_number}"  # of a key's last one, or another key's
            record = make_record(number, key, flavour, **more)
            if flavour == "broken":
                record = Record(b"{", key, record.position, record.arrived_at)
            else:
                archive.append(record)
            sent.append(record)
            unread.append(record)
    flush()

    oracle = ArchivedLog(bench.processor, WorkerSettings())
    for stored in bench.states.scan():
        oracle.add_state(stored)
    oracle.add_dead_letters(bench.deadletters)
    lines = archive + random.sample(archive, len(archive) // 3)
    random.shuffle(lines)
    for record in lines:
        oracle.add(record.position, record.data, "the archive")
    for stored in oracle.states():
        assert oracle.judge(stored) == (Verdict.EQUAL, ""), stored
    assert oracle.not_stored() == (0, [])


def test_a_state_that_holds_a_dead_letter_is_different(
    make_bench: Callable[[], Any],
    make_record: Callable[..., Record],
    make_batch: Callable[[Iterable[Record]], Batch],
) -> None:
    bench, other = make_bench(), make_bench()
    records = [make_record(1, "a", "x"), make_record(2, "a", "y")]
    for each, values in ((bench, records), (other, [records[0], make_record(2, "a", "poison")])):
        worker = each.worker()
        worker.process(make_batch(values))
        worker.make_durable()
    (stored,) = bench.states.scan()
    oracle = ArchivedLog(bench.processor, WorkerSettings())
    oracle.add_dead_letters(other.deadletters)
    for record in records:
        oracle.add(record.position, record.data, "the archive")
    assert oracle.judge(stored) == (Verdict.DIFFERENT, "events folded: 2, and 1 by the archive")


def test_a_state_differs_by_its_count_its_ids_or_its_bytes_and_is_not_archived_beyond_the_archive(
    make_bench: Callable[[], Any],
    make_record: Callable[..., Record],
    make_batch: Callable[[Iterable[Record]], Batch],
) -> None:
    bench = make_bench()
    oracle = ArchivedLog(bench.processor, WorkerSettings())
    records = [make_record(number, "a", number) for number in (1, 2)]
    for record in records:
        oracle.add(record.position, record.data, "the archive")
    worker = bench.worker()
    worker.process(make_batch(records))
    worker.make_durable()
    (stored,) = bench.states.scan()
    assert oracle.judge(stored) == (Verdict.EQUAL, "")
    for change, why in {
        "events_folded": "events folded: 3, and 2 by the archive",
        "ids_hash": "2 events folded, but others, or in another order",
        "window": "2 events folded, but others, or in another order",
        "state": "the same events folded, and another state",
    }.items():
        other: Any = {"events_folded": 3, "ids_hash": 1}.get(change, b"{}")
        assert oracle.judge(msgspec.structs.replace(stored, **{change: other})) == (Verdict.DIFFERENT, why)
    migrated_later = msgspec.structs.replace(stored, fold_version=0, state=b"older")
    assert oracle.judge(migrated_later) == (Verdict.EQUAL, "")
    ahead = msgspec.structs.replace(stored, position=Position(0, 3))
    assert oracle.judge(ahead) == (Verdict.NOT_ARCHIVED, "")
    assert oracle.not_stored() == (1, ["a"])


def test_an_archived_event_that_the_application_cannot_decode_is_named(make_bench: Callable[[], Any]) -> None:
    oracle = ArchivedLog(make_bench().processor, WorkerSettings())
    with pytest.raises(SettingsError, match=r"file 7, line 3: .*not JSON"):
        oracle.add(Position(0, 1), b"{", "file 7, line 3")


@given(st.builds(Position, st.integers(0, 10**12), st.integers(0, 10**129 - 1), st.integers(0, 10**6)))
def test_a_position_is_read_as_it_is_listed(position: Position) -> None:
    assert position_of(str(position)) == position


@pytest.mark.parametrize(
    "text", ["", "1", "shardId-0:1", "shardId-0:-1:0", "shard-0:1:0", "shardId-0:1:0 ", "shardId-0:٣:0"]
)
def test_what_is_no_position_is_refused_as_it_was_written(text: str) -> None:
    with pytest.raises(SettingsError, match="is no position: write it as"):
        position_of(text)
