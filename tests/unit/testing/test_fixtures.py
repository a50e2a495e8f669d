"""The fixtures that users enable by name."""

from __future__ import annotations

import pytest

pytest_plugins = ["pytester"]

USERS_TEST = """
stacks = []

def test_the_fake_is_dated_by_the_clock(fake_kinesis, manual_clock):
    fake_kinesis.create_stream(StreamName="s", ShardCount=1)
    fake_kinesis.put_records(StreamName="s", Records=[{"Data": b"x", "PartitionKey": "k"}])
    (record,) = fake_kinesis.log("s")["shardId-000000000000"]
    assert record["ApproximateArrivalTimestamp"].timestamp() == manual_clock.now

def test_the_stack_runs(local_stack):
    stacks.append(local_stack)
    assert set(local_stack.process_ids) >= {"kinesis", "redis"}

def test_the_stack_is_the_same_one(local_stack):
    assert stacks == [local_stack]
"""


def test_a_user_enables_them_by_the_modules_name(pytester: pytest.Pytester) -> None:
    pytester.makeconftest('pytest_plugins = ["streamproc.testing.fixtures"]')
    pytester.makepyfile(USERS_TEST)
    pytester.runpytest_inprocess("-p", "no:cacheprovider").assert_outcomes(passed=3)
