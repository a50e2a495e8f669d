from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import redis

from streamproc.errors import ServiceUnreachable, SettingsError
from streamproc.local import LocalStack, read_journal
from streamproc.local.processes import bound_socket

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.type_defs import TransactWriteItemTypeDef
    from mypy_boto3_firehose.type_defs import RecordTypeDef
    from mypy_boto3_kinesis.type_defs import PutRecordsRequestEntryTypeDef

PUTS_AT_ONCE = 8


def unique(name: str) -> str:
    """The stack is shared by all tests."""
    return f"{name}-{uuid.uuid4().hex[:8]}"


def ended(pid: int) -> bool:
    """Whether a process is gone, or is a zombie that only waits to be reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def wait_until_ended(pids: list[int]) -> None:
    deadline = time.monotonic() + 10
    while not all(map(ended, pids)):
        assert time.monotonic() < deadline, f"still running: {[pid for pid in pids if not ended(pid)]}"
        time.sleep(0.01)


def create_table(stack: LocalStack) -> str:
    table = unique("table")
    stack.client("dynamodb").create_table(
        TableName=table,
        KeySchema=[{"AttributeName": "k", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "k", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
    )
    return table


def test_a_program_is_pointed_at_the_stack_by_its_environment_alone(
    stack: LocalStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = unique("stream")
    stack.create_stream(stream, shards=3)
    # What a developer's shell may hold; any of it would lead elsewhere, or nowhere.
    monkeypatch.setenv("AWS_PROFILE", "production")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "expired")
    monkeypatch.setenv("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "true")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "example.org")
    program = (
        "import os, redis\n"
        "from streamproc.aws import aws_client\n"
        f"print(len(aws_client('kinesis').list_shards(StreamName={stream!r})['Shards']))\n"
        "for service in ('dynamodb', 'firehose', 's3'): aws_client(service)\n"
        "aws_client('dynamodb').list_tables(); aws_client('firehose').list_delivery_streams()\n"
        "aws_client('s3').list_buckets()\n"
        "print(redis.Redis.from_url(os.environ['STREAMPROC_REDIS_URL']).ping())\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **stack.environment()},
        capture_output=True,
        text=True,
        check=False,
    )

    assert run.stdout.split() == ["3", "True"], run.stderr


def test_records_put_at_once_are_all_in_the_shard_under_numbers_of_their_own(stack: LocalStack) -> None:
    stream = unique("stream")
    stack.create_stream(stream, shards=1)
    client = stack.client("kinesis")

    def put(first: int) -> list[str]:
        rows: list[PutRecordsRequestEntryTypeDef] = [
            {"Data": str(first + n).encode(), "PartitionKey": "key"} for n in range(100)
        ]
        return [each["SequenceNumber"] for each in client.put_records(StreamName=stream, Records=rows)["Records"]]

    with ThreadPoolExecutor(PUTS_AT_ONCE) as pool:
        numbers = [number for some in pool.map(put, range(0, PUTS_AT_ONCE * 100, 100)) for number in some]
    shard = client.get_shard_iterator(
        StreamName=stream, ShardId="shardId-000000000000", ShardIteratorType="TRIM_HORIZON"
    )
    records = client.get_records(ShardIterator=shard["ShardIterator"])["Records"]

    assert sorted(map(int, numbers)) == list(range(1, PUTS_AT_ONCE * 100 + 1))
    assert sorted(int(record["Data"]) for record in records) == list(range(PUTS_AT_ONCE * 100))


def test_of_conditional_writes_at_once_exactly_one_wins(stack: LocalStack) -> None:
    table, client = create_table(stack), stack.client("dynamodb")

    def take(owner: int) -> bool:
        with contextlib.suppress(client.exceptions.ConditionalCheckFailedException):
            client.put_item(
                TableName=table,
                Item={"k": {"S": "lease"}, "owner": {"N": str(owner)}},
                ConditionExpression="attribute_not_exists(k)",
            )
            return True
        return False

    with ThreadPoolExecutor(PUTS_AT_ONCE) as pool:
        won = list(pool.map(take, range(PUTS_AT_ONCE * 5)))

    assert won.count(True) == 1


def test_a_transaction_whose_last_condition_fails_changes_nothing(stack: LocalStack) -> None:
    table, client = create_table(stack), stack.client("dynamodb")
    client.put_item(TableName=table, Item={"k": {"S": "old"}, "v": {"N": "1"}})

    def put(key: str) -> TransactWriteItemTypeDef:
        item = {"k": {"S": key}, "v": {"N": "2"}}
        return {"Put": {"TableName": table, "Item": item}}

    refused = put("refused")
    refused["Put"]["ConditionExpression"] = "attribute_exists(k)"

    with pytest.raises(client.exceptions.TransactionCanceledException):
        client.transact_write_items(TransactItems=[put("old"), put("new"), refused])

    assert client.scan(TableName=table)["Items"] == [{"k": {"S": "old"}, "v": {"N": "1"}}]


def test_what_firehose_takes_is_in_s3_and_in_the_journal(stack: LocalStack) -> None:
    name, bucket, before = unique("outputs"), unique("bucket"), time.time()
    stack.create_delivery_stream(name, bucket, "recommendations/")
    stack.create_delivery_stream(f"{name}-2", bucket, "archive/")  # into the same bucket
    records: list[RecordTypeDef] = [{"Data": b'{"n":1}\n'}, {"Data": b'{"n":2}\n'}]

    stack.client("firehose").put_record_batch(DeliveryStreamName=name, Records=records)

    s3 = stack.client("s3")
    (entry,) = s3.list_objects_v2(Bucket=bucket, Prefix="recommendations/")["Contents"]
    assert s3.get_object(Bucket=bucket, Key=entry["Key"])["Body"].read() == b'{"n":1}\n{"n":2}\n'
    accepted = [line for line in read_journal(stack.firehose_journal) if line.stream == name]
    assert [line.data for line in accepted] == ['{"n":1}\n', '{"n":2}\n']
    assert all(before <= line.accepted_at <= time.time() for line in accepted)


def test_more_records_than_firehose_takes_in_a_call_are_refused(stack: LocalStack) -> None:
    name, client = unique("outputs"), stack.client("firehose")
    stack.create_delivery_stream(name, unique("bucket"), "")

    with pytest.raises(client.exceptions.InvalidArgumentException, match="501 records"):
        client.put_record_batch(DeliveryStreamName=name, Records=[{"Data": b"x"}] * 501)


def test_all_is_gone_with_the_block_whatever_ends_it() -> None:
    with contextlib.suppress(KeyboardInterrupt), LocalStack() as stack:
        folder, pids = stack.folder, list(stack.process_ids.values())
        assert redis.Redis.from_url(stack.redis_url).ping()
        raise KeyboardInterrupt

    assert all(map(ended, pids))
    assert not folder.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux kills a process with its parent")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_the_processes_end_with_a_parent_that_is_killed(tmp_path: Path, how: signal.Signals) -> None:
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from streamproc.local import LocalStack\n"
        "with LocalStack(Path(sys.argv[1])) as stack:\n"
        "    print(*stack.process_ids.values(), flush=True)\n"
        "    sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        parent.send_signal(how)

    assert pids
    wait_until_ended(pids)


def test_a_given_port_is_used_and_a_taken_one_is_named(tmp_path: Path) -> None:
    with bound_socket("kinesis", None) as taken:
        port = taken.getsockname()[1]
        taken.listen()
        with pytest.raises(SettingsError, match=f"port {port} for kinesis"), LocalStack(tmp_path, kinesis_port=port):
            pass

    with LocalStack(tmp_path, kinesis_port=port) as stack:
        assert stack.environment()["AWS_ENDPOINT_URL_KINESIS"] == f"http://127.0.0.1:{port}"


def test_a_process_that_does_not_come_up_is_shown_with_the_end_of_its_log(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / "redis-server"
    program.write_text("#!/bin/sh\necho 'Bad directive or wrong number of arguments'\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)

    with pytest.raises(ServiceUnreachable, match=r"redis process ended while it started.*\n.*Bad directive"):
        LocalStack(tmp_path).__enter__()
