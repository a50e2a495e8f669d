from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from streamproc.errors import SettingsError
from streamproc.landed import Line, raw_lines


def test_lines_are_read_from_a_file_or_a_folder_compressed_or_not(tmp_path: Path) -> None:
    (tmp_path / "2026").mkdir()
    (tmp_path / "2026" / "b.gz").write_bytes(gzip.compress(b"3\n"))
    (tmp_path / "2026" / "a").write_bytes(b"1\n\n2")
    assert [line.data for line in raw_lines(str(tmp_path))] == [b"1", b"2", b"3"]
    file = str(tmp_path / "2026" / "a")
    assert list(raw_lines(file))[1] == Line(file, 3, b"2")


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="nothing has landed in"):
        list(raw_lines(str(tmp_path)))
    with pytest.raises(SettingsError, match="nowhere does not exist"):
        list(raw_lines(str(tmp_path / "nowhere")))
    with pytest.raises(SettingsError, match="names no bucket"):
        list(raw_lines("s3://"))
    (tmp_path / "cut.gz").write_bytes(gzip.compress(b"1\n2\n")[:-9])
    with pytest.raises(SettingsError, match=r"cut\.gz cannot be decompressed"):
        list(raw_lines(str(tmp_path)))
