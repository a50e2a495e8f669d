"""Events over HTTP: answered once Kinesis has them, and counted once however often they are sent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import httpx
import pytest

from streamproc.record import Position
from streamproc_consumers.api.idempotency import KEPT_SECONDS
from streamproc_consumers.recommendation import recommendation_id
from streamproc_producers.events import CartEvent, EventType

from .conftest import AWAY, Running

VIEW = {"event_type": "view", "user_id": "ann", "item_id": "item-1"}
PURCHASE = {"event_type": "purchase", "item_id": "item-9", "order_id": "o1", "quantity": 2, "price": 1.5}


def test_an_event_is_accepted_once_kinesis_has_it(api: Running) -> None:
    answer = api.send(VIEW)
    assert answer.status_code == 202
    (sent,) = api.producer.sent
    assert answer.json() == {
        "ok": True,
        "eventId": str(sent.event_id),
        "shardId": "shardId-000000000000",
        "sequenceNumber": "1001",
        "requestId": answer.headers["X-Request-Id"],
    }
    assert (sent.event_type, sent.user_id, sent.item_id) == (EventType.VIEW, "ann", "item-1")


@pytest.mark.parametrize("how", ["refuses", "hangs"])
@pytest.mark.parametrize("path", ["/v1/events", "/submit"])
def test_an_event_that_kinesis_does_not_acknowledge_is_answered_with_503_and_when_to_try_again(
    api: Running, how: str, path: str
) -> None:
    setattr(api.producer, how, True)
    body = VIEW if path == "/v1/events" else {"user_id": "ann", "event": PURCHASE}
    answer = api.send(body, path=path)
    assert (answer.status_code, answer.json()["code"]) == (503, "not_acknowledged")
    assert int(answer.headers["Retry-After"]) >= 1


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"event_type": "wish"}, "event_type"),
        ({"user_id": ""}, "user_id"),
        ({"user_id": 7}, "user_id"),
        ({"item_id": "x" * 257}, "item_id"),
        ({"quantity": 0}, "quantity"),
        ({"price": -1}, "price"),
        ({"event_id": "no uuid"}, "event_id"),
        ({"ts": "2026-01-01T00:00:00"}, "ts"),
        ({"ts": (datetime.now(UTC) + timedelta(days=2)).isoformat()}, "ts"),
    ],
)
def test_a_wrong_field_is_named(api: Running, change: dict[str, Any], field: str) -> None:
    answer = api.send(VIEW | change)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_event")
    assert field in answer.json()["error"]
    assert not api.producer.sent


def test_of_a_batch_each_event_has_its_result_and_wrong_ones_hold_up_no_others(api: Running) -> None:
    answer = api.send([VIEW, VIEW | {"price": -1}, VIEW | {"user_id": "bob"}])
    assert answer.status_code == 207
    assert [result["ok"] for result in answer.json()["results"]] == [True, False, True]
    assert "price" in answer.json()["results"][1]["error"]
    assert [event.user_id for event in api.producer.sent] == ["ann", "bob"]


def test_a_batch_is_accepted_when_all_its_events_are(api: Running) -> None:
    answer = api.send([VIEW] * 500)
    assert (answer.status_code, answer.json()["ok"], len(answer.json()["results"])) == (202, True, 500)
    assert len({event.event_id for event in api.producer.sent}) == 500


def test_a_batch_that_kinesis_did_not_take_whole_is_to_be_sent_again(api: Running) -> None:
    api.producer.refuses = True
    answer = api.send([VIEW, {}])
    assert answer.status_code == 503
    assert [result["code"] for result in answer.json()["results"]] == ["not_acknowledged", "invalid_event"]


@pytest.mark.parametrize("count", [0, 501])
def test_a_batch_has_one_to_five_hundred_events(api: Running, count: int) -> None:
    answer = api.send([VIEW] * count)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_batch")


def test_the_same_key_and_body_get_the_same_answer_and_send_nothing_again(api: Running) -> None:
    first, second = api.send([VIEW, VIEW], "k1"), api.send([VIEW, VIEW], "k1")
    assert second.content == first.content
    assert second.status_code == first.status_code
    assert second.headers["Idempotent-Replayed"] == "true"
    assert len(api.producer.sent) == 2
    assert set(api.redis.ttls.values()) == {KEPT_SECONDS}


def test_the_same_key_with_another_body_or_path_is_refused(api: Running) -> None:
    api.send(VIEW, "k1")
    other = api.send(VIEW | {"item_id": "item-2"}, "k1")
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_mismatch")
    elsewhere = api.send({"user_id": "ann", "event": PURCHASE}, "k1", path="/submit")
    assert elsewhere.status_code == 422
    assert len(api.producer.sent) == 1


def test_a_key_whose_first_request_is_under_way_is_refused_for_now(api: Running) -> None:
    api.producer.hangs = True
    assert sorted(asyncio.run(_two(api))) == [409, 503]


async def _two(api: Running) -> list[int]:
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app=api.app),  # type: ignore[arg-type]  # its scope is a plain dictionary
        base_url="http://127.0.0.1",
    ) as client:
        answers = await asyncio.gather(
            *(client.post("/v1/events", json=VIEW, headers={"Idempotency-Key": "k1"}) for _ in range(2))
        )
    return [answer.status_code for answer in answers]


def test_a_request_that_failed_may_be_sent_again_under_its_key_with_the_same_event_id(api: Running) -> None:
    api.producer.refuses = True
    assert api.send(VIEW, "k1").status_code == 503
    api.producer.refuses = False
    assert api.send(VIEW, "k1").status_code == 202
    (first,) = api.producer.sent
    api.redis.data.clear()
    api.send(VIEW, "k1")
    assert api.producer.sent[1].event_id == first.event_id


def test_without_redis_a_repeated_request_is_sent_again_under_the_same_event_ids_and_says_so(api: Running) -> None:
    api.redis.away = AWAY
    answers = [api.send([VIEW, VIEW], "k1") for _ in range(2)]
    assert [answer.status_code for answer in answers] == [202, 202]
    assert [answer.headers["Idempotency-Store"] for answer in answers] == ["unavailable"] * 2
    ids = [event.event_id for event in api.producer.sent]
    assert ids[:2] == ids[2:]
    assert ids[0] != ids[1]


def test_an_event_keeps_the_id_that_its_client_gave(api: Running) -> None:
    given = UUID(int=7)
    api.send(VIEW | {"event_id": str(given)}, "k1")
    assert api.producer.sent[0].event_id == given


@pytest.mark.parametrize("key", ["", "a b", "x" * 256, "ä"])
def test_a_key_that_is_none_is_refused(api: Running, key: str) -> None:
    answer = api.http.post("/v1/events", json=VIEW, headers=[(b"Idempotency-Key", key.encode("latin-1"))])
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_idempotency_key")


def test_submit_answers_with_the_list_that_the_recommender_will_publish_for_the_event(
    api: Running, make_event: Callable[..., CartEvent]
) -> None:
    api.put(make_event(1, item="item-3"))
    answer = api.send({"user_id": "ann", "event": PURCHASE | {"ts": "2026-01-02T00:00:00Z"}}, path="/submit")
    assert answer.status_code == 200
    found = answer.json()
    assert found["message"]
    (sent,) = api.producer.sent
    api.put(make_event(1, item="item-3"), sent)
    same = api.list_of("ann")
    assert [(item["product_id"], item["probability"]) for item in found["recommendations"]] == [
        (item["id"], item["score"]) for item in same["items"]
    ]
    assert {"product_name", "department", "aisle"} <= found["recommendations"][0].keys()
    position = Position(0, 1001, 0)
    assert found["recommendation_id"] == recommendation_id("ann", position, found["model_version"])


def test_submit_tells_department_and_aisle_where_training_was_told_a_category(
    api: Running, make_event: Callable[..., CartEvent]
) -> None:
    api.put(make_event(1, item="item-0"))
    answer = api.send({"user_id": "ann", "event": PURCHASE | {"item_id": "item-0"}}, path="/submit?k=60").json()
    told = {each["product_id"]: (each["department"], each["aisle"]) for each in answer["recommendations"]}
    assert told.pop("item-0") == ("Kitchen", "Large")
    assert {*told.values()} == {(None, None)}


def test_submit_stores_no_state_and_sends_the_event_once(api: Running, make_event: Callable[..., CartEvent]) -> None:
    api.put(make_event(1, item="item-3"))
    before = dict(api.redis.data)
    api.send({"user_id": "ann", "event": PURCHASE}, path="/submit")
    assert api.redis.data == before
    assert not list(api.store.scan())
    assert len(api.producer.sent) == 1


def test_submit_folds_no_event_twice_that_the_recommender_was_faster_with(
    api: Running, make_event: Callable[..., CartEvent]
) -> None:
    there = make_event(5, item="item-9", kind="purchase", order_id="o1")
    api.put(make_event(1, item="item-3"), there)
    again = PURCHASE | {"event_id": str(there.event_id), "ts": there.ts.isoformat()}
    found = api.send({"user_id": "ann", "event": again}, path="/submit").json()
    assert [item["probability"] for item in found["recommendations"]] == [
        item["score"] for item in api.list_of("ann")["items"]
    ]


@pytest.mark.parametrize("body", [b"", b"{", b"null", b"[" * 50_000, b'{"user_id": "\\ud800"}', b"\xff\xfe"])
@pytest.mark.parametrize("path", ["/v1/events", "/submit"])
def test_what_is_no_json_of_the_right_kind_is_refused(api: Running, path: str, body: bytes) -> None:
    answer = api.http.post(path, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    assert answer.json().keys() == {"error", "code", "requestId"}
