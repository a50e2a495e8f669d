from __future__ import annotations

import uuid

import boto3
import pytest
from botocore.config import Config

from streamproc.errors import ServiceUnreachable
from streamproc.lease import TRIM_HORIZON, Lease
from streamproc.leases.dynamodb import DynamoDBLeases
from streamproc.local import LocalStack
from streamproc.runners.held import HeldLease
from streamproc.testing.proxy import Fault, FaultProxy


def test_a_release_whose_answer_was_lost_is_a_release(stack: LocalStack) -> None:
    with FaultProxy(stack.environment()["AWS_ENDPOINT_URL_DYNAMODB"]) as proxy:
        client = boto3.client(
            "dynamodb",
            endpoint_url=proxy.url,
            region_name="us-east-1",
            config=Config(retries={"total_max_attempts": 1}),
        )
        leases = DynamoDBLeases(f"leases-{uuid.uuid4().hex[:8]}", client=client)
        leases.prepare()
        leases.create(Lease(shard_id="shardId-000000000000", checkpoint=TRIM_HORIZON))
        (lease,) = leases.list()
        taken = leases.take(lease, "me")
        assert taken
        held = HeldLease(leases, taken)
        proxy.fail_next("UpdateItem", Fault.LOST_REPLY)
        with pytest.raises(ServiceUnreachable):
            held.release()
        assert held.release()
        assert not held.lost.is_set()
