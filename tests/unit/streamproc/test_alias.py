"""The alias: which application serves, moved by one write that takes part in the leases."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import pytest

from streamproc import alias
from streamproc.alias import Origin, Rebuilds, SwitchLost
from streamproc.application import Application
from streamproc.deadletters.memory import MemoryDeadLetters
from streamproc.errors import LeasesHeldElsewhere
from streamproc.lease import Lease
from streamproc.leases.dynamodb import DynamoDBLeases
from streamproc.local import LocalStack
from streamproc.states.memory import MemoryStates

FIRST = "shardId-000000000000"


class Counted:
    """A DynamoDB client that counts its calls."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        self.calls.append(name)
        return getattr(self._client, name)


class Shop:
    """An application with one lease."""

    def __init__(self, client: Any, processor: Callable[[], Any]) -> None:
        self.name = f"alias-{uuid.uuid4().hex[:8]}"
        self.application = Application(
            name=self.name, stream="s", processor=processor, states=MemoryStates, deadletters=MemoryDeadLetters
        )
        self.client = Counted(client)
        calling: Any = self.client
        self.rebuilds = Rebuilds(self.name, client=calling)
        self.leases = DynamoDBLeases(self.name, client=client)
        self.leases.prepare()
        self.leases.create(Lease(shard_id=FIRST))


@pytest.fixture
def shop(stack: LocalStack, sums: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> Shop:
    for name, value in stack.environment().items():
        monkeypatch.setenv(name, value)
    made = Shop(stack.client("dynamodb"), sums)
    monkeypatch.setattr(alias, "aws_client", lambda _service: made.client)
    return made


def test_an_application_serves_itself_before_its_first_switch_and_one_read_tells(shop: Shop) -> None:
    assert alias.resolved(shop.application) == shop.application
    assert shop.client.calls == ["get_item"]
    alias.still_serves(shop.name, shop.name)


def test_whoever_starts_after_a_switch_runs_as_what_serves(shop: Shop) -> None:
    shop.rebuilds.move(shop.name, "shop-2", shop.leases.list())
    assert alias.resolved(shop.application).name == "shop-2"
    with pytest.raises(LeasesHeldElsewhere, match=f"'{shop.name}' was just switched from '{shop.name}' to 'shop-2'"):
        alias.still_serves(shop.name, shop.name)


def test_of_two_switches_from_the_same_one_the_second_changes_nothing_and_names_the_winner(shop: Shop) -> None:
    shop.rebuilds.move(shop.name, "shop-2", shop.leases.list())
    with pytest.raises(SwitchLost, match=r"another switch came first: .* is served by 'shop-2' now"):
        shop.rebuilds.move(shop.name, "shop-3", shop.leases.list())
    assert shop.rebuilds.serving() == "shop-2"


def test_a_switch_goes_on_from_what_serves_and_back_to_the_original(shop: Shop) -> None:
    shop.rebuilds.move(shop.name, "shop-2", [])
    shop.rebuilds.move("shop-2", shop.name, [])
    assert shop.rebuilds.serving() == shop.name
    shop.rebuilds.move(shop.name, "shop-3", [])
    assert shop.rebuilds.serving() == "shop-3"


def test_a_switch_is_lost_where_a_lease_was_taken_or_written_since_it_was_read(shop: Shop) -> None:
    read = shop.leases.list()
    taken = shop.leases.take(read[0], "worker")
    assert taken is not None
    for rows in (read, [taken]):
        with pytest.raises(SwitchLost, match="was started while this switch was under way"):
            shop.rebuilds.move(shop.name, "shop-2", rows)
    assert shop.leases.release(taken) is not None
    with pytest.raises(SwitchLost):
        shop.rebuilds.move(shop.name, "shop-2", read)
    assert shop.rebuilds.serving() == shop.name
    shop.rebuilds.move(shop.name, "shop-2", shop.leases.list())


def test_a_switch_of_more_shards_than_a_transaction_takes_looks_at_the_first_ones(shop: Shop) -> None:
    for number in range(1, 120):
        shop.leases.create(Lease(shard_id=f"shardId-{number:012d}"))
    rows = shop.leases.list()
    assert shop.leases.take(min(rows, key=lambda row: row.shard_id), "worker") is not None
    with pytest.raises(SwitchLost):
        shop.rebuilds.move(shop.name, "shop-2", rows)
    assert shop.rebuilds.serving() == shop.name


def test_shadows_are_listed_with_their_origins_until_they_are_removed(shop: Shop) -> None:
    assert shop.rebuilds.shadows() == {}
    shop.rebuilds.remove("never there")
    shop.rebuilds.add("shop-2", Origin(1_700_000_000))
    shop.rebuilds.add("shop-3", Origin(None))
    shop.rebuilds.move(shop.name, "shop-2", [])
    assert shop.rebuilds.shadows() == {"shop-2": Origin(1_700_000_000), "shop-3": Origin(None)}
    assert str(Origin(1_700_000_000)) == "2023-11-14T22:13:20+00:00"
    shop.rebuilds.remove("shop-3")
    assert shop.rebuilds.shadows() == {"shop-2": Origin(1_700_000_000)}
