"""What the demonstration shows while it runs follows from what its processes wrote."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from streamproc.local.firehose_tap import Accepted
from streamproc.record import Position
from streamproc_consumers.demo.watch import Display, Watch
from streamproc_consumers.recommendation import LogPosition, Recommendation, RecommendedItem
from streamproc_producers.events import CartEvent
from streamproc_producers.replay import JournalLine

MakeEvent = Callable[..., CartEvent]
EPOCH = datetime.fromtimestamp(0, UTC)


class Written:
    """The files of a demonstration, written by hand, and the watch that follows them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.watch = Watch(folder / "journal", folder / "firehose", folder / "log", recommendations="recommendations")

    def write(self, name: str, data: bytes) -> None:
        with (self._folder / name).open("ab") as file:
            file.write(data)
        self.watch.look()

    def sent(self, event: CartEvent, sequence: int | None) -> None:
        line = JournalLine(
            event_id=event.event_id,
            user_id=event.user_id,
            put_at=1.0,
            shard_id=None if sequence is None else "shardId-000000000000",
            sequence_number=None if sequence is None else str(sequence),
            error="Throttled" if sequence is None else None,
            event=event,
        )
        self.write("journal", msgspec.json.encode(line) + b"\n")

    def accepted(self, stream: str, *outputs: bytes) -> None:
        data = b"".join(output + b"\n" for output in outputs).decode()
        self.write("firehose", msgspec.json.encode(Accepted(stream, 7.0, data)) + b"\n")

    def recommended(self, *lists: tuple[str, int], name: str = "") -> None:
        self.accepted("recommendations", *(msgspec.json.encode(listed(*one, name)) for one in lists))


def listed(user: str, sequence: int, name: str) -> Recommendation:
    return Recommendation(
        recommendation_id=f"{user}-{sequence}",
        user_id=user,
        items=[RecommendedItem("item-0", name, 0.5, "history", 1)],
        model_version="m",
        arm="champion",
        features_as_of=EPOCH,
        position=LogPosition.of(Position(0, sequence)),
        event_ts=EPOCH,
        published_ts=EPOCH,
        item_snapshot="s",
        fallback=None,
    )


@pytest.fixture
def written(tmp_path: Path) -> Written:
    return Written(tmp_path)


def test_a_user_waits_until_a_list_includes_the_last_event(written: Written, make_event: MakeEvent) -> None:
    assert written.watch.waiting == 0
    written.sent(make_event(1), 1)
    written.sent(make_event(2), 2)
    assert written.watch.waiting == 1
    written.recommended(("ann", 1))
    assert written.watch.waiting == 1
    written.recommended(("ann", 2))
    assert written.watch.waiting == 0


def test_a_list_beyond_the_last_event_includes_it_and_one_of_another_user_does_not(
    written: Written, make_event: MakeEvent
) -> None:
    written.sent(make_event(1, "ann"), 5)
    written.recommended(("bob", 9))
    assert written.watch.waiting == 1
    written.recommended(("ann", 9))
    assert written.watch.waiting == 0


def test_an_older_list_published_again_makes_no_user_wait(written: Written, make_event: MakeEvent) -> None:
    written.sent(make_event(1), 5)
    written.recommended(("ann", 5))
    written.recommended(("ann", 3))
    assert written.watch.waiting == 0


def test_nobody_waits_for_an_event_that_was_not_acknowledged(written: Written, make_event: MakeEvent) -> None:
    written.sent(make_event(1), None)
    assert (written.watch.waiting, len(written.watch.lines)) == (0, 1)


def test_every_line_of_an_accepted_record_counts(written: Written) -> None:
    written.recommended(("ann", 1), ("bob", 2))
    assert [item.recommendation.user_id for item in written.watch.published] == ["ann", "bob"]
    assert {item.accepted_at for item in written.watch.published} == {7.0}
    written.accepted("archive", b"{}", b"{}", b"{}")
    assert (written.watch.archived, len(written.watch.published)) == (3, 2)


@pytest.mark.parametrize("separator", ["\u0085", "\u2028", "\u2029"])
def test_a_separator_inside_a_name_ends_no_line(written: Written, separator: str) -> None:
    written.recommended(("ann", 1), name=f"a{separator}b")
    assert written.watch.published[0].recommendation.items[0].name == f"a{separator}b"


def test_a_half_written_line_waits(written: Written) -> None:
    line = msgspec.json.encode(Accepted("archive", 7.0, "{}\n")) + b"\n"
    written.write("firehose", line[:9])
    assert written.watch.archived == 0
    written.write("firehose", line[9:])
    assert written.watch.archived == 1


def test_the_log_tells_progress_leases_and_dead_letters(written: Written) -> None:
    for event in (
        {"event": "streamproc.lease_acquired"},
        {"event": "streamproc.lease_acquired"},
        {"event": "streamproc.dead_lettered"},
        {"event": "streamproc.progress", "iterator_age_ms": 1200, "batch_ms_p50": 3.4, "batch_ms_max": 9.6},
        {"event": "streamproc.something_new"},
        {"message": "of a library"},
    ):
        written.write("log", json.dumps(event).encode() + b"\n")
    assert (written.watch.leases, written.watch.dead_letters) == (2, 1)
    figures = written.watch.figures("steady")
    assert (figures["phase"], figures["iterator age"], figures["batch p50 / max"]) == (
        "steady",
        "1,200 ms",
        "3 / 10 ms",
    )


def test_what_is_not_json_in_the_log_is_passed_over(written: Written) -> None:
    written.write("log", b'Traceback (most recent call last):\n\n{"event": "streamproc.lease_acquired"}\n')
    assert written.watch.leases == 1


@pytest.mark.parametrize("line", [b"1", b"null", b"[]", b'"a word"', b'"\xff"'])
def test_what_is_json_but_no_event_in_the_log_is_passed_over(written: Written, line: bytes) -> None:
    written.write("log", line + b'\n{"event": "streamproc.lease_acquired"}\n')
    assert written.watch.leases == 1


def test_the_figures_count_what_was_seen(written: Written, make_event: MakeEvent) -> None:
    for number in range(3):
        written.sent(make_event(number, f"user-{number}"), number)
    written.recommended(("user-0", 0))
    written.accepted("archive", b"{}", b"{}")
    figures = written.watch.figures("flat out")
    assert (figures["events sent"], figures["recommendations"], figures["users waiting"], figures["archived"]) == (
        *("3", "1", "2", "2"),
    )


def test_where_there_is_no_terminal_figures_are_lines_and_not_one_for_each_look() -> None:
    text = io.StringIO()
    with Display(Console(file=text, width=200)) as display:
        display.show({"phase": "steady", "events sent": "1"})
        display.show({"phase": "steady", "events sent": "2"})
    assert text.getvalue().splitlines() == ["phase steady  events sent 1"]
