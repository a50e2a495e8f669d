"""A host's endpoint over real sockets, and the counts of a local runner that feeds it."""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from streamproc import telemetry as facts
from streamproc.application import Application
from streamproc.deadletters.memory import MemoryDeadLetters
from streamproc.errors import MissingExtra, SettingsError
from streamproc.leases.memory import MemoryLeases
from streamproc.metrics import serve
from streamproc.registry import Registry
from streamproc.runners.local import LocalRunner
from streamproc.settings import WorkerSettings
from streamproc.sinks.memory import MemorySink
from streamproc.states.memory import MemoryStates
from streamproc.telemetry import MetricsServed, Telemetry, TelemetryEvent
from streamproc.testing.kinesis import FakeKinesis

PATIENCE_SECONDS = 20.0
ONE = "shardId-000000000001"


class Host:
    """A served host, and what its endpoint answers."""

    def __init__(self, stack: ExitStack, **options: Any) -> None:
        self.events: list[TelemetryEvent] = []
        self.telemetry = Telemetry(self.events.append)
        self.stop = threading.Event()
        served: dict[str, Any] = {"application": "shop", "port": 0, "stop": self.stop}
        self.measured = stack.enter_context(serve(self.telemetry, **(served | options)))

    @property
    def url(self) -> str:
        """Where it said that it is."""
        return next(event.url for event in self.events if isinstance(event, MetricsServed))

    def get(self, path: str) -> tuple[int, str]:
        """Ask for a path."""
        try:
            with urllib.request.urlopen(self.url + path, timeout=PATIENCE_SECONDS) as answer:  # noqa: S310  # our own
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def judged(self, path: str) -> tuple[int, str]:
        """The status of a health path, and its reason."""
        status, body = self.get(path)
        return status, json.loads(body)["reason"]

    def samples(self) -> dict[tuple[str, tuple[str, ...]], float]:
        """A scrape, by the name and the label values in the order of their labels' names."""
        families = text_string_to_metric_families(self.get("/metrics")[1])
        return {
            (sample.name, tuple(value for _, value in sorted(sample.labels.items()))): sample.value
            for family in families
            for sample in family.samples
        }


@pytest.fixture
def host() -> Iterator[Callable[..., Host]]:
    """Serves hosts until the end of the test."""
    with ExitStack() as stack:
        yield lambda **options: Host(stack, **options)


def committed(**changes: Any) -> facts.BatchCommitted:
    fields: dict[str, Any] = {
        "shard_id": ONE,
        "records": 3,
        "events_folded": 3,
        "events_skipped": 0,
        "outputs": 2,
        "batch_seconds": 0.04,
        "step_seconds": {"fold": 0.01, "emit": 0.03},
        "millis_behind_latest": 1500,
    }
    return facts.BatchCommitted(**(fields | changes))


def test_a_scrape_shows_what_was_emitted(host: Callable[..., Host]) -> None:
    served = host()
    for _ in range(3):
        served.telemetry.emit(committed())
    served.telemetry.emit(facts.ModelLoaded(shard_id=ONE, model_version='a "quoted"\nversion'))
    samples = served.samples()
    assert samples["streamproc_events_folded_total", (ONE,)] == 9
    assert samples["streamproc_iterator_age_seconds", (ONE,)] == 1.5
    assert samples["streamproc_batch_seconds_bucket", ("0.025", ONE)] == 0
    assert samples["streamproc_batch_seconds_bucket", ("0.05", ONE)] == 3
    assert samples["streamproc_batch_seconds_bucket", ("+Inf", ONE)] == 3
    assert samples["streamproc_batch_seconds_count", (ONE,)] == 3
    assert samples["streamproc_batch_step_seconds_sum", (ONE, "emit")] == pytest.approx(0.09)
    assert samples["streamproc_model_info", ('a "quoted"\nversion', ONE)] == 1
    assert samples["streamproc_children", ()] == 0


def test_what_other_processes_hand_over_is_scraped_and_not_logged(host: Callable[..., Host]) -> None:
    served = host()
    served.measured.emit(committed())
    assert served.samples()["streamproc_events_folded_total", (ONE,)] == 3
    assert [type(event) for event in served.events] == [MetricsServed]


def test_a_host_is_ready_after_the_first_read_and_not_while_it_drains(host: Callable[..., Host]) -> None:
    served = host()
    assert served.judged("/healthz") == (200, "no shard is held")
    assert served.judged("/readyz") == (503, "starting: no lease is held yet")
    served.telemetry.emit(facts.LeaseAcquired(shard_id=ONE, checkpoint="TRIM_HORIZON"))
    assert served.judged("/readyz")[0] == 503
    served.telemetry.emit(facts.BatchRead(shard_id=ONE, records=0, millis_behind_latest=0))
    assert served.judged("/readyz") == (200, "all shards are read: 1")
    served.stop.set()
    assert served.judged("/readyz")[0] == 503
    assert served.judged("/healthz")[0] == 200


def test_a_shard_that_hangs_is_named_with_a_503(host: Callable[..., Host]) -> None:
    served = host(stall_seconds=0.0)
    served.telemetry.emit(facts.BatchRead(shard_id=ONE, records=0, millis_behind_latest=0))
    status, body = served.get("/healthz")
    assert status == 503
    fields = json.loads(body)
    assert fields["status"] == "unavailable"
    assert f"nothing was heard of {ONE}" in fields["reason"]
    assert fields["shards"][ONE]["iterator_age_seconds"] == 0


def test_other_paths_say_what_there_is(host: Callable[..., Host]) -> None:
    assert host().get("/") == (404, "here are /healthz, /metrics, /readyz\n")


def test_a_scrape_that_fails_is_a_500_and_in_the_log(
    host: Callable[..., Host], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    served = host()
    monkeypatch.setattr(Registry, "collect", lambda _self: 1 / 0)
    assert served.get("/metrics")[0] == 500
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize("exporter", ["none", "emf"])
def test_without_prometheus_the_port_has_health_alone(host: Callable[..., Host], exporter: str) -> None:
    served = host(exporter=exporter)
    assert served.get("/metrics")[0] == 404
    assert served.get("/healthz")[0] == 200


def test_without_a_port_nothing_listens_and_emf_writes_to_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    events: list[TelemetryEvent] = []
    telemetry = Telemetry(events.append)
    with serve(telemetry, application="shop", exporter="emf"):
        telemetry.emit(committed())
    assert not any(isinstance(event, MetricsServed) for event in events)
    written = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert sum(line.get("streamproc_events_folded_total", 0) for line in written) == 3


def test_a_port_in_use_is_a_sentence_that_names_the_option(host: Callable[..., Host]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SettingsError, match=f"--metrics-port {port}, --metrics-address 127.0.0.1: cannot listen"):
            host(port=port)


@pytest.mark.parametrize(("port", "address"), [(70_000, "127.0.0.1"), (0, "no address"), (0, "256.1.1.1")])
def test_a_port_or_an_address_that_is_none_is_a_sentence_too(
    host: Callable[..., Host], port: int, address: str
) -> None:
    with pytest.raises(SettingsError, match="--metrics-port"):
        host(port=port, address=address)


def test_prometheus_needs_a_port(host: Callable[..., Host]) -> None:
    with pytest.raises(SettingsError, match="needs --metrics-port"):
        host(exporter="prometheus", port=None)


def test_a_missing_extra_is_one_sentence_and_exit_code_9(
    host: Callable[..., Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "streamproc.metrics.prometheus", raising=False)
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(MissingExtra, match=r"pip install 'streamproc\[prometheus\]'") as caught:
        host()
    assert caught.value.exit_code == 9
    assert host(exporter="none").get("/healthz")[0] == 200


def test_after_the_end_nothing_listens() -> None:
    with ExitStack() as stack:
        served = Host(stack)
        assert served.get("/healthz")[0] == 200
    with pytest.raises(urllib.error.URLError):
        served.get("/healthz")


def test_a_local_runners_scrape_shows_the_right_counts(host: Callable[..., Host], sums: Callable[[], Any]) -> None:
    kinesis: Any = FakeKinesis()
    kinesis.create_stream(StreamName="s", ShardCount=2)
    for number in range(60):
        event = {"key": f"key-{number % 7}", "value": number, "id": str(number)}
        data = json.dumps(event).encode() if number % 20 else b"not JSON"
        kinesis.put_records(StreamName="s", Records=[{"Data": data, "PartitionKey": f"key-{number % 7}"}])
    application = Application(
        name="app",
        stream="s",
        processor=sums,
        states=MemoryStates,
        deadletters=MemoryDeadLetters,
        sink=MemorySink,
        worker=WorkerSettings(checkpoint_seconds=0.1),
    )
    served = host()
    runner = LocalRunner(application, leases=MemoryLeases(), kinesis=kinesis, telemetry=served.telemetry)
    thread = threading.Thread(target=runner.run, args=[served.stop])
    thread.start()
    try:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while total(served.samples(), "streamproc_checkpoint_seconds_count") < 2:
            assert thread.is_alive()
            assert time.monotonic() < deadline, served.get("/metrics")[1]
        samples = served.samples()
        assert total(samples, "streamproc_events_folded_total") == 57
        assert total(samples, "streamproc_dead_letters_total") == 3
        assert total(samples, "streamproc_batch_records_sum") == 60
        assert total(samples, "streamproc_states_written_total") == 7
        assert total(samples, "streamproc_leases_held") == 2
        outputs = [event.outputs for event in served.events if isinstance(event, facts.BatchCommitted)]
        assert total(samples, "streamproc_outputs_published_total") == sum(outputs)
        assert total(samples, "streamproc_checkpoint_age_seconds") == 0
        assert served.judged("/readyz") == (200, "all shards are read: 2")
        assert served.judged("/healthz") == (200, "all shards move: 2")
    finally:
        served.stop.set()
        thread.join()
    assert served.judged("/readyz")[0] == 503


def total(samples: dict[tuple[str, tuple[str, ...]], float], name: str) -> float:
    """The sum over all labels."""
    return sum(value for (each, _), value in samples.items() if each == name)
