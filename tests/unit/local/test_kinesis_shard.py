from __future__ import annotations

from hypothesis import given, strategies as st
from moto.kinesis.models import Shard

from streamproc.local.kinesis_shard import GET_RECORDS_MAX, IndexedShard


@given(
    records=st.integers(0, 30),
    last=st.integers(-1, 31),
    limit=st.none() | st.integers(1, 40),
)
def test_a_read_returns_what_motos_own_shard_returns(records: int, last: int, limit: int | None) -> None:
    ours, motos = IndexedShard(0, 0, 2**128 - 1), Shard(0, 0, 2**128 - 1)
    for shard in (ours, motos):
        for number in range(records):
            assert shard.put_record("key", f"data-{number}", "") == str(number + 1)

    read, position, _ = ours.get_records(str(last), limit)
    expected, expected_position, _ = motos.get_records(str(last), limit)

    assert [record.sequence_number for record in read] == [record.sequence_number for record in expected]
    assert position == max(0, expected_position)


def test_a_read_is_as_long_as_kinesis_allows() -> None:
    shard = IndexedShard(0, 0, 2**128 - 1)
    for _ in range(GET_RECORDS_MAX + 1):
        shard.put_record("key", "data", "")

    read, position, _ = shard.get_records("0", None)

    assert len(read) == GET_RECORDS_MAX
    assert shard.get_records(str(position), None)[1] == GET_RECORDS_MAX + 1


def test_how_far_a_read_is_behind_is_the_age_of_its_last_record_before_the_newest() -> None:
    shard = IndexedShard(0, 0, 2**128 - 1)
    for created_at in (10.0, 11.5, 13.0):
        sequence_number = shard.put_record("key", "data", "")
        shard.records[int(sequence_number)].created_at = created_at

    assert shard.get_records("0", 2)[2] == 1500
    assert shard.get_records("0", None)[2] == 0
    assert shard.get_records("3", None)[2] == 0
