"""The lists as Parquet, partitioned by day and model version, and how Athena and Spark read them."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import polars as pl

from streamproc.errors import SettingsError
from streamproc.landed import Landed
from streamproc_consumers.audit.columns import TIME

#: Lists that are held before they are written.
_ROWS_MAX = 100_000

_DDL = """\
-- Copy the folder to S3 (aws s3 sync lists s3://BUCKET/PREFIX/lists/), put the place in, and run both in Athena.
CREATE EXTERNAL TABLE lists (
  recommendation_id string,
  user_id string,
  arm string,
  propensity double,
  fallback string,
  shard_id string,
  sequence_number string,
  sub_sequence_number bigint,
  features_as_of timestamp,
  event_ts timestamp,
  published_ts timestamp,
  items array<string>,
  probabilities array<double>,
  object string,
  line int
)
PARTITIONED BY (day string, model_version string)
STORED AS PARQUET
LOCATION 's3://BUCKET/PREFIX/lists/';

MSCK REPAIR TABLE lists;

-- Lists land at least once: count these.
CREATE OR REPLACE VIEW lists_once AS
SELECT * FROM (
  SELECT *, row_number() OVER (PARTITION BY recommendation_id ORDER BY published_ts, object, line) AS copy FROM lists
) WHERE copy = 1;
"""
_SPARK = """\
# Lists land at least once: `once` has each of them once.
from pyspark.sql import SparkSession, Window, functions as f

spark = SparkSession.builder.config("spark.sql.session.timeZone", "UTC").getOrCreate()
lists = spark.read.option("basePath", "lists").parquet("lists")
first = Window.partitionBy("recommendation_id").orderBy("published_ts", "object", "line")
once = lists.withColumn("copy", f.row_number().over(first)).where("copy = 1").drop("copy")
once.groupBy("day", "model_version", "arm").agg(
    f.count("*").alias("lists"), f.avg(f.col("fallback").isNotNull().cast("int")).alias("fallback_share")
).orderBy("day").show()
"""


class Tables:
    """Writes ``lists/day=.../model_version=.../*.parquet`` below a folder, which must be empty or not there."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        if folder.exists() and any(folder.iterdir()):
            raise SettingsError(f"--parquet {folder} is not empty: name a new folder, so that no list is in it twice")
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SettingsError(f"--parquet {folder} cannot be written: {error.strerror}") from error
        self._frames: list[pl.DataFrame] = []
        self._rows = self._written = 0

    def add(self, frame: pl.DataFrame, objects: list[Landed]) -> None:
        """Write the lists of a frame, soon."""
        names = {number: objects[number].name for number in frame["object"].unique()}
        self._frames.append(
            frame.select(
                recommendation_id="recommendation_id",
                user_id="user_id",
                arm="arm",
                propensity="propensity",
                fallback="label",
                shard_id=pl.lit("shardId-") + pl.col("shard").cast(pl.String).str.zfill(12),
                sequence_number="sequence",
                sub_sequence_number="sub",
                features_as_of=pl.col("known").cast(TIME),
                event_ts=pl.col("event").cast(TIME),
                published_ts=pl.col("published").cast(TIME),
                items="item_ids",
                probabilities="probabilities",
                object=pl.col("object").replace_strict(names, return_dtype=pl.String),
                line=pl.col("line").cast(pl.Int32),
                day=pl.col("day").cast(pl.String),
                model_version="version",
            )
        )
        self._rows += frame.height
        if self._rows >= _ROWS_MAX:
            self._write()

    def close(self) -> None:
        """Write what is left, and how to read it."""
        self._write()
        (self._folder / "athena.sql").write_text(_DDL)
        (self._folder / "spark.py").write_text(_SPARK)

    def _write(self) -> None:
        if not self._frames:
            return
        lists = pl.concat(self._frames)
        self._frames, self._rows = [], 0
        parts = lists.partition_by("day", "model_version", as_dict=True, include_key=False)
        for (day, version), rows in parts.items():
            # As Hive escapes what a path cannot have.
            folder = self._folder / "lists" / f"day={day}" / f"model_version={quote(str(version), safe='')}"
            folder.mkdir(parents=True, exist_ok=True)
            rows.write_parquet(folder / f"{self._written:06d}.parquet")
        self._written += 1
