"""Positions in the log, as numbers that sort as they do.

A sequence number has 56 digits, more than any number that Polars has, and to make, move and sort text of that length
took a tenth of an audit's time. So several columns hold one: 16 digits in each, as hexadecimal, of the last one 8, and
behind them the sub-sequence number.
"""

from __future__ import annotations

import re
from binascii import unhexlify
from collections.abc import Sequence

import numpy as np
import polars as pl

#: ``position0`` is the lowest. Where a frame has no column of a higher one it is 0.
COLUMNS = "^position[0-9]+$"
SHARD = re.compile(r"shardId-[0-9]{1,12}")
DIGITS_MAX = 129
#: Digits that Kinesis' sequence numbers have, and that numbers have which are longer.
_WIDTHS = (56, 136)
_SUB_BYTES = 4


def digits_of(sequence_numbers: list[str]) -> np.ndarray:
    """A row for each, with two digits in a byte."""
    lengths = {*map(len, sequence_numbers)}
    width = _WIDTHS[max(lengths) > _WIDTHS[0]]
    if lengths != {width}:
        sequence_numbers = [each.zfill(width) for each in sequence_numbers]
    return np.frombuffer(unhexlify("".join(sequence_numbers)), np.uint8).reshape(len(sequence_numbers), width // 2)


def columns_of(digits: Sequence[np.ndarray], subs: np.ndarray) -> dict[str, pl.Series]:
    """The columns of some rows, of which ``digits`` has one part after the other."""
    held = max(part.shape[1] for part in digits) + _SUB_BYTES
    rows = np.zeros((len(subs), held), np.uint8)
    first = 0
    for part in digits:
        rows[first : first + len(part), held - _SUB_BYTES - part.shape[1] : -_SUB_BYTES] = part
        first += len(part)
    rows[:, -_SUB_BYTES:] = subs.astype(">u4").view(np.uint8).reshape(len(subs), _SUB_BYTES)
    words = rows.view(">u8").astype(np.uint64)
    return {f"position{power}": pl.Series(words[:, -1 - power]) for power in range(words.shape[1])}


def orders_of(frame: pl.DataFrame) -> pl.Series:
    """Numbers that are ordered and equal as the positions are, from 0."""
    keys = [key.to_numpy() for key in _keys(frame) if key.min() != key.max()]
    orders = np.zeros(frame.height, np.uint32)
    if keys:
        by_position = np.lexsort(keys)
        steps = np.zeros(frame.height, np.bool_)
        for key in keys:
            ordered = key[by_position]
            steps[1:] |= ordered[1:] != ordered[:-1]
        orders[by_position] = np.cumsum(steps)
    return pl.Series("order", orders)


def last_of_shards(frame: pl.DataFrame) -> pl.DataFrame:
    """A row of the last position of each shard."""
    last = frame.select("shard", COLUMNS).fill_null(0)
    for power in reversed(range(last.width - 1)):
        word = last[f"position{power}"]
        if word.min() != word.max():
            last = last.filter(pl.col(word.name) == pl.col(word.name).max().over("shard"))
    return last.unique()


def texts_of(frame: pl.DataFrame) -> list[str]:
    """What :func:`place_of` tells of each row."""
    texts = []
    for shard, *words in zip(*reversed(_keys(frame)), strict=True):
        digits = "".join(f"{word:016x}" for word in words)
        sub = int(digits[-2 * _SUB_BYTES :], 16)
        texts.append(place_of(f"shardId-{shard:012d}", digits[: -2 * _SUB_BYTES].lstrip("0") or "0", sub))
    return texts


def place_of(shard_id: str, sequence_number: str, sub_sequence_number: int) -> str:
    """The position as text that sorts. A sub-sequence number of -1 is before every record of the sequence number."""
    sub = "" if sub_sequence_number < 0 else f"{sub_sequence_number:09d}"
    return f"{shard_id[8:]:>012}{len(sequence_number):03d}{sequence_number}{sub}"


def position_of(place: str) -> str:
    """The position behind a ``place``, as people write it."""
    digits = int(place[12:15])
    return f"shardId-{place[:12]}:{place[15 : 15 + digits]}:{int(place[15 + digits :])}"


def _keys(frame: pl.DataFrame) -> list[pl.Series]:
    """The columns to sort by, the last one first, and the shard at the end."""
    words = frame.select(COLUMNS)
    return [words[f"position{power}"].fill_null(0) for power in range(words.width)] + [frame["shard"]]
