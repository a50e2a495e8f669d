"""Spark as its documentation shows it: ``applyInPandasWithState`` by user, with the RocksDB state store.

One prediction and one list a user and micro-batch. A file is a micro-batch; its columns are those of Spark's Kinesis
connectors.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pandas as pd  # type: ignore[import-untyped,unused-ignore]
from pyspark.sql import SparkSession  # type: ignore[import-not-found,unused-ignore]
from pyspark.sql.streaming.state import GroupState, GroupStateTimeout  # type: ignore[import-not-found,unused-ignore]

from benchmarks.throughput.inputs import SPARK_BATCH
from benchmarks.throughput.job import mark, peer_of, task
from streamproc_models.features import decode_state, encode_state, fold, new_state
from streamproc_producers.events import decode

_ROCKSDB = "org.apache.spark.sql.execution.streaming.state.RocksDBStateStoreProvider"


def recommend(of: bytes) -> Any:
    """What makes the list of one user."""

    def listed(key: tuple[str], frames: Iterator[pd.DataFrame], kept: GroupState) -> Iterator[pd.DataFrame]:
        peer, user_id = peer_of(of), key[0]
        state = decode_state(bytes(kept.get[0])) if kept.exists else new_state()
        # The shuffle keeps no order.
        events = pd.concat(frames).sort_values("sequenceNumber")
        event = None
        for data in events["data"]:
            event = decode(data.encode())
            state = fold(state, event)
        if event is not None:
            encoded = encode_state(state)
            kept.update((encoded,))
            peer.redis.set(user_id, encoded)
            [line] = peer.lists([(user_id, state)], [event.event_id])
            yield pd.DataFrame({"value": [line.decode()]})

    return listed


def main() -> None:
    of = task()
    os.environ["PYSPARK_PYTHON"] = sys.executable
    spark = (
        SparkSession.builder.master("local[1]")
        .config("spark.ui.enabled", "false")
        .config("spark.sql.shuffle.partitions", "1")
        .config("spark.sql.streaming.stateStore.providerClass", _ROCKSDB)
        .getOrCreate()
    )
    folder = Path(of.out, "events")
    folder.mkdir()
    for part in sorted(Path(of.folder, f"{of.log}.spark").iterdir())[: -(-of.events // SPARK_BATCH)]:
        (folder / part.name).symlink_to(part)
    query = (
        spark.readStream.schema("partitionKey STRING, sequenceNumber LONG, data STRING")
        .option("maxFilesPerTrigger", 1)
        .json(str(folder))
        .groupBy("partitionKey")
        .applyInPandasWithState(
            recommend(msgspec.json.encode(of)),
            outputStructType="value STRING",
            stateStructType="state BINARY",
            outputMode="append",
            timeoutConf=GroupStateTimeout.NoTimeout,
        )
        .writeStream.format("text")
        .option("path", str(Path(of.out, "lists")))
        .option("checkpointLocation", str(Path(of.out, "checkpoints")))
        .outputMode("append")
        .trigger(availableNow=True)
        .start()
    )
    query.awaitTermination()
    mark("done")
    spark.stop()


if __name__ == "__main__":
    main()
