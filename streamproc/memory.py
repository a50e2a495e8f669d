"""Python's garbage collector and the C library's allocator in a process that folds events for weeks."""

from __future__ import annotations

import ctypes
import gc
import sys

#: Allocations between two looks at the young objects; Python's own 700 look several times in every batch.
_YOUNG_OBJECTS_MAX = 50_000
#: glibc's options and what they are set to: see mallopt(3).
_M_ARENA_MAX, _M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD = -8, -3, -1
_ARENAS_MAX = 2
_BYTES_KEPT = 32 << 20


def settle_memory() -> None:
    """Call once when modules and model are loaded: what is there stays, and need not be walked again.

    A batch makes no reference cycles, so looking for them after every 700 allocations, among all the states in memory,
    finds nothing and costs a tenth to a quarter of the time. It is done less often, not given up: boto3 and an
    application's own code make some, which :func:`release_memory` frees.

    glibc gives threads heaps of their own, up to eight times as many as there are processors. Shards come and go, each
    with its threads, and what is free in one heap serves no thread of another: two heaps bound what is held idle.

    By default it also maps each large array anew and gives its pages back at once; the kernel clears every page again,
    which takes longer than most of what a batch does with them. So arrays come from the heap, which keeps its pages
    until :func:`release_memory`.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG_OBJECTS_MAX, 20, 20)
    _glibc("mallopt", _M_ARENA_MAX, _ARENAS_MAX)
    _glibc("mallopt", _M_MMAP_THRESHOLD, _BYTES_KEPT)
    _glibc("mallopt", _M_TRIM_THRESHOLD, 2 * _BYTES_KEPT)


def release_memory() -> None:
    """Free what is left in reference cycles, and give whole pages that are free back to the system.

    A few milliseconds, for a moment between batches every few seconds. Arrays of all sizes come and go; without the
    second part the free pages between those that stay grow for half an hour, to as much again as is in use.
    """
    gc.collect()
    _glibc("malloc_trim", 0)


def _glibc(function: str, *arguments: int) -> None:
    """Call a function of glibc's allocator; other C libraries have neither these nor what they mend."""
    if sys.platform == "linux" and (found := getattr(ctypes.CDLL(None), function, None)) is not None:
        found(*arguments)
