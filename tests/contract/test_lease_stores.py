"""What every lease table does: one suite, run on the memory one and on DynamoDB's API."""

from __future__ import annotations

import uuid
from collections.abc import Callable

import pytest

from streamproc.errors import SettingsError
from streamproc.lease import LATEST, SHARD_END, TRIM_HORIZON, Lease, LeaseStore
from streamproc.leases.dynamodb import DynamoDBLeases
from streamproc.leases.memory import MemoryLeases
from streamproc.local import LocalStack

SHARD = "shardId-000000000000"


class LeaseStoreContract:
    """The cases. A backend is a ``make`` fixture."""

    def test_a_lease_is_created_once(self, make: Callable[[], LeaseStore]) -> None:
        store = make()
        lease = Lease(shard_id=SHARD, parent_shard_ids=frozenset({"p1", "p2"}), starting_hash_key="5")
        store.create(lease)
        store.create(Lease(shard_id=SHARD, checkpoint="99"))
        assert store.list() == [lease]

    def test_of_two_workers_that_take_a_lease_one_gets_it(self, make: Callable[[], LeaseStore]) -> None:
        store = make()
        store.create(Lease(shard_id=SHARD))
        read = store.list()[0]
        taken = store.take(read, "one")
        assert taken is not None
        assert (taken.owner, taken.counter) == ("one", read.counter + 1)
        assert store.take(read, "two") is None
        assert store.list() == [taken]

    def test_renewals_and_checkpoints_are_those_of_the_owner_alone(self, make: Callable[[], LeaseStore]) -> None:
        store = make()
        store.create(Lease(shard_id=SHARD))
        mine = store.take(store.list()[0], "mine")
        assert mine is not None
        renewed = store.renew(mine)
        assert renewed is not None
        checkpointed = store.checkpoint(renewed, "4960", 3)
        assert checkpointed is not None
        assert (checkpointed.checkpoint, checkpointed.checkpoint_sub_sequence_number) == ("4960", 3)
        theirs = store.take(checkpointed, "theirs")
        assert theirs is not None
        assert (theirs.owner_switches, theirs.checkpoint) == (1, "4960")
        assert store.renew(checkpointed) is None
        assert store.checkpoint(checkpointed, SHARD_END, 0) is None
        assert store.release(checkpointed) is None
        assert store.list() == [theirs]

    def test_a_released_lease_has_no_owner_and_keeps_its_checkpoint(self, make: Callable[[], LeaseStore]) -> None:
        store = make()
        store.create(Lease(shard_id=SHARD))
        mine = store.take(store.list()[0], "mine")
        assert mine is not None
        released = store.release(mine)
        assert released is not None
        assert (released.owner, released.checkpoint) == (None, TRIM_HORIZON)
        assert store.take(released, "next") is not None

    def test_a_checkpoint_at_latest_says_since_when_and_the_next_one_no_longer_does(
        self, make: Callable[[], LeaseStore]
    ) -> None:
        store = make()
        store.create(Lease(shard_id=SHARD, checkpoint=LATEST, latest_since=1_700_000_000.25))
        taken = store.take(store.list()[0], "mine")
        assert taken is not None
        assert taken.latest_since == 1_700_000_000.25
        later = store.checkpoint(taken, LATEST, 0, 1_800_000_000.5)
        assert later is not None
        assert (later.checkpoint, later.latest_since) == (LATEST, 1_800_000_000.5)
        number = store.checkpoint(later, "4960", -1)
        assert number is not None
        assert (number.checkpoint, number.checkpoint_sub_sequence_number, number.latest_since) == ("4960", -1, None)
        assert store.list() == [number]

    def test_a_check_says_what_there_is(self, make: Callable[[], LeaseStore]) -> None:
        assert make().check()


class TestMemoryLeases(LeaseStoreContract):
    @pytest.fixture
    def make(self) -> Callable[[], LeaseStore]:
        return MemoryLeases


class TestDynamoDBLeases(LeaseStoreContract):
    @pytest.fixture
    def make(self, stack: LocalStack) -> Callable[[], LeaseStore]:
        def make() -> LeaseStore:
            store = DynamoDBLeases(f"app-{uuid.uuid4().hex[:8]}", client=stack.client("dynamodb"))
            store.prepare()
            return store

        return make

    def test_the_rows_are_kcls(self, stack: LocalStack) -> None:
        client = stack.client("dynamodb")
        table = f"app-{uuid.uuid4().hex[:8]}"
        store = DynamoDBLeases(table, client=client)
        store.prepare()
        store.create(Lease(shard_id=SHARD, parent_shard_ids=frozenset({"shardId-000000000009"})))
        store.take(store.list()[0], "host:1")
        item = client.get_item(TableName=table, Key={"leaseKey": {"S": SHARD}})["Item"]
        assert item == {
            "leaseKey": {"S": SHARD},
            "leaseOwner": {"S": "host:1"},
            "leaseCounter": {"N": "1"},
            "ownerSwitchesSinceCheckpoint": {"N": "0"},
            "checkpoint": {"S": "TRIM_HORIZON"},
            "checkpointSubSequenceNumber": {"N": "0"},
            "parentShardId": {"SS": ["shardId-000000000009"]},
            "startingHashKey": {"S": "0"},
            "endingHashKey": {"S": str(2**128 - 1)},
        }

    def test_a_table_of_something_else_is_refused_with_its_name(self, stack: LocalStack) -> None:
        client = stack.client("dynamodb")
        table = f"app-{uuid.uuid4().hex[:8]}"
        store = DynamoDBLeases(table, client=client)
        store.prepare()
        client.put_item(TableName=table, Item={"leaseKey": {"S": "x"}, "checkpoint": {"S": "y"}})
        with pytest.raises(SettingsError, match="is not a lease table"):
            store.list()
