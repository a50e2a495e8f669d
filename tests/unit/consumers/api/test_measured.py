"""What the API tells of itself: every request, list and event is counted, and a model that cannot be used is named."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from streamproc.errors import SettingsError
from streamproc.metrics import serve
from streamproc.telemetry import Telemetry
from streamproc_consumers.api.facts import ApiStarted
from streamproc_consumers.facts import ModelOffered, ModelRejected
from streamproc_producers.events import CartEvent

from .conftest import AWAY, SETTINGS, Running

VIEW = {"event_type": "view", "user_id": "ann", "item_id": "item-1"}


def test_requests_are_counted_by_route_and_status_and_a_clients_own_paths_are_one(api: Running) -> None:
    api.list_of("ann")
    api.http.get("/recommendations/ann")
    api.http.get("/recommendations/bob", params={"numResults": 0})
    api.http.get("/v1/health")
    for path in ("/a", "/b", "/v1/nothing"):
        api.http.get(path)
    api.http.put("/v1/events")
    assert api.measured("streamproc_api_requests_total") == {
        ("/v1/recommendations/personalized", "200"): 1,
        ("/recommendations/{userId}", "200"): 1,
        ("/recommendations/{userId}", "400"): 1,
        ("/v1/health", "200"): 1,
        ("other", "404"): 3,
        ("other", "405"): 1,
    }
    taken = api.measured("streamproc_api_request_seconds")
    assert {route: seconds.cumulated[-1] for route, seconds in taken.items()} == {
        ("/v1/recommendations/personalized",): 1,
        ("/recommendations/{userId}",): 2,
        ("/v1/health",): 1,
        ("other",): 4,
    }
    assert all(seconds.sum > 0 for seconds in taken.values())


def test_lists_are_counted_by_what_they_lack_and_where_their_state_was_read(
    api: Running, make_event: Callable[..., CartEvent]
) -> None:
    api.put(make_event(1, item="item-3"), store=True)
    api.list_of("ann")
    api.http.get("/v1/recommendations/related", params={"itemId": "item-0"})
    api.http.get("/v1/recommendations/related", params={"itemId": "no such item"})
    api.redis.away = AWAY
    api.list_of("ann")
    api.store.away = AWAY
    api.list_of("ann")
    assert api.measured("streamproc_api_lists_total") == {
        ("none", "redis"): 1,
        ("none", "item"): 1,
        ("unknown_item", "item"): 1,
        ("stored_state", "dynamodb"): 1,
        ("state_unavailable", "unavailable"): 1,
    }


def test_events_are_counted_by_what_became_of_them_and_a_repeated_request_counts_nothing(api: Running) -> None:
    for _ in range(2):
        api.send([VIEW, VIEW, VIEW | {"price": -1}], "k1")
    api.send(VIEW)
    api.send(VIEW | {"event_type": "wish"})
    api.send({"user_id": "ann", "event": {"event_type": "view", "item_id": "item-1"}}, path="/submit")
    api.producer.refuses = True
    api.send(VIEW)
    api.send([VIEW, {}])
    assert api.measured("streamproc_api_events_total") == {
        ("stored",): 4,
        ("refused",): 3,
        ("not_acknowledged",): 2,
    }


def test_a_store_that_is_away_is_a_gauge_until_it_is_back(start: Callable[..., Running]) -> None:
    api = start()
    api.services.telemetry.emit(
        ApiStarted(url="", alias="champion", model_version="v1", namespace="", stores=["redis", "dynamodb"])
    )
    assert api.measured("streamproc_api_store_away") == {("redis",): 0, ("dynamodb",): 0}
    api.states.redis.failed(AWAY)
    assert api.measured("streamproc_api_store_away") == {("redis",): 1, ("dynamodb",): 0}
    api.states.redis.answered()
    assert api.measured("streamproc_api_store_away") == {("redis",): 0, ("dynamodb",): 0}


def test_the_version_that_serves_an_alias_is_named_and_of_a_rejected_one_it_is_the_one_before(api: Running) -> None:
    tell = api.services.telemetry.emit
    tell(ApiStarted(url="", alias="champion", model_version="v1", namespace="", stores=[]))
    tell(ModelOffered(alias="challenger", model_version="v2", seconds=0.1))
    tell(ModelOffered(alias="champion", model_version="v3", seconds=0.1))
    tell(ModelRejected(alias="champion", model_version="v4", reason="half a file", serving="v3"))
    tell(ModelRejected(alias="challenger", model_version="v5", reason="half a file", serving=None))
    assert api.measured("streamproc_alias_info") == {("champion", "v3"): 1}


def test_without_shards_there_are_metrics_and_no_health_that_is_judged_by_them() -> None:
    with (
        pytest.raises(SettingsError, match="--metrics-port is for --metrics prometheus, and emf has nothing"),
        serve(Telemetry(), application="shop-api", exporter="emf", port=0, shards=False),
    ):
        pass


def test_health_names_the_version_that_was_promoted_and_cannot_be_used(start: Callable[..., Running]) -> None:
    api = start(SETTINGS)
    assert api.http.get("/v1/health").json()["modelsRejected"] == {}
    models: Any = api.services.rankings._models
    models.unusable = {"champion": "v2"}
    health = api.http.get("/v1/health")
    assert (health.status_code, health.json()["modelsRejected"]) == (200, {"champion": "v2"})
