"""A small application for the fleet's tests: counts each key's events, and says so to Firehose.

Events named ``hang`` or ``exit`` make the process do so, as long as the file in ``KCL_APP_TRAP`` is there.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from streamproc.application import Application, environment
from streamproc.deadletters.dynamodb import DynamoDBDeadLetters
from streamproc.processor import Changed, KeyedProcessor
from streamproc.projections.redis import RedisProjection
from streamproc.runners.kcl.properties import KclRunnerSettings
from streamproc.settings import WorkerSettings
from streamproc.sinks.firehose import FirehoseSink
from streamproc.states.dynamodb import DynamoDBStates

Event = dict[str, Any]


class Counts(KeyedProcessor[Event, Event, Event]):
    """The number and the sum of a key's values."""

    fold_version = 1

    def decode(self, data: bytes) -> Event:
        event: Event = json.loads(data)
        return event

    def key(self, event: Event) -> str:
        return str(event["key"])

    def event_id(self, event: Event) -> bytes:
        return str(event["id"]).encode()

    def event_time(self, event: Event) -> float:
        return float(event["at"])

    def new_state(self) -> Event:
        return {"count": 0, "sum": 0}

    def fold(self, state: Event, event: Event) -> Event:
        if event.get("trap") == "hang" and Path(os.environ["KCL_APP_TRAP"]).exists():
            print("hanging", flush=True)  # noqa: T201  # what an application prints must do no harm
            time.sleep(3600)
        return {"count": state["count"] + 1, "sum": state["sum"] + event["value"]}

    def emit(self, changed: Sequence[Changed[Event]]) -> Sequence[Event | None]:
        return [{"key": item.key, "count": item.state["count"], "position": [*item.position]} for item in changed]

    def encode(self, output: Event) -> bytes:
        return json.dumps(output).encode()

    def encode_state(self, state: Event) -> bytes:
        return json.dumps(state).encode()

    def decode_state(self, data: bytes) -> Event:
        state: Event = json.loads(data)
        return state


def app() -> Application:
    name = environment("KCL_APP_NAME")
    return Application(
        name=name,
        stream=name,
        processor=Counts,
        states=DynamoDBStates,
        deadletters=partial(DynamoDBDeadLetters, bucket=name),
        sink=partial(FirehoseSink, delivery_stream=name),
        projection=partial(RedisProjection, url=environment("STREAMPROC_REDIS_URL")),
        worker=WorkerSettings(checkpoint_seconds=1),
        kcl=KclRunnerSettings(
            failover_seconds=2,
            shard_sync_seconds=1,
            parent_poll_seconds=1,
            worker_metrics=False,
            heap_mb=256,
            user_code_seconds_max=float(environment("KCL_APP_USER_CODE_SECONDS_MAX", default="300")),
        ),
    )
