"""moto's DynamoDB tables with transactions that cost what they write."""

from __future__ import annotations

import copy
from collections import defaultdict
from typing import Any

from moto.dynamodb.models.table import Table


def snapshot(table: Table, _memo: dict[int, Any]) -> Table:
    """What moto's rollback needs of a deep copy of a table: which items there are.

    moto copies the whole table once for each item of a transaction: with a thousand states a checkpoint took twenty
    seconds. A put or a delete replaces an item as a whole, so sharing the items is enough for them; an update inside a
    transaction would change one in place, and this library makes none.
    """
    copied = copy.copy(table)
    # With a range key an entry is a dictionary of items, without one it is the item.
    entries: dict[Any, Any] = table.items
    if table.range_key_attr is None:
        copied.items = defaultdict(dict, entries)
        return copied
    copied.items = defaultdict(dict)
    for hash_key, found in entries.items():
        copied.items[hash_key] = dict(found) if isinstance(found, dict) else found
    return copied
