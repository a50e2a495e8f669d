"""Log lines: each one JSON, with the shard and the position where they are known, other libraries' too."""

from __future__ import annotations

import io
import json
import logging
import sys
import threading
from typing import Any

import pytest

from streamproc import telemetry as facts
from streamproc.metrics.logs import LogWriter

ONE, TWO = "shardId-000000000001", "shardId-000000000002"


def committed(shard_id: str, behind: int, position: str | None = None) -> facts.BatchCommitted:
    return facts.BatchCommitted(
        shard_id=shard_id,
        records=1,
        events_folded=1,
        events_skipped=0,
        outputs=1,
        batch_seconds=0.01,
        step_seconds={"fold": 0.01},
        millis_behind_latest=behind,
        position=position,
    )


def written(*events: facts.TelemetryEvent) -> list[dict[str, Any]]:
    stream = io.StringIO()
    log = LogWriter(stream, interval_seconds=3600)
    for event in events:
        log(event)
    log.close()
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_progress_of_one_shard_carries_its_id_and_position() -> None:
    (line,) = written(committed(ONE, 5, "a:1"), committed(ONE, 7, "a:2"))
    assert (line["event"], line["shard_id"], line["position"]) == ("streamproc.progress", ONE, "a:2")
    assert line["iterator_age_ms"] == 7


def test_progress_of_several_shards_lists_each_ones_age_and_position() -> None:
    (line,) = written(committed(ONE, 5, "a:1"), committed(TWO, 900, "b:1"))
    assert line["iterator_age_ms"] == 900
    assert line["iterator_age_ms_by_shard"] == {ONE: 5, TWO: 900}
    assert line["positions"] == {ONE: "a:1", TWO: "b:1"}


def test_what_comes_with_every_request_is_for_metrics_and_no_line() -> None:
    sent = facts.RecordsSent(
        stream="s", events=1, entries=1, entries_failed=0, request_bytes=9, seconds=0.01, events_waiting=0
    )
    assert sent.level == "debug"
    assert written(sent) == []


def test_an_empty_read_is_no_line_and_the_age_is_the_last_reads() -> None:
    (line,) = written(
        committed(ONE, 60_000),
        facts.BatchRead(shard_id=ONE, records=0, millis_behind_latest=0),
    )
    assert line["iterator_age_ms"] == 0


def test_a_lost_shard_does_not_stay_in_the_iterator_age() -> None:
    _, line = written(committed(ONE, 60_000), committed(TWO, 3), facts.LeaseLost(shard_id=ONE, owner=None))
    assert line["iterator_age_ms"] == 3


def test_each_event_says_its_level_and_its_fields() -> None:
    failed, letter, started = written(
        facts.ChildFailed(shard_id=ONE, reason="boom", exit_code=1),
        facts.DeadLettered(shard_id=ONE, position="p", kind="event", reason="not JSON"),
        facts.RunnerStarted(runner="local"),
    )
    assert [failed["level"], letter["level"], started["level"]] == ["error", "warning", "info"]
    assert (letter["shard_id"], letter["position"]) == (ONE, "p")


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    """What came on standard error."""
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_records_of_other_libraries_are_json_lines_with_their_level(capsys: pytest.CaptureFixture[str]) -> None:
    log = LogWriter()
    logging.getLogger("botocore.credentials").warning("refreshing %s", "failed")
    log.close()
    logging.getLogger("botocore.credentials").warning("not any more")
    (line,) = lines(capsys)
    assert (line["level"], line["event"], line["logger"]) == ("warning", "streamproc.logged", "botocore.credentials")
    assert line["message"] == "refreshing failed"


def test_a_record_of_a_shards_thread_carries_the_shard_and_one_with_extra_what_it_gives(
    capsys: pytest.CaptureFixture[str],
) -> None:
    log = LogWriter()
    thread = threading.Thread(target=lambda: logging.getLogger("shop").error("odd"), name=ONE)
    thread.start()
    thread.join()
    logging.getLogger("shop").error("odd", extra={"shard_id": TWO, "position": "b:7"})
    log.close()
    first, second = lines(capsys)
    assert first["shard_id"] == ONE
    assert (second["shard_id"], second["position"]) == (TWO, "b:7")


def test_a_traceback_is_one_field_of_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    log = LogWriter()
    try:
        int("two\nlines")
    except ValueError:
        logging.getLogger("shop").exception("it failed")
    log.close()
    (line,) = lines(capsys)
    assert line["message"] == "it failed"
    assert line["exception"].endswith(r"ValueError: invalid literal for int() with base 10: 'two\nlines'")


def test_handlers_that_write_to_standard_error_are_set_aside_meanwhile(capsys: pytest.CaptureFixture[str]) -> None:
    mine, plain = logging.StreamHandler(io.StringIO()), logging.StreamHandler(sys.stderr)
    root = logging.getLogger()
    root.addHandler(mine)
    root.addHandler(plain)
    try:
        log = LogWriter()
        logging.getLogger("shop").warning("once")
        assert mine in root.handlers
        log.close()
        assert plain in root.handlers
    finally:
        root.removeHandler(mine)
        root.removeHandler(plain)
    (line,) = lines(capsys)
    assert line["message"] == "once"


def test_a_record_that_cannot_be_formatted_does_not_disturb_its_caller(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", False)
    log = LogWriter()
    logging.getLogger("shop").warning("%d", "no number")
    log.close()
    assert lines(capsys) == []


def test_text_leaves_logging_alone() -> None:
    before = list(logging.getLogger().handlers)
    log = LogWriter(io.StringIO(), json=False)
    assert logging.getLogger().handlers == before
    log.close()
