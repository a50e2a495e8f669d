"""KCL itself, out of the jars that amazon_kclpy brings, reads what the producer sends, and drops what ours drops."""

import importlib.util
import random
import shutil
import subprocess
from base64 import b64decode, b64encode
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from streamproc.aggregation import UserRecord, aggregate, expand
from streamproc.shardmap import ALL_HASH_KEYS, HASH_KEY_MAX, HashRange, hash_key_of

JAVA_SOURCE = Path(__file__).with_name("Deaggregate.java")


class User(NamedTuple):
    sequence_number: int
    sub_sequence_number: int
    partition_key: str
    data: bytes


def kcl_reads(records: list[tuple[HashRange, dict[str, Any]]]) -> list[User]:
    """What KCL hands on of these records, each in a shard that owns the range."""
    spec = importlib.util.find_spec("amazon_kclpy")
    java = shutil.which("java")
    assert java, "install Java 17: KCL runs on it"
    assert spec is not None
    assert spec.origin is not None
    jars = Path(spec.origin).parent / "jars" / "*"
    lines = [
        f"{owned.start} {owned.end} {record['SequenceNumber']}"
        f" {b64encode(record['PartitionKey'].encode()).decode()} {b64encode(record['Data']).decode()}\n"
        for owned, record in records
    ]
    done = subprocess.run(
        [java, "-Xshare:auto", "-XX:TieredStopAtLevel=1", "-cp", str(jars), str(JAVA_SOURCE)],
        input="".join(lines),
        capture_output=True,
        text=True,
        check=True,
    )
    users = []
    for line in done.stdout.splitlines():
        number, index, key, data = line.split(" ")
        users.append(User(int(number), int(index), b64decode(key).decode(), b64decode(data)))
    return users


def we_read(records: list[tuple[HashRange, dict[str, Any]]]) -> list[User]:
    return [
        User(record.position.sequence_number, record.position.sub_sequence_number, record.partition_key, record.data)
        for owned, raw in records
        for record in expand([raw], 0, owned).records
    ]


def test_kcl_reads_what_the_producer_sends_and_drops_what_we_drop(
    make_bench: Callable[..., Any], keys_in: Callable[..., list[str]]
) -> None:
    bench, kinesis = make_bench(shards=3)
    rng = random.Random(1)
    keys = [f"käuferin-{n}" for n in range(200)]
    for _ in range(3000):
        bench.put(rng.choice(keys), rng.randbytes(rng.choice((0, 1, 20, 200, 5000))))
    bench.run()
    sent = []
    for shard in kinesis.list_shards(StreamName="cart-events")["Shards"]:
        bounds = shard["HashKeyRange"]
        owned = HashRange(int(bounds["StartingHashKey"]), int(bounds["EndingHashKey"]))
        sent += [(owned, record) for record in kinesis.log("cart-events")[shard["ShardId"]]]

    def record(number: int, data: bytes, key: str = "k") -> dict[str, Any]:
        return {
            "SequenceNumber": str(number),
            "PartitionKey": key,
            "Data": data,
            "ApproximateArrivalTimestamp": datetime.now(UTC),
        }

    low, high = keys_in(0, of=2)[0], keys_in(1, of=2)[0]
    lower = HashRange(0, HASH_KEY_MAX // 2)
    over_two = aggregate([UserRecord(low, b"1"), UserRecord(high, b"2"), UserRecord(low, b"3")])
    explicit = aggregate([UserRecord(high, b"1", hash_key_of(low)), UserRecord(low, b"2")])
    flipped = bytearray(over_two)
    flipped[12] ^= 1
    cases = [
        (lower, record(1, over_two)),
        (ALL_HASH_KEYS, record(2, over_two)),
        (lower, record(3, explicit)),
        (HashRange(HASH_KEY_MAX // 2 + 1, HASH_KEY_MAX), record(4, explicit)),
        (lower, record(5, bytes(flipped))),
        (lower, record(6, b"plain", high)),
        (lower, record(7, over_two[:10])),
    ]
    read = kcl_reads([*sent, *cases])
    assert read == we_read([*sent, *cases])
    assert sum(user.sequence_number > 100 for user in read) == 3000
    assert [user.sequence_number for user in read[3000:]] == [2, 2, 2, 3, 3, 5, 6, 7]


@pytest.mark.parametrize("count", [1, 200, 20_000])
def test_table_indices_and_lengths_of_any_size_are_read(count: int) -> None:
    users = [UserRecord(f"k{n}", b"x" * (n % 300), n if n % 2 else None) for n in range(count)]
    owned = ALL_HASH_KEYS
    raw = {
        "SequenceNumber": "9",
        "PartitionKey": "k",
        "Data": aggregate(users),
        "ApproximateArrivalTimestamp": datetime.now(UTC),
    }
    assert [(user.partition_key, user.data) for user in we_read([(owned, raw)])] == [u[:2] for u in users]
