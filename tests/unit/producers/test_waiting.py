"""The futures that put returns: what the standard library and asyncio do with futures works with them."""

import asyncio
import inspect
import threading
from concurrent.futures import FIRST_COMPLETED, Future, TimeoutError as FutureTimeoutError, as_completed, wait
from typing import Any

import pytest

from streamproc.errors import PutFailed
from streamproc.producing.waiting import Acknowledged, Failed, Stored, Waiting, resolve

SECONDS = 10.0


def make() -> Any:
    return Waiting(b"data", None, 0.0)


def store(*futures: Any) -> None:
    resolve([Stored(futures, "shardId-000000000000", "7")])


def fail(future: Any) -> PutFailed:
    error = PutFailed("refused", code="X", event=b"data")
    resolve([Failed(future, error)])
    return error


def test_it_is_a_future_to_whoever_asks_and_has_all_its_methods() -> None:
    future = make()
    assert isinstance(future, Future)
    executors_own = {"set_result", "set_exception", "set_running_or_notify_cancel"}
    for name, method in inspect.getmembers(Future, inspect.isfunction):
        if not name.startswith("_") and name not in executors_own:
            ours = inspect.signature(getattr(Waiting, name))
            assert list(ours.parameters) == list(inspect.signature(method).parameters), name


def test_events_of_one_record_are_done_together_each_with_its_index() -> None:
    futures = [make() for _ in range(3)]
    assert not any(future.done() for future in futures)
    assert all(future.running() for future in futures)
    store(*futures)
    assert [future.result() for future in futures] == [Acknowledged("shardId-000000000000", "7", n) for n in range(3)]
    assert all(future.done() and future.exception() is None for future in futures)


def test_a_failure_is_raised_every_time_it_is_asked_for() -> None:
    future = make()
    error = fail(future)
    for _ in range(2):
        with pytest.raises(PutFailed) as raised:
            future.result(0)
        assert raised.value is error
    assert future.exception() is error


def test_it_cannot_be_cancelled() -> None:
    future = make()
    assert not future.cancel()
    assert not future.cancelled()


def test_a_wait_ends_when_the_time_is_over_or_the_event_is_done() -> None:
    future = make()
    with pytest.raises(FutureTimeoutError):
        future.result(0.001)
    threading.Timer(0.01, store, [future]).start()
    assert future.result(SECONDS).sequence_number == "7"


def test_callbacks_run_once_in_order_and_one_that_raises_does_not_keep_others_from_it() -> None:
    future, seen = make(), []

    def broken(_: Any) -> None:
        seen.append("broken")
        raise ValueError("broken")

    future.add_done_callback(broken)
    future.add_done_callback(lambda done: seen.append(done.result().sequence_number))
    assert seen == []
    store(future)
    future.add_done_callback(lambda _: seen.append("late"))
    assert seen == ["broken", "7", "late"]


def test_wait_and_as_completed_see_futures_become_done() -> None:
    futures = [make() for _ in range(5)]
    store(futures[0])
    done, others = wait(futures, 0.001)
    assert (done, len(others)) == ({futures[0]}, 4)
    for n, future in enumerate(futures[1:], 1):
        threading.Timer(0.01 * n, store if n % 2 else fail, [future]).start()
    assert wait(futures, SECONDS, return_when=FIRST_COMPLETED).done
    assert set(as_completed(futures, SECONDS)) == set(futures)
    assert wait(futures, SECONDS).not_done == set()


def test_asyncio_awaits_it_wrapped() -> None:
    async def send() -> Any:
        stored, failed = make(), make()
        wrapped = [asyncio.wrap_future(stored), asyncio.wrap_future(failed)]
        threading.Timer(0.01, store, [stored]).start()
        threading.Timer(0.01, fail, [failed]).start()
        return await asyncio.gather(*wrapped, return_exceptions=True)

    place, error = asyncio.run(send())
    assert isinstance(place, Acknowledged)
    assert isinstance(error, PutFailed)


def test_threads_that_watch_and_a_sender_that_resolves_do_not_miss_each_other() -> None:
    for _ in range(50):
        futures = [make() for _ in range(20)]
        watchers = [threading.Thread(target=wait, args=(futures, SECONDS)) for _ in range(3)]
        for watcher in watchers:
            watcher.start()
        for future in futures:
            store(future)
        for watcher in watchers:
            watcher.join(SECONDS)
            assert not watcher.is_alive()


def test_what_is_done_holds_neither_the_data_nor_the_event() -> None:
    future = Waiting(b"data", object(), 0.0)
    store(future)
    assert (future.data, future.event) == (b"", None)
    assert "sequence_number='7'" in repr(future)
    assert "not done" in repr(make())
