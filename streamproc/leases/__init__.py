"""Lease stores: the adapters of streamproc.lease."""
