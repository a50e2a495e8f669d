"""Lists over HTTP: the recommender's own, from whatever can be read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from streamproc.errors import StateUnreadable
from streamproc.processor import Changed, Snapshot
from streamproc.projections.redis import prefix_of
from streamproc_consumers.api import ranking
from streamproc_consumers.api.facts import StateUnusable, StoreAway, StoreBack
from streamproc_consumers.api.gathering import Gathered
from streamproc_consumers.api.ranking import Rankings, Wish
from streamproc_consumers.arms import Experiment
from streamproc_consumers.recommender import ITEMS_PER_LIST, Recommender
from streamproc_consumers.reload import FixedModels, Serving
from streamproc_consumers.trending import trend_of
from streamproc_models.bundle import Bundle
from streamproc_models.features import decode_state, new_state
from streamproc_models.features.trending import Trending, TrendingSnapshot
from streamproc_producers.events import CartEvent

from .conftest import AWAY, NAMESPACE, SETTINGS, Running

MakeEvent = Callable[..., CartEvent]


@pytest.fixture
def history(make_event: MakeEvent) -> list[CartEvent]:
    """What ann did."""
    return [
        make_event(1, item="item-3"),
        make_event(2, item="item-5", kind="add_to_cart"),
        make_event(3, item="item-7", kind="purchase", order_id="o1", price=2.5),
    ]


def test_the_list_is_the_one_that_the_recommender_publishes_for_that_state(
    api: Running, history: list[CartEvent], bundle: Bundle
) -> None:
    stored = api.put(*history)
    changed = Changed("ann", decode_state(stored.state), stored.position, history[-1].at, 1)
    (published,) = Recommender(bundle).emit([changed])
    found = api.list_of("ann", k=ITEMS_PER_LIST)
    assert [(item["id"], item["name"], item["score"], item["rank"], item["source"]) for item in found["items"]] == [
        (item.id, item.name, item.probability, item.rank, item.source) for item in published.items
    ]
    assert found["recommendationId"] == published.recommendation_id
    assert (found["modelVersion"], found["arm"], found["fallback"]) == (
        published.model_version,
        published.arm,
        published.fallback,
    )
    assert found["featuresAsOf"] == published.features_as_of.isoformat().replace("+00:00", "Z")
    assert found["stateSource"] == "redis"


def test_without_k_there_are_five_items(api: Running, history: list[CartEvent]) -> None:
    api.put(*history)
    assert len(api.list_of("ann")["items"]) == 5


@pytest.mark.parametrize("k", ["0", "101", "-1", "five", "", "99999999999999999999"])
def test_a_wrong_k_is_told_in_one_sentence(api: Running, k: str) -> None:
    for path in ("personalized?userId=ann", "related?itemId=item-1"):
        answer = api.http.get(f"/v1/recommendations/{path}&k={k}")
        assert answer.status_code == 400
        assert answer.json() == {
            "error": "k must be between 1 and 100",
            "code": "invalid_request",
            "requestId": answer.headers["X-Request-Id"],
        }


def test_a_user_whom_no_store_knows_gets_what_is_popular(api: Running) -> None:
    found = api.list_of("nobody")
    assert (found["stateSource"], found["fallback"]) == ("none", "no_candidates")
    assert found["recommendationId"] is None
    assert found["featuresAsOf"] is None
    assert {item["source"] for item in found["items"]} == {"popular"}


def test_where_redis_has_no_state_the_one_in_dynamodb_is_taken_and_the_list_says_so(
    api: Running, history: list[CartEvent]
) -> None:
    api.put(*history)
    from_redis = api.list_of("ann")
    api.redis.data.clear()
    api.put(*history, redis=False, store=True)
    found = api.list_of("ann")
    assert found["items"] == from_redis["items"]
    assert (found["stateSource"], found["fallback"]) == ("dynamodb", "stored_state")


def test_where_redis_is_away_lists_come_from_dynamodb_and_it_is_left_alone_for_a_moment(
    start: Callable[..., Running], history: list[CartEvent]
) -> None:
    api = start()
    api.put(*history, store=True)
    api.redis.away = AWAY
    for _ in range(5):
        assert api.list_of("ann")["stateSource"] == "dynamodb"
    assert api.redis.commands == 1
    assert [type(event) for event in api.told] == [StoreAway]


def test_a_redis_that_hangs_is_waited_for_once_and_no_longer_than_its_limit(
    api: Running, history: list[CartEvent]
) -> None:
    api.put(*history, store=True)
    api.redis.hangs = True
    assert [api.list_of("ann")["stateSource"] for _ in range(3)] == ["dynamodb"] * 3
    assert api.redis.commands == 1


def test_a_redis_that_comes_back_is_used_again_by_itself(
    start: Callable[..., Running], history: list[CartEvent]
) -> None:
    api = start(msgspec.structs.replace(SETTINGS, rest_seconds=1e-6))
    api.put(*history)
    api.redis.away = AWAY
    api.list_of("ann")
    api.redis.away = None
    assert api.list_of("ann")["stateSource"] == "redis"
    assert [type(event) for event in api.told] == [StoreAway, StoreBack]


def test_with_both_stores_away_there_is_a_list_that_says_so(api: Running, history: list[CartEvent]) -> None:
    api.put(*history, store=True)
    api.redis.away = api.store.away = AWAY
    found = api.list_of("ann")
    assert (found["stateSource"], found["fallback"]) == ("unavailable", "state_unavailable")
    assert len(found["items"]) == 5
    health = api.http.get("/v1/health")
    assert health.status_code == 200
    assert health.json()["degraded"]
    assert [store["ok"] for store in health.json()["stores"]] == [False, False]


def test_health_asks_the_stores_no_more_often_than_one_that_failed_is_tried(api: Running) -> None:
    for _ in range(5):
        assert not api.http.get("/v1/health").json()["degraded"]
    assert api.redis.commands == 1


def test_an_empty_redis_does_not_make_a_new_user_of_one_whom_dynamodb_cannot_tell_of(api: Running) -> None:
    api.store.away = AWAY
    assert api.list_of("ann")["stateSource"] == "unavailable"


@pytest.mark.parametrize("body", [b"", b"\xc1", b"\x90", b"not an envelope"])
def test_a_projected_state_that_cannot_be_read_is_told_and_dynamodb_has_the_next_word(
    api: Running, history: list[CartEvent], body: bytes
) -> None:
    api.put(*history, redis=False, store=True)
    api.redis.data[prefix_of(NAMESPACE) + "ann"] = body
    assert api.list_of("ann")["stateSource"] == "dynamodb"
    assert isinstance(api.told[0], StateUnusable)
    assert api.told[0].user_id == "ann"


def test_a_state_that_no_store_has_in_a_readable_form_gives_a_new_users_list(
    api: Running, history: list[CartEvent]
) -> None:
    api.put(*history, store=True)
    api.redis.data[prefix_of(NAMESPACE) + "ann"] = b"broken"
    api.store.away = StateUnreadable("the state of 'ann' cannot be read")
    assert api.list_of("ann")["fallback"] == "state_unavailable"
    assert len([event for event in api.told if isinstance(event, StateUnusable)]) == 2
    assert api.states.dynamodb.answers


def test_explain_says_of_each_item_what_made_its_score(api: Running, history: list[CartEvent]) -> None:
    api.put(*history)
    for item in api.list_of("ann", k=3, explain="true")["items"]:
        assert item["why"]["sources"]
        assert 1 <= len(item["why"]["reasons"]) <= ranking.REASONS_MAX
        assert {"feature", "value", "contribution"} <= item["why"]["reasons"][0].keys()
    assert "why" not in api.list_of("ann", k=3)["items"][0]


def test_contributions_add_up_to_the_margin(api: Running, history: list[CartEvent], bundle: Bundle) -> None:
    api.put(*history)
    margins = []
    for item in api.list_of("ann", k=3, explain="true")["items"]:
        why = item["why"]
        margins.append(why["bias"] + why["other"] + sum(reason["contribution"] for reason in why["reasons"]))
    assert margins == sorted(margins, reverse=True)
    assert bundle.booster is not None


def test_exclude_purchased_leaves_out_what_was_bought(api: Running, history: list[CartEvent]) -> None:
    api.put(*history)
    with_all = {item["id"] for item in api.list_of("ann", k=60)["items"]}
    without = {item["id"] for item in api.list_of("ann", k=60, exclude="purchased", explain="true")["items"]}
    assert with_all - without == {"item-7"}


def test_related_items_come_from_the_generators_and_unknown_ones_get_what_is_popular(
    api: Running, bundle: Bundle
) -> None:
    item = bundle.catalogue.ids[0]
    found = api.http.get("/v1/recommendations/related", params={"itemId": item, "k": 3}).json()
    assert found["itemId"] == item
    assert len(found["related"]) == 3
    assert found["fallback"] is None
    assert item not in {each["id"] for each in found["related"]}
    unknown = api.http.get("/v1/recommendations/related", params={"itemId": "no such item"}).json()
    assert unknown["fallback"] == "unknown_item"
    assert len(unknown["related"]) == 5


def test_in_an_experiment_each_user_gets_the_list_and_the_arm_that_the_recommender_publishes(
    start: Callable[..., Running], bundle: Bundle, make_event: MakeEvent
) -> None:
    other = msgspec.structs.replace(bundle.manifest, model_version="other")
    models = FixedModels(bundle)
    models.serving = Serving(
        "champion", {"champion": bundle, "challenger": msgspec.structs.replace(bundle, manifest=other, booster=None)}
    )
    experiment = Experiment("autumn", {"champion": 0.5, "challenger": 0.5}, exploration=0.5)
    api, recommender = start(SETTINGS, Rankings(models, experiment)), Recommender(models, experiment=experiment)
    seen = set()
    for number in range(20):
        event = make_event(number, f"user-{number}", "item-3")
        stored = api.put(event)
        (record,) = recommender.emit([Changed(stored.key, decode_state(stored.state), stored.position, event.at, 1)])
        found = api.list_of(stored.key, k=ITEMS_PER_LIST)
        assert (found["arm"], found["modelVersion"], found["recommendationId"], found["fallback"]) == (
            record.arm,
            record.model_version,
            record.recommendation_id,
            record.fallback,
        )
        assert [
            (item["id"], item["score"], item.get("explored", False), item.get("propensity", 1))
            for item in found["items"]
        ] == [(item.id, item.probability, item.explored, item.propensity) for item in record.items]
        seen.add((found["arm"], found["fallback"]))
    assert {arm for arm, _ in seen} == {"champion", "challenger"}
    assert ("challenger", "no_model") in seen


def test_a_place_that_nothing_drew_has_no_propensity(api: Running, history: list[CartEvent]) -> None:
    api.put(*history)
    assert not any({"propensity", "explored"} & item.keys() for item in api.list_of("ann")["items"])


def test_with_what_is_trending_a_list_names_the_snapshot_as_the_record_does(
    start: Callable[..., Running], history: list[CartEvent], bundle: Bundle
) -> None:
    api = start(msgspec.structs.replace(SETTINGS, trending=2, bucket="bucket"))
    stored = api.put(*history)
    assert api.list_of("ann")["itemSnapshot"] == f"bundle:{bundle.model_version}"
    ids = bundle.catalogue.ids[-2:]
    data = msgspec.json.encode(TrendingSnapshot(0.0, ids, [2.0, 1.0]))
    snapshot = Snapshot(7, Trending.version, data, {}, 0.0)
    api.services.rankings.offer(trend_of(snapshot, 2))
    recommender = Recommender(bundle, trending=2)
    recommender.use_snapshot(snapshot)
    (record,) = recommender.emit([Changed("ann", decode_state(stored.state), stored.position, history[-1].at, 1)])
    assert record.item_snapshot == f"bundle:{bundle.model_version}+trending:7/2"
    short = api.http.get("/recommendations/ann").json()
    event = {"event_type": "view", "item_id": "item-1"}
    submitted = api.send({"user_id": "ann", "event": event}, path="/submit").json()
    assert api.list_of("ann")["itemSnapshot"] == record.item_snapshot
    assert short["itemSnapshot"] == submitted["item_snapshot"] == record.item_snapshot


def test_without_what_is_trending_a_list_names_no_snapshot(api: Running, history: list[CartEvent]) -> None:
    api.put(*history)
    assert "itemSnapshot" not in api.list_of("ann")
    event = {"event_type": "view", "item_id": "item-1"}
    assert "item_snapshot" not in api.send({"user_id": "ann", "event": event}, path="/submit").json()


def test_the_short_route_answers_the_same_list(api: Running, history: list[CartEvent]) -> None:
    api.put(*history)
    found = api.http.get("/recommendations/ann", params={"numResults": 3}).json()
    same = api.list_of("ann", k=3)
    assert [(item["itemId"], item["score"]) for item in found["recommendations"]] == [
        (item["id"], item["score"]) for item in same["items"]
    ]
    assert found["recommendationId"] == same["recommendationId"]
    assert api.http.get("/recommendations/ann", params={"numResults": 0}).json()["error"] == (
        "numResults must be between 1 and 100"
    )


def test_a_state_that_cannot_be_ranked_costs_no_other_user_of_the_batch_a_list(
    bundle: Bundle, history: list[CartEvent]
) -> None:
    rankings = Rankings(FixedModels(bundle), None)
    good, bad = decode_state_of(history), new_state()
    bad.item_ids, bad.items = ["item-1"], bytearray(b"too short")

    async def both() -> list[Any]:
        wishes = Wish("good", good, 5, False), Wish("bad", bad, 5, False)
        return await asyncio.gather(*map(rankings.rank, wishes))

    listed, fallen = asyncio.run(both())
    assert listed.error is None
    assert fallen.error is not None
    assert len(fallen.served.ranked.items) == 5


def decode_state_of(events: list[CartEvent]) -> Any:
    from streamproc_models.features import fold

    state = new_state()
    for event in events:
        state = fold(state, event)
    return state


def test_what_is_asked_in_one_turn_of_the_loop_goes_together_and_each_gets_its_own_answer() -> None:
    batches: list[list[int]] = []

    async def ask(questions: Any) -> list[int]:
        batches.append(list(questions))
        await asyncio.sleep(0)
        return [2 * question for question in questions]

    async def run() -> list[int]:
        gathered = Gathered(ask, most=3)
        return await asyncio.gather(*(gathered(number) for number in range(5)))

    assert asyncio.run(run()) == [0, 2, 4, 6, 8]
    assert batches == [[0, 1, 2], [3, 4]]


def test_an_error_is_that_of_all_who_asked_together_and_of_nobody_later() -> None:
    failures = iter([RuntimeError("away")])

    async def ask(questions: Any) -> Any:
        for failure in failures:
            raise failure
        return questions

    async def run() -> list[Any]:
        gathered = Gathered(ask, most=2)
        return await asyncio.gather(*(gathered(number) for number in range(3)), return_exceptions=True)

    first, second, third = asyncio.run(run())
    assert isinstance(first, RuntimeError)
    assert second is first
    assert third == 2
