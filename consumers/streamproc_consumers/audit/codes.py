"""Texts of which there are few, as numbers: decoded straight to them, without a new text for each."""

from __future__ import annotations

import sys
from enum import Enum
from typing import Any

import numpy as np
import polars as pl

from streamproc_consumers.audit.places import SHARD

#: Texts that are looked up one by one before they are decoded at once.
_UNKNOWN_MIN = 64


class Codes(dict[str, bytes]):
    """Numbers texts as they come, from 0. A code is the four bytes of its number: joined, codes are an array."""

    def __init__(self) -> None:
        self._unknown = 0
        # An enumeration of msgspec has at least one value.
        self.__missing__("")

    def __missing__(self, text: str) -> bytes:
        code = self[text] = len(self).to_bytes(4, sys.byteorder)
        return code

    @property
    def outgrown(self) -> bool:
        """Whether a new :meth:`type` would by now have cost less than what the last one did not know."""
        return self._unknown > max(_UNKNOWN_MIN, len(self))

    def type(self) -> Any:
        """A type that msgspec decodes text to: its code. It looks up in a table of its own what is known by now."""
        self._unknown = 0
        codes = self

        class Text(Enum):
            @classmethod
            def _missing_(cls, value: Any) -> Any:
                codes._unknown += 1
                return codes[value]

        # What msgspec looks up. An Enum of so many members takes 8 microseconds for each.
        Text._value2member_map_ = dict(self)  # type: ignore[arg-type] # codes instead of members
        return Text


def array_of(codes: list[bytes]) -> np.ndarray:
    """The numbers."""
    return np.frombuffer(b"".join(codes), np.uint32)


class Names:
    """The texts behind the codes in columns. Some may be of lines that then turned out to be no records."""

    def __init__(self) -> None:
        self.items, self.shards = Codes(), Codes()
        #: Model versions, arms, fallbacks and types of events.
        self.labels = Codes()

    @property
    def outgrown(self) -> bool:
        """Whether :meth:`types` should be asked again."""
        return self.items.outgrown or self.shards.outgrown or self.labels.outgrown

    def types(self) -> tuple[Any, Any, Any]:
        """What items, labels and shards are decoded to."""
        return self.items.type(), self.labels.type(), self.shards.type()

    def shard_numbers(self) -> pl.Series:
        """By the codes of their ids."""
        return pl.Series([int(each[8:]) if SHARD.fullmatch(each) else 0 for each in self.shards], dtype=pl.UInt64)

    def labelled(self, frame: pl.DataFrame) -> pl.DataFrame:
        """The frame with ``version`` and ``arm`` of its ``group``; see :func:`group_of`."""
        texts = pl.Series(list(self.labels), dtype=pl.String)
        group = frame["group"].to_numpy()
        return frame.with_columns(version=texts.gather(group >> 32), arm=texts.gather(group & 0xFFFFFFFF))


def group_of(versions: np.ndarray, arms: np.ndarray) -> np.ndarray:
    """One number for the codes of a model version and an arm."""
    groups: np.ndarray = versions.astype(np.uint64) << np.uint64(32) | arms
    return groups
