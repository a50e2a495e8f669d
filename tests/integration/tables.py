"""The tables of a stack that many tests use."""

from __future__ import annotations

from typing import Any


def tables_of(client: Any) -> list[str]:
    """All of them: beside those of other tests they are more than one page."""
    return [table for page in client.get_paginator("list_tables").paginate() for table in page["TableNames"]]
