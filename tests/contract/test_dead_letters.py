"""What every dead-letter store does: one suite, run on the memory one and on DynamoDB's and S3's API."""

from __future__ import annotations

import uuid
from collections.abc import Callable

import msgspec
import pytest

from streamproc.deadletter import Attempt, DeadLetter, DeadLetterStore, Kind, Status
from streamproc.deadletters.dynamodb import INLINE_BYTES_MAX, DynamoDBDeadLetters
from streamproc.deadletters.memory import MemoryDeadLetters
from streamproc.errors import SettingsError
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
        assert Position(0, 5) in store.event_positions_after(SHARD, Position(0, 5, -1)), "a checkpoint before a record"
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

    def test_a_claim_is_for_one_position_and_may_be_repeated_for_it(self, make: Callable[[], DeadLetterStore]) -> None:
        store = make()
        store.write([letter(1), letter(1, Kind.EMISSION), letter(2)])
        first, at, elsewhere = Position(0, 1), Position(3, 10**55, 7), Position(3, 10**55, 8)
        assert store.claim(first, at)
        assert store.claim(first, at)  # the reply was lost, or the worker replays
        assert not store.claim(first, elsewhere)
        assert {(entry.kind, entry.status, entry.replayed_at) for entry in store.find(first)} == {
            (Kind.EVENT, Status.REPLAYED, at),
            (Kind.EMISSION, Status.OPEN, None),
        }
        assert [entry.status for entry in store.find(Position(0, 2))] == [Status.OPEN]

    def test_what_is_no_events_entry_cannot_be_claimed(self, make: Callable[[], DeadLetterStore]) -> None:
        store = make()
        store.write([letter(1, Kind.EMISSION), letter(2, sub=1)])
        assert not store.claim(Position(0, 1), Position(0, 9))
        assert not store.claim(Position(0, 2), Position(0, 9))
        assert not store.claim(Position(1, 2, 1), Position(0, 9))
        assert all(entry.status is Status.OPEN for entry in store.scan())

    def test_a_dropped_event_is_never_claimed_and_a_claimed_one_not_dropped(
        self, make: Callable[[], DeadLetterStore]
    ) -> None:
        store = make()
        store.write([letter(1), letter(2)])
        assert store.drop(letter(1))
        assert store.drop(letter(1))
        assert not store.claim(Position(0, 1), Position(0, 9))
        assert store.claim(Position(0, 2), Position(0, 9))
        assert not store.drop(letter(2))
        assert not store.drop(letter(3))
        assert {entry.position.sequence_number: entry.status for entry in store.scan()} == {
            1: Status.DROPPED,
            2: Status.REPLAYED,
        }

    def test_an_emission_is_marked_once_it_is_published_and_an_event_by_a_claim_alone(
        self, make: Callable[[], DeadLetterStore]
    ) -> None:
        store = make()
        store.write([letter(1, Kind.EMISSION), letter(2, Kind.EMISSION), letter(3)])
        assert store.mark_replayed(letter(1, Kind.EMISSION))
        assert store.mark_replayed(letter(1, Kind.EMISSION))
        assert not store.drop(letter(1, Kind.EMISSION))
        assert store.drop(letter(2, Kind.EMISSION))
        assert not store.mark_replayed(letter(2, Kind.EMISSION))
        with pytest.raises(ValueError, match="claim"):
            store.mark_replayed(letter(3))

    def test_an_entry_written_again_keeps_what_became_of_it(self, make: Callable[[], DeadLetterStore]) -> None:
        store = make()
        store.write([letter(1), letter(2)])
        store.claim(Position(0, 1), Position(0, 9))
        store.drop(letter(2))
        store.write([letter(1), letter(2)])
        assert {entry.status for entry in store.scan()} == {Status.REPLAYED, Status.DROPPED}

    def test_a_start_skips_an_event_at_its_first_position_whatever_became_of_it(
        self, make: Callable[[], DeadLetterStore]
    ) -> None:
        store = make()
        store.write([letter(n) for n in (1, 2, 3)])
        store.claim(Position(0, 1), Position(0, 9))
        store.drop(letter(2))
        assert store.event_positions_after(SHARD, BEGINNING) == {Position(0, n) for n in (1, 2, 3)}

    def test_a_record_put_aside_again_knows_where_it_first_stood(self, make: Callable[[], DeadLetterStore]) -> None:
        store = make()
        again = msgspec.structs.replace(letter(9), first_position=Position(0, 1, 2))
        store.write([again])
        assert store.find(Position(0, 9)) == list(store.scan()) == [again]

    def test_entries_are_found_by_their_position_with_their_data(self, make: Callable[[], DeadLetterStore]) -> None:
        store = make()
        large = letter(1, Kind.EMISSION, data=b"x" * 100_000)
        second = msgspec.structs.replace(letter(1, Kind.EMISSION), ordinal=1)
        store.write([letter(1), large, second, letter(1, sub=1), letter(10), letter(11)])
        found = store.find(Position(0, 1))
        assert sorted(found, key=lambda entry: (entry.kind, entry.ordinal)) == [large, second, letter(1)]
        assert store.find(Position(0, 1, 1)) == [letter(1, sub=1)]
        assert store.find(Position(1, 1)) == []

    def test_a_scan_without_data_gives_everything_else(self, make: Callable[[], DeadLetterStore]) -> None:
        store = make()
        store.write([letter(1, sub=2, data=b"x" * 100_000), letter(2, data=b"small")])
        entries = sorted(store.scan(with_data=False), key=lambda entry: entry.position)
        assert entries == [letter(1, sub=2, data=b""), letter(2, data=b"")]

    def test_a_partition_key_is_forgotten_with_its_data_and_no_other(self, make: Callable[[], DeadLetterStore]) -> None:
        store = make()
        other = msgspec.structs.replace(letter(3), partition_key="user-2")
        store.write([letter(1, data=b"x" * 100_000), letter(2, Kind.EMISSION), other])
        store.note_attempt(SHARD, Attempt(first=Position(0, 1), last=Position(0, 1)))
        assert store.forget("user") == 2
        assert store.forget("user") == 0
        assert list(store.scan()) == [other]
        assert store.attempt(SHARD) is not None
        assert not store.claim(Position(0, 1), Position(0, 9))  # a copy in the stream is not folded

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

    def test_data_that_is_gone_from_the_bucket_is_named(
        self, stack: LocalStack, make: Callable[[], DeadLetterStore]
    ) -> None:
        store = make()
        store.write([letter(1, data=b"x" * (INLINE_BYTES_MAX + 1))])
        s3 = stack.client("s3")
        for found in s3.list_objects_v2(Bucket="letters")["Contents"]:
            s3.delete_object(Bucket="letters", Key=found["Key"])
        assert len(list(store.scan(with_data=False))) == 1  # nothing is fetched
        named = f"s3://letters/deadletters/.*/{SHARD}/.*#event#0"
        with pytest.raises(SettingsError, match=named):
            list(store.scan())
        with pytest.raises(SettingsError, match=named):
            store.find(Position(0, 1))

    def test_forgetting_deletes_the_large_data_too(
        self, stack: LocalStack, make: Callable[[], DeadLetterStore]
    ) -> None:
        store = make()
        s3 = stack.client("s3")
        before = s3.list_objects_v2(Bucket="letters")["KeyCount"]
        store.write([letter(1, data=b"x" * (INLINE_BYTES_MAX + 1))])
        assert store.forget("user") == 1
        assert s3.list_objects_v2(Bucket="letters")["KeyCount"] == before

    def test_large_data_is_an_object_of_its_own(self, stack: LocalStack, make: Callable[[], DeadLetterStore]) -> None:
        store = make()
        s3 = stack.client("s3")
        before = s3.list_objects_v2(Bucket="letters")["KeyCount"]
        store.write([letter(1, data=b"x" * INLINE_BYTES_MAX)])
        assert s3.list_objects_v2(Bucket="letters")["KeyCount"] == before
        store.write([letter(2, data=b"x" * (INLINE_BYTES_MAX + 1))])
        assert s3.list_objects_v2(Bucket="letters")["KeyCount"] == before + 1
