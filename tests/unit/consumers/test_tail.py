"""A file that is being written is read a whole line at a time."""

from __future__ import annotations

import tempfile
from itertools import pairwise
from pathlib import Path

from hypothesis import given, strategies as st

from streamproc_consumers.demo.tail import Tail


def append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


def test_there_are_no_lines_while_there_is_no_file(tmp_path: Path) -> None:
    tail = Tail(tmp_path / "log")
    assert list(tail.lines()) == []
    append(tmp_path / "log", b"one\n")
    assert list(tail.lines()) == [b"one"]


def test_a_half_written_line_waits_for_its_end(tmp_path: Path) -> None:
    tail = Tail(tmp_path / "log")
    append(tmp_path / "log", b"one\ntw")
    assert list(tail.lines()) == [b"one"]
    assert list(tail.lines()) == []
    append(tmp_path / "log", b"o\n")
    assert list(tail.lines()) == [b"two"]


def test_each_line_comes_once(tmp_path: Path) -> None:
    tail = Tail(tmp_path / "log")
    append(tmp_path / "log", b"one\n\ntwo\n")
    assert list(tail.lines()) == [b"one", b"", b"two"]
    assert list(tail.lines()) == []


def test_a_reader_that_stops_at_a_line_finds_the_rest_the_next_time(tmp_path: Path) -> None:
    tail = Tail(tmp_path / "log")
    append(tmp_path / "log", b"one\ntwo\n")
    assert next(tail.lines()) == b"one"
    assert list(tail.lines()) == [b"two"]


@given(st.lists(st.binary().map(lambda line: line.replace(b"\n", b"")), max_size=10), st.data())
def test_however_the_writes_are_cut_the_lines_are_whole_and_in_order(lines: list[bytes], data: st.DataObject) -> None:
    written = b"".join(line + b"\n" for line in lines)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(written)), max_size=6)))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log"
        tail, found = Tail(path), list[bytes]()
        for start, end in pairwise([0, *cuts, len(written)]):
            append(path, written[start:end])
            found += tail.lines()
            assert found == written[:end].split(b"\n")[:-1]
    assert found == lines
