"""Python's garbage collector in a process that folds events."""

from __future__ import annotations

import gc

#: Allocations between two looks at the young objects; Python's own 700 look several times in every batch.
_YOUNG_OBJECTS_MAX = 50_000


def settle_collector() -> None:
    """Call once when modules and model are loaded: what is there stays, and need not be walked again.

    A batch makes no reference cycles, so looking for them after every 700 allocations, among all the states in memory,
    finds nothing and costs a tenth to a quarter of the time. It is done less often, not given up: an application's own
    code may make some.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG_OBJECTS_MAX, 20, 20)
