"""The protobuf message of the KPL's aggregates, out of aws_kinesis_agg. Imported when one is read, and not to send."""

from __future__ import annotations

import importlib
import sys
from typing import Any

from google.protobuf.message import DecodeError

__all__ = ["AggregatedRecord", "DecodeError"]


def _aggregated_record_class() -> Any:
    """The package's ``messages_pb2`` says ``import config_pb2``, as if its folder were on ``sys.path``.

    Its own modules put it there for good, and the whole program then sees it. Here the name is lent for the one import
    and given back.
    """
    config = importlib.import_module("aws_kinesis_agg.config_pb2")
    before = sys.modules.get("config_pb2")
    sys.modules["config_pb2"] = config
    try:
        messages = importlib.import_module("aws_kinesis_agg.messages_pb2")
    finally:
        if before is None:
            del sys.modules["config_pb2"]
        else:
            sys.modules["config_pb2"] = before
    return messages.AggregatedRecord


AggregatedRecord = _aggregated_record_class()
