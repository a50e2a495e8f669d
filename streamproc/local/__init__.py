"""The local AWS stack for demonstrations and tests: moto for Kinesis, DynamoDB, Firehose and S3, and a real Redis."""

from __future__ import annotations

from streamproc.local.stack import LocalStack

__all__ = ["LocalStack"]
