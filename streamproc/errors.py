"""Every error the library raises, what to do about it, and which ones pass by themselves.

Foreign errors are translated at one edge, :func:`translated`, with their cause kept. Whether to try again is decided in
one function, :func:`is_transient`, which is public so that applications can ask the same question.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError as BotoConnectionError,
    CredentialRetrievalError,
    HTTPClientError,
    NoCredentialsError,
    NoRegionError,
    PartialCredentialsError,
)
from botocore.parsers import ResponseParserError


class StreamprocError(Exception):
    """The base of every error of this library."""

    #: The exit code of the command line for this error; ``streamproc run --help`` lists them.
    exit_code = 1


class SettingsError(StreamprocError):
    """A setting, an option or an argument cannot be used. The message names it and says what would have happened."""

    exit_code = 2


class StateUnreadable(SettingsError):
    """A stored state is not what this library writes. Restore it from a backup, or erase it."""


class ApplicationNotFound(StreamprocError):
    """``-A module:app`` names nothing that can be run. Check both names, and the folder that you run it in."""

    exit_code = 2


class StreamNotFound(StreamprocError):
    """The Kinesis stream does not exist in this account and region. Create it, or mend its name or the region."""

    exit_code = 3


class ServiceUnreachable(StreamprocError):
    """A service did not answer. Check its endpoint and the network; a running worker keeps trying by itself."""

    exit_code = 4


class AccessDenied(StreamprocError):
    """Credentials are missing, expired or lack a permission. The message names the call that was refused."""

    exit_code = 5


class LeasesHeldElsewhere(StreamprocError):
    """Another worker holds leases of this application and is alive. Stop it first, or run under another name."""

    exit_code = 6


class StreamRecreated(StreamprocError):
    """The stream was deleted and made again since this application last read it, so its checkpoints mean nothing.

    Run under a new application name, or delete the application's lease, state and dead-letter tables to start afresh.
    """

    exit_code = 7


class NewerState(StreamprocError):
    """A stored state was written by a newer version of the fold. Deploy that one here; an older one must not write."""

    exit_code = 8


class MissingExtra(StreamprocError):
    """A program or an optional package is not installed. The message says what to install."""

    exit_code = 9


class KeyUnavailable(StreamprocError):
    """The stream's KMS key is disabled, pending deletion or not set up. Enable it, or choose another one."""

    exit_code = 5


class ClockSkewed(StreamprocError):
    """This machine's clock is more than minutes away from AWS' one. Set it (NTP, chrony); then send again."""

    exit_code = 5


class Throttled(StreamprocError):
    """A service asked for fewer requests. It passes; raise the capacity if it lasts."""


class TransientServiceError(StreamprocError):
    """A service failed in a way that passes: an internal error, a timeout, a connection that was cut."""


class IteratorExpired(StreamprocError):
    """A shard iterator was not used for five minutes. Take a new one from the last position."""


class DecodeError(StreamprocError):
    """A record is not a valid event.

    ``field`` names the field that is missing or wrong (a dotted path, None where the whole record is not readable);
    ``reason`` is a sentence for a person.
    """

    def __init__(self, reason: str, field: str | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.field = field


class StateTooLarge(StreamprocError):
    """A state grew beyond its bound. Bound what the fold keeps, or raise ``state_bytes_max`` (DynamoDB: 400 KB)."""


class ProducerClosed(StreamprocError):
    """The producer was closed before this event could be put. Create a new producer; a closed one stays closed."""


class QueueFull(StreamprocError):
    """The producer's memory is full: Kinesis takes events more slowly than they are put. Slow down or retry."""


class RecordTooLarge(SettingsError):
    """An event has more than 1 MiB with its partition key. Put the large part elsewhere (S3), and its address here."""


class PutFailed(StreamprocError):
    """An event could not be delivered. ``event`` holds it, so that nothing is lost by the failure.

    ``code`` is Kinesis' error code for it.
    """

    def __init__(self, message: str, *, code: str, event: object) -> None:
        super().__init__(message)
        self.code = code
        self.event = event


# Error codes that pass by themselves, from the "Common Errors" and API pages of Kinesis, DynamoDB and Firehose.
_THROTTLES = frozenset(
    {
        "ProvisionedThroughputExceededException",
        "ThrottlingException",
        "Throttling",
        "RequestLimitExceeded",
        "LimitExceededException",
        "TooManyRequestsException",
        "KMSThrottlingException",
        "SlowDown",
    }
)
_PASSING = frozenset(
    {
        "InternalFailure",
        "InternalServerError",
        "InternalError",
        "ServiceUnavailable",
        "ServiceUnavailableException",
        "RequestTimeout",
        "RequestTimeoutException",
        "TransactionInProgressException",
        "TransactionConflictException",
        "KMSNotFoundException",  # a new key is visible everywhere only after a while
    }
)
_DENIED = frozenset(
    {
        "AccessDenied",
        "403",  # HeadBucket has no body, and so no code
        "Forbidden",
        "AccessDeniedException",
        "UnrecognizedClientException",
        "InvalidClientTokenId",
        "InvalidSignatureException",
        "SignatureDoesNotMatch",
        "ExpiredToken",
        "ExpiredTokenException",
        "MissingAuthenticationToken",
        "KMSAccessDeniedException",
    }
)
_KEY_UNAVAILABLE = frozenset({"KMSDisabledException", "KMSInvalidStateException", "KMSOptInRequired"})
_CLOCK_SKEWED = frozenset({"RequestExpired", "RequestTimeTooSkewed", "RequestInTheFuture"})
#: What a refused signature says in its message alone.
_SKEWED_SIGNATURES = ("Signature expired", "Signature not yet current")


# No answer, an answer that is no answer (a proxy's page), or credentials that were not there for a moment.
_PASSING_ERRORS = (BotoConnectionError, HTTPClientError, ResponseParserError, CredentialRetrievalError)


def code_of(error: ClientError) -> str:
    """The service's own code for an error: ``ResourceNotFoundException``."""
    return str(error.response.get("Error", {}).get("Code", ""))


def is_throttle(code: str) -> bool:
    """Whether this code asks for fewer requests."""
    return code in _THROTTLES


def is_transient(error: BaseException) -> bool:
    """Whether trying the same again later can succeed.

    Throttles, timeouts, cut connections and a service's own failures pass. A missing stream or table, a refused
    permission and a request that is wrong do not, and neither does any error of an application's code.
    """
    if isinstance(error, (Throttled, TransientServiceError, ServiceUnreachable, IteratorExpired, QueueFull)):
        return True
    if isinstance(error, StreamprocError):
        return False
    if isinstance(error, ClientError):
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return code_of(error) in _THROTTLES | _PASSING or status >= 500 or status == 429
    # HTTPClientError covers botocore's timeouts; the redis package's errors are translated in its own adapter.
    return isinstance(error, (*_PASSING_ERRORS, ConnectionError, TimeoutError))


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Turn botocore's errors into this library's; ``what`` was being done, as in ``reading shard shardId-...``.

    Raises Throttled, TransientServiceError, ServiceUnreachable, AccessDenied, KeyUnavailable, ClockSkewed,
    StreamNotFound, IteratorExpired or SettingsError. A conditional write that lost its race is a value, not an error:
    adapters handle it inside.
    """
    try:
        yield
    except ClientError as error:
        raise _from_client_error(what, error) from error
    except (NoCredentialsError, PartialCredentialsError) as error:
        raise AccessDenied(
            f"{what}: no AWS credentials were found; set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        ) from error
    except NoRegionError as error:
        raise SettingsError(f"{what}: no AWS region is set; set AWS_REGION or `region` in your AWS profile") from error
    except _PASSING_ERRORS as error:
        raise ServiceUnreachable(f"{what}: {error}") from error
    except BotoCoreError as error:
        raise SettingsError(f"{what}: {error}") from error


def _from_client_error(what: str, error: ClientError) -> StreamprocError:
    code = code_of(error)
    message = f"{what}: {error.response.get('Error', {}).get('Message', '')} ({code})"
    if code in _THROTTLES:
        return Throttled(message)
    if code in _CLOCK_SKEWED or (code in _DENIED and any(each in message for each in _SKEWED_SIGNATURES)):
        return ClockSkewed(f"{message}: this machine's clock is wrong; set it (NTP, chrony), then send again")
    if code in _KEY_UNAVAILABLE:
        return KeyUnavailable(f"{message}: enable the stream's KMS key, or choose another one for the stream")
    if code in _DENIED:
        return AccessDenied(message)
    if code == "ExpiredIteratorException":
        return IteratorExpired(message)
    if is_transient(error):
        return TransientServiceError(message)
    if code == "ResourceNotFoundException" and error.operation_name in _KINESIS_CALLS:
        return StreamNotFound(f"{message}: create the stream, or mend its name or the region")
    return SettingsError(message)


_KINESIS_CALLS = frozenset(
    {
        "PutRecord",
        "PutRecords",
        "GetRecords",
        "GetShardIterator",
        "ListShards",
        "DescribeStream",
        "DescribeStreamSummary",
    }
)
