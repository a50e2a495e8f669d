from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

from streamproc.local.firehose_tap import (
    CALL_BYTES_MAX,
    RECORD_BYTES_MAX,
    RECORDS_PER_CALL_MAX,
    FirehoseTap,
    read_journal,
)

Put = Callable[..., tuple[str, Any]]


def test_accepted_entries_are_in_the_journal_once_the_reply_is_there(
    tmp_path: Path, firehose: Any, put_record_batch: Put
) -> None:
    tap = FirehoseTap(firehose, tmp_path / "journal")

    put_record_batch(tap, [b'{"n":1}\n{"n":2}\n', b"more"])
    put_record_batch(tap, [b"later"])

    journal = list(read_journal(tmp_path / "journal"))
    assert [line.data for line in journal] == ['{"n":1}\n{"n":2}\n', "more", "later"]
    assert {line.stream for line in journal} == {"outputs"}
    assert journal[0].accepted_at <= journal[-1].accepted_at


def test_an_entry_that_failed_is_not_in_the_journal(tmp_path: Path, firehose: Any, put_record_batch: Put) -> None:
    tap = FirehoseTap(firehose, tmp_path / "journal")

    put_record_batch(tap, [b"one", b"refuse me", b"three"])

    assert [line.data for line in read_journal(tmp_path / "journal")] == ["one", "three"]


@given(batches=st.lists(st.lists(st.text(), min_size=1, max_size=5), max_size=5))
def test_the_journal_holds_what_was_put_in_order(
    batches: list[list[str]], firehose: Any, put_record_batch: Put
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        tap = FirehoseTap(firehose, Path(folder) / "journal")
        for batch in batches:
            put_record_batch(tap, [text.encode() for text in batch])

        assert [line.data for line in read_journal(Path(folder) / "journal")] == [
            text for batch in batches for text in batch
        ]


def test_a_line_that_is_still_being_written_is_left_for_the_next_read(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    journal.write_bytes(b'{"stream":"s","accepted_at":1.0,"data":"whole"}\n{"stream":"s","acc')

    assert [line.data for line in read_journal(journal)] == ["whole"]


def test_a_journal_that_does_not_exist_yet_is_empty(tmp_path: Path) -> None:
    assert list(read_journal(tmp_path / "none")) == []


@pytest.mark.parametrize(
    ("records", "sentence"),
    [
        ([b""] * (RECORDS_PER_CALL_MAX + 1), "501 records"),
        ([b"x" * (RECORD_BYTES_MAX + 1)], "a record of 1024001 bytes"),
        ([b"x" * RECORD_BYTES_MAX] * 5, f"{5 * RECORD_BYTES_MAX} bytes in one call"),
    ],
)
def test_a_call_beyond_firehoses_limits_is_refused_as_firehose_does(
    tmp_path: Path, firehose: Any, put_record_batch: Put, records: list[bytes], sentence: str
) -> None:
    tap = FirehoseTap(firehose, tmp_path / "journal")

    status, reply = put_record_batch(tap, records)

    assert status == "400 Bad Request"
    assert reply["__type"] == "InvalidArgumentException"
    assert sentence in reply["message"]
    assert list(read_journal(tmp_path / "journal")) == []


def test_a_call_at_the_limits_passes(tmp_path: Path, firehose: Any, put_record_batch: Put) -> None:
    tap = FirehoseTap(firehose, tmp_path / "journal")

    status, _ = put_record_batch(tap, [b"x" * (CALL_BYTES_MAX // RECORDS_PER_CALL_MAX)] * RECORDS_PER_CALL_MAX)

    assert status == "200 OK"
