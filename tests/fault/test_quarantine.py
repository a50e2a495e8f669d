"""A record on which the process dies, on the local stack, with real processes that really die."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

from streamproc.deadletters.dynamodb import DynamoDBDeadLetters
from streamproc.local import LocalStack
from streamproc.namespace import Namespace
from streamproc.states.dynamodb import DynamoDBStates
from streamproc.stream import stream_created_at

APPLICATION = """
import json
import os
from functools import partial

from streamproc.application import Application
from streamproc.deadletters.dynamodb import DynamoDBDeadLetters
from streamproc.processor import KeyedProcessor
from streamproc.settings import WorkerSettings
from streamproc.states.dynamodb import DynamoDBStates


class Fragile(KeyedProcessor):
    def decode(self, data): return json.loads(data)
    def key(self, event): return event["key"]
    def event_id(self, event): return str(event["n"]).encode()
    def event_time(self, event): return 0.0
    def new_state(self): return []
    def fold(self, state, event):
        if event["n"] == 7:
            os._exit(139)  # as a segmentation fault in a native library would
        return [*state, event["n"]]
    def emit(self, changed): return [None for _ in changed]
    def encode(self, output): return output
    def encode_state(self, state): return json.dumps(state).encode()
    def decode_state(self, data): return json.loads(data)


name = os.environ["STREAMPROC_STREAM"]
app = Application(
    name=name, stream=name, processor=Fragile, states=DynamoDBStates,
    deadletters=partial(DynamoDBDeadLetters, bucket=name), worker=WorkerSettings(checkpoint_seconds=0.2),
)
"""
LIVES_MAX = 8


def test_a_record_that_kills_the_process_is_quarantined_after_three_deaths_and_the_stream_goes_on(
    stack: LocalStack, tmp_path: Path
) -> None:
    name = f"fragile-{uuid.uuid4().hex[:8]}"
    stack.create_stream(name, 2)
    stack.client("s3").create_bucket(Bucket=name)
    kinesis = stack.client("kinesis")
    for n in range(20):
        key = f"key-{n % 3}"
        kinesis.put_record(StreamName=name, Data=json.dumps({"key": key, "n": n}).encode(), PartitionKey=key)
    (tmp_path / "fragile_app.py").write_text(APPLICATION)
    environment = {**os.environ, **stack.environment(), "STREAMPROC_STREAM": name}
    namespace = Namespace(name, name, stream_created_at(kinesis, name))
    states = DynamoDBStates(namespace, client=stack.client("dynamodb"))
    states.prepare()

    def folded() -> dict[str, list[int]]:
        return {state.key: json.loads(state.state) for state in states.scan()}

    expected = {key: [n for n in range(20) if f"key-{n % 3}" == key and n != 7] for key in ("key-0", "key-1", "key-2")}
    codes = []
    for life in range(LIVES_MAX):
        with (tmp_path / f"life-{life}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "streamproc", "run", "-A", "fragile_app:app", "--failover-seconds", "1"],
                cwd=tmp_path,
                env=environment,
                stderr=log,
            )
        deadline = time.monotonic() + 30
        while process.poll() is None and folded() != expected and time.monotonic() < deadline:
            time.sleep(0.1)
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        codes.append(process.wait(30))
        if codes[-1] == 0:
            break
    assert codes == [139, 139, 139, 0]
    assert folded() == expected
    (letter,) = DynamoDBDeadLetters(
        namespace, bucket=name, client=stack.client("dynamodb"), s3=stack.client("s3")
    ).scan()
    assert json.loads(letter.data)["n"] == 7
    assert "tried alone" in letter.reason
