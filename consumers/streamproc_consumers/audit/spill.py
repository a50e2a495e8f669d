"""Rows that must be compared with each other, in partitions by a hash, so that one of them fits into memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import polars as pl

#: Rows that are held before they are written to the partitions.
_ROWS_MAX = 400_000


class Spill:
    """Frames are added; each partition is then read once. Rows of equal ``key`` (UInt64) are in one partition.

    A column that only some of the frames have is null in the others' rows.

    With one partition nothing is written.
    """

    def __init__(self, folder: Path, key: str, partitions: int) -> None:
        self._folder = folder
        self._key = key
        self.partitions = partitions
        self._frames: list[pl.DataFrame] = []
        self._rows = 0
        self._written = 0

    def add(self, frame: pl.DataFrame) -> None:
        """Add rows."""
        self._frames.append(frame)
        self._rows += frame.height
        if self.partitions > 1 and self._rows >= _ROWS_MAX:
            self._flush()

    def _flush(self) -> None:
        if not self._frames:
            return
        # The upper bits: the lower ones choose the place in the hash tables of what is then computed.
        part = pl.col(self._key) // 2**40 % self.partitions
        frame = pl.concat(self._frames, how="diagonal").with_columns(part.alias("_part"))
        self._frames, self._rows = [], 0
        for (number,), rows in frame.partition_by("_part", as_dict=True, include_key=False).items():
            folder = self._folder / f"{number}"
            folder.mkdir(parents=True, exist_ok=True)
            rows.write_ipc(folder / f"{self._written}.arrow", compression="uncompressed")
        self._written += 1

    def read(self) -> Iterator[pl.DataFrame | None]:
        """Each partition; None for an empty one. What is read is deleted."""
        if self.partitions == 1:
            yield pl.concat(self._frames, how="diagonal") if self._frames else None
            self._frames = []
            return
        self._flush()
        for number in range(self.partitions):
            files = sorted((self._folder / f"{number}").glob("*.arrow"))
            yield pl.concat([pl.read_ipc(file) for file in files], how="diagonal") if files else None
            for file in files:
                file.unlink()
