"""Sinks: the adapters of streamproc.sink."""
