"""The API follows an alias while it is asked: every answer is of one whole model, and a bad one reaches nobody."""

from __future__ import annotations

import shutil
import threading
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
from prometheus_client.parser import text_string_to_metric_families

from streamproc.local import LocalStack
from streamproc.projections.redis import BODY, prefix_of
from streamproc.record import Position
from streamproc.state import StoredState, encode_stored
from streamproc_consumers.api.states import serving_namespace
from streamproc_models.bundle import MANIFEST, Bundle, load
from streamproc_models.features import FOLD_VERSION, encode_state, fold, new_state
from streamproc_models.registry import Alias
from streamproc_models.registry.folder import FolderRegistry
from streamproc_models.scorer import Scorer
from streamproc_models.training import TrainingSettings, train
from streamproc_producers.simulate import Shop, simulate

from .api_process import CUT, ApiProcess, serving, two_months

Until = Callable[[Callable[[], bool]], None]
USERS = [f"user-{number}" for number in range(20)]
K = 10


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two versions with a booster each, whose lists differ."""
    log = two_months()
    first, second = (tmp_path_factory.mktemp(name) for name in ("first", "second"))
    train(log, CUT, first, items={}, settings=TrainingSettings(trees_max=10))
    train(log[:3_000], log[-1].ts, second, items={}, settings=TrainingSettings(trees_max=5))
    return first, second


class Asked:
    """An API under load, and all that it answered."""

    def __init__(self, api: ApiProcess) -> None:
        self._api = api
        #: By user and model version, the list; another one under the same names is a failure.
        self.lists: dict[tuple[str, str], list[tuple[str, float]]] = {}
        self.failures: list[str] = []
        #: The version of the last answer, and how many there were.
        self.version, self.answers = "", 0
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._ask, args=[number]) for number in range(4)]

    def _ask(self, number: int) -> None:
        with httpx.Client(base_url=self._api.url, timeout=30.0, trust_env=False) as http:
            while not self._stop.is_set():
                user = USERS[number % len(USERS)]
                number += 1
                answer = http.get("/v1/recommendations/personalized", params={"userId": user, "k": K})
                if answer.status_code != 200:
                    self.failures.append(answer.text)
                    return
                found = answer.json()
                items = [(item["id"], item["score"]) for item in found["items"]]
                with self._lock:
                    self.version, self.answers = found["modelVersion"], self.answers + 1
                    if self.lists.setdefault((user, found["modelVersion"]), items) != items:
                        self.failures.append(f"{user} got two lists of {found['modelVersion']}")

    def __enter__(self) -> Asked:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def health(self) -> dict[str, Any]:
        answer = self._api.http.get("/v1/health")
        assert answer.status_code == 200
        found: dict[str, Any] = answer.json()
        return found

    def measured(self, name: str) -> dict[tuple[str, ...], float]:
        """A scrape's samples of this name, by the values of their labels in the order of the labels' names."""
        (served,) = self._api.said("streamproc.metrics_served")
        families = text_string_to_metric_families(self._api.http.get(f"{served['url']}/metrics").text)
        return {
            tuple(value for _, value in sorted(sample.labels.items())): sample.value
            for family in families
            for sample in family.samples
            if sample.name == name
        }


def lists_of(bundle: Bundle, states: dict[str, Any]) -> dict[tuple[str, str], list[tuple[str, float]]]:
    """What one whole model lists for each user."""
    ranked = Scorer(bundle).rank(list(states.items()), K)
    return {
        (user, bundle.model_version): [(item.id, item.probability) for item in found.items]
        for user, found in zip(states, ranked, strict=True)
    }


def test_promotions_under_load_fail_no_request_and_a_bad_model_is_named_while_the_one_before_serves(
    local_aws: LocalStack, bundles: tuple[Path, Path], tmp_path: Path, until: Until
) -> None:
    name = f"shop-{uuid.uuid4().hex[:8]}"
    local_aws.create_stream(name, 1)
    loaded = [load(folder) for folder in bundles]
    first, second = (bundle.model_version for bundle in loaded)
    registry = FolderRegistry(tmp_path / "registry")
    for bundle, folder in zip(loaded, bundles, strict=True):
        registry.add(bundle.model_version, folder)
    bad = Path(shutil.copytree(bundles[0], tmp_path / "registry" / "bad"))
    largest = max((path for path in bad.rglob("*") if path.name != MANIFEST), key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:-1])

    def point(version: str) -> None:
        held = registry.alias("champion")
        moved = Alias(version=version, previous=None, moved_at=datetime.now(UTC), by="ann", why="")
        registry.move("champion", moved, held.token if held else None)

    point(first)
    states = {}
    namespace, client = serving_namespace(name, name), redis.Redis.from_url(local_aws.redis_url)
    shopping = simulate(Shop(users=20, items=60, rate=1.0, seed=3), CUT)
    for user, events in zip(USERS, iter(lambda: list(islice(shopping, 12)), None), strict=False):
        state = new_state()
        for event in events:
            state = fold(state, event)
        states[user] = state
        stored = StoredState(user, Position(0, 12, 0), 12, 0, b"", FOLD_VERSION, encode_state(state))
        client.hset(prefix_of(namespace) + user, BODY, encode_stored(stored))
    client.close()

    settings = {
        "STREAMPROC_MODEL": f"{registry.url}@champion",
        "STREAMPROC_MODEL_POLL_SECONDS": "1",
        "STREAMPROC_STREAM": name,
        "STREAMPROC_RECOMMENDER_NAME": name,
    }
    with serving(local_aws, tmp_path, "--metrics-port", "0", **settings) as process, Asked(process) as api:
        until(lambda: len(api.lists) == len(USERS))
        assert api.version == first
        point(second)
        until(lambda: len(api.lists) == 2 * len(USERS))
        assert (api.health()["modelVersion"], api.health()["modelsRejected"]) == (second, {})

        point("bad")
        until(lambda: api.health()["modelsRejected"] == {"champion": "bad"})
        answered = api.answers
        until(lambda: api.answers > answered + 100)
        assert (api.version, api.health()["modelVersion"]) == (second, second)
        (rejected,) = process.said("streamproc.model_rejected")
        assert (rejected["level"], rejected["model_version"], rejected["serving"]) == ("error", "bad", second)
        assert "SHA-256 differs" in rejected["reason"]
        assert api.measured("streamproc_models_rejected_total") == {("champion",): 1}
        assert api.measured("streamproc_alias_info") == {("champion", second): 1}

        point(first)
        until(lambda: api.version == first and api.health()["modelsRejected"] == {})
        assert api.measured("streamproc_alias_info") == {("champion", first): 1}
        answers, lists = api.answers, api.measured("streamproc_api_lists_total")
        assert {source for _, source in lists} == {"redis"}
        assert sum(lists.values()) >= answers
        # No recommender ran, so that its table is not there.
        assert api.measured("streamproc_api_store_away") == {("redis",): 0, ("dynamodb",): 1}
    assert not process.said("streamproc.request_answered"), "a line a request"
    assert not api.failures
    assert api.lists == lists_of(loaded[0], states) | lists_of(loaded[1], states)
    differ = [user for user in USERS if api.lists[user, first] != api.lists[user, second]]
    assert len(differ) > len(USERS) / 2, "the two models list the same, so that half a model would not show"
