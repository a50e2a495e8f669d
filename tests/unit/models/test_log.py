from __future__ import annotations

import gzip
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from streamproc.errors import SettingsError
from streamproc_models.log import open_log
from streamproc_producers.events import CartEvent, encode


def archived(event: CartEvent, number: int, seconds: int, shard: int = 0) -> bytes:
    return msgspec.json.encode(
        {
            "position": {
                "shard_id": f"shardId-{shard:012d}",
                "sequence_number": str(number),
                "sub_sequence_number": 0,
            },
            "arrived_at": event.ts + timedelta(seconds=seconds),
            "event": msgspec.Raw(encode(event)),
        }
    )


def test_a_file_of_events_keeps_their_order(shop_log: list[CartEvent], tmp_path: Path) -> None:
    events = shop_log[:20]
    content = b"\n".join(encode(event) for event in events) + b"\n"
    (tmp_path / "events.jsonl").write_bytes(content)
    (tmp_path / "events.jsonl.gz").write_bytes(gzip.compress(content))
    for name in ("events.jsonl", "events.jsonl.gz"):
        log = open_log(str(tmp_path / name))
        assert list(log.read()) == events
        assert list(log.read()) == events, "it can be read again"
        assert log.items() == {}


def test_the_archive_comes_in_the_order_of_arrival_and_each_event_once(
    shop_log: list[CartEvent], tmp_path: Path
) -> None:
    first, second, third = (msgspec.structs.replace(event, ts=shop_log[0].ts) for event in shop_log[:3])
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1").write_bytes(archived(third, 12, 9) + b"\n" + archived(second, 11, 5, shard=1) + b"\n")
    (tmp_path / "b").write_bytes(gzip.compress(archived(first, 10, 5) + b"\n" + archived(second, 15, 6, shard=1)))
    assert list(open_log(str(tmp_path)).read()) == [first, second, third]


def test_a_line_that_is_no_event_is_named(shop_log: list[CartEvent], tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(encode(shop_log[0]) + b'\n{"user_id": 5}\n')
    with pytest.raises(SettingsError, match=r"events.jsonl, line 2: .*mend or remove the line"):
        list(open_log(str(path)).read())
    path.write_bytes(archived(shop_log[0], 1, 0) + b"\n" + encode(shop_log[1]))
    with pytest.raises(SettingsError, match="line 2, is not a line of the archive"):
        list(open_log(str(path)).read())


def test_a_place_without_a_log_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="nothing has landed in"):
        list(open_log(str(tmp_path)).read())
    with pytest.raises(SettingsError, match=r"missing\.jsonl does not exist"):
        list(open_log(str(tmp_path / "missing.jsonl")).read())
