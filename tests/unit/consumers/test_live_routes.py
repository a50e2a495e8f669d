from __future__ import annotations

import asyncio
import re
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from litestar import Litestar
from litestar.testing import TestClient

from streamproc.errors import SettingsError
from streamproc.producer import Acknowledged
from streamproc.record import Position
from streamproc_consumers.api.errors import Refused, refused as refusal
from streamproc_consumers.live.catalogue import STATIC, Catalogue, Product, Shopper
from streamproc_consumers.live.engine import Drill, Engine, Feature, Registered, ShopperState, Worker
from streamproc_consumers.live.feed import Feed
from streamproc_consumers.live.routes import TOKEN_HEADER, live_routes, messages, page_routes
from streamproc_consumers.recommendation import LogPosition, Recommendation
from streamproc_producers.events import CartEvent, EventType

CATALOGUE = Catalogue([Product("85123A", "WHITE HEART", 2.55, "Home")], [Shopper("17850", "9 orders")])
ORIGIN = "http://127.0.0.1:8787"


WHEN = datetime(2026, 1, 1, tzinfo=UTC)
EVENT = CartEvent(event_id=uuid.uuid4(), event_type=EventType.VIEW, user_id="u1", item_id="85123A", ts=WHEN)
LISTED = Recommendation(
    recommendation_id="",
    user_id="u1",
    items=[],
    model_version="m1",
    arm="champion",
    features_as_of=WHEN,
    position=LogPosition.of(Position(1, 5, 0)),
    event_ts=WHEN,
    published_ts=WHEN,
    item_snapshot="",
    fallback=None,
)


class FakeEngine:
    """An engine whose buttons note what was pressed."""

    def __init__(self) -> None:
        self.feed = Feed()
        self.pressed: list[tuple[Any, ...]] = []
        self.position = Position(1, 0, 0)
        self.has_controls = True

    @property
    def controls(self) -> FakeEngine | None:
        return self if self.has_controls else None

    def worker(self) -> Worker:
        return Worker(pid=7)

    def state(self, user_id: str) -> ShopperState | None:
        return ShopperState(self.position, 1, [Feature("orders", "orders", None)]) if user_id else None

    def registered(self) -> Registered:
        return Registered("m1", None, [])

    def drill(self) -> Drill:
        return Drill()

    def promote(self, version: str, force: str | None) -> None:
        if force is None:
            raise SettingsError(f"{version} is worse")
        self.pressed.append(("promote", version, force))

    def rollback(self) -> None:
        self.pressed.append(("rollback",))

    def kill(self) -> None:
        self.pressed.append(("kill",))


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def client(engine: FakeEngine) -> Iterator[TestClient[Litestar]]:
    routes = [*page_routes(CATALOGUE, live=True), *live_routes(engine)]
    app = Litestar(routes, exception_handlers={Refused: refusal}, openapi_config=None)
    with TestClient(app, base_url=ORIGIN) as client:
        yield client


def token(client: TestClient[Litestar]) -> dict[str, str]:
    session = client.get("/live/controls").json()
    return {session["header"]: session["token"], "Origin": ORIGIN}


def test_the_page_and_all_its_files_are_served_with_a_policy_that_lets_in_nothing_else(
    client: TestClient[Litestar],
) -> None:
    for name in ["", *(path.name for path in STATIC.iterdir()), "config.json", "catalogue.json"]:
        reply = client.get(f"/shop/{name}")
        assert reply.status_code == 200
        assert "default-src 'none'; script-src 'self'" in reply.headers["content-security-policy"]
        assert "unsafe" not in reply.headers["content-security-policy"]
    assert client.get("/shop/main.js").headers["content-type"].startswith("text/javascript")
    assert client.get("/shop/catalogue.json").json()["shoppers"] == [{"id": "17850", "note": "9 orders"}]


@pytest.mark.parametrize("name", ["routes.py", "..%2froutes.py", "%2e%2e%2froutes.py"])
def test_what_is_no_file_of_the_page_is_not_there(client: TestClient[Litestar], name: str) -> None:
    assert client.get(f"/shop/{name}").status_code == 404


def test_the_address_alone_leads_to_the_shop(client: TestClient[Litestar]) -> None:
    assert client.get("/").url.path == "/shop/"


def test_the_pages_files_have_no_inline_script_or_style_and_name_no_other_host() -> None:
    for path in STATIC.iterdir():
        content = path.read_text()
        addresses = set(re.findall(r"(?:https?:)?//[a-z0-9-]+\.[a-z0-9.]+", content))
        assert addresses <= {"http://www.w3.org"}, path.name
        if path.suffix == ".html":
            assert not re.search(r"<style|\son\w+=|style=|<script(?![^>]*src=)", content)
            for name in re.findall(r'(?:src|href)="([^"#]+)', content):
                assert (STATIC / name).exists()
        for name in re.findall(r'(?:from|import\()\s*"\./([^"]+)"', content):
            assert (STATIC / name).exists(), path.name


def test_a_button_is_pressed_by_the_page_that_was_given_the_token(
    client: TestClient[Litestar], engine: FakeEngine
) -> None:
    headers = token(client)
    assert client.post("/live/controls/kill", headers=headers).status_code == 201
    assert client.post("/live/controls/rollback", headers=headers).status_code == 201
    body = {"version": "m2", "force": "because"}
    assert client.post("/live/controls/promote", headers=headers, json=body).status_code == 201
    assert engine.pressed == [("kill",), ("rollback",), ("promote", "m2", "because")]


@pytest.mark.parametrize(
    "changed",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:9999"},
        {"Origin": ""},
        {TOKEN_HEADER: "guessed"},
        {TOKEN_HEADER: ""},
        {"Host": "evil.example"},
    ],
)
@pytest.mark.parametrize("button", ["kill", "rollback", "promote"])
def test_a_page_of_another_site_presses_nothing(
    client: TestClient[Litestar], engine: FakeEngine, button: str, changed: dict[str, str]
) -> None:
    reply = client.post(f"/live/controls/{button}", headers=token(client) | changed, json={"version": "m2"})
    assert reply.status_code == 403
    assert engine.pressed == []


def test_the_token_is_not_told_to_a_page_of_another_site(client: TestClient[Litestar]) -> None:
    reply = client.get("/live/controls", headers={"Sec-Fetch-Site": "cross-site"})
    assert reply.status_code == 403
    assert "access-control-allow-origin" not in client.get("/live/controls").headers


def test_what_cannot_be_done_is_answered_with_the_reason(client: TestClient[Litestar], engine: FakeEngine) -> None:
    reply = client.post("/live/controls/promote", headers=token(client), json={"version": "m2"})
    assert reply.json() == {"done": False, "why": "m2 is worse"}
    assert engine.pressed == []


def test_an_engine_without_buttons_has_no_routes_for_them(engine: FakeEngine) -> None:
    engine.has_controls = False
    app = Litestar(live_routes(engine), openapi_config=None)
    with TestClient(app) as client:
        assert client.get("/live").json() == {"controls": False}
        assert client.get("/live/controls").status_code == 404
        assert client.post("/live/controls/kill").status_code == 404


def told(engine: Engine, user: str, most: int) -> list[tuple[str, Any]]:
    """The first messages of the feed."""

    async def read() -> list[bytes]:
        found: list[bytes] = []
        async for message in messages(engine, user):
            found.append(message)
            if len(found) > most:
                break
        return found

    first, *rest = asyncio.run(asyncio.wait_for(read(), 10))
    assert first == b"retry: 1000\n\n"
    lines = [message.decode().split("\n") for message in rest]
    return [(line[0].removeprefix("event: "), msgspec.json.decode(line[1].removeprefix("data: "))) for line in lines]


def test_the_feed_tells_events_with_their_place_in_the_stream_and_the_figures(engine: FakeEngine) -> None:
    engine.feed.sent(EVENT, Acknowledged("shardId-000000000003", "4" * 56, 2), time.time(), time.time())
    (kind, (seen,)), (figures, content) = told(engine, "", 2)
    assert (kind, figures) == ("events", "figures")
    assert (seen["shardId"], seen["sequenceNumber"], seen["subSequenceNumber"]) == ("shardId-000000000003", "4" * 56, 2)
    assert content["figures"]["sent"] == 1
    assert content["worker"]["pid"] == 7
    assert content["models"]["champion"] == "m1"


def test_a_shoppers_features_are_told_once_redis_has_what_the_list_knows(engine: FakeEngine) -> None:
    engine.feed.published(LISTED, time.time())
    engine.position = Position(1, 4, 0)
    assert [kind for kind, _ in told(engine, "u1", 1)] == ["figures"]
    engine.position = Position(1, 5, 0)
    kinds = dict(told(engine, "u1", 2))
    assert kinds["shopper"] == {
        "userId": "u1",
        "eventsFolded": 1,
        "shard": 1,
        "sequenceNumber": "5",
        "features": [{"name": "orders", "description": "orders", "value": None}],
    }
