"""Following files that other processes write, a line at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path


class Tail:
    """The whole lines that a file got since it was last looked at. A line that is still being written waits."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at = 0

    def lines(self) -> Iterator[bytes]:
        """The new lines, without their ends; none while there is no file."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._at)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self._at += len(line)
                yield line[:-1]
