"""The description of the API is true, and nothing that is sent to it brings it down."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import msgspec
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings as hypothesis_settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

from streamproc_models.bundle import Bundle

from .conftest import SETTINGS, Running

_UNLIMITED = msgspec.structs.replace(SETTINGS, rate=0.0)
_HERE = {"Host": "127.0.0.1"}
_BRIEF = hypothesis_settings(
    max_examples=15,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def described(bundle: Bundle) -> Any:
    """An API on fakes that runs in this process, and its schema."""
    api = Running(_UNLIMITED, bundle)
    return api, schemathesis.openapi.from_asgi("/docs/openapi.json", api.app, headers=_HERE)


ROUTES = [
    ("/v1/recommendations/personalized", "get"),
    ("/v1/recommendations/related", "get"),
    ("/recommendations/{userId}", "get"),
    ("/v1/health", "get"),
    ("/v1/events", "post"),
    ("/submit", "post"),
]


@pytest.mark.parametrize(
    ("path", "method", "mode"),
    # There is no wrong way to ask for its health.
    [
        (*route, mode)
        for route in ROUTES
        for mode in GenerationMode
        if (route[0], mode.value) != ("/v1/health", "negative")
    ],
)
def test_every_route_answers_as_it_is_described(described: Any, path: str, method: str, mode: GenerationMode) -> None:
    api, schema = described
    # No schema says that a time must not lie a day ahead.
    excluded = [positive_data_acceptance] if method == "post" else []

    @given(case=schema[path][method.upper()].as_strategy(generation_mode=mode))
    @_BRIEF
    def check(case: Any) -> None:
        api.redis.data.clear()  # each request is the first under its key
        case.call_and_validate(headers=_HERE, excluded_checks=excluded)

    check()


def test_every_route_that_is_described_is_checked(api: Running) -> None:
    paths = api.http.get("/docs/openapi.json").json()["paths"]
    assert sorted(ROUTES) == sorted((path, method) for path, methods in paths.items() for method in methods)


def test_the_page_is_whole_without_anything_from_elsewhere_and_names_every_route(api: Running) -> None:
    document = api.http.get("/docs/openapi.json").json()
    page = api.http.get("/docs").text
    assert document["openapi"].startswith("3.1")
    for path in document["paths"]:
        assert path in page
    assert "http://" not in page
    assert "https://" not in page
    assert "<script" not in page


def test_the_document_says_what_events_are_made_of(api: Running) -> None:
    operation = api.http.get("/docs/openapi.json").json()["paths"]["/v1/events"]["post"]
    one, many = operation["requestBody"]["content"]["application/json"]["schema"]["oneOf"]
    assert {"event_type", "user_id", "item_id", "quantity", "price"} <= one["properties"].keys()
    assert one["properties"]["event_type"]["enum"] == ["add_to_cart", "purchase", "remove_from_cart", "view"]
    assert (many["minItems"], many["maxItems"]) == (1, 500)
    assert {"202", "400", "401", "409", "413", "415", "422", "429", "503"} <= operation["responses"].keys()


VIEW = {"event_type": "view", "user_id": "ann", "item_id": "item-1"}
_HOSTILE = [
    "", " ", "\x00", "a\x00b", "'; DROP TABLE users; --", "{{7*7}}", "${jndi:ldap://x}", "../../etc/passwd",
    "%2e%2e%2f", "<script>alert(1)</script>", "\u202e\u0000\ufffe", "\U0001f4a3" * 64, "x" * 257, "x" * 5000, "NaN",
    "Infinity", "-0",
    "1e309", "9" * 400, "true", "null", "[]", "\r\nX-Injected: 1", "*", "recommender/cart-events@1:ann", "#health",
]  # fmt: skip
_TYPES = ["application/json", "application/json; charset=utf-16", "text/plain", ""]
_VALUES: list[Any] = [*_HOSTILE, None, True, False, 0, -1, 2**63, 2**64, 10**400, 1e308, [], {}, [[]], {"a": {}}]


def words(draw: random.Random, form: str) -> str:
    """A URL with a word in the place of each star."""
    return "".join(quote(draw.choice(_HOSTILE), safe="") if part == "*" else part for part in form)


def hostile_request(draw: random.Random) -> tuple[str, str, bytes, dict[str, str]]:
    """A request that no client should make: method, target, body, headers."""
    method, body, headers = "GET", b"", {}
    kind = draw.randrange(7)
    if kind == 0:
        target = words(draw, "/v1/recommendations/personalized?userId=*&k=*&explain=*&exclude=*")
    elif kind == 1:
        target = words(draw, "/v1/recommendations/related?itemId=*&k=101&*=*")
    elif kind == 2:
        target = words(draw, "/recommendations/*/*?numResults=*")
    elif kind == 3:
        method, target = (
            draw.choice(["PUT", "PATCH", "DELETE", "TRACE", "BREW"]),
            draw.choice(["/v1/events", "/submit"]),
        )
    elif kind == 4:
        target = words(draw, "/*" * draw.randrange(1, 5) + "/nothing")
    else:
        method, target = "POST", draw.choice(["/v1/events", "/submit", "/submit?k=1000"])
        headers = {"Content-Type": draw.choice(_TYPES)}
        headers["Idempotency-Key"] = draw.choice(["", "a b", "\x7f", "k" * 256])
        event: Any = dict(VIEW) | {draw.choice([*VIEW, "ts", "price", "quantity", "event_id"]): draw.choice(_VALUES)}
        if target != "/v1/events":
            event = {"user_id": draw.choice(_VALUES), "event": event}
        body = json.dumps(draw.choice([event, [event], [], [[event]], draw.choice(_VALUES)])).encode()
        if draw.random() < 0.5:
            at = draw.randrange(len(body) + 1)
            body = body[:at] + draw.randbytes(draw.randrange(4)) + body[at + draw.randrange(3) :]
        if draw.random() < 0.05:
            body = draw.choice([b"[" * 20_000, b'{"a":' * 20_000, b" " * 1_100_000, draw.randbytes(2_000)])
    return method, target, body, headers


def assailed(api: Running, requests: int, seed: int) -> dict[int, int]:
    """How often each status was answered."""
    draw, statuses = random.Random(seed), dict[int, int]()
    for _ in range(requests):
        method, target, body, headers = hostile_request(draw)
        answer = api.http.request(method, target, content=body, headers=headers)
        statuses[answer.status_code] = statuses.get(answer.status_code, 0) + 1
        assert 400 <= answer.status_code < 500, (method, target, body[:200], headers, answer.status_code, answer.text)
        assert answer.json().keys() == {"error", "code", "requestId"}
        assert "Traceback" not in answer.text
    return statuses


def test_hostile_requests_are_refused_in_the_common_form(start: Callable[..., Running]) -> None:
    statuses = assailed(start(_UNLIMITED), 300, seed=1)
    assert {400, 404, 405, 415} <= statuses.keys()


@pytest.mark.long
def test_ten_thousand_hostile_requests_are_refused_and_then_it_serves_as_before(start: Callable[..., Running]) -> None:
    api = start(_UNLIMITED)
    before = api.list_of("ann")["items"]
    statuses = assailed(api, 10_000, seed=2)
    assert sum(statuses.values()) == 10_000
    assert api.list_of("ann")["items"] == before
    assert not api.producer.sent
