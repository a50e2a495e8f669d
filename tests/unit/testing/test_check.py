"""The check of a user's processor: what it plays, what it notices, and what it says."""

from __future__ import annotations

import random
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from typing import Any, ClassVar

import msgspec
import pytest

from streamproc.application import Application
from streamproc.errors import DecodeError, ServiceUnreachable, SettingsError
from streamproc.processor import Changed, KeyedProcessor, Processor, Received
from streamproc.settings import WorkerSettings
from streamproc.testing import Faults, NotExactlyFolded, check_exactly_folded
from streamproc.testing.simulation import mutated
from streamproc.testing.simulation.faults import KINDS


class Put(msgspec.Struct):
    """An item goes into a cart."""

    user: str
    id: str
    item: str


class Carts(KeyedProcessor[Put, dict[str, int], bytes]):
    """How often each user put each item into the cart. Refuses the item "bad", and a cart's second "once"."""

    def decode(self, data: bytes) -> Put:
        try:
            return msgspec.json.decode(data, type=Put)
        except msgspec.DecodeError as error:
            raise DecodeError("not JSON") from error

    def key(self, event: Put) -> str:
        return event.user

    def event_id(self, event: Put) -> bytes:
        return event.id.encode()

    def event_time(self, event: Put) -> float:
        return 1_800_000_000.0 + len(event.id)

    def new_state(self) -> dict[str, int]:
        return {}

    def fold(self, state: dict[str, int], event: Put) -> dict[str, int]:
        state[event.item] = state.get(event.item, 0) + 1
        if event.item == "bad" or (event.item == "once" and state["once"] > 1):
            raise ValueError("this item is refused")
        return state

    def emit(self, changed: Sequence[Changed[dict[str, int]]]) -> Sequence[bytes | None]:
        return [str(sum(item.state.values())).encode() for item in changed]

    def encode(self, output: bytes) -> bytes:
        return output

    def encode_state(self, state: dict[str, int]) -> bytes:
        return msgspec.json.encode(state)

    def decode_state(self, data: bytes) -> dict[str, int]:
        return msgspec.json.decode(data, type=dict[str, int])


ITEMS = ("tea", "pot", "cup", "cup", "once")
PUTS = [Put(f"user-{number % 5}", f"put-{number}", ITEMS[number % 11 % 5]) for number in range(60)]
EVENTS = [msgspec.json.encode(put) for put in PUTS]
FEW = Faults.seeded(3, runs=12)


def test_a_processor_that_keeps_its_side_survives_and_the_figures_say_what_was_played() -> None:
    checked = check_exactly_folded(Carts, EVENTS, faults=Faults.seeded(0, runs=60))
    assert (checked.schedules, checked.events) == (60, 60)
    assert checked.faults.keys() == KINDS.keys()
    assert all(checked.faults.values())
    assert 0 < checked.events_refused < 20  # a cart's second "once"
    assert str(checked).startswith(f"60 schedules of 60 events with {sum(checked.faults.values()):,} faults (")


def test_the_same_seed_plays_the_same_alone_and_among_others() -> None:
    among = check_exactly_folded(Carts, EVENTS, faults=Faults.seeded(20, runs=3))
    alone = [check_exactly_folded(Carts, EVENTS, faults=Faults.seeded(seed, runs=1)) for seed in (20, 21, 22)]
    total: Counter[str] = Counter()
    for checked in alone:
        total.update(checked.faults)
    assert {kind: count for kind, count in among.faults.items() if count} == dict(+total)


@pytest.mark.parametrize(
    "mutation", ["a producer's duplicate is folded", "a failed fold is not undone", "dirty states leave memory"]
)
def test_what_a_schedule_shows_is_said_with_its_seed_and_that_seed_alone_shows_it_again(mutation: str) -> None:
    with mutated(mutation):
        with pytest.raises(NotExactlyFolded) as raised:
            check_exactly_folded(Carts, EVENTS, faults=Faults.seeded(0, runs=200))
        seed = raised.value.violations[0].seed
        message = str(raised.value)
        assert message.startswith(f"the schedule of seed {seed} does not hold:\n  ")
        assert message.endswith(f"faults=Faults.seeded({seed}, runs=1))")
        assert raised.value.violations[0].sentence in message
        with pytest.raises(NotExactlyFolded) as again:
            check_exactly_folded(Carts, EVENTS, faults=Faults.seeded(seed, runs=1))
        assert again.value.violations[0].seed == seed


def test_a_fold_that_must_not_run_twice_on_an_instance_is_noticed_in_a_schedule() -> None:
    """Alone it is the same each time: only a failure that is tried again shows it."""

    class Batched(Carts):
        def __init__(self) -> None:
            self.last: tuple[Put, int] | None = None

        def fold(self, state: dict[str, int], event: Put) -> dict[str, int]:
            again = self.last is not None and self.last[0] is event
            self.last = (event, 1)
            state = super().fold(state, event)
            return state if not again else {**state, "again": 1}

    with pytest.raises(NotExactlyFolded):
        check_exactly_folded(Batched, EVENTS, faults=Faults.seeded(0, runs=60))


def test_an_application_counts_with_its_processor_and_settings_and_its_ports_are_left_alone() -> None:
    def refuse(_: object) -> Any:
        raise AssertionError("a port was opened")

    def app(settings: WorkerSettings) -> Application:
        return Application(
            name="carts",
            stream="puts",
            processor=Carts,
            states=refuse,
            deadletters=refuse,
            sink=refuse,
            worker=settings,
        )

    assert check_exactly_folded(app(WorkerSettings()), EVENTS, faults=FEW).schedules == 12
    assert check_exactly_folded(lambda: app(WorkerSettings()), EVENTS, faults=FEW).schedules == 12

    class Large(Carts):
        def encode_state(self, state: dict[str, int]) -> bytes:
            return super().encode_state(state).ljust(1024 + sum(state.values()))

    small = WorkerSettings(state_bytes_max=1030)
    large = msgspec.structs.replace(app(small), processor=Large)
    assert check_exactly_folded(large, EVENTS, faults=FEW).schedules == 12


def test_events_may_bring_their_partition_keys_and_must_where_they_cannot_be_decoded() -> None:
    pairs = [*((put.user, data) for put, data in zip(PUTS, EVENTS, strict=True)), ("user-1", b"not JSON")]
    plain = check_exactly_folded(Carts, EVENTS, faults=FEW).events_refused
    assert check_exactly_folded(Carts, pairs, faults=FEW).events_refused == plain + 1
    with pytest.raises(SettingsError, match=r"event 60 .* give it as \(partition key, data\)"):
        check_exactly_folded(Carts, [*EVENTS, b"not JSON"], faults=FEW)


def test_copies_of_an_event_among_those_given_are_duplicates() -> None:
    assert check_exactly_folded(Carts, [*EVENTS[:30], *EVENTS[10:]], faults=FEW).schedules == 12


def test_of_many_events_a_schedule_plays_a_stretch() -> None:
    many = [msgspec.json.encode(Put(f"user-{number % 50}", f"put-{number}", "tea")) for number in range(2_000)]
    checked = check_exactly_folded(Carts, many, faults=Faults.seeded(0, runs=5))
    assert checked.events == 2_000


def test_keys_without_an_output_need_none() -> None:
    class Quiet(Carts):
        def emit(self, changed: Sequence[Changed[dict[str, int]]]) -> Sequence[bytes | None]:
            return [None if item.key == "user-1" else b"x" for item in changed]

    assert check_exactly_folded(Quiet, EVENTS, faults=FEW).schedules == 12


def test_an_emission_that_fails_for_some_states_is_put_aside_and_nothing_else_is() -> None:
    class Picky(Carts):
        def emit(self, changed: Sequence[Changed[dict[str, int]]]) -> Sequence[bytes | None]:
            if any(item.state.get("pot", 0) == 2 for item in changed):
                raise ValueError("two pots")
            return super().emit(changed)

    assert check_exactly_folded(Picky, EVENTS, faults=FEW).schedules == 12


def test_an_output_may_hold_the_time() -> None:
    class Dated(Carts):
        def encode(self, output: bytes) -> bytes:
            return output + str(time.perf_counter_ns()).encode()

    assert check_exactly_folded(Dated, EVENTS, faults=FEW).schedules == 12


def test_a_state_with_sets_may_be_written_in_any_order() -> None:
    class Sets(Carts):
        def new_state(self) -> Any:
            return set()

        def fold(self, state: Any, event: Put) -> Any:
            return state | {event.id}

        def emit(self, changed: Sequence[Changed[Any]]) -> Sequence[bytes | None]:
            return [b"x" for _ in changed]

        def encode_state(self, state: Any) -> bytes:
            shuffled = sorted(state, key=lambda _: uuid.uuid4().int)
            return msgspec.json.encode(shuffled)

        def decode_state(self, data: bytes) -> Any:
            return msgspec.json.decode(data, type=set[str])

    assert check_exactly_folded(Sets, EVENTS, faults=FEW).schedules == 12


class Shared(Carts):
    kept: ClassVar[dict[str, int]] = {}

    def new_state(self) -> dict[str, int]:
        return self.kept


class Forgetful(Carts):
    def fold(self, state: dict[str, int], event: Put) -> dict[str, int]:
        super().fold(state, event)
        return None  # type: ignore[return-value]  # the mistake


class Random(Carts):
    def fold(self, state: dict[str, int], event: Put) -> dict[str, int]:
        return {**super().fold(state, event), "drawn": random.randrange(10**6)}


class Unique(Carts):
    def fold(self, state: dict[str, int], event: Put) -> dict[str, int]:
        return {**super().fold(state, event), "trace": uuid.uuid4().int % 10**9}


class Hourly(Carts):
    def fold(self, state: dict[str, int], event: Put) -> dict[str, int]:
        return {**super().fold(state, event), "day": int(time.time() // 86_400)}


class Counting(Carts):
    def __init__(self) -> None:
        self.count = 0

    def fold(self, state: dict[str, int], event: Put) -> dict[str, int]:
        self.count += 1
        return {**super().fold(state, event), "number": self.count}


class Lossy(Carts):
    def encode_state(self, state: dict[str, int]) -> bytes:
        return super().encode_state({item: count for item, count in state.items() if item != "tea" or count < 2})


class LosesWhatEmitReads(Carts):
    def encode_state(self, state: dict[str, int]) -> bytes:
        return super().encode_state({item: count for item, count in state.items() if item != "cup"})


class Unreadable(Carts):
    def decode_state(self, data: bytes) -> dict[str, int]:
        del data
        raise KeyError("version")


class EatsItsEvent(Carts):
    def fold(self, state: dict[str, int], event: Put) -> dict[str, int]:
        state = super().fold(state, event)
        event.item = "eaten"
        return state


class EmitPops(Carts):
    def emit(self, changed: Sequence[Changed[dict[str, int]]]) -> Sequence[bytes | None]:
        return [str(item.state.popitem()).encode() for item in changed]


class EmitsOnce(Carts):
    def emit(self, changed: Sequence[Changed[dict[str, int]]]) -> Sequence[bytes | None]:
        del changed
        return [b"all"]


class EmitsNothing(Carts):
    def emit(self, changed: Sequence[Changed[dict[str, int]]]) -> Sequence[bytes | None]:
        del changed
        raise KeyError("price")


class EmitAsks(Carts):
    def emit(self, changed: Sequence[Changed[dict[str, int]]]) -> Sequence[bytes | None]:
        del changed
        raise ServiceUnreachable("the price list is away")


class Lines(Carts):
    def encode(self, output: bytes) -> bytes:
        return output + b"\n"


class DecodeAsks(Carts):
    def decode(self, data: bytes) -> Put:
        del data
        raise ServiceUnreachable("the schema registry is away")


class NewIds(Carts):
    def event_id(self, event: Put) -> bytes:
        del event
        return uuid.uuid4().bytes


class TextIds(Carts):
    def event_id(self, event: Put) -> bytes:
        return event.id  # type: ignore[return-value]  # the mistake


class UserIds(Carts):
    def event_id(self, event: Put) -> bytes:
        return event.user.encode()


class OtherKey(Carts):
    def key(self, event: Put) -> str:
        return event.user.upper()


class Refuses(Carts):
    def fold(self, state: dict[str, int], event: Put) -> dict[str, int]:
        del state, event
        raise KeyError("cart")


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (Shared, "new_state gives a state that was folded into before"),
        (Forgetful, "fold returned None for event 0: it must return the state"),
        (Unique, "fold is not deterministic: event 0 of 'user-0'"),
        (Hourly, "fold depends on the clock: event 0 of 'user-0'"),
        (Random, "fold depends on random numbers: event 0 of 'user-0'"),
        (Counting, "fold depends on more than its arguments: event 1 of 'user-1'"),
        (Lossy, r"decode_state\(encode_state\(state\)\) is not the state: event"),
        (LosesWhatEmitReads, r"decode_state\(encode_state\(state\)\) is not the state: emit gives another output for"),
        (Unreadable, "decode_state fails on what encode_state wrote before event 9 of 'user-4': KeyError: 'version'"),
        (EatsItsEvent, "fold changes its event: event 0 of 'user-0'"),
        (EmitPops, "emit changes states: that of 'user-0'"),
        (EmitsOnce, "emit gave 1 outputs for 5 keys"),
        (EmitsNothing, "emit fails for every key, so nothing would be published: KeyError: 'price'"),
        (EmitAsks, "emit raised an error that passes; a worker would try for ever: ServiceUnreachable"),
        (Lines, "encode gives more than one line"),
        (DecodeAsks, "decode raised ServiceUnreachable for event 0, an error that passes"),
        (NewIds, r"event_id\(\) gives b.* for event 0 and b.* for a copy of it"),
        (TextIds, r"event_id\(\) gives str for event 0: it must give bytes"),
        (UserIds, r"event_id\(\) gives b'user-0' for event 0 and event 5 of 'user-0', which differ"),
        (OtherKey, r"key\(\) gives 'USER-0' for event 0, whose partition key is 'user-0'"),
        (Refuses, "none of the 60 events can be folded, so nothing would be checked; event 0: KeyError: 'cart'"),
    ],
)
def test_a_mistake_of_the_processor_is_said_in_a_sentence(wrong: type[Carts], sentence: str) -> None:
    events = [(put.user, data) for put, data in zip(PUTS, EVENTS, strict=True)]
    with pytest.raises(NotExactlyFolded, match=f"^the processor alone, before any fault: {sentence}") as raised:
        check_exactly_folded(wrong, events, faults=FEW)
    assert raised.value.violations == []


def test_clock_and_random_numbers_are_as_before_after_a_check() -> None:
    clock = time.time
    random.seed(5)
    expected = random.random()
    random.seed(5)
    check_exactly_folded(Carts, EVENTS, faults=Faults.seeded(0, runs=1))
    assert random.random() == expected
    assert time.time is clock


class Stateless(Processor[bytes, bytes]):
    def decode(self, data: bytes) -> bytes:
        return data

    def process(self, batch: Sequence[Received[bytes]]) -> Sequence[bytes]:
        return [received.event for received in batch]

    def encode(self, output: bytes) -> bytes:
        return output


@pytest.mark.parametrize(
    ("app", "events", "runs", "sentence"),
    [
        (Stateless, EVENTS, 1, "Stateless cannot be checked, since it keeps no states"),
        (Carts(), EVENTS, 1, "Carts cannot be checked: .* each worker gets a processor of its own"),
        (Carts, [], 1, "no events were given"),
        (Carts, EVENTS, 0, "runs is 0: at least one schedule"),
    ],
)
def test_what_cannot_be_checked_is_refused(app: Any, events: list[bytes], runs: int, sentence: str) -> None:
    with pytest.raises(SettingsError, match=sentence):
        check_exactly_folded(app, events, faults=Faults.seeded(0, runs=runs))
