"""Finds pickles without loading them: unpickling runs whatever the file says."""

from __future__ import annotations

import io
import pickletools
import re

# What begins a pickle of protocol 4 or 5 (a frame follows), or one of 2 or 3 that names something to import. The stream
# may lie inside another file, where nobody would load it, and has no business there either.
_INSIDE = re.compile(rb"\x80[\x04\x05]\x95|\x80[\x02\x03]c[A-Za-z_][\w.]*\n[A-Za-z_][\w.]*\n")
#: Frames are walked so far: random bytes end within a few opcodes.
_WALKED_BYTES = 1 << 20


def has_pickle(content: bytes) -> bool:
    """Whether the file is a pickle, of any protocol, or holds one."""
    if _ends_well(content):
        return True
    for found in _INSIDE.finditer(content):
        if found[0][1] in b"\x02\x03" or _ends_well(content[found.start() : found.start() + _WALKED_BYTES]):
            return True
    return False


def _ends_well(content: bytes) -> bool:
    """Whether these bytes, read as opcodes, come to the one that ends a pickle."""
    try:
        for _ in pickletools.genops(io.BytesIO(content)):
            pass
    except (ValueError, OverflowError, UnicodeError, IndexError):
        return False
    return True
