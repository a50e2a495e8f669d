"""The local AWS stack for demonstrations and tests: moto for Kinesis, DynamoDB, Firehose and S3, and a real Redis.

with LocalStack() as stack:
    stack.create_stream("cart-events", shards=4)
    subprocess.run([...], env={**os.environ, **stack.environment()})
"""

from __future__ import annotations

from streamproc.local.firehose_tap import Accepted, read_journal
from streamproc.local.stack import LocalStack

__all__ = ["Accepted", "LocalStack", "read_journal"]
