"""What ``streamproc audit`` makes of texts, positions and times, so that many are compared at once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone, tzinfo

import msgspec
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings, strategies as st

from streamproc_consumers.audit import places
from streamproc_consumers.audit.codes import Codes, array_of
from streamproc_consumers.audit.columns import _micros

START = datetime(2026, 11, 1, tzinfo=UTC)


@pytest.mark.parametrize("micros", [(0, 0), (1, 999_999), (0, 7)])
@pytest.mark.parametrize("zone", [UTC, timezone(timedelta(hours=2))])
def test_times_of_any_precision_and_zone_are_the_same_microseconds(micros: tuple[int, int], zone: tzinfo) -> None:
    times = [
        (START + timedelta(microseconds=each)).astimezone(at) for each, at in zip(micros, (zone, UTC), strict=True)
    ]
    assert list(_micros(times)) == [int(START.timestamp()) * 10**6 + each for each in micros]


def test_positions_of_any_length_sort_as_numbers_and_are_told_as_they_were_written() -> None:
    written = [(2, 7, 0), (0, 10**55, 1), (0, 10**55, 0), (0, 9, 999_999_999), (0, 10**128, 3), (0, 10, 0), (1, 0, 5)]
    frames = [
        pl.DataFrame(
            {
                "shard": pl.Series([shard for shard, *_ in part], dtype=pl.UInt64),
                **places.columns_of(
                    [places.digits_of([str(number)]) for _, number, _ in part], np.array([sub for *_, sub in part])
                ),
            }
        )
        for part in (written[:4], written[4:])
    ]
    frame = pl.concat(frames, how="diagonal")
    orders = places.orders_of(frame).to_list()
    assert [each for _, each in sorted(zip(orders, written, strict=True))] == sorted(written)
    texts = places.texts_of(frame)
    assert [places.position_of(text) for text in texts] == [
        f"shardId-{shard:012d}:{number}:{sub}" for shard, number, sub in written
    ]
    assert sorted(texts) == [text for _, text in sorted(zip(orders, texts, strict=True))]
    assert sorted(places.texts_of(places.last_of_shards(frame))) == sorted(texts[each] for each in (0, 4, 6))


@settings(deadline=None)
@given(st.lists(st.lists(st.text(max_size=4), min_size=1, max_size=200), min_size=1, max_size=5))
def test_texts_are_decoded_to_the_same_codes_whether_they_were_known_or_not(pieces: list[list[str]]) -> None:
    codes = Codes()
    for texts in pieces:
        read = msgspec.json.Decoder(list[codes.type()]).decode(msgspec.json.encode(texts))  # type: ignore[misc]
        numbered = list(codes)
        assert [numbered[code] for code in array_of(read)] == texts


def test_what_is_not_known_often_enough_is_worth_a_new_type() -> None:
    codes, outgrown = Codes(), []
    decoder = msgspec.json.Decoder(list[codes.type()])  # type: ignore[misc]
    for texts in (["a", "b"], ["a"] * 100):
        decoder.decode(msgspec.json.encode(texts))
        outgrown.append(codes.outgrown)
    codes.type()
    assert [*outgrown, codes.outgrown] == [False, True, False]
