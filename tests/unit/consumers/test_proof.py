"""The demonstration's proof finds what it says it would find: each fault is planted and seen."""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import assume, given, strategies as st

from streamproc.record import Position
from streamproc.state import StoredState, fingerprint, roll
from streamproc_consumers.demo import proof
from streamproc_consumers.demo.proof import Published
from streamproc_consumers.recommendation import LogPosition, Recommendation, RecommendedItem
from streamproc_models.features import FOLD_VERSION, encode_state, fold, new_state
from streamproc_producers.events import CartEvent
from streamproc_producers.replay import JournalLine

MakeEvent = Callable[..., CartEvent]
USERS = ("ann", "bob", "cid")
KINDS = ("view", "add_to_cart", "remove_from_cart", "purchase")

#: The user, the kind and the item of each event of a log.
actions = st.tuples(st.sampled_from(USERS), st.sampled_from(KINDS), st.sampled_from(("item-0", "item-1", "item-2")))
logs = st.lists(actions, min_size=1, max_size=30)


def log(make_event: MakeEvent, told: Sequence[tuple[str, str, str]]) -> list[CartEvent]:
    return [make_event(number, user, item, kind) for number, (user, kind, item) in enumerate(told)]


def stored(events: Sequence[CartEvent]) -> dict[str, StoredState]:
    """The states of a worker that applied exactly these events, without the care that a real one takes."""
    by_user: defaultdict[str, list[CartEvent]] = defaultdict(list)
    for event in events:
        by_user[event.user_id].append(event)
    found = {}
    for user, own in by_user.items():
        state, ids_hash = new_state(), 0
        for event in own:
            state = fold(state, event)
            ids_hash = roll(ids_hash, fingerprint(event.event_id.bytes))
        found[user] = StoredState(
            user, Position(0, len(own)), len(own), ids_hash, b"", FOLD_VERSION, encode_state(state)
        )
    return found


def judged(sent: Sequence[CartEvent], applied: Sequence[CartEvent]) -> proof.Application:
    states = stored(applied)
    return proof.applied(proof.oracle(sent), states, states)


@given(logs)
def test_states_of_all_events_once_and_in_order_are_the_oracles(
    make_event: MakeEvent, told: list[tuple[str, str, str]]
) -> None:
    events = log(make_event, told)
    assert judged(events, events) == proof.Application(len(events), 0, 0, True, [])


@given(logs)
def test_how_users_interleave_does_not_matter(make_event: MakeEvent, told: list[tuple[str, str, str]]) -> None:
    events = log(make_event, told)
    assert judged(events, sorted(events, key=lambda event: event.user_id)).states_equal_oracle


@given(logs, st.data())
def test_a_lost_event_is_found(make_event: MakeEvent, told: list[tuple[str, str, str]], data: st.DataObject) -> None:
    events = log(make_event, told)
    lost = data.draw(st.sampled_from(events))
    found = judged(events, [event for event in events if event is not lost])
    assert (found.events_lost, found.events_applied_twice) == (1, 0)
    assert found.events_applied == len(events) - 1
    assert not found.states_equal_oracle
    assert found.different == [lost.user_id]


@given(logs, st.data())
def test_an_event_applied_twice_is_found(
    make_event: MakeEvent, told: list[tuple[str, str, str]], data: st.DataObject
) -> None:
    events = log(make_event, told)
    twice = data.draw(st.integers(0, len(events) - 1))
    found = judged(events, [*events[: twice + 1], *events[twice:]])
    assert (found.events_lost, found.events_applied_twice) == (0, 1)
    assert found.different == [events[twice].user_id]


@given(logs, st.data())
def test_one_lost_beside_one_applied_twice_is_found_though_the_counts_agree(
    make_event: MakeEvent, told: list[tuple[str, str, str]], data: st.DataObject
) -> None:
    events = log(make_event, [("ann", kind, item) for _, kind, item in told])
    assume(len(events) > 1)
    lost, twice = data.draw(st.lists(st.integers(0, len(events) - 1), min_size=2, max_size=2, unique=True))
    kept = [event for index, event in enumerate(events) for _ in range({lost: 0, twice: 2}.get(index, 1))]
    found = judged(events, kept)
    assert found.events_applied == len(events)
    assert not found.states_equal_oracle


def test_one_lost_beside_one_applied_twice_is_found_though_they_differ_by_id_alone(make_event: MakeEvent) -> None:
    first = make_event(1)
    second = msgspec.structs.replace(first, event_id=uuid.UUID(int=2))
    states = stored([first, first])
    assert states["ann"].state == stored([first, second])["ann"].state
    assert not proof.applied(proof.oracle([first, second]), states, states).states_equal_oracle


def test_one_lost_of_a_user_does_not_make_up_for_one_twice_of_another(make_event: MakeEvent) -> None:
    events = [make_event(1, "ann"), make_event(2, "ann"), make_event(3, "bob")]
    found = judged(events, [events[0], events[2], events[2]])
    assert (found.events_lost, found.events_applied_twice) == (1, 1)
    assert found.different == ["ann", "bob"]


@given(logs, st.data())
def test_two_events_of_a_user_in_the_wrong_order_are_found_though_the_counts_agree(
    make_event: MakeEvent, told: list[tuple[str, str, str]], data: st.DataObject
) -> None:
    events = log(make_event, [("ann", kind, item) for _, kind, item in told])
    assume(len(events) > 1)
    first, second = sorted(data.draw(st.lists(st.integers(0, len(events) - 1), min_size=2, max_size=2, unique=True)))
    swapped = [*events]
    swapped[first], swapped[second] = swapped[second], swapped[first]
    found = judged(events, swapped)
    assert (found.events_lost, found.events_applied_twice) == (0, 0)
    assert not found.states_equal_oracle


@given(logs, st.data())
def test_any_flipped_byte_of_a_state_is_found_in_either_copy(
    make_event: MakeEvent, told: list[tuple[str, str, str]], data: st.DataObject
) -> None:
    events = log(make_event, told)
    states = stored(events)
    user = data.draw(st.sampled_from(sorted(states)))
    state = bytearray(states[user].state)
    state[data.draw(st.integers(0, len(state) - 1))] ^= data.draw(st.integers(1, 255))
    flipped = states | {user: msgspec.structs.replace(states[user], state=bytes(state))}
    for durable, projected in ((flipped, states), (states, flipped)):
        found = proof.applied(proof.oracle(events), durable, projected)
        assert (found.states_equal_oracle, found.different) == (False, [user])
        assert (found.events_lost, found.events_applied_twice) == (0, 0)


def test_a_missing_copy_in_redis_is_found(make_event: MakeEvent) -> None:
    events = [make_event(1, "ann"), make_event(2, "bob")]
    states = stored(events)
    found = proof.applied(proof.oracle(events), states, {"bob": states["bob"]})
    assert (found.states_equal_oracle, found.different) == (False, ["ann"])
    assert found.events_lost == 0


def test_a_copy_in_redis_that_is_behind_is_found(make_event: MakeEvent) -> None:
    events = [make_event(1), make_event(2)]
    assert not proof.applied(proof.oracle(events), stored(events), stored(events[:1])).states_equal_oracle


def test_a_user_whose_events_are_all_lost_counts_each(make_event: MakeEvent) -> None:
    found = proof.applied(proof.oracle([make_event(1), make_event(2)]), {}, {})
    assert (found.events_applied, found.events_lost, found.different) == (0, 2, ["ann"])


@pytest.mark.parametrize("in_dynamodb", [True, False])
def test_a_state_of_a_user_without_events_is_found(make_event: MakeEvent, in_dynamodb: bool) -> None:
    ghost = stored([make_event(1, "ghost")])
    found = proof.applied({}, ghost if in_dynamodb else {}, {} if in_dynamodb else ghost)
    assert (found.states_equal_oracle, found.events_applied_twice) == (False, int(in_dynamodb))


def test_only_the_first_few_different_users_are_named(make_event: MakeEvent) -> None:
    events = [make_event(number, f"user-{number}") for number in range(9)]
    assert proof.applied(proof.oracle(events), {}, {}).different == [f"user-{number}" for number in range(5)]


# --- latencies and lists


def line(
    event: CartEvent, number: int | None, *, put_at: float = 0.0, due_at: float | None = None, shard: int = 0
) -> JournalLine:
    return JournalLine(
        event_id=event.event_id,
        user_id=event.user_id,
        put_at=put_at,
        due_at=due_at,
        shard_id=None if number is None else f"shardId-{shard:012d}",
        sequence_number=None if number is None else str(number),
        sub_sequence_number=None if number is None else 0,
        event=event,
    )


def listed(user: str, number: int, *, items: Sequence[str] = (), accepted_at: float = 0.0, shard: int = 0) -> Published:
    epoch = datetime.fromtimestamp(0, UTC)
    return Published(
        Recommendation(
            recommendation_id=f"{user}-{number}",
            user_id=user,
            items=[RecommendedItem(item, "", 0.5, "history", rank) for rank, item in enumerate(items, 1)],
            model_version="m",
            arm="champion",
            features_as_of=epoch,
            position=LogPosition.of(Position(shard, number)),
            event_ts=epoch,
            published_ts=epoch,
            item_snapshot="s",
            fallback=None,
        ),
        accepted_at,
    )


def test_a_latency_is_from_put_to_the_earliest_acceptance_at_or_beyond_the_event(make_event: MakeEvent) -> None:
    sent = [line(make_event(n), n, put_at=100.0) for n in (1, 2, 3)]
    # The list at 3 was accepted before that at 2, as after a retry: it includes the event at 2.
    published = [
        listed("ann", 1, accepted_at=101),
        listed("ann", 2, accepted_at=109),
        listed("ann", 3, accepted_at=104),
    ]
    assert proof.latencies_ms(sent, published) == [1000.0, 4000.0, 4000.0]


def test_a_list_of_another_user_ends_no_latency(make_event: MakeEvent) -> None:
    assert proof.latencies_ms([line(make_event(1, "ann"), 1)], [listed("bob", 1)]) == []


def test_an_event_that_no_list_includes_has_no_latency(make_event: MakeEvent) -> None:
    assert proof.latencies_ms([line(make_event(2), 2)], [listed("ann", 1)]) == []


def test_an_event_that_was_not_acknowledged_has_no_latency(make_event: MakeEvent) -> None:
    assert proof.latencies_ms([line(make_event(1), None)], [listed("ann", 1)]) == []


def test_a_latency_counts_from_when_the_event_was_due_not_from_a_late_put(make_event: MakeEvent) -> None:
    sent = [line(make_event(1), 1, put_at=107.0, due_at=100.0)]
    assert proof.latencies_ms(sent, [listed("ann", 1, accepted_at=108.0)]) == [8000.0]


def test_a_childs_position_is_beyond_every_position_of_its_parent(make_event: MakeEvent) -> None:
    sent = [line(make_event(1), 9_000, shard=1)]
    assert proof.latencies_ms(sent, [listed("ann", 5, shard=2, accepted_at=1.0)]) == [1000.0]


def test_a_recommendation_published_again_counts_when_it_was_first_accepted(make_event: MakeEvent) -> None:
    published = [listed("ann", 1, accepted_at=5.0), listed("ann", 1, accepted_at=2.0)]
    assert proof.latencies_ms([line(make_event(1), 1)], published) == [2000.0]


@given(
    st.lists(st.tuples(st.sampled_from(USERS), st.integers(0, 20)), max_size=20),
    st.lists(st.tuples(st.sampled_from(USERS), st.integers(0, 20), st.integers(0, 99)), max_size=20),
)
def test_latencies_are_those_of_the_definition_read_literally(
    make_event: MakeEvent, sent: list[tuple[str, int]], accepted: list[tuple[str, int, int]]
) -> None:
    lines = [line(make_event(number, user), number) for user, number in sent]
    published = [listed(user, number, accepted_at=float(at)) for user, number, at in accepted]
    literal = [
        min(times) * 1000.0
        for user, number in sent
        if (times := [at for other, position, at in accepted if other == user and position >= number])
    ]
    assert proof.latencies_ms(lines, published) == literal


def basket(
    make_event: MakeEvent, begin: int, items: Sequence[str], *, order: str, user: str = "ann"
) -> list[CartEvent]:
    """Each item added, then each bought, one number after the other."""
    added = [make_event(begin + place, user, item, "add_to_cart") for place, item in enumerate(items)]
    bought = [
        make_event(begin + len(items) + place, user, item, "purchase", order_id=order)
        for place, item in enumerate(items)
    ]
    return added + bought


def lines_of(events: Sequence[CartEvent]) -> list[JournalLine]:
    """The position of each is its number."""
    return [line(event, event.event_id.int) for event in events]


def test_the_list_before_the_basket_counts_and_those_during_it_do_not(make_event: MakeEvent) -> None:
    sent = lines_of(basket(make_event, 10, ["a", "b"], order="o"))
    before, during = listed("ann", 9, items=["x"]), [listed("ann", n, items=["a"]) for n in (10, 11, 12, 13)]
    assert proof.hit_rate([], sent, [before, *during]) == proof.Hits(1, 0, 0)
    assert proof.hit_rate([], sent, [listed("ann", 9, items=["x", "b"]), *during]).hits == 1


def test_of_several_lists_before_a_basket_the_last_counts(make_event: MakeEvent) -> None:
    sent = lines_of(basket(make_event, 10, ["a"], order="o"))
    assert proof.hit_rate([], sent, [listed("ann", 8, items=["x"]), listed("ann", 3, items=["a"])]).hits == 0
    assert proof.hit_rate([], sent, [listed("ann", 8, items=["a"]), listed("ann", 3, items=["x"])]).hits == 1


def test_a_basket_without_a_list_before_it_is_no_pair(make_event: MakeEvent) -> None:
    sent = lines_of(basket(make_event, 10, ["a"], order="o"))
    assert proof.hit_rate([], sent, [listed("ann", 10, items=["a"])]) == proof.Hits(0, 0, 0)
    assert proof.hit_rate([], sent, [listed("bob", 5, items=["a"])]) == proof.Hits(0, 0, 0)


def test_a_basket_begins_at_the_first_addition_after_the_last_purchase(make_event: MakeEvent) -> None:
    first = basket(make_event, 10, ["a"], order="one")
    # A view between the baskets begins nothing: the list that knows it still comes before the basket.
    between = make_event(12, "ann", "b", "view")
    second = basket(make_event, 13, ["b"], order="two")
    published = [listed("ann", 11, items=["x"]), listed("ann", 12, items=["b"]), listed("ann", 13, items=["x"])]
    assert proof.hit_rate([], lines_of([*first, between, *second]), published) == proof.Hits(1, 1, 0)


def test_all_lines_of_an_order_are_one_basket(make_event: MakeEvent) -> None:
    sent = lines_of(basket(make_event, 10, ["a", "b", "c"], order="o"))
    assert proof.hit_rate([], sent, [listed("ann", 9, items=["c"])]) == proof.Hits(1, 1, 0)


def test_what_is_added_and_never_bought_is_no_pair(make_event: MakeEvent) -> None:
    sent = lines_of([make_event(10, "ann", "a", "add_to_cart")])
    assert proof.hit_rate([], sent, [listed("ann", 9, items=["a"])]).pairs == 0


def test_an_addition_that_was_not_acknowledged_begins_no_basket(make_event: MakeEvent) -> None:
    added, bought = basket(make_event, 10, ["a"], order="o")
    sent = [line(added, None), *lines_of([bought])]
    assert proof.hit_rate([], sent, [listed("ann", 10, items=["a"])]) == proof.Hits(1, 1, 0)


def test_popularity_includes_the_history_and_counts_purchases_alone(make_event: MakeEvent) -> None:
    viewed = [make_event(number, "bob", f"viewed-{number}") for number in range(20)]
    history = [*viewed, make_event(30, "bob", "a", "purchase"), *viewed]
    sent = lines_of(basket(make_event, 110, ["a"], order="o"))
    assert proof.hit_rate(history, sent, [listed("ann", 100)]) == proof.Hits(1, 0, 1)
    assert proof.hit_rate(viewed, sent, [listed("ann", 100)]) == proof.Hits(1, 0, 0)


def test_popularity_is_that_of_the_baskets_begin(make_event: MakeEvent) -> None:
    history = [make_event(number, "bob", f"p{number % 10}", "purchase") for number in range(20)]
    added, bought = basket(make_event, 200, ["new"], order="o")
    rush = [make_event(100 + number, "cid", "new", "purchase", order_id=f"c{number}") for number in range(3)]
    published = [listed("ann", 50)]
    assert proof.hit_rate(history, lines_of([*rush, added, bought]), published).hits_popularity == 1
    late = [line(event, 300 + number) for number, event in enumerate(rush)]
    assert proof.hit_rate(history, [*lines_of([added]), *late, line(bought, 400)], published).hits_popularity == 0


def test_each_basket_has_the_popular_items_of_its_own_begin(make_event: MakeEvent) -> None:
    # The first basket makes its item popular, in time for the second.
    sent = lines_of([*basket(make_event, 10, ["a"], order="one"), *basket(make_event, 20, ["a"], order="two")])
    assert proof.hit_rate([], sent, [listed("ann", 9)]) == proof.Hits(2, 0, 1)


def test_popularity_is_that_of_the_begin_for_a_purchase_without_an_addition_too(make_event: MakeEvent) -> None:
    history = [make_event(1, "bob", "a", "purchase")]
    sent = lines_of([make_event(10, "ann", "a", "purchase", order_id="o")])
    assert proof.hit_rate(history, sent, [listed("ann", 9)]).hits_popularity == 1


@given(logs, st.data())
def test_no_list_from_the_begin_of_a_basket_on_changes_its_hit(
    make_event: MakeEvent, told: list[tuple[str, str, str]], data: st.DataObject
) -> None:
    before = log(make_event, [(user, "view", item) for user, _, item in told])
    sent = lines_of([*before, *basket(make_event, len(before), ["item-0", "item-1"], order="o")])
    published = [
        listed(event.user_id, event.event_id.int, items=[data.draw(st.sampled_from(("item-0", "item-9")))])
        for event in before
    ]
    later = [listed("ann", len(before) + number, items=["item-0"]) for number in range(4)]
    assert proof.hit_rate([], sent, [*later, *published]) == proof.hit_rate([], sent, published)


def test_rates_are_shares_of_the_pairs() -> None:
    assert (proof.Hits(4, 3, 1).rate, proof.Hits(4, 3, 1).rate_popularity) == (0.75, 0.25)
    assert (proof.Hits(0, 0, 0).rate, proof.Hits(0, 0, 0).rate_popularity) == (0.0, 0.0)


def test_a_percentile_lies_between_its_neighbours_and_without_values_there_is_none() -> None:
    assert proof.percentile([], 50) is None
    assert proof.percentile([7.0], 99) == 7.0
    assert proof.percentile([1.0, 2.0, 4.0, 3.0], 50) == 2.5
    assert proof.percentile([0.0, 10.0], 99) == 9.9


@given(st.lists(st.integers(0, 10_000), min_size=1), st.integers(0, 100))
def test_a_percentile_is_within_the_values_and_grows_with_the_share(values: list[int], share: int) -> None:
    found = proof.percentile([float(value) for value in values], share)
    top = proof.percentile([float(value) for value in values], 100)
    assert found is not None
    assert top == max(values)
    assert min(values) <= found <= top


@given(st.integers(0, 10**6), st.integers(0, 10**56), st.integers(0, 10**6))
def test_a_published_position_is_read_back(shard: int, sequence: int, sub_sequence: int) -> None:
    position = Position(shard, sequence, sub_sequence)
    assert LogPosition.of(position).position() == position
