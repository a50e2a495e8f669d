"""A Kinesis stream processor library: nothing lost, nothing counted twice.

Write a :class:`KeyedProcessor` (or a :class:`Processor` without state), put it into an :class:`Application`, and run it
with ``streamproc run -A module:app``. Send events with a :class:`Producer`.
"""

from __future__ import annotations

__version__ = "0.1.0"
