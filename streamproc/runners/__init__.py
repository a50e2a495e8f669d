"""Runners: what feeds shards to the worker."""
