"""Projections: the adapters of streamproc.projection."""
