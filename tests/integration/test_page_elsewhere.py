"""The shop as static files on a web server of its own, in a browser, against an API that lists whose pages may call."""

from __future__ import annotations

import os
import re
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner
from playwright.sync_api import Browser, Page, expect, sync_playwright

from streamproc.application import Application
from streamproc.local import LocalStack
from streamproc.sinks.memory import MemorySink
from streamproc_consumers.live.catalogue import Catalogue, Product
from streamproc_consumers.live.commands import page as command
from streamproc_models.bundle import load
from streamproc_models.training import TrainingSettings, train

from .api_process import CUT, ApiProcess, recommender_of, serving, two_months
from .test_live_page import chromium

pytestmark = pytest.mark.long

KEY = "0123456789abcdef0123"
#: No TLS and no loopback name: to a browser no secure context, as of a bucket's website.
SHOP = "shop.test"


@contextmanager
def web_server(folder: Path) -> Iterator[int]:
    """A web server that knows nothing of the product; its port."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # http.server's name
            """Nobody reads it."""

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, args=[0.05])
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


class Site:
    """The files on their server, and the API that they were written for."""

    def __init__(self, port: int, api: ApiProcess) -> None:
        self.allowed, self.other = f"http://{SHOP}:{port}", f"http://127.0.0.1:{port}"
        self.api = api


@pytest.fixture(scope="module")
def booster(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that ranks by more than popularity."""
    folder = tmp_path_factory.mktemp("booster")
    train(two_months(), CUT, folder, items={}, settings=TrainingSettings(trees_max=10))
    return folder


@pytest.fixture
def site(local_aws: LocalStack, booster: Path, tmp_path: Path, running: Callable[[Application], Any]) -> Iterator[Site]:
    name, bundle = f"shop-{uuid.uuid4().hex[:8]}", load(booster)
    local_aws.create_stream(name, 1)
    running(recommender_of(name, bundle, local_aws.redis_url, MemorySink))
    settings = {
        "STREAMPROC_MODEL": str(booster),
        "STREAMPROC_STREAM": name,
        "STREAMPROC_RECOMMENDER_NAME": name,
        "STREAMPROC_API_KEYS": f"page:{KEY}",
    }
    files = tmp_path / "site"
    files.mkdir()
    with (
        web_server(files) as port,
        serving(local_aws, tmp_path, "--cors-origin", f"http://{SHOP}:{port}", **settings) as api,
    ):
        catalogue = tmp_path / "sold.json"
        products = [Product(item, f"Thing {item}", 2.5) for item in bundle.catalogue.ids]
        catalogue.write_bytes(msgspec.json.encode(Catalogue(products)))
        arguments = [str(files), "--api", api.url, "--api-key", KEY, "--catalogue", str(catalogue)]
        CliRunner().invoke(command, arguments, catch_exceptions=False, standalone_mode=False)
        yield Site(port, api)


@pytest.fixture
def opened() -> Iterator[tuple[Page, list[str]]]:
    """A page, and what it writes to its console as an error or a warning."""
    arguments = [f"--host-resolver-rules=MAP {SHOP} 127.0.0.1", *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    with sync_playwright() as playwright:
        browser: Browser = playwright.chromium.launch(executable_path=chromium(), args=arguments)
        page, complaints = browser.new_page(reduced_motion="reduce"), list[str]()
        page.on("console", lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        yield page, complaints
        browser.close()


def places(page: Page) -> list[str]:
    return [str(item) for item in page.locator(".place").evaluate_all("rows => rows.map(row => row.dataset.item)")]


def test_from_an_origin_that_may_call_a_product_that_is_added_changes_the_list(
    site: Site, opened: tuple[Page, list[str]]
) -> None:
    page, complaints = opened
    page.goto(site.allowed)
    expect(page.locator(".place")).to_have_count(10, timeout=30_000)
    assert page.evaluate("isSecureContext") is False
    before = places(page)
    page.locator(".product .add").nth(5).click()
    expect(page.locator("#list-state")).to_have_attribute("data-seconds", re.compile(r"\d"), timeout=30_000)
    assert places(page) != before
    expect(page.locator(".line")).to_have_count(1)
    expect(page.locator("#notice")).to_be_hidden()
    expect(page.locator("#engine")).to_be_hidden()
    assert not complaints


def test_an_origin_that_may_not_call_and_an_api_that_is_gone_are_told_in_words(
    site: Site, opened: tuple[Page, list[str]]
) -> None:
    page, complaints = opened
    page.goto(site.other)
    notice = page.locator("#notice")
    expect(notice).to_be_visible(timeout=30_000)
    expect(notice).to_have_text(
        f"The shop's API at {site.api.url} does not let this page call it: it has to allow {site.other}"
        " (streamproc api --cors-origin)."
    )
    assert any("CORS policy" in said for said in complaints)
    site.api.process.kill()
    site.api.process.wait()
    page.reload()
    expect(notice).to_have_text(f"The shop's API at {site.api.url} cannot be reached.", timeout=30_000)


@pytest.mark.parametrize(
    ("item", "fallback", "says", "lacks"),
    [
        ({"source": "trending"}, None, "trending now", ""),
        ({"source": "category"}, "stored_state", "of a kind you like", "as of the last checkpoint"),
        ({"source": "covisit", "explored": True}, "state_unavailable", "something new", "stores of states are away"),
    ],
)
def test_each_place_says_in_words_why_it_is_there_and_the_list_what_it_lacks(
    tmp_path: Path,
    opened: tuple[Page, list[str]],
    item: dict[str, object],
    fallback: str | None,
    says: str,
    lacks: str,
) -> None:
    page, complaints = opened
    sold = tmp_path / "sold.json"
    sold.write_bytes(msgspec.json.encode(Catalogue([Product("p1", "A lamp")])))
    files = tmp_path / "site"
    with web_server(files) as port:
        api = f"http://127.0.0.1:{port}"
        arguments = [str(files), "--api", api, "--catalogue", str(sold)]
        CliRunner().invoke(command, arguments, catch_exceptions=False, standalone_mode=False)
        answer = {
            "userId": "ann",
            "items": [{"id": "p1", "name": "", "score": 0.5, "rank": 1, **item}],
            "modelVersion": "v1",
            "arm": "champion",
            "featuresAsOf": None,
            "fallback": fallback,
        }
        page.route("**/v1/recommendations/personalized?**", lambda route: route.fulfill(json=answer))
        page.goto(api)
        expect(page.locator(".place .why")).to_contain_text(says, timeout=30_000)
        expect(page.locator("#list-foot")).to_contain_text(lacks)
    assert not complaints
