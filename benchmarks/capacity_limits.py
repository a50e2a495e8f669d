"""What breaks first at a rate: each limit that the system can meet, how much of it is used, and what to do then."""

from __future__ import annotations

from typing import NamedTuple

from streamproc_consumers.load.cost import (
    CPU_FILL,
    FIREHOSE_STEP_BYTES,
    HOST_CPUS,
    JVM_BYTES,
    Constants,
    Demand,
    Needs,
)


class Limit(NamedTuple):
    """A limit and how much of it is used. Above 1 it is broken."""

    name: str
    used: float
    #: The figure behind it, in words.
    figure: str
    then: str


#: On-demand streams begin with 4 MB/s; a table takes 40,000 write units a second in most regions until asked for more
#: ("Quotas" of Kinesis Data Streams and of DynamoDB, seen 2026). Firehose's 5 MB/s and 5,000 records/s are its lowest
#: default; some regions have more.
ON_DEMAND_START_BYTES, ON_DEMAND_END_BYTES = 4e6, 200e6
TABLE_WRITE_UNITS = 40_000
FIREHOSE_BYTES, FIREHOSE_RECORDS = 5e6, 5_000
#: A shard's process, or a local runner with all shards, has one interpreter.
ONE_CPU = 1.0
#: Shards of an account before AWS is asked for more, in us-east-1, us-west-2 and eu-west-1 (others: 1,000 to 6,000).
ACCOUNT_SHARDS = 20_000
#: cache.r7g.16xlarge: the largest node of the family. A script's keys must be on one node.
LARGEST_NODE_BYTES = 419.09 * 2**30 * 0.75
#: A lease's row is about so long; KCL's leader reads all of them every 2 x failover = 20 s, each worker every 60 s.
LEASE_ROW_BYTES, LEADER_SCAN_SECONDS, WORKER_SCAN_SECONDS = 350, 20.0, 60.0


def limits(demand: Demand, need: Needs, constants: Constants) -> list[Limit]:
    """All of them, in one order for every demand."""
    shard_cpus = need.cpus * CPU_FILL / demand.shards
    local_cpus = need.cpus * CPU_FILL
    redis_cpu = need.users_scored * constants.redis_cpu_us_per_user / 1e6
    rounding = need.firehose_billed_bytes / max(1.0, need.firehose_bytes)
    record_bytes = need.output_bytes / max(1e-9, demand.shards / demand.poll_seconds)
    scans = demand.shards * LEASE_ROW_BYTES / 4096 * (1 / LEADER_SCAN_SECONDS + need.hosts / WORKER_SCAN_SECONDS)
    return [
        Limit(
            "the local runner: one process for all shards",
            local_cpus / ONE_CPU,
            f"{local_cpus:,.2f} CPUs of one interpreter",
            "run the fleet (`--runner kcl`): a process a shard, on as many hosts as there should be",
        ),
        Limit(
            "a shard's process",
            shard_cpus / ONE_CPU,
            f"{shard_cpus:,.2f} CPUs a shard",
            "more shards: each brings a process, and its bytes are not the reason",
        ),
        Limit(
            "an on-demand stream as it is made",
            need.stream_bytes / ON_DEMAND_START_BYTES,
            f"{need.stream_bytes / 1e6:,.1f} of 4 MB/s in",
            "it doubles by itself within minutes to hours; before a known peak make it provisioned, or warm it",
        ),
        Limit(
            "an on-demand stream in regions without the higher quota",
            need.stream_bytes / ON_DEMAND_END_BYTES,
            f"{need.stream_bytes / 1e6:,.1f} of 200 MB/s in",
            "us-east-1, us-west-2, eu-west-1 go to 10 GB/s; elsewhere ask, or take two streams by user",
        ),
        Limit(
            "the states table's write units",
            need.write_units / TABLE_WRITE_UNITS,
            f"{need.write_units:,.0f} of {TABLE_WRITE_UNITS:,} a second",
            "a longer `--checkpoint-seconds`: 300 writes a user once a session; then ask for more, and warm the table",
        ),
        Limit(
            "Firehose's bytes by default",
            need.firehose_bytes / FIREHOSE_BYTES,
            f"{need.firehose_bytes / 1e6:,.1f} of 5 MB/s",
            "ask for more before the launch; gzip in the sink is the other half of the answer",
        ),
        Limit(
            "Firehose's records by default",
            need.firehose_records / FIREHOSE_RECORDS,
            f"{need.firehose_records:,.0f} of 5,000 a second",
            "a batch is one record, so it is the number of shards that counts: poll less often",
        ),
        Limit(
            "Firehose's 5 KB steps",
            (rounding - 1) / 1.0,
            f"{rounding:,.2f} times the bytes are billed; a record has {record_bytes / 1024:,.1f} of"
            f" {FIREHOSE_STEP_BYTES / 1024:.0f} KB or more",
            "fewer shards or a longer `--poll-seconds`, so that a batch is more than a step",
        ),
        Limit(
            "Redis: one interpreter thread a node",
            redis_cpu / ONE_CPU,
            f"{redis_cpu:,.2f} CPUs for {need.users_scored:,.0f} users/s",
            "one Redis an application or a range of users: the projection's script takes keys of any slot, which"
            " Redis Cluster refuses",
        ),
        Limit(
            "Redis: memory of the largest node",
            need.redis_bytes / LARGEST_NODE_BYTES,
            f"{need.redis_bytes / 2**30:,.0f} of {LARGEST_NODE_BYTES / 2**30:,.0f} GiB",
            "`expire_after_seconds`, so that who does not come back costs nothing; then as above",
        ),
        Limit(
            "shards of an account",
            demand.shards / ACCOUNT_SHARDS,
            f"{demand.shards:,} of {ACCOUNT_SHARDS:,}",
            "ask for more",
        ),
        Limit(
            "the lease table",
            (need.lease_writes + scans) / TABLE_WRITE_UNITS,
            f"{need.lease_writes:,.0f} writes and {scans:,.1f} read units a second",
            "a longer failover time and checkpoint interval",
        ),
        Limit(
            "memory of a host with a process a shard",
            (need.memory_bytes / need.hosts + JVM_BYTES) / (4 * 2**30),
            f"{(need.memory_bytes / need.hosts + JVM_BYTES) / 2**30:,.1f} of 4 GiB,"
            f" {demand.shards / need.hosts:,.1f} shards on {HOST_CPUS} CPUs",
            "hosts with 4 GiB a CPU (m7i), or fewer states in memory",
        ),
    ]
