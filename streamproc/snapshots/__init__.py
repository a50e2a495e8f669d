"""Adapters of the port :mod:`streamproc.snapshot`."""
