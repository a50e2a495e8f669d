"""What every dead-letter store does: one suite, run on the memory one and on DynamoDB's and S3's API."""

from __future__ import annotations

import uuid
from collections.abc import Callable

import pytest

from streamproc.deadletter import Attempt, DeadLetter, DeadLetterStore, Kind
from streamproc.deadletters.dynamodb import INLINE_BYTES_MAX, DynamoDBDeadLetters
from streamproc.deadletters.memory import MemoryDeadLetters
from streamproc.local import LocalStack
from streamproc.namespace import Namespace
from streamproc.record import BEGINNING, Position

SHARD = "shardId-000000000000"


def letter(sequence_number: int, kind: Kind = Kind.EVENT, *, sub: int = 0, data: bytes = b"{") -> DeadLetter:
    return DeadLetter(
        shard_id=SHARD,
        position=Position(0, sequence_number, sub),
        kind=kind,
        reason="not JSON",
        field="ts" if sub else None,
        partition_key="user",
        data=data,
        arrived_at=1_700_000_000.125,
    )


class DeadLetterContract:
    """The cases. A backend is a ``make`` fixture."""

    def test_an_entry_is_kept_whole_however_large_its_data(self, make: Callable[[], DeadLetterStore]) -> None:
        store = make()
        letters = [letter(1, sub=2), letter(2, data=b""), letter(3, data=b"\xff" * (1024 * 1024))]
        store.write(letters)
        assert sorted(store.scan(), key=lambda entry: entry.position) == letters

    def test_an_entry_written_again_by_a_replay_stays_as_it_is(self, make: Callable[[], DeadLetterStore]) -> None:
        store = make()
        store.write([letter(1, data=b"first")])
        store.write([letter(1, data=b"again")])
        assert [entry.data for entry in store.scan()] == [b"first"]

    def test_a_start_skips_exactly_the_events_beyond_its_checkpoint(self, make: Callable[[], DeadLetterStore]) -> None:
        store = make()
        store.write([letter(n) for n in (1, 5, 9, 10)] + [letter(5, sub=1), letter(11, Kind.EMISSION)])
        assert store.event_positions_after(SHARD, Position(0, 5, 0)) == {
            Position(0, 5, 1),
            Position(0, 9),
            Position(0, 10),
        }
        everything = {Position(0, n) for n in (1, 5, 9, 10)} | {Position(0, 5, 1)}
        assert store.event_positions_after(SHARD, Position(0, -1, -1)) == everything
        assert store.event_positions_after(SHARD, BEGINNING) == everything
        assert store.event_positions_after("shardId-000000000001", BEGINNING) == set()

    def test_an_event_and_an_emission_at_one_position_are_two_entries(
        self, make: Callable[[], DeadLetterStore]
    ) -> None:
        store = make()
        store.write([letter(1), letter(1, Kind.EMISSION)])
        assert {entry.kind for entry in store.scan()} == {Kind.EVENT, Kind.EMISSION}

    def test_an_attempt_is_noted_for_its_shard_alone_and_taken_back(self, make: Callable[[], DeadLetterStore]) -> None:
        store = make()
        attempt = Attempt(first=Position(0, 10**55), last=Position(0, 10**55, 7), alone=True)
        store.note_attempt(SHARD, attempt)
        assert store.attempt(SHARD) == attempt
        assert store.attempt("shardId-000000000001") is None
        assert list(store.scan()) == []
        assert store.event_positions_after(SHARD, BEGINNING) == set()
        store.note_attempt(SHARD, None)
        store.note_attempt(SHARD, None)
        assert store.attempt(SHARD) is None

    def test_a_check_says_what_there_is(self, make: Callable[[], DeadLetterStore]) -> None:
        assert make().check()


class TestMemoryDeadLetters(DeadLetterContract):
    @pytest.fixture
    def make(self) -> Callable[[], DeadLetterStore]:
        return lambda: MemoryDeadLetters(Namespace("app", "stream", 1))


class TestDynamoDBDeadLetters(DeadLetterContract):
    @pytest.fixture
    def make(self, stack: LocalStack) -> Callable[[], DeadLetterStore]:
        def make() -> DeadLetterStore:
            namespace = Namespace(f"app-{uuid.uuid4().hex[:8]}", "stream", 1)
            s3 = stack.client("s3")
            s3.create_bucket(Bucket="letters")
            store = DynamoDBDeadLetters(namespace, bucket="letters", client=stack.client("dynamodb"), s3=s3)
            store.prepare()
            return store

        return make

    def test_large_data_is_an_object_of_its_own(self, stack: LocalStack, make: Callable[[], DeadLetterStore]) -> None:
        store = make()
        s3 = stack.client("s3")
        before = s3.list_objects_v2(Bucket="letters")["KeyCount"]
        store.write([letter(1, data=b"x" * INLINE_BYTES_MAX)])
        assert s3.list_objects_v2(Bucket="letters")["KeyCount"] == before
        store.write([letter(2, data=b"x" * (INLINE_BYTES_MAX + 1))])
        assert s3.list_objects_v2(Bucket="letters")["KeyCount"] == before + 1
