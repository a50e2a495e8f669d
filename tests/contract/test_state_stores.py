"""What every state store does: one suite, run on the memory one and on DynamoDB's API."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from typing import Any

import pytest

from streamproc.errors import NewerState, SettingsError
from streamproc.local import LocalStack
from streamproc.namespace import Namespace
from streamproc.record import Position
from streamproc.state import StateStore, StoredState, encode_stored
from streamproc.states.dynamodb import DynamoDBStates
from streamproc.states.memory import MemoryStates


def stored(key: str, sequence_number: int, *, fold_version: int = 1, state: bytes = b"state") -> StoredState:
    return StoredState(key, Position(0, 10**55 + sequence_number), sequence_number, 7, b"window", fold_version, state)


class StateStoreContract:
    """The cases. A backend is a ``make`` fixture."""

    def test_what_was_stored_is_loaded_and_other_keys_are_left_out(self, make: Callable[[], StateStore]) -> None:
        store = make()
        states = [stored(f"user-{n}", n, state=b"x" * n) for n in range(250)]  # more than one call takes
        assert store.store(states) == set()
        loaded = store.load([*(state.key for state in states), "nobody"])
        assert loaded == {state.key: state for state in states}

    def test_a_later_state_replaces_an_earlier_one(self, make: Callable[[], StateStore]) -> None:
        store = make()
        store.store([stored("a", 1)])
        assert store.store([stored("a", 2)]) == set()
        assert store.load(["a"])["a"].events_folded == 2

    def test_an_earlier_state_is_refused_and_the_others_of_the_call_are_written(
        self, make: Callable[[], StateStore]
    ) -> None:
        store = make()
        store.store([stored("b", 5), stored("d", 5)])
        assert store.store([stored("a", 1), stored("b", 4), stored("c", 1), stored("d", 4)]) == {"b", "d"}
        assert {key: state.events_folded for key, state in store.load(["a", "b", "c", "d"]).items()} == {
            "a": 1,
            "b": 5,
            "c": 1,
            "d": 5,
        }

    def test_the_same_state_may_be_written_again(self, make: Callable[[], StateStore]) -> None:
        store = make()
        assert store.store([stored("a", 3)]) == set()
        assert store.store([stored("a", 3)]) == set()

    def test_a_child_shards_position_is_later_whatever_its_sequence_number(
        self, make: Callable[[], StateStore]
    ) -> None:
        store = make()
        store.store([stored("a", 9)])
        child = StoredState("a", Position(4, 1), 10, 7, b"", 1, b"")
        assert store.store([child]) == set()
        assert store.store([stored("a", 9)]) == {"a"}

    def test_a_state_of_a_newer_fold_is_never_written_over(self, make: Callable[[], StateStore]) -> None:
        store = make()
        store.store([stored("a", 1, fold_version=2)])
        with pytest.raises(NewerState, match="fold version 2"):
            store.store([stored("a", 2, fold_version=1)])
        assert store.load(["a"])["a"].fold_version == 2

    def test_the_first_stream_is_noted_and_told_to_everyone_after(self, make: Callable[[], StateStore]) -> None:
        store = make()
        assert store.claim_stream("orders@100") == "orders@100"
        assert store.claim_stream("orders@200") == "orders@100"

    def test_a_scan_gives_every_state_of_the_namespace(self, make: Callable[[], StateStore]) -> None:
        store = make()
        states = {f"user-{n}": stored(f"user-{n}", n) for n in range(30)}
        store.store(list(states.values()))
        store.claim_stream("orders@100")
        assert {state.key: state for state in store.scan()} == states

    def test_a_key_is_forgotten_alone_and_again_without_harm(self, make: Callable[[], StateStore]) -> None:
        store = make()
        store.store([stored("a", 5), stored("ab", 1)])
        assert store.forget("a")
        assert not store.forget("a")
        assert store.load(["a", "ab"]).keys() == {"ab"}
        assert store.store([stored("a", 1)]) == set()  # an earlier position: nothing is left of the old state

    def test_a_check_says_what_there_is(self, make: Callable[[], StateStore]) -> None:
        assert make().check()


class TestMemoryStates(StateStoreContract):
    @pytest.fixture
    def make(self) -> Callable[[], StateStore]:
        return lambda: MemoryStates(Namespace("app", "stream", 1))


class TestDynamoDBStates(StateStoreContract):
    @pytest.fixture
    def make(self, stack: LocalStack) -> Callable[[], StateStore]:
        def make() -> StateStore:
            namespace = Namespace(f"app-{uuid.uuid4().hex[:8]}", "stream", 1)
            store = DynamoDBStates(namespace, client=stack.client("dynamodb"))
            store.prepare()
            store.prepare()  # a second worker starts
            return store

        return make

    def test_two_streams_under_one_application_do_not_mix(self, stack: LocalStack) -> None:
        client = stack.client("dynamodb")
        application = f"app-{uuid.uuid4().hex[:8]}"
        one, other = (DynamoDBStates(Namespace(application, "stream", n), client=client) for n in (1, 2))
        one.prepare()
        one.store([stored("a", 1)])
        assert other.load(["a"]) == {}
        assert list(other.scan()) == []

    @pytest.mark.parametrize(
        ("body", "what"),
        [
            (b"not an envelope", "malformed|truncated|Expected"),
            (encode_stored(stored("a", 1), "nowhere"), "not a position"),
            (encode_stored(stored("b", 1)), "of the key 'b'"),
            (None, "'body' is missing"),
        ],
    )
    def test_a_state_that_cannot_be_read_is_named_with_its_table_and_can_be_forgotten(
        self, stack: LocalStack, body: bytes | None, what: str
    ) -> None:
        client = stack.client("dynamodb")
        store = DynamoDBStates(Namespace(f"app-{uuid.uuid4().hex[:8]}", "stream", 1), client=client)
        store.prepare()
        item: dict[str, Any] = {"pk": {"S": "stream@1#a"}, **({} if body is None else {"body": {"B": body}})}
        client.put_item(TableName=store.table, Item=item)
        for read in (lambda: store.load(["a"]), lambda: list(store.scan())):
            with pytest.raises(SettingsError, match=what) as caught:
                read()
            assert "'a'" in str(caught.value)
            assert store.table in str(caught.value)
        assert store.forget("a")
        assert list(store.scan()) == []

    def test_an_idle_state_expires_by_its_time_to_live(self, stack: LocalStack) -> None:
        client = stack.client("dynamodb")
        namespace = Namespace(f"app-{uuid.uuid4().hex[:8]}", "stream", 1)
        store = DynamoDBStates(namespace, expire_after_seconds=30 * 86_400, client=client)
        store.prepare()
        store.prepare()
        described = client.describe_time_to_live(TableName=store.table)["TimeToLiveDescription"]
        assert (described["TimeToLiveStatus"], described["AttributeName"]) == ("ENABLED", "expires_at")
        store.store([stored("a", 1)])
        (item,) = client.scan(TableName=store.table)["Items"]
        assert int(item["expires_at"]["N"]) == pytest.approx(time.time() + 30 * 86_400, abs=60)

    def test_an_expiry_within_the_reach_of_a_replay_is_refused(self, stack: LocalStack) -> None:
        with pytest.raises(SettingsError, match="folded again"):
            DynamoDBStates(Namespace("app", "s", 1), expire_after_seconds=60, client=stack.client("dynamodb"))
