"""The fleet's settings, and the properties file of KCL's MultiLangDaemon that they become.

Each property is written with the reason beside it where its default would surprise.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping

import msgspec

from streamproc.errors import SettingsError
from streamproc.lease import LATEST, TRIM_HORIZON
from streamproc.runners.kcl.known import CLIENT_PREFIXES, NAMES

POLLING = "POLLING"
FANOUT = "FANOUT"
PAY_PER_REQUEST = "PAY_PER_REQUEST"
PROVISIONED = "PROVISIONED"
_METRICS_LEVELS = ("NONE", "SUMMARY", "DETAILED")

#: Properties that no setting names, and why they may not be passed on either.
_REFUSED = {
    "timeoutInSeconds": "it halts the whole JVM, also where a child only waits for a store; user_code_seconds_max ends"
    " a child that hangs in the application's code, and nothing else",
    "callProcessRecordsEvenForEmptyRecordList": "without empty batches an idle shard would have no action to checkpoint"
    " in",
    "validateSequenceNumberBeforeCheckpointing": "a checkpoint here is always a position that was delivered",
    "skipShardSyncAtWorkerInitializationIfLeasesExist": "it switches off KCL's check that a record hashes into its"
    " shard, and a reshard would deliver records twice",
    "processingLanguage": "it only changes the user agent",
    "streamArn": "its region is not used; the application names the stream",
    "workerIdentifier": "the runner makes an id that no other worker has",
    "initialPositionInStreamExtended": "set initial_position",
    "tableName": "the lease table has the application's name, where the local runner finds it",
}


class KclRunnerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How a worker of the fleet reads, holds leases, and ends."""

    #: POLLING, or FANOUT (enhanced fan-out: 2 MB a second a shard for this application alone, billed by the GB).
    retrieval: str = POLLING
    #: FANOUT: a stream consumer that is registered already. Otherwise KCL registers one of the application's name.
    consumer_arn: str | None = None
    #: Where a stream is read from that this application never read: TRIM_HORIZON or LATEST.
    initial_position: str = TRIM_HORIZON
    #: A lease whose counter stands still for so long is taken over.
    failover_seconds: float = 10.0
    #: POLLING: time from one read of a shard to the next. Kinesis allows five a second a shard, over all readers.
    poll_seconds: float = 0.25
    #: POLLING: GetRecords' Limit; the service's own is 10,000.
    records_max: int = 10_000
    #: How often new shards are looked for.
    shard_sync_seconds: float = 60.0
    #: How often a child shard looks whether its parents are done.
    parent_poll_seconds: float = 10.0
    #: How long a stop may take until what is not checkpointed is left to be replayed. ECS kills after 30 s by default
    #: ("stopTimeout"), and the runner needs 5 of them.
    drain_seconds: float = 20.0
    #: How long the old owner of a lease has for a last checkpoint when the fleet is rebalanced.
    handoff_seconds: float = 30.0
    #: Of the two tables that KCL makes beside the lease table: PAY_PER_REQUEST, or PROVISIONED with these capacities.
    billing: str = PAY_PER_REQUEST
    read_capacity: int = 10
    write_capacity: int = 10
    #: KCL's own CloudWatch metrics: NONE, SUMMARY or DETAILED. They cost by the metric, a set for each shard.
    metrics_level: str = "NONE"
    #: Whether leases are balanced by the hosts' CPU use, where KCL can tell it (EC2, ECS, EKS), else by throughput.
    worker_metrics: bool = True
    #: The JVM's heap.
    heap_mb: int = 512
    #: A child that is in the application's code for longer is killed; KCL would wait for it for ever. Waiting for a
    #: store never counts.
    user_code_seconds_max: float = 300.0
    #: A shard of which no batch was finished for so long is reported.
    stuck_seconds: float = 60.0
    #: The worker gives up after so many deaths of the daemon without a checkpoint between them.
    deaths_max: int = 10
    #: Further properties of KCL, by its own names.
    extra: dict[str, str] = {}

    def __post_init__(self) -> None:
        _check_choice("retrieval", self.retrieval, (POLLING, FANOUT))
        _check_choice("initial_position", self.initial_position, (TRIM_HORIZON, LATEST))
        _check_choice("billing", self.billing, (PAY_PER_REQUEST, PROVISIONED))
        _check_choice("metrics_level", self.metrics_level, _METRICS_LEVELS)
        if self.consumer_arn is not None and self.retrieval != FANOUT:
            raise SettingsError(f"consumer_arn is set and retrieval is {self.retrieval}: only FANOUT uses a consumer")
        if not self.failover_seconds >= 1:
            raise SettingsError(
                f"failover_seconds is {self.failover_seconds}: below 1 a short pause would hand the shard to another"
                " worker, which replays it"
            )
        if not self.poll_seconds >= 0.2:
            raise SettingsError(
                f"poll_seconds is {self.poll_seconds}: below 0.2 Kinesis throttles, at five reads a second a shard"
            )
        if not 1 <= self.records_max <= 10_000:
            raise SettingsError(f"records_max is {self.records_max}: GetRecords takes a Limit from 1 to 10000")
        if not self.drain_seconds >= 1:
            raise SettingsError(
                f"drain_seconds is {self.drain_seconds}: below 1 a stop would end before the last checkpoint, and the"
                " next worker would replay what came after the one before"
            )
        if not self.heap_mb >= 64:
            raise SettingsError(f"heap_mb is {self.heap_mb}: KCL does not start below 64")
        for name in ("shard_sync_seconds", "parent_poll_seconds", "handoff_seconds", "user_code_seconds_max"):
            _check_positive(name, getattr(self, name))
        for name in ("stuck_seconds", "read_capacity", "write_capacity", "deaths_max"):
            _check_positive(name, getattr(self, name))
        for name, value in self.extra.items():
            _check_extra(name, value)


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise SettingsError(f"{name} is {value!r}: it must be {', '.join(choices[:-1])} or {choices[-1]}")


def _check_positive(name: str, value: float) -> None:
    if not value > 0:
        raise SettingsError(f"{name} is {value}: it must be above 0")


def _check_extra(name: str, value: object) -> None:
    if not isinstance(value, str):
        raise SettingsError(f"extra[{name!r}] is a {type(value).__name__}: properties are text, as in 'true' or '3000'")
    if name in _REFUSED:
        raise SettingsError(f"extra may not set {name}: {_REFUSED[name]}")
    if name in _OURS:
        raise SettingsError(f"extra may not set {name}: {_OURS[name]}")
    if name in NAMES or name.startswith(CLIENT_PREFIXES):
        return
    folded = {known.lower(): known for known in NAMES}
    near = difflib.get_close_matches(name.lower(), folded, n=1)
    meant = f"; the nearest name is {folded[near[0]]}" if near else ""
    raise SettingsError(f"extra[{name!r}] is no property of KCL, which would ignore it without a word{meant}")


#: Properties that are written below, and the setting that names each.
_OURS = {
    "executableName": "the runner writes the program that it starts",
    "applicationName": "the application has a name",
    "streamName": "the application names its stream",
    "workerId": "the runner makes an id that no other worker has",
    "regionName": "set AWS_REGION",
    "kinesisEndpoint": "set AWS_ENDPOINT_URL_KINESIS",
    "dynamoDBEndpoint": "set AWS_ENDPOINT_URL_DYNAMODB",
    "retrievalMode": "set retrieval",
    "fanoutConfig.consumerArn": "set consumer_arn",
    "fanoutConfig.consumerName": "the consumer has the application's name",
    "initialPositionInStream": "set initial_position",
    "failoverTimeMillis": "set failover_seconds",
    "leaseAssignmentIntervalMillis": "it follows failover_seconds",
    "idleTimeBetweenReadsInMillis": "set poll_seconds",
    "maxRecords": "set records_max",
    "shardSyncIntervalMillis": "set shard_sync_seconds",
    "parentShardPollIntervalMillis": "set parent_poll_seconds",
    "shutdownGraceMillis": "set drain_seconds",
    "gracefulLeaseHandoffTimeoutMillis": "set handoff_seconds",
    "isGracefulLeaseHandoffEnabled": "without a hand-over every rebalance would replay up to a checkpoint interval",
    "metricsLevel": "set metrics_level",
    "disableWorkerMetrics": "set worker_metrics",
    "coordinatorStateTableName": "the table's name follows from the application's",
    "workerMetricsTableName": "the table's name follows from the application's",
    "coordinatorStateBillingMode": "set billing",
    "workerMetricsBillingMode": "set billing",
    "coordinatorStateReadCapacity": "set read_capacity",
    "workerMetricsReadCapacity": "set read_capacity",
    "coordinatorStateWriteCapacity": "set write_capacity",
    "workerMetricsWriteCapacity": "set write_capacity",
}


class Worker(msgspec.Struct, frozen=True, kw_only=True):
    """What else one worker's properties say."""

    application: str
    stream: str
    worker_id: str
    region: str
    #: The command line of a child, as the daemon takes it: split on spaces, without a shell.
    executable: str
    kinesis_endpoint: str | None = None
    dynamodb_endpoint: str | None = None


def coordinator_table(application: str) -> str:
    """The table in which KCL keeps the leader's lock."""
    return f"{application}-CoordinatorState"


def worker_metrics_table(application: str) -> str:
    """The table in which the workers note their load, for the leader."""
    return f"{application}-WorkerMetricStats"


def properties_of(settings: KclRunnerSettings, worker: Worker) -> dict[str, str]:
    """The daemon's properties, in the order of the file."""
    properties = {
        "executableName": worker.executable,
        "applicationName": worker.application,
        "streamName": worker.stream,
        "workerId": worker.worker_id,
        "regionName": worker.region,
        # The SDK's own chain: environment, profile, ECS and EC2 roles. KCL demands that one is named.
        "awsCredentialsProvider": "DefaultCredentialsProvider",
        "initialPositionInStream": settings.initial_position,
        # The default is 0: a stop would not even tell the children, and what is not checkpointed would be replayed.
        "shutdownGraceMillis": _millis(settings.drain_seconds),
        # The default is enhanced fan-out, with its price and permissions, until some polling property is set.
        "retrievalMode": settings.retrieval,
        # An idle shard would get no action, and a checkpoint is legal within one alone.
        "callProcessRecordsEvenForEmptyRecordList": "true",
        "failoverTimeMillis": _millis(settings.failover_seconds),
        # KCL derives it from the default of the failover time, not from ours: an empty fleet starts in this interval.
        "leaseAssignmentIntervalMillis": _millis(2 * settings.failover_seconds),
        "shardSyncIntervalMillis": _millis(settings.shard_sync_seconds),
        "parentShardPollIntervalMillis": _millis(settings.parent_poll_seconds),
        "isGracefulLeaseHandoffEnabled": "true",
        "gracefulLeaseHandoffTimeoutMillis": _millis(settings.handoff_seconds),
        # There is no property for CloudWatch's endpoint, and what the metrics tell is in the children's lines.
        "metricsLevel": settings.metrics_level,
        "disableWorkerMetrics": "false" if settings.worker_metrics else "true",
        "coordinatorStateTableName": coordinator_table(worker.application),
        "coordinatorStateBillingMode": settings.billing,
        "workerMetricsTableName": worker_metrics_table(worker.application),
        "workerMetricsBillingMode": settings.billing,
    }
    # timeoutInSeconds is left out: it halts the JVM also where a child waits for a store.
    if settings.retrieval == POLLING:
        # KCL takes a property of the other mode as a change of mode, so each is written for its own alone.
        properties["idleTimeBetweenReadsInMillis"] = _millis(settings.poll_seconds)
        properties["maxRecords"] = str(settings.records_max)
    elif settings.consumer_arn is not None:
        properties["fanoutConfig.consumerArn"] = settings.consumer_arn
    else:
        properties["fanoutConfig.consumerName"] = worker.application
    if settings.billing == PROVISIONED:
        for table in ("coordinatorState", "workerMetrics"):
            properties[f"{table}ReadCapacity"] = str(settings.read_capacity)
            properties[f"{table}WriteCapacity"] = str(settings.write_capacity)
    if worker.kinesis_endpoint is not None:
        properties["kinesisEndpoint"] = worker.kinesis_endpoint
    if worker.dynamodb_endpoint is not None:
        properties["dynamoDBEndpoint"] = worker.dynamodb_endpoint
    return properties | settings.extra


def properties_text(properties: Mapping[str, str]) -> str:
    """The file as ``java.util.Properties`` reads it: Latin-1 with escapes."""
    return "".join(f"{_escaped(name)}={_escaped(value)}\n" for name, value in properties.items())


def endpoint_of(service: str, environment: Mapping[str, str] = os.environ) -> str | None:
    """The endpoint of an emulator, or of a VPC, that the environment names, by the rules of the AWS SDKs."""
    if environment.get("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "").lower() == "true":
        return None
    return environment.get(f"AWS_ENDPOINT_URL_{service.upper()}") or environment.get("AWS_ENDPOINT_URL") or None


def _millis(seconds: float) -> str:
    return str(round(seconds * 1000))


def _escaped(text: str) -> str:
    escaped = []
    for character in text:
        if character in "\\ =:#!":
            escaped.append("\\" + character)
        elif " " < character <= "~":
            escaped.append(character)
        else:
            units = character.encode("utf-16-be")
            escaped += [f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2)]
    return "".join(escaped)
