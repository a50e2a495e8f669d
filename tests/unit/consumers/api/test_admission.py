"""Who is answered: keys, rates, hosts, origins; and what every answer carries."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import msgspec
import pytest
from click.testing import CliRunner

from streamproc.errors import SettingsError
from streamproc_consumers.api.commands import api as command
from streamproc_consumers.api.settings import ApiSettings, key_named, read_keys
from streamproc_consumers.api.states import redis_client

from .conftest import SETTINGS, Running

KEY = "0123456789abcdef0123"
HEALTH, LIST = "/v1/health", "/v1/recommendations/personalized?userId=ann"


def with_settings(**changes: object) -> ApiSettings:
    return msgspec.structs.replace(SETTINGS, **changes)


def test_with_keys_a_request_needs_one_and_health_and_documentation_do_not(start: Callable[..., Running]) -> None:
    api = start(with_settings(keys=read_keys(f"shop:{KEY}", "test")))
    for headers in ({}, {"X-API-Key": "wrong"}, {"Authorization": "Basic abc"}, {"Authorization": "Bearer"}):
        answer = api.http.get(LIST, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")
        assert answer.headers["WWW-Authenticate"] == "Bearer"
    for headers in ({"X-API-Key": KEY}, {"Authorization": f"Bearer {KEY}"}, {"Authorization": f"bearer {KEY}"}):
        assert api.http.get(LIST, headers=headers).status_code == 200
    for path in (HEALTH, "/docs", "/docs/openapi.json"):
        assert api.http.get(path).status_code == 200


def test_a_key_may_be_given_as_its_digest_and_is_found_by_name() -> None:
    digest = hashlib.sha256(KEY.encode()).hexdigest()
    keys = read_keys(f"# ours\nshop:sha256:{digest}\napp:another-long-key-123", "test")
    assert key_named(keys, KEY) == "shop"
    assert key_named(keys, "another-long-key-123") == "app"
    assert key_named(keys, digest) is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("shop", "NAME:KEY"),
        ("sh op:0123456789abcdef", "NAME:KEY"),
        ("shop:short", "guessed"),
        ("shop:sha256:abc", "SHA-256"),
        (f"shop:{KEY},shop:{KEY}", "two keys"),
    ],
)
def test_keys_that_cannot_be_used_are_named_and_not_repeated(text: str, says: str) -> None:
    with pytest.raises(SettingsError, match=says) as raised:
        read_keys(text, "keys.txt")
    assert "keys.txt" in str(raised.value)
    assert KEY not in str(raised.value)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"host": "0.0.0.0"}, "no API keys"),  # noqa: S104  # what is refused
        ({"host": "shop.example"}, "no API keys"),
        ({"port": 70_000}, "--port"),
        ({"cors_origins": ("*",)}, "--cors-origin"),
        ({"rate": -1.0}, "--rate"),
        ({"acknowledge_seconds": 0.0}, "acknowledge_seconds"),
        ({"body_bytes_max": 10}, "body_bytes_max"),
    ],
)
def test_settings_that_cannot_be_used_are_named(changes: dict[str, object], says: str) -> None:
    given = {"model": "m", "redis_url": "redis://localhost", **changes}
    with pytest.raises(SettingsError, match=says):
        ApiSettings(**given)  # type: ignore[arg-type]  # as the test gives them


def test_without_keys_other_machines_are_served_only_where_that_is_said() -> None:
    assert with_settings(host="0.0.0.0", insecure=True).hosts is None  # noqa: S104
    assert with_settings(host="::1").hosts


def test_without_keys_another_sites_name_for_this_address_is_refused(start: Callable[..., Running]) -> None:
    api = start()
    for host in ("evil.example", "evil.example:8080", "", "[", "127.0.0.1.evil.example"):
        answer = api.http.get(HEALTH, headers={"Host": host})
        assert (answer.status_code, answer.json()["code"]) == (421, "wrong_host")
    for host in ("localhost", "127.0.0.1:8080", "[::1]:80"):
        assert api.http.get(HEALTH, headers={"Host": host}).status_code == 200


def test_a_caller_that_is_too_fast_is_told_when_to_come_again_and_others_go_on(start: Callable[..., Running]) -> None:
    api = start(with_settings(rate=0.001, keys=read_keys(f"shop:{KEY},app:{KEY}4567", "test")))
    assert api.http.get(LIST, headers={"X-API-Key": KEY}).status_code == 200
    answer = api.http.get(LIST, headers={"X-API-Key": KEY})
    assert (answer.status_code, answer.json()["code"]) == (429, "too_many_requests")
    assert int(answer.headers["Retry-After"]) >= 1
    assert api.http.get(LIST, headers={"X-API-Key": KEY + "4567"}).status_code == 200
    assert api.http.get(HEALTH).status_code == 200


def test_pages_of_the_listed_origins_may_call_and_those_of_others_may_not(start: Callable[..., Running]) -> None:
    api = start(with_settings(cors_origins=("https://shop.example",), keys=read_keys(f"shop:{KEY}", "test")))
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "idempotency-key,x-api-key"}
    allowed = api.http.options("/v1/events", headers=asked | {"Origin": "https://shop.example"})
    assert allowed.status_code == 204
    assert allowed.headers["Access-Control-Allow-Origin"] == "https://shop.example"
    refused = api.http.options("/v1/events", headers=asked | {"Origin": "https://shop.example.evil"})
    assert refused.status_code == 400
    # A refusal can be read by the page, too.
    answer = api.http.get(LIST, headers={"Origin": "https://shop.example"})
    assert (answer.status_code, answer.headers["Access-Control-Allow-Origin"]) == (401, "https://shop.example")
    assert "Access-Control-Allow-Origin" not in api.http.get(LIST, headers={"Origin": "https://evil.example"}).headers


def test_every_answer_has_a_request_id_and_keeps_browsers_from_misusing_it(api: Running) -> None:
    answers = [
        api.http.get(LIST),
        api.http.get("/nothing/here"),
        api.http.delete(HEALTH),
        api.http.post("/v1/events", content=b"x", headers={"Content-Type": "text/plain"}),
        api.http.post("/v1/events", content=b" " * 1_100_000, headers={"Content-Type": "application/json"}),
        api.http.get("/docs"),
    ]
    assert [answer.status_code for answer in answers] == [200, 404, 405, 415, 413, 200]
    for answer in answers:
        assert answer.headers["X-Request-Id"]
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        assert "Server" not in answer.headers
    for answer in answers[1:5]:
        assert answer.json().keys() == {"error", "code", "requestId"}
        assert answer.json()["requestId"] == answer.headers["X-Request-Id"]
    assert len({answer.headers["X-Request-Id"] for answer in answers}) == len(answers)


def test_a_clients_own_request_id_is_taken_where_it_can_be_logged(api: Running) -> None:
    assert api.http.get(HEALTH, headers={"X-Request-Id": "trace-1"}).json()["requestId"] == "trace-1"
    for hostile in ("x" * 65, 'a"b', "a b", "<script>"):
        assert api.http.get(HEALTH, headers={"X-Request-Id": hostile}).json()["requestId"] != hostile


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "--model is missing: give it, or set STREAMPROC_MODEL"),
        (["--model", "m"], "--redis-url is missing"),
        (["--model", "m", "--redis-url", "redis://x", "--host", "shop.example"], "no API keys"),
        (["--model", "m", "--redis-url", "redis://x", "--keys-file", "/nowhere"], "--keys-file /nowhere"),
        (
            ["--model", "m", "--redis-url", "redis://x", "--model-poll-seconds", "often"],
            "STREAMPROC_MODEL_POLL_SECONDS",
        ),
    ],
)
def test_the_command_says_in_one_sentence_what_is_missing(arguments: list[str], says: str) -> None:
    ended = CliRunner().invoke(command, arguments)
    assert isinstance(ended.exception, SettingsError)
    assert says in str(ended.exception)


def test_a_redis_url_that_is_none_is_named() -> None:
    with pytest.raises(SettingsError, match="nonsense"):
        redis_client(with_settings(redis_url="nonsense"))


@pytest.mark.parametrize("path", [HEALTH, LIST, "/docs", "/nothing", "/v1/events"])
def test_head_is_answered_as_get_without_the_body(api: Running, path: str) -> None:
    got, head = api.http.get(path), api.http.head(path)
    assert head.status_code == got.status_code
    assert head.headers["Content-Length"] == str(len(got.content))
    assert head.content == b""
    assert head.headers["X-Request-Id"]


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("userId=", "userId must have 1 to 256 characters"),
        ("userId=" + "x" * 257, "userId must have 1 to 256 characters"),
        ("k=5", "userId is missing"),
        ("userId=ann&explain=maybe", "explain must be true or false"),
        ("userId=ann&exclude=bought", "exclude must be purchased, or be left out"),
    ],
)
def test_a_wrong_parameter_is_told_in_words_of_the_api(api: Running, query: str, says: str) -> None:
    answer = api.http.get(f"/v1/recommendations/personalized?{query}")
    assert (answer.status_code, answer.json()["error"]) == (400, says)
