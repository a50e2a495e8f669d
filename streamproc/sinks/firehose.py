"""The sink in Firehose: many outputs a record, as lines of JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from streamproc.aws import aws_client
from streamproc.errors import ServiceUnreachable, is_transient, translated
from streamproc.sink import Delivery

if TYPE_CHECKING:
    from mypy_boto3_firehose import FirehoseClient

    from streamproc.namespace import Namespace

# "Amazon Data Firehose Quota" and the API page of PutRecordBatch.
RECORD_BYTES_MAX = 1000 * 1024
RECORDS_PER_CALL_MAX = 500
CALL_BYTES_MAX = 4 * 1024 * 1024


def pack(outputs: Sequence[bytes]) -> Iterator[tuple[list[int], bytes]]:
    """Join outputs to records of lines, in order: the indices in each record, and its data.

    Firehose counts a record in steps of 5 KB, so few large ones cost less than many small ones. An output that fits in
    no record is left out.
    """
    indices: list[int] = []
    record_bytes = 0
    for index, output in enumerate(outputs):
        line_bytes = len(output) + 1
        if line_bytes > RECORD_BYTES_MAX:
            continue
        if record_bytes + line_bytes > RECORD_BYTES_MAX:
            yield indices, b"".join(outputs[i] + b"\n" for i in indices)
            indices, record_bytes = [], 0
        indices.append(index)
        record_bytes += line_bytes
    if indices:
        yield indices, b"".join(outputs[i] + b"\n" for i in indices)


class FirehoseSink:
    """PutRecordBatch to one delivery stream."""

    def __init__(self, namespace: Namespace, *, delivery_stream: str, client: FirehoseClient | None = None) -> None:
        self._namespace = namespace
        self._delivery_stream = delivery_stream
        self._client = client or aws_client("firehose")

    def check(self) -> str:
        """See :class:`streamproc.sink.Sink`."""
        with translated(f"describing the delivery stream {self._delivery_stream}"):
            answer = self._client.describe_delivery_stream(DeliveryStreamName=self._delivery_stream)
        status = answer["DeliveryStreamDescription"]["DeliveryStreamStatus"]
        if status != "ACTIVE":
            raise ServiceUnreachable(f"the delivery stream {self._delivery_stream} is {status}, not ACTIVE")
        return f"delivery stream {self._delivery_stream}"

    def publish(self, outputs: Sequence[bytes]) -> Delivery:
        """See :class:`streamproc.sink.Sink`."""
        refused = [
            (index, f"{len(output)} bytes; Firehose takes records of up to {RECORD_BYTES_MAX}")
            for index, output in enumerate(outputs)
            if len(output) + 1 > RECORD_BYTES_MAX
        ]
        pending: list[int] = []
        error = ""
        for call in _calls(pack(outputs)):
            if error:
                # The call before failed as a whole: the service is away, and each further call would wait for it too.
                pending += [index for indices, _ in call for index in indices]
                continue
            failed, error = self._put(call)
            pending += failed
        return Delivery(pending, refused, error)

    def _put(self, call: list[tuple[list[int], bytes]]) -> tuple[list[int], str]:
        """One PutRecordBatch: the indices of the outputs to send again, and why."""
        try:
            with translated(f"putting records to the delivery stream {self._delivery_stream}"):
                answer = self._client.put_record_batch(
                    DeliveryStreamName=self._delivery_stream, Records=[{"Data": data} for _, data in call]
                )
        except Exception as error:
            if not is_transient(error):
                raise
            return [index for indices, _ in call for index in indices], str(error)
        failed: list[int] = []
        why = ""
        if answer["FailedPutCount"]:
            for (indices, _), entry in zip(call, answer["RequestResponses"], strict=True):
                if "ErrorCode" in entry:
                    failed += indices
                    why = f"{entry['ErrorCode']}: {entry.get('ErrorMessage', '')}"
        return failed, why


def _calls(records: Iterator[tuple[list[int], bytes]]) -> Iterator[list[tuple[list[int], bytes]]]:
    call: list[tuple[list[int], bytes]] = []
    call_bytes = 0
    for indices, data in records:
        if call and (len(call) == RECORDS_PER_CALL_MAX or call_bytes + len(data) > CALL_BYTES_MAX):
            yield call
            call, call_bytes = [], 0
        call.append((indices, data))
        call_bytes += len(data)
    if call:
        yield call
