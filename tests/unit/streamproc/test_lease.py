"""Which leases may be taken, and which shards may be read."""

from __future__ import annotations

from hypothesis import given, strategies as st

from streamproc.lease import SHARD_END, Lease, alive, others, startable
from streamproc.leases.memory import MemoryLeases
from streamproc.runners.held import HeldLease


def test_a_lease_whose_counter_moved_is_alive_and_one_that_stands_still_is_not() -> None:
    before = [Lease(shard_id="s0", owner="other", counter=4), Lease(shard_id="s1", owner="dead", counter=9)]
    after = [Lease(shard_id="s0", owner="other", counter=5), Lease(shard_id="s1", owner="dead", counter=9)]
    assert [lease.shard_id for lease in alive(before, after, "me")] == ["s0"]


def test_leases_that_are_ours_free_or_of_an_ended_shard_are_nobody_elses() -> None:
    leases = [
        Lease(shard_id="s0", owner="me"),
        Lease(shard_id="s1"),
        Lease(shard_id="s2", owner="other", checkpoint=SHARD_END),
    ]
    assert others(leases, "me") == []


def test_a_child_shard_starts_when_every_parent_is_read_to_its_end() -> None:
    parents = [Lease(shard_id="s0", checkpoint=SHARD_END), Lease(shard_id="s1", checkpoint="7")]
    child = Lease(shard_id="s2", parent_shard_ids=frozenset({"s0", "s1"}))
    assert startable([*parents, child]) == [parents[1]]
    ended = [parents[0], Lease(shard_id="s1", checkpoint=SHARD_END)]
    assert startable([*ended, child]) == [child]


def test_a_parent_that_is_gone_from_the_table_blocks_nobody() -> None:
    orphan = Lease(shard_id="s5", parent_shard_ids=frozenset({"s1"}))
    assert startable([orphan]) == [orphan]


@given(st.lists(st.sampled_from(["renew", "checkpoint", "steal", "lose answer"]), max_size=12))
def test_a_held_lease_is_lost_only_when_another_worker_took_it(steps: list[str]) -> None:
    leases = MemoryLeases()
    leases.create(Lease(shard_id="s0"))
    taken = leases.take(leases.list()[0], "me")
    assert taken is not None
    held = HeldLease(leases, taken)
    stolen = False
    for number, step in enumerate(steps):
        if step == "steal":
            stolen = leases.take(leases.list()[0], "thief") is not None
        elif step == "lose answer" and not stolen:
            leases.renew(leases.list()[0])  # our own write, whose answer never came
        else:
            written = held.renew() if step == "renew" else held.checkpoint(str(number), 0)
            assert written is not stolen
    assert held.renew() is not stolen
    assert held.lost.is_set() is stolen
    assert held.taken_by == ("thief" if stolen else None)
