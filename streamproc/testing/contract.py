"""What the library asks of a processor, checked by running it alone, before any fault is played.

Each *mistake* is a sentence: what the processor does, on which event, and what it ought to do.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec

from streamproc.errors import is_transient
from streamproc.processor import Changed, KeyedProcessor
from streamproc.record import Position
from streamproc.testing.simulation.application import Given
from streamproc.testing.simulation.reference import alike

AnyKeyed = KeyedProcessor[Any, Any, Any]


class Folded(msgspec.Struct):
    """What one run over the events gave, by the events' numbers."""

    #: The key's encoded state behind each event that was folded.
    states: dict[int, bytes]
    #: Why each of the other events was not.
    refused: dict[int, str]
    #: The last state of each key, as the fold returned it.
    live: dict[str, Any]


class _Mistake(Exception):
    """Said in its message."""


def mistake(make: Callable[[], AnyKeyed], events: Sequence[Given]) -> str:
    """What is wrong with the processor, as far as these events show it; empty where all is well."""
    try:
        _check_ids(make, events)
        _check_fold(make, events)
        _check_emit(make(), events)
    except _Mistake as found:
        return str(found)
    return ""


def fold_alone(
    processor: AnyKeyed, events: Sequence[Given], *, read_back: bool = False, same_events_twice: bool = False
) -> Folded:
    """Fold the events, single-threaded and without faults, each id of a key once.

    ``read_back``: each state is encoded and decoded before the next event. ``same_events_twice``: each event is folded
    into a copy of its state first, as when a fold fails and is tried again.
    """
    live: dict[str, Any] = {}
    encoded: dict[str, bytes] = {}
    folded = Folded({}, {}, live)
    seen: set[tuple[str, bytes]] = set()

    def copy(given: Given) -> Any:
        if given.partition_key not in encoded:
            return processor.new_state()
        try:
            return processor.decode_state(encoded[given.partition_key])
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            raise _Mistake(f"decode_state fails on what encode_state wrote before {_where(given)}: {reason}") from error

    for given in events:
        key = given.partition_key
        try:
            event = processor.decode(given.data)
            processor.key(event)
            processor.event_time(event)
            event_id = processor.event_id(event)
            if (key, event_id) in seen:
                continue
            if same_events_twice:
                processor.fold(copy(given), event)
            state = processor.fold(copy(given) if read_back or key not in live else live[key], event)
            if state is None and processor.new_state() is not None:
                raise _Mistake(f"fold returned None for event {given.number}: it must return the state")  # noqa: TRY301
            folded.states[given.number] = encoded[key] = processor.encode_state(state)
        except _Mistake:
            raise
        except Exception as error:  # noqa: BLE001  # user code
            folded.refused[given.number] = f"{type(error).__name__}: {error}"
            live[key] = copy(given)
        else:
            live[key] = state
            seen.add((key, event_id))
    return folded


def _check_ids(make: Callable[[], AnyKeyed], events: Sequence[Given]) -> None:
    processor, again = make(), make()
    data_of: dict[tuple[str, bytes], Given] = {}
    for given in events:
        try:
            event, copy = processor.decode(given.data), again.decode(given.data)
        except Exception as error:
            if is_transient(error):
                raise _Mistake(
                    f"decode raised {type(error).__name__} for event {given.number}, an error that passes: a worker"
                    " would try again for ever"
                ) from error
            continue
        what = f"event {given.number}"
        try:
            key, event_id, id_again = processor.key(event), processor.event_id(event), again.event_id(copy)
        except Exception:  # noqa: BLE001, S112  # user code; the record is dead-lettered
            continue
        if key != given.partition_key:
            raise _Mistake(
                f"key() gives {key!r} for {what}, whose partition key is {given.partition_key!r}: such a record is"
                " dead-lettered and never folded; let the producer put it under the state's key"
            )
        if not isinstance(event_id, bytes):
            raise _Mistake(f"event_id() gives {type(event_id).__name__} for {what}: it must give bytes")
        if event_id != id_again:
            raise _Mistake(
                f"event_id() gives {event_id!r} for {what} and {id_again!r} for a copy of it: it must be the same in"
                " every copy, made by the producer, or a copy is folded twice"
            )
        other = data_of.setdefault((key, event_id), given)
        if other.data != given.data:
            raise _Mistake(
                f"event_id() gives {event_id!r} for event {other.number} and {what} of {key!r}, which differ: the later"
                " one would be dropped as a copy of the first"
            )


def _check_fold(make: Callable[[], AnyKeyed], events: Sequence[Given]) -> None:
    judge = make()
    fresh = judge.encode_state(judge.new_state())
    with _surroundings():
        plain = fold_alone(make(), events)
    if not plain.states:
        number, reason = next(iter(plain.refused.items()))
        raise _Mistake(
            f"none of the {len(events)} events can be folded, so nothing would be checked; event {number}: {reason}"
        )
    used = make()
    with _surroundings():
        again = fold_alone(used, events)
        # Sorting is stable: each key's events stay in their order.
        by_key = fold_alone(make(), sorted(events, key=lambda given: given.partition_key))
        read_back = fold_alone(make(), events, read_back=True)
        folded_again = fold_alone(make(), events, same_events_twice=True)
    with _surroundings(days_ahead=1):
        a_day_later = fold_alone(make(), events)
    with _surroundings(seed=1):
        other_numbers = fold_alone(make(), events)
    if not alike(judge, fresh, used.encode_state(used.new_state())):
        raise _Mistake("new_state gives a state that was folded into before: it must make a new one each time")
    # In this order: each sentence is true only where those before it are not.
    for folded, sentence in (
        (again, "fold is not deterministic: {} gives another state the second time (datetime.now, uuid4, a global?)"),
        (a_day_later, "fold depends on the clock: {} gives another state a day later; use the event's own time"),
        (other_numbers, "fold depends on random numbers: {} gives another state with others"),
        (
            by_key,
            "fold depends on more than its arguments: {} gives another state where one key is folded after the other;"
            " fold must not change anything but the state, on the processor or outside of it",
        ),
        (
            read_back,
            "decode_state(encode_state(state)) is not the state: {} gives another one where each state was read back",
        ),
        (
            folded_again,
            "fold changes its event: {} gives another state when it is folded again, as after a failure",
        ),
    ):
        for given in events:
            one, other = plain.states.get(given.number), folded.states.get(given.number)
            if one is not other and (one is None or other is None or not alike(judge, one, other)):
                raise _Mistake(sentence.format(_where(given)))


def _check_emit(processor: AnyKeyed, events: Sequence[Given]) -> None:
    folded = fold_alone(processor, events)
    by_key: dict[str, list[Given]] = {}
    for given in events:
        if given.number in folded.states:
            by_key.setdefault(given.partition_key, []).append(given)

    def changed(state_of: Callable[[str, Given], Any]) -> list[Changed[Any]]:
        return [
            Changed(
                key,
                state_of(key, of_key[-1]),
                Position(0, of_key[-1].number),
                processor.event_time(processor.decode(of_key[-1].data)),
                len(of_key),
            )
            for key, of_key in by_key.items()
        ]

    live = changed(lambda key, _: folded.live[key])
    failures = [reason for part in [live, *([item] for item in live)] if (reason := _emit_failure(processor, part))]
    if len(failures) > len(live):
        raise _Mistake(f"emit fails for every key, so nothing would be published: {failures[0]}")
    if not failures:
        read_back = changed(lambda _, last: processor.decode_state(folded.states[last.number]))
        first, other, again = (_outputs(processor, part) for part in (live, read_back, live))
        for index, item in enumerate(live):
            if first[index] == again[index] != other[index]:  # otherwise it may hold the time
                raise _Mistake(
                    f"decode_state(encode_state(state)) is not the state: emit gives another output for {item.key!r}"
                    " where its state was read back"
                )


def _outputs(processor: AnyKeyed, changed: Sequence[Changed[Any]]) -> list[bytes | None]:
    return [None if output is None else processor.encode(output) for output in processor.emit(changed)]


def _emit_failure(processor: AnyKeyed, changed: Sequence[Changed[Any]]) -> str:
    """Why no outputs can be made of these; empty where they can."""
    before = [processor.encode_state(item.state) for item in changed]
    try:
        outputs = _outputs(processor, changed)
    except Exception as error:  # user code
        reason = f"{type(error).__name__}: {error}"
        if is_transient(error):
            raise _Mistake(f"emit raised an error that passes; a worker would try for ever: {reason}") from error
        return reason
    if len(outputs) != len(changed):
        raise _Mistake(f"emit gave {len(outputs)} outputs for {len(changed)} keys: one each, or None, was expected")
    if any(output and b"\n" in output for output in outputs):
        raise _Mistake("encode gives more than one line: a sink writes one output a line")
    for item, expected in zip(changed, before, strict=True):
        if not alike(processor, expected, processor.encode_state(item.state)):
            raise _Mistake(f"emit changes states: that of {item.key!r} is another one afterwards")
    return ""


def _where(given: Given) -> str:
    return f"event {given.number} of {given.partition_key!r}"


@contextlib.contextmanager
def _surroundings(*, days_ahead: int = 0, seed: int = 0) -> Iterator[None]:
    """``time.time`` stands still and ``random`` draws the same numbers again.

    ``datetime.now`` cannot be set; a fold that uses it is seen by giving another state each time.
    """
    clock, clock_ns, numbers = time.time, time.time_ns, random.getstate()
    now = 1_800_000_000 + days_ahead * 86_400
    setattr(time, "time", lambda: float(now))  # noqa: B010  # mypy refuses the assignment
    setattr(time, "time_ns", lambda: now * 10**9)  # noqa: B010
    random.seed(seed)
    try:
        yield
    finally:
        setattr(time, "time", clock)  # noqa: B010
        setattr(time, "time_ns", clock_ns)  # noqa: B010
        random.setstate(numbers)
