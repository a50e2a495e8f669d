"""A shard of moto's Kinesis that stays as quick when it is full as it is when empty."""

from __future__ import annotations

from typing import Any

from moto.kinesis.models import Shard

# "GetRecords", Amazon Kinesis Data Streams API Reference.
GET_RECORDS_MAX = 10_000


class IndexedShard(Shard):
    """moto's shard, whose puts and reads cost the same however many records it holds.

    A shard's sequence numbers are 1, 2, 3 ... without gaps, so its n-th record is the one with number n.
    """

    def get_max_sequence_number(self) -> int:
        """See moto: the number of the last record, 0 for none."""
        return len(self.records)

    def get_records(self, last_sequence_id: str, limit: int | None) -> tuple[list[Any], int, int]:
        """See moto: the records after a sequence number, the last one's number, and its age before the newest in ms."""
        read, held = max(0, int(last_sequence_id)), len(self.records)
        end = min(held, read + min(limit or GET_RECORDS_MAX, GET_RECORDS_MAX))
        records = [self.records[number] for number in range(read + 1, end + 1)]
        behind_seconds = self.records[held].created_at - records[-1].created_at if records else 0.0
        return records, read + len(records), int(behind_seconds * 1000)
