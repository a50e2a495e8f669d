"""The names of the settings that KCL's MultiLangDaemon 3.1.3 knows.

The daemon reads a misspelt name without a word, and runs with the default. So the names are here, as they are in
``MultiLangDaemonConfiguration`` and its beans; a test compares them with the jar.
"""

from __future__ import annotations

#: Read by ``MultiLangDaemonConfig`` itself.
_DAEMON = "executableName maxActiveThreads processingLanguage"

#: The setters of ``MultiLangDaemonConfiguration``.
_CONFIGURATION = """
allowThroughputOvershoot applicationName awsCredentialsProvider awsCredentialsProviderCloudWatch
awsCredentialsProviderDynamoDB callProcessRecordsEvenForEmptyRecordList cleanupLeasesUponShardCompletion
clientVersionConfig coordinatorStateBillingMode coordinatorStateDeletionProtectionEnabled
coordinatorStatePointInTimeRecoveryEnabled coordinatorStateReadCapacity coordinatorStateTableName coordinatorStateTags
coordinatorStateWriteCapacity dampeningPercentage disableWorkerMetrics dynamoDBEndpoint enablePriorityLeaseAssignment
failoverTimeMillis gracefulLeaseHandoffTimeoutMillis idleTimeBetweenReadsInMillis ignoreUnexpectedChildShards
inMemoryWorkerMetricsCaptureFrequencyMillis initialLeaseTableReadCapacity initialLeaseTableWriteCapacity
initialPositionInStream initialPositionInStreamExtended isGracefulLeaseHandoffEnabled kinesisEndpoint
leaseAssignmentIntervalMillis leaseTableDeletionProtectionEnabled leaseTablePitrEnabled listShardsBackoffTimeInMillis
logWarningForTaskAfterMillis maxGetRecordsThreadPool maxLeaseRenewalThreads maxLeasesForWorker maxLeasesToStealAtOneTime
maxListShardsRetryAttempts maxRecords maxThroughputPerHostKBps metricsBufferTimeMillis metricsEnabledDimensions
metricsLevel metricsMaxQueueSize millisBehindLatestThresholdForReducedTps noOfPersistedMetricsPerWorkerMetrics
parentShardPollIntervalMillis reBalanceThresholdPercentage regionName retrievalMode retryGetRecordsInSeconds
schedulerInitializationBackoffTimeMillis shardPrioritization shardSyncIntervalMillis shutdownGraceMillis
skipShardSyncAtWorkerInitializationIfLeasesExist staleWorkerMetricsEntryCleanupDuration streamArn streamName tableName
taskBackoffTimeMillis timeoutInSeconds validateSequenceNumberBeforeCheckpointing varianceBalancingFrequency workerId
workerIdentifier workerMetricsBillingMode workerMetricsDeletionProtectionEnabled workerMetricsEMAAlpha
workerMetricsPointInTimeRecoveryEnabled workerMetricsReadCapacity workerMetricsReporterFreqInMillis
workerMetricsTableName workerMetricsTags workerMetricsWriteCapacity
"""

#: The setters of ``FanoutConfigBean``, under ``fanoutConfig.``.
_FANOUT = """
consumerArn consumerName maxDescribeStreamConsumerRetries maxDescribeStreamSummaryRetries registerStreamConsumerRetries
retryBackoffMillis
"""

DAEMON_NAMES = frozenset(_DAEMON.split())
CONFIGURATION_NAMES = frozenset(_CONFIGURATION.split())
FANOUT_NAMES = frozenset(_FANOUT.split())
NAMES = DAEMON_NAMES | CONFIGURATION_NAMES | {f"fanoutConfig.{name}" for name in FANOUT_NAMES}
#: What stands under these is a setter of a client builder of the AWS SDK for Java; the daemon refuses a wrong one.
CLIENT_PREFIXES = ("kinesisClient.", "dynamoDbClient.", "cloudWatchClient.")
