"""What a rate takes of each service, and what that costs: arithmetic over measured constants and the price table.

The shop's sessions decide much of it: a user in a session makes an event every *gap* of 18 s on average, so hardly any
user is twice in a batch of a fifth of a second, and about every second event of a 30 s checkpoint is of a user that is
written anyway.
"""

from __future__ import annotations

import math
from functools import cache
from importlib.resources import files

import msgspec

from streamproc_consumers.load.prices import Prices

HOURS_A_MONTH = 730.0
SECONDS_A_MONTH = HOURS_A_MONTH * 3600
GB = 1e9
#: What a shard takes ("Quotas and limits", Kinesis Data Streams Developer Guide), and the share of it that is planned
#: for: users are skewed, and so are shards.
SHARD_BYTES_PER_SECOND, SHARD_RECORDS_PER_SECOND, SHARD_FILL = 1e6, 1000.0, 0.6
PUT_UNIT_BYTES = 25 * 1024
FIREHOSE_STEP_BYTES = 5 * 1024
#: CPU is planned to be busy for this share of the time: a restart has to catch up.
CPU_FILL = 0.6
#: ElastiCache keeps a quarter of a node's 13.07 GiB ("reserved-memory-percent"); a node has a replica.
REDIS_NODE_BYTES, REDIS_COPIES = 13.07 * 2**30 * 0.75, 2
#: A host has two CPUs and 4 GiB, half a GiB of it for the system, and one JVM.
HOST_CPUS, HOST_BYTES, JVM_BYTES = 2, 3.5 * 2**30, 700 * 2**20
#: ShardWorker keeps so many states at most, see WorkerSettings.states_in_memory_max.
STATES_IN_MEMORY_MAX = 200_000


class Constants(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured, once and with what; ``constants.json`` holds them."""

    #: How they were made: the command, the day, the machine.
    made_by: str
    date: str
    machine: str
    event_bytes: float
    recommendation_bytes: float
    #: An item of the states table, with its attributes' names.
    state_item_bytes: float
    #: Redis' memory for a user, and its CPU for a user's write.
    redis_bytes_per_user: float
    redis_cpu_us_per_user: float
    #: The worker's memory for a state.
    state_memory_bytes: float
    #: A shard's process, without states.
    child_bytes: float
    #: The worker's CPU: for an event, for a user that is scored and projected, for a batch.
    cpu_us_per_event: float
    cpu_us_per_user: float
    cpu_us_per_batch: float
    #: What reading, Firehose and checkpoints add, for an event; see benchmarks/capacity.py.
    cpu_us_per_event_io: float
    #: Seconds between two events of a user in a session, and events of a session, in the simulated shop.
    gap_seconds: float = 18.0
    session_events: float = 12.8
    #: One event at a time, with the booster in the process: CPU microseconds.
    one_at_a_time_cpu_us: float = 1280.0


class Demand(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked of a system."""

    rate: float
    #: Users whose states are kept.
    users: int
    shards: int
    #: Seconds between two reads of a shard, and between two checkpoints.
    poll_seconds: float = 0.21
    checkpoint_seconds: float = 5.0
    #: Events in one record of the stream. One app with a busy producer makes hundreds; a thousand phones make one.
    events_per_record: float = 20.0
    #: Whether a second application writes the events to S3, every five seconds.
    archive: bool = True


class Needs(msgspec.Struct, frozen=True, kw_only=True):
    """What it takes. Rates are a second."""

    stream_bytes: float
    stream_records: float
    readers: int
    batch_events: float
    #: Users scored, published and projected.
    users_scored: float
    states_written: float
    write_units: float
    read_units: float
    lease_writes: float
    firehose_records: float
    #: As they are, and as they are billed.
    output_bytes: float
    firehose_bytes: float
    firehose_billed_bytes: float
    redis_bytes: float
    redis_calls: float
    redis_nodes: int
    cpus: float
    memory_bytes: float
    hosts: int


class Line(msgspec.Struct, frozen=True):
    """A line of the bill."""

    what: str
    dollars_per_hour: float
    note: str = ""


@cache
def measured() -> Constants:
    """The constants that come with the package."""
    return msgspec.json.decode(
        files("streamproc_consumers.load").joinpath("constants.json").read_bytes(), type=Constants
    )


def shards_for(rate: float, constants: Constants, events_per_record: float = 20.0) -> int:
    """Shards that take so many events a second, filled to 60 %."""
    by_bytes = rate * constants.event_bytes / SHARD_BYTES_PER_SECOND
    by_records = rate / events_per_record / SHARD_RECORDS_PER_SECOND
    return max(1, math.ceil(max(by_bytes, by_records) / SHARD_FILL))


def distinct_users(rate: float, seconds: float, users: int, constants: Constants) -> float:
    """How many users have an event in so many seconds of this rate."""
    in_session = rate * constants.gap_seconds
    # Those in a session at the beginning, less who happens to do nothing; and who comes meanwhile.
    active = in_session * -math.expm1(-seconds / constants.gap_seconds) + rate * seconds / constants.session_events
    events = rate * seconds
    known = users * -math.expm1(-events / users)
    return min(active, events, known)


def needs(demand: Demand, constants: Constants) -> Needs:
    """What this demand takes of each service."""
    rate, shards = demand.rate, demand.shards
    batch_events = rate / shards * demand.poll_seconds
    batches = shards / demand.poll_seconds * -math.expm1(-batch_events)  # an empty read makes no batch
    scored = distinct_users(rate, demand.poll_seconds, demand.users, constants) / demand.poll_seconds
    written = distinct_users(rate, demand.checkpoint_seconds, demand.users, constants) / demand.checkpoint_seconds
    item_units = math.ceil(constants.state_item_bytes / 1024)
    lease_writes = shards * (1 / demand.checkpoint_seconds + 3 / 10.0)  # and a renewal each third of the failover time
    # One record a batch, until a megabyte; each is rounded up by half a step on average, and is one step at least.
    output_bytes = scored * (constants.recommendation_bytes + 1)
    records = max(batches, output_bytes / (1000 * 1024))
    billed = _rounded(output_bytes, records)
    archive_bytes = rate * constants.event_bytes * 1.5 if demand.archive else 0.0  # an event with its position
    archive_records = max(shards / 5.0, archive_bytes / (1000 * 1024)) if demand.archive else 0.0
    event_us = constants.cpu_us_per_event + constants.cpu_us_per_event_io
    cpus = (
        (rate * event_us + scored * constants.cpu_us_per_user + batches * constants.cpu_us_per_batch) / 1e6 / CPU_FILL
    )
    states_kept = min(demand.users, shards * STATES_IN_MEMORY_MAX)
    memory = states_kept * constants.state_memory_bytes + shards * constants.child_bytes
    redis_cpus = scored * constants.redis_cpu_us_per_user / 1e6 / CPU_FILL
    redis_bytes = demand.users * constants.redis_bytes_per_user
    nodes = max(1, math.ceil(redis_bytes / REDIS_NODE_BYTES), math.ceil(redis_cpus)) * REDIS_COPIES
    hosts = max(2, math.ceil(cpus / HOST_CPUS), math.ceil(memory / (HOST_BYTES - JVM_BYTES)))
    return Needs(
        stream_bytes=rate * constants.event_bytes,
        stream_records=rate / demand.events_per_record,
        readers=2 if demand.archive else 1,
        batch_events=batch_events,
        users_scored=scored,
        states_written=written,
        write_units=written * item_units * 2 + lease_writes,
        # A session's first event finds no state in memory where there are more users than states are kept.
        read_units=rate / constants.session_events * math.ceil(constants.state_item_bytes / 4096),
        lease_writes=lease_writes,
        firehose_records=records + archive_records,
        output_bytes=output_bytes,
        firehose_bytes=output_bytes + archive_bytes,
        firehose_billed_bytes=billed + _rounded(archive_bytes, archive_records),
        redis_bytes=redis_bytes,
        redis_calls=max(batches, scored / 250),
        redis_nodes=nodes,
        cpus=cpus,
        memory_bytes=memory,
        hosts=hosts,
    )


def _rounded(total_bytes: float, records: float) -> float:
    """Bytes that Firehose counts for so many a second in so many records: whole steps of 5 KB."""
    if not records:
        return 0.0
    return records * math.ceil(total_bytes / records / FIREHOSE_STEP_BYTES) * FIREHOSE_STEP_BYTES


def kinesis_lines(demand: Demand, need: Needs, prices: Prices) -> tuple[Line, Line]:
    """The stream by the shard, and on demand. One of them is paid."""
    record_bytes = need.stream_bytes / need.stream_records
    units = need.stream_records * math.ceil(record_bytes / PUT_UNIT_BYTES)
    provisioned = demand.shards * prices["kinesis_shard_hour"] + units * 3600 / 1e6 * prices["kinesis_put_million"]
    billed = need.stream_records * math.ceil(record_bytes / 1024) * 1024
    on_demand = (
        prices["kinesis_on_demand_stream_hour"]
        + billed * 3600 / GB * prices["kinesis_on_demand_gb_in"]
        + need.stream_bytes * need.readers * 3600 / GB * prices["kinesis_on_demand_gb_out"]
    )
    return (
        Line("Kinesis, provisioned", provisioned, f"{demand.shards} shards, {units:,.0f} PUT units/s"),
        Line("Kinesis, on demand", on_demand, f"{billed / 1e6:,.2f} MB/s in, {need.readers} readers"),
    )


def bill(
    demand: Demand, need: Needs, constants: Constants, prices: Prices, *, on_demand: bool | None = None
) -> list[Line]:
    """What is paid an hour, by service. Kinesis is on demand or not; None takes the cheaper of the two."""
    provisioned_line, on_demand_line = kinesis_lines(demand, need, prices)
    if on_demand is None:
        on_demand = on_demand_line.dollars_per_hour < provisioned_line.dollars_per_hour
    kinesis = on_demand_line if on_demand else provisioned_line
    dynamodb = (
        need.write_units * 3600 / 1e6 * prices["dynamodb_write_million"]
        + need.read_units * 3600 / 1e6 * prices["dynamodb_read_million"]
        + demand.users * constants.state_item_bytes / GB * prices["dynamodb_gb_month"] / HOURS_A_MONTH
    )
    firehose = need.firehose_billed_bytes * 3600 / GB * prices["firehose_gb"]
    kept = need.firehose_bytes * SECONDS_A_MONTH / GB * prices["s3_gb_month"] / HOURS_A_MONTH
    return [
        kinesis,
        Line("DynamoDB, on demand", dynamodb, f"{need.states_written:,.0f} states/s, {need.write_units:,.0f} units/s"),
        Line("Firehose", firehose, f"{need.firehose_billed_bytes / 1e6:,.2f} MB/s as billed"),
        Line("S3, what a month brings", kept, f"{need.firehose_bytes * SECONDS_A_MONTH / GB:,.0f} GB, not compressed"),
        Line(
            "Redis (ElastiCache)",
            need.redis_nodes * prices["redis_node_hour"],
            f"{need.redis_nodes} nodes, {need.redis_bytes / GB:,.1f} GB",
        ),
        Line("EC2", need.hosts * prices["host_hour"], f"{need.hosts} hosts, {need.cpus:,.1f} CPUs"),
    ]


def fargate_dollars_per_hour(need: Needs, prices: Prices) -> float:
    """The same compute as tasks instead of hosts: CPUs and memory as they are needed."""
    memory_gb = (need.memory_bytes + need.hosts * JVM_BYTES) / 2**30
    return max(0.25, need.cpus) * prices["fargate_vcpu_hour"] + memory_gb * prices["fargate_gb_hour"]


def per_million(dollars_per_hour: float, rate: float) -> float:
    """Dollars for a million events, at so many a second."""
    return dollars_per_hour / (rate * 3600) * 1e6


def endpoint_seconds(constants: Constants) -> float:
    """How long the function of :func:`endpoint_design` is busy with an event; the fold and the features are a third of
    what one event at a time costs us.
    """
    return 0.012 + constants.one_at_a_time_cpu_us / 1e6 * 0.3


def endpoint_design(rate: float, constants: Constants, prices: Prices) -> list[Line]:
    """Lambda on the stream, which asks a SageMaker endpoint for each event: what many build first.

    Each event reads its user's state from DynamoDB, calls the endpoint and writes the state and the output. The
    assumptions are kind to it: 100 events an invocation, one after the other; 12 ms of waiting for an event (8 for the
    endpoint, 2 for each call of DynamoDB) in 512 MB; an endpoint that takes for a request what our own process takes
    for one event at a time, and 1 ms for HTTP and CSV; instances busy for 60 % of the time; no transaction for the
    write, so nothing protects the state from a retry of the batch.
    """
    event_seconds = endpoint_seconds(constants)
    requests = rate * 3600 / 1e6
    item_units = math.ceil(constants.state_item_bytes / 1024)
    endpoint_cpus = rate * (constants.one_at_a_time_cpu_us + 1000.0) / 1e6 / CPU_FILL
    instances = max(2, math.ceil(endpoint_cpus / 4))
    dynamodb = requests * (
        item_units * prices["dynamodb_write_million"]
        + math.ceil(constants.state_item_bytes / 4096) * prices["dynamodb_read_million"]
    )
    firehose = _rounded(rate * constants.recommendation_bytes, rate / 100) * 3600 / GB * prices["firehose_gb"]
    shards = shards_for(rate, constants)
    return [
        Line("Kinesis, provisioned", shards * prices["kinesis_shard_hour"], f"{shards} shards"),
        Line(
            "Lambda",
            requests / 100 * prices["lambda_million"] + rate * 3600 * event_seconds * 0.5 * prices["lambda_gb_second"],
            f"{rate * event_seconds:,.0f} at a time",
        ),
        Line("SageMaker endpoint", instances * prices["sagemaker_host_hour"], f"{instances} ml.c5.xlarge"),
        Line("DynamoDB, on demand", dynamodb, f"{rate * item_units:,.0f} write units/s"),
        Line("Firehose", firehose),
    ]
